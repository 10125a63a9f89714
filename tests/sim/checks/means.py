"""What an entry names is the mean of exactly those that it credits (I1, I6, I7)."""

from collections import defaultdict
from collections.abc import Set
from functools import reduce

import numpy as np

from protocol.digest import digest
from protocol.events import AveragePart, ShareTrained, SnapshotTaken
from protocol.log import Entry, Part
from tests.sim.checks.chains import Chains, Report
from tests.sim.checks.verdicts import Verdicts
from tests.sim.plan import Plan


class Means:
    """Computes every mean once more, and looks where its contributions came from."""

    def __init__(
        self, plan: Plan, astray: Set[str], chains: Chains, report: Report, verdicts: Verdicts
    ) -> None:
        self._plan = plan
        self._verdicts = verdicts
        self._astray = astray
        self._chains = chains
        self._report = report
        self._claims: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
        self._taken: defaultdict[tuple[str, int, str], set[tuple[bytes, ...]]] = defaultdict(set)
        """Snapshots of each peer by round and by the entry that it was trained from; a peer that
        was restarted has several."""
        self._based_on: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        """The entries from which each peer's snapshots of a round were trained."""
        self._averaged: defaultdict[str, list[AveragePart]] = defaultdict(list)
        """What owners have averaged, by the digest of what comes out."""

    def claimed(self, peer_id: str, share: ShareTrained) -> None:
        self._claims[peer_id, share.round].add(share.tokens)

    def took(self, peer_id: str, snapshot: SnapshotTaken) -> None:
        """Of who is astray nothing may be in a mean, not even after its state is right again."""
        if peer_id in self._astray:
            return
        position = self._chains.position(peer_id)
        self._taken[peer_id, snapshot.round, position].add(snapshot.parts)
        self._based_on[peer_id, snapshot.round].add(position)

    def averages(self, average: AveragePart) -> None:
        """An owner averages: docs/protocol.md, Arithmetic, written down a second time."""
        largest = max(average.tokens)
        weights = [np.float32(tokens / largest) for tokens in average.tokens]
        codec = self._plan.codec
        decoded = [codec.decode(data, average.values) for data in average.contributions]
        products = [values * weight for values, weight in zip(decoded, weights, strict=True)]
        mean = np.divide(reduce(np.add, products), reduce(np.add, weights))
        self._averaged[digest(codec.encode(mean))].append(average)

    def check(self, entry: Entry) -> None:
        """Of a new entry, before anybody builds on it."""
        for index, part in enumerate(entry.parts):
            if part is not None and part.digest not in self._verdicts.false_means:
                why = self._why_uncredited(entry, part) or self._why_other(entry, index, part)
                if why:
                    self._report(f"{why} in part {index} of round {entry.round}")

    def _why_uncredited(self, entry: Entry, part: Part) -> str:
        """Who is credited that cannot be in the mean."""
        for peer_id, tokens in _credited(entry, part):
            based_on = self._based_on[peer_id, entry.round]
            if peer_id in self._astray or (based_on and entry.parent not in based_on):
                return f"I6: {peer_id} was averaged from afar"
            if not based_on:
                return f"I7: {peer_id} is credited and gave nothing"
            if tokens not in self._claims[peer_id, entry.round]:
                return f"I7: {peer_id} is credited with {tokens} tokens that it never claimed"
        return ""

    def _why_other(self, entry: Entry, index: int, part: Part) -> str:
        """What is wrong with a mean; empty if it is the one of whom the entry credits."""
        averaged = self._averaged.get(part.digest)
        if averaged is None:
            return "I1: nobody's contributions have this mean"
        faults = [self._fault(entry, index, part, average) for average in averaged]
        return "" if "" in faults else faults[-1]

    def _fault(self, entry: Entry, index: int, part: Part, average: AveragePart) -> str:
        for sender, data in zip(average.senders, average.contributions, strict=True):
            taken = self._taken[sender, entry.round, entry.parent]
            if not any(parts[index] == data for parts in taken):
                return f"I6: what was averaged for {sender} is nothing that it contributed"
        credited = _credited(entry, part)
        averaged = list(zip(average.senders, average.tokens, strict=True))
        if sorted(averaged) != credited:
            return "I7: those that are credited and those in the mean are not the same"
        return "" if averaged == credited else "I1: the sum is not in peer_id order"


def _credited(entry: Entry, part: Part) -> list[tuple[str, int]]:
    """Members in a part's mean, in peer_id order, and their tokens."""
    return [(m, t) for m, t in zip(entry.members, part.tokens, strict=True) if t > 0]
