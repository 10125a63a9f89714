"""Who is said to have lied has lied, and who has lied is found out (I6)."""

from collections.abc import Mapping

from protocol.digest import digest
from protocol.events import ApplyEntry, KeepVerdict, PartAveraged
from protocol.messages import Decided
from tests.sim.checks.chains import Report
from tests.sim.climate import Lie


class Verdicts:
    """Knows the liars from the outside."""

    def __init__(self, liars: Mapping[str, Lie], report: Report) -> None:
        self.false_means: set[str] = set()
        """Digests of what liars say that they have averaged; it may be true all the same."""
        self._liars = liars
        self._report = report
        self._convicted: set[str] = set()
        self.banned: set[str] = set()
        """By an entry of any chain."""
        self._lied_in: dict[str, set[int]] = {}
        """Rounds in which what a liar says was applied."""
        self._made_by: dict[str, str] = {}

    def averaged(self, peer_id: str, event: PartAveraged) -> None:
        if self._liars.get(peer_id) == "averages":
            self.false_means.add(digest(event.data))
            self._made_by[digest(event.data)] = peer_id

    def applied(self, effect: ApplyEntry) -> None:
        for part in effect.entry.parts:
            if part is not None and (liar := self._made_by.get(part.digest)) is not None:
                self._lied_in.setdefault(liar, set()).add(effect.entry.round)

    def convicted(self, by: str, kept: KeepVerdict) -> None:
        guilty = kept.verdict.guilty
        if by in self._liars:
            return
        self._convicted.add(guilty)
        if guilty not in self._liars:
            self._report(f"I6: {by} says that {guilty} has lied, and it has not")

    def decided(self, decided: Decided) -> None:
        if set(decided.accepted_by) <= self._liars.keys():
            return  # who decides alone, after a forced term, decides what it likes
        for peer_id, _ in decided.entry.banned:
            self.banned.add(peer_id)
            if peer_id not in self._liars:
                self._report(f"I6: round {decided.round} bans {peer_id}, which has not lied")

    def check(self) -> None:
        """When it is over: whoever lied in many rounds was found out."""
        for liar, rounds in self._lied_in.items():
            if len(rounds) >= ROUNDS_UNNOTICED and liar not in self._convicted:
                self._report(f"I6: {liar} lied in {len(rounds)} rounds, and nobody has noticed")


ROUNDS_UNNOTICED = 12
"""Of a liar that lies every other time: in a storm audits find nobody who shows them anything."""
