"""What an entry names is the mean of exactly those that it credits (I1, I6, I7)."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np

from protocol.digest import digest
from protocol.events import ShareTrained, SnapshotTaken
from protocol.log import Entry, Part
from tests.sim.checks.chains import Chains, Report
from tests.sim.plan import Plan

Offer = tuple[str, int, bytes]
"""Who, its tokens, its encoded contribution."""
MOST_ORDERS = 24


class Means:
    """Computes every mean once more, from what its contributors had encoded."""

    def __init__(self, plan: Plan, foreign: frozenset[str], chains: Chains, report: Report) -> None:
        self._plan = plan
        self.foreign = foreign
        self._chains = chains
        self._report = report
        self._claims: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
        self._taken: defaultdict[tuple[str, int, str], list[tuple[bytes, ...]]] = defaultdict(list)
        """Snapshots of each peer by round and by the entry that it was trained from; a peer that
        was restarted has several."""
        self._based_on: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        """The entries from which each peer's snapshots of a round were trained."""

    def claimed(self, peer_id: str, share: ShareTrained) -> None:
        self._claims[peer_id, share.round].add(share.tokens)

    def took(self, peer_id: str, snapshot: SnapshotTaken) -> None:
        position = self._chains.position(peer_id)
        self._taken[peer_id, snapshot.round, position].append(snapshot.parts)
        self._based_on[peer_id, snapshot.round].add(position)

    def check(self, entry: Entry) -> None:
        """Of a new entry, before anybody builds on it."""
        for index, part in enumerate(entry.parts):
            if part is not None and not self._check_credit(entry, part):
                self._check_part(entry, index, part)

    def _check_credit(self, entry: Entry, part: Part) -> bool:
        """Returns whether somebody is credited that cannot be in the mean."""
        wrong = False
        for peer_id, tokens in _credited(entry, part):
            based_on = self._based_on[peer_id, entry.round]
            if peer_id in self.foreign or (based_on and entry.parent not in based_on):
                self._report(f"I6: {peer_id} was averaged in round {entry.round} from afar")
                wrong = True
            elif not based_on:
                self._report(f"I7: {peer_id} is credited in round {entry.round} for nothing")
                wrong = True
            elif tokens not in self._claims[peer_id, entry.round]:
                self._report(f"I7: {peer_id} never claimed {tokens} tokens in round {entry.round}")
        return wrong

    def _check_part(self, entry: Entry, index: int, part: Part) -> None:
        credited = list(_credited(entry, part))
        choices = [self._taken[peer, entry.round, entry.parent] for peer, _ in credited]
        for snapshots in itertools.product(*choices):
            offers = [
                (peer, tokens, parts[index])
                for (peer, tokens), parts in zip(credited, snapshots, strict=True)
            ]
            why = self._why_other(entry, index, part, offers)
            if not why:
                return
        self._report(f"{why} in part {index} of round {entry.round}")

    def _why_other(self, entry: Entry, index: int, part: Part, offers: Sequence[Offer]) -> str:
        """What is wrong with a mean; empty if it is the one of these contributions."""
        values = self._plan.part_values[entry.fragment_id][index]
        if digest(self._mean(offers, values)) == part.digest:
            return ""
        for count in range(len(offers) - 1, 0, -1):
            for fewer in itertools.combinations(offers, count):
                if digest(self._mean(fewer, values)) == part.digest:
                    absent = " ".join(o[0] for o in offers if o not in fewer)
                    return f"I7: {absent} is credited and was not averaged"
        for order in itertools.islice(itertools.permutations(offers), MOST_ORDERS):
            if digest(self._mean(order, values)) == part.digest:
                return "I1: the mean was not summed in peer_id order"
        return "I6: something else than the contributions was averaged"

    def _mean(self, offers: Sequence[Offer], values: int) -> bytes:
        """docs/protocol.md, Arithmetic: written down a second time, on purpose."""
        largest = max(tokens for _, tokens, _ in offers)
        weights = [np.float32(tokens / largest) for _, tokens, _ in offers]
        decoded = [self._plan.codec.decode(data, values) for _, _, data in offers]
        products = [values * weight for values, weight in zip(decoded, weights, strict=True)]
        total = reduce(np.add, products)
        return self._plan.codec.encode(np.divide(total, reduce(np.add, weights)))


def _credited(entry: Entry, part: Part) -> Iterator[tuple[str, int]]:
    """Members in a part's mean, in peer_id order, and their tokens."""
    return ((m, t) for m, t in zip(entry.members, part.tokens, strict=True) if t > 0)
