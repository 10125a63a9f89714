"""What became of every token that a peer trained (I7), and its weight in a round.

For each part of each fragment, a trained token is *pending* until an entry credits it,
*contributed* once one did, or *lost*: by a crash before anything was written down, with a chain
that was given up, or above the cap of a weight. Counted in tokens x values, so that the three
always add up to what was trained times what the model has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol.log import Entry

PENDING_CAP_CYCLES = 2
"""Accumulated movement weighs at most as much as so many cycles' tokens."""


@dataclass(slots=True)
class Account:
    """One fragment's. `pending`: tokens for each part; the others: tokens x values."""

    pending: list[int]
    contributed: int = 0
    lost: int = 0


@dataclass(slots=True)
class Ledger:
    """One peer's accounts. Every method is exact: integers only."""

    part_values: tuple[tuple[int, ...], ...]
    cap_tokens: int
    """Largest weight in one round, of a peer that trains the planned steps."""
    trained_tokens: int = 0
    accounts: list[Account] = field(init=False)
    _claimed: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Pending tokens of each part of a fragment when they were claimed."""

    def __post_init__(self) -> None:
        self.accounts = [Account([0] * len(parts)) for parts in self.part_values]

    def trained(self, tokens: int) -> None:
        """Inner steps are done."""
        self.trained_tokens += tokens
        for account in self.accounts:
            account.pending = [pending + tokens for pending in account.pending]

    def claim(self, fragment_id: int, pace_ratio: float = 1.0) -> int:
        """This peer's weight in the next round of a fragment: what every part of it has pending.

        What is trained from now on stays pending, though the snapshot has its movement already:
        it weighs in the round after.

        Args:
            pace_ratio: how many times the planned steps this peer trains in a cycle.
        """
        pending = self.accounts[fragment_id].pending
        self._claimed[fragment_id] = tuple(pending)
        return min(*pending, int(self.cap_tokens * max(1.0, pace_ratio)))

    def decided(self, entry: Entry, me: str) -> None:
        """An entry was applied."""
        account = self.accounts[entry.fragment_id]
        values = self.part_values[entry.fragment_id]
        claimed = self._claimed.pop(entry.fragment_id, None)
        for part_index, credited in enumerate(credited_tokens(entry, me)):
            if credited:
                whole = claimed[part_index] if claimed else credited
                moved = min(whole, account.pending[part_index])
                account.pending[part_index] -= moved
                account.contributed += credited * values[part_index]
                # A restarted peer can be credited for what its last life trained: never counted
                # here, so it is lost in the negative, and the sum stays what was trained.
                account.lost += (moved - credited) * values[part_index]

    def given_up(self, entry: Entry, me: str) -> None:
        """An entry that had credited this peer is not in the log that the swarm goes on with."""
        account = self.accounts[entry.fragment_id]
        values = self.part_values[entry.fragment_id]
        for part_index, credited in enumerate(credited_tokens(entry, me)):
            account.contributed -= credited * values[part_index]
            account.lost += credited * values[part_index]

    def is_balanced(self) -> bool:
        """Whether contributed + pending + lost is what was trained, for every fragment."""
        return all(
            account.contributed
            + account.lost
            + sum(p * v for p, v in zip(account.pending, values, strict=True))
            == self.trained_tokens * sum(values)
            for account, values in zip(self.accounts, self.part_values, strict=True)
        )

    def fates(self) -> dict[str, float]:
        """What became of the trained tokens, in tokens: each counts for the share of values."""
        total = sum(map(sum, self.part_values))
        pending = sum(
            tokens * values
            for account, parts in zip(self.accounts, self.part_values, strict=True)
            for tokens, values in zip(account.pending, parts, strict=True)
        )
        return {
            "contributed": sum(account.contributed for account in self.accounts) / total,
            "pending": pending / total,
            "lost": sum(account.lost for account in self.accounts) / total,
        }

    def to_json(self, newer_tokens: int = 0) -> dict[str, Any]:
        """The accounts as they were before the last `newer_tokens` were trained."""
        return {
            "trained_tokens": self.trained_tokens - newer_tokens,
            "accounts": [
                {
                    "pending": [tokens - newer_tokens for tokens in a.pending],
                    "contributed": a.contributed,
                    "lost": a.lost,
                }
                for a in self.accounts
            ],
        }

    def restore(self, raw: dict[str, Any]) -> None:
        """Go on with the accounts of a checkpoint; raises KeyError, TypeError or ValueError."""
        accounts = [
            Account([int(p) for p in a["pending"]], int(a["contributed"]), int(a["lost"]))
            for a in raw["accounts"]
        ]
        if [len(a.pending) for a in accounts] != [len(parts) for parts in self.part_values]:
            raise ValueError("the accounts are of another model")
        self.trained_tokens, self.accounts = int(raw["trained_tokens"]), accounts
        self._claimed = {}


def credited_tokens(entry: Entry, peer_id: str) -> Sequence[int]:
    """For each part of an entry's fragment the tokens of this peer that it averages."""
    if peer_id not in entry.members:
        return (0,) * len(entry.parts)
    place = entry.members.index(peer_id)
    return tuple(0 if part is None else part.tokens[place] for part in entry.parts)
