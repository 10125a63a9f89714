"""I4, as far as it is about entries: who was decided after whom, and who stands where."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TypeAlias

from protocol.log import Entry, Head, QuorumRule
from tests.sim.plan import Plan

Report: TypeAlias = Callable[[str], None]
"""Takes a sentence that begins with the name of the invariant that is violated."""


def are_enough(peers: set[str], head: Head, rule: QuorumRule) -> bool:
    """More than half of an entry's voters, or exactly half of them with its tie-breaker.

    Or more than two thirds of them.
    """
    present = [voter for voter in head.voters if voter in peers]
    share = Fraction(len(present), len(head.voters))
    if rule == "two_thirds":
        return share > Fraction(2, 3)
    return share > Fraction(1, 2) or (share == Fraction(1, 2) and head.tie_breaker in present)


class Chains:
    """Every entry that was ever decided; a tree, since terms can be forced."""

    def __init__(self, plan: Plan, report: Report) -> None:
        genesis = plan.genesis_head()
        self.genesis = genesis.digest
        self.heads: dict[str, Head] = {genesis.digest: genesis}
        self.entries: dict[str, Entry] = {}
        self.at: dict[str, str] = {}
        """Digest of the last entry that each peer's state machine took."""
        self.forced = 0
        self._plan = plan
        self._report = report
        self._next: dict[str, str] = {}

    def can_decide(self, peers: set[str], head: Head) -> bool:
        """Whether these are a quorum of an entry's voters, by the rule of the run."""
        return are_enough(peers, head, self._plan.quorum)

    def position(self, peer_id: str) -> str:
        return self.at.get(peer_id, self.genesis)

    def add(self, entry: Entry) -> bool:
        """Note an entry that somebody takes for decided; returns whether it is new."""
        if entry.digest in self.heads:
            return False
        before = self.heads.get(entry.parent)
        if before is None or entry.round != before.round + 1:
            self._report(f"I4: round {entry.round} continues a log that nobody decided")
            return False
        self.heads[entry.digest] = Head.of_entry(entry)
        self.entries[entry.digest] = entry
        self._check_sum(entry, before)
        if entry.term > before.term:
            self.forced += 1
            if not entry.is_empty:
                self._report(f"I4: round {entry.round} was forced, and is not empty")
        elif self._next.setdefault(entry.parent, entry.digest) != entry.digest:
            self._report(f"I4: round {entry.round} has two entries")
        return True

    def _check_sum(self, entry: Entry, before: Head) -> None:
        """`committed` is all that the log has averaged (I7)."""
        values = self._plan.part_values[entry.fragment_id]
        averaged = sum(
            sum(part.tokens) * count
            for part, count in zip(entry.parts, values, strict=True)
            if part is not None
        )
        if entry.committed != before.committed + averaged:
            self._report(f"I7: round {entry.round} says {entry.committed} committed tokens")

    def back(self, digest: str) -> Iterator[str]:
        """This entry and all before it, as far as genesis."""
        while digest in self.heads:
            yield digest
            if digest not in self.entries:
                return
            digest = self.entries[digest].parent

    def check_switch(self, peer_id: str, old: str, new: str) -> None:
        """A peer goes from one entry to another: never away from an unbroken chain."""
        ancestors = set(self.back(new))
        common = next((digest for digest in self.back(old) if digest in ancestors), None)
        if common is None:
            self._report(f"I4: {peer_id} goes to a chain that has nothing in common with its own")
        elif common != old and self.heads[old].term == self.heads[common].term:
            self._report(
                f"I4: {peer_id} leaves a chain that was not broken since round"
                f" {self.heads[common].round}"
            )
