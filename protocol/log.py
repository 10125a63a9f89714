"""The replicated log: entries, their digests, and where a peer stands in it.

DESIGN section 1: the shared state of a run is a deterministic state machine; entry 0 is the
founder's genesis, and each further entry says what one round did to one fragment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, TypeAlias

from protocol.digest import canonical, digest

GENESIS_ROUND = -1

QuorumRule: TypeAlias = Literal["majority", "two_thirds"]


@dataclass(frozen=True, slots=True)
class Part:
    """One averaged part of a committed round."""

    digest: str
    """Of the encoded mean: the bytes that everybody decodes and applies."""
    tokens: tuple[int, ...]
    """Weight of each of the entry's members in this part, in their order; 0 is not in it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one round decided. Everybody applies it, or nobody does.

    Without slots, since it keeps its digest once that was asked for.
    """

    round: int
    term: int
    """How often cut-off peers have gone on without a quorum, up to and including this entry."""
    fragment_id: int
    parent: str
    """Digest of the entry before."""
    planned_steps: int
    """What the round moves the schedule on by, full or empty."""
    members: tuple[str, ...]
    """The group that did the round, in peer_id order."""
    voters: tuple[str, ...]
    """Who decides the next entry (I4)."""
    incarnations: tuple[str, ...]
    """Of each voter: the journal that its vote needs. Whoever has lost that journal has no vote."""
    tie_breaker: str
    """The voter whose side wins when exactly half of the voters agree, where a majority decides."""
    parts: tuple[Part | None, ...]
    """None leaves its slice of global_params and momentum untouched (I2)."""
    committed: int
    """Tokens x values that the log has averaged, from genesis to this entry (I7)."""
    missing: tuple[tuple[str, str], ...] = ()
    """(peer_id, why) of live or lately live peers that did not contribute."""
    banned: tuple[tuple[str, str], ...] = ()
    """(peer_id, digest of the accusation that proves it) of everybody who was proven to lie, in
    this entry or before; in peer_id order."""
    reason: str = ""
    """Why the entry is empty, in words; empty for a full one."""

    @property
    def is_empty(self) -> bool:
        return all(part is None for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "term": self.term,
            "fragment_id": self.fragment_id,
            "parent": self.parent,
            "planned_steps": self.planned_steps,
            "members": list(self.members),
            "voters": list(self.voters),
            "incarnations": list(self.incarnations),
            "tie_breaker": self.tie_breaker,
            "parts": [
                part and {"digest": part.digest, "tokens": list(part.tokens)} for part in self.parts
            ],
            "committed": self.committed,
            "missing": [list(pair) for pair in self.missing],
            "banned": [list(pair) for pair in self.banned],
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from decoded JSON; raises KeyError, TypeError or ValueError when malformed."""
        entry = cls(
            round=json_int(raw["round"], lowest=GENESIS_ROUND),
            term=json_int(raw["term"]),
            fragment_id=json_int(raw["fragment_id"]),
            parent=json_text(raw["parent"]),
            planned_steps=json_int(raw["planned_steps"]),
            members=tuple(map(json_text, raw["members"])),
            voters=tuple(map(json_text, raw["voters"])),
            incarnations=tuple(map(json_text, raw["incarnations"])),
            tie_breaker=json_text(raw["tie_breaker"]),
            parts=tuple(
                None
                if p is None
                else Part(json_text(p["digest"]), tuple(map(json_int, p["tokens"])))
                for p in raw["parts"]
            ),
            # A sum over a whole run: 2^63 would not do for a large model.
            committed=json_int(raw["committed"], below=2**120),
            missing=tuple((json_text(peer), json_text(why)) for peer, why in raw["missing"]),
            banned=tuple((json_text(peer), json_text(proof)) for peer, proof in raw["banned"]),
            reason=json_text(raw["reason"]),
        )
        if any(part and len(part.tokens) != len(entry.members) for part in entry.parts):
            raise ValueError("a part that does not say each member's tokens")
        _check_pairs(entry.voters, entry.incarnations)
        return entry

    @cached_property
    def digest(self) -> str:
        return digest(canonical(self.to_json()))

    def contributed_parts(self, peer_id: str) -> tuple[bool, ...]:
        """For each part whether `peer_id` is in its mean: merge there, rebase elsewhere."""
        if peer_id not in self.members:
            return (False,) * len(self.parts)
        position = self.members.index(peer_id)
        return tuple(part is not None and part.tokens[position] > 0 for part in self.parts)

    def missing_reasons(self) -> dict[str, str]:
        return dict(self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """Entry 0: the founder names the first voters and the state that everybody starts from."""

    run_id: str
    founder: str
    voters: tuple[str, ...]
    incarnations: tuple[str, ...]
    tie_breaker: str
    state_digest: str
    """Of the initial global_params: a peer whose torch initializes differently must not start."""

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "founder": self.founder,
            "voters": list(self.voters),
            "incarnations": list(self.incarnations),
            "tie_breaker": self.tie_breaker,
            "state_digest": self.state_digest,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from decoded JSON; raises KeyError, TypeError or ValueError when malformed."""
        genesis = cls(
            run_id=json_text(raw["run_id"]),
            founder=json_text(raw["founder"]),
            voters=tuple(map(json_text, raw["voters"])),
            incarnations=tuple(map(json_text, raw["incarnations"])),
            tie_breaker=json_text(raw["tie_breaker"]),
            state_digest=json_text(raw["state_digest"]),
        )
        _check_pairs(genesis.voters, genesis.incarnations)
        return genesis

    def to_bytes(self) -> bytes:
        return canonical(self.to_json())

    @property
    def digest(self) -> str:
        return digest(self.to_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last entry that a peer holds, as far as the next round needs it."""

    round: int
    term: int
    digest: str
    voters: tuple[str, ...]
    incarnations: tuple[str, ...]
    tie_breaker: str
    contributors: tuple[str, ...]
    """Peers that the next round expects first."""
    committed: int
    banned: tuple[tuple[str, str], ...] = ()
    """As in the entry."""

    @classmethod
    def of_genesis(cls, genesis: Genesis) -> Self:
        return cls(
            round=GENESIS_ROUND,
            term=0,
            digest=genesis.digest,
            voters=genesis.voters,
            incarnations=genesis.incarnations,
            tie_breaker=genesis.tie_breaker,
            contributors=genesis.voters,
            committed=0,
        )

    @classmethod
    def of_entry(cls, entry: Entry) -> Self:
        return cls(
            round=entry.round,
            term=entry.term,
            digest=entry.digest,
            voters=entry.voters,
            incarnations=entry.incarnations,
            tie_breaker=entry.tie_breaker,
            contributors=tuple(
                peer
                for peer in entry.members
                if any(entry.contributed_parts(peer)) and peer not in dict(entry.banned)
            ),
            committed=entry.committed,
            banned=entry.banned,
        )

    def is_banned(self, peer_id: str) -> bool:
        """Whether it takes part in nothing that continues this entry."""
        return any(peer == peer_id for peer, _ in self.banned)

    def may_vote(self, peer_id: str, incarnation: str) -> bool:
        """Whether this peer, with this journal, decides on the next entry; without one nobody."""
        voters = zip(self.voters, self.incarnations, strict=True)
        return bool(incarnation) and (peer_id, incarnation) in voters

    def incarnation_of(self, peer_id: str) -> str:
        """The journal that a voter's vote needs; empty for a peer that is no voter."""
        return dict(zip(self.voters, self.incarnations, strict=True)).get(peer_id, "")


def is_quorum(peers: set[str], voters: tuple[str, ...], tie_breaker: str, rule: QuorumRule) -> bool:
    """Whether these peers are enough to decide (I4).

    `majority`: more than half of the voters, or exactly half of them with the tie-breaker. Two
    quorums always share a voter: two halves share the tie-breaker.
    `two_thirds`: more than that. Two quorums share more than a third of the voters.
    """
    present = len(peers.intersection(voters))
    if rule == "two_thirds":
        return 3 * present > 2 * len(voters)
    return 2 * present > len(voters) or (2 * present == len(voters) and tie_breaker in peers)


def coordinators(run_id: str, round_: int, voters: tuple[str, ...]) -> tuple[str, ...]:
    """The voters in rendezvous-hash order of (run, round): who leads, and who takes over."""
    return tuple(sorted(voters, key=lambda peer: digest(f"{run_id}/{round_}/{peer}".encode())))


def tokens_times_values(parts: Sequence[Part | None], part_values: Sequence[int]) -> int:
    """What an entry adds to `committed`."""
    return sum(
        sum(part.tokens) * values
        for part, values in zip(parts, part_values, strict=True)
        if part is not None
    )


def _check_pairs(voters: tuple[str, ...], incarnations: tuple[str, ...]) -> None:
    if len(voters) != len(incarnations):
        raise ValueError("not one incarnation for each voter")


def json_int(value: Any, *, lowest: int = 0, below: int = 2**63) -> int:
    """A count out of decoded JSON; raises TypeError when it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value < below:
        raise TypeError(f"not an integer from {lowest} to {below - 1}")
    return value


def json_text(value: Any) -> str:
    """A short text out of decoded JSON; raises TypeError or ValueError when it is none."""
    if not isinstance(value, str) or len(value) > 512:
        raise TypeError("not a string of at most 512 characters")
    value.encode()  # half a surrogate pair is valid JSON, and nothing can print it
    return value
