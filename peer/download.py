"""Who is asked for what, when many items come from several donors: a plan, and no waiting.

Items are handed out in order and in small batches, so that fast donors get more of them. What a
donor did not give goes to others; when nothing else is left, what a slow one still has under way is
asked for a second time. A donor that sends something wrong is not asked again.
"""

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

BATCH: Final = 4
"""Items of one request: few enough that the last ones are spread over all donors."""
MAX_HOLDERS: Final = 2
"""Donors that one item is asked from at once."""
MAX_FAILURES: Final = 12
"""In a row; even where two requests fail at once, the waits sum up to half a minute."""
FIRST_BACKOFF_S: Final = 0.5
MAX_BACKOFF_S: Final = 10.0
SLOW_S: Final = 10.0
"""An item that is under way for so long may be asked from a donor that has shown no pace yet."""

Item = TypeVar("Item", bound=Hashable)


@dataclass(slots=True)
class _Donor:
    failures: int = 0
    not_before_s: float = 0.0
    arrived: int = 0
    busy_s: float = 0.0
    """Summed over its requests: with `arrived` it gives the pace."""


@dataclass(slots=True)
class Request(Generic[Item]):
    """What one donor is asked for at once."""

    donor: str
    began_s: float
    items: list[Item]
    """That it has not brought yet."""


class Plan(Generic[Item]):
    """What is missing, who may give it, and who is at it."""

    def __init__(self, items: Iterable[Item], donors: Iterable[str]) -> None:
        self.notes: list[str] = []
        """Sentences about donors that were given up, in order."""
        self._missing = dict.fromkeys(items)
        self._donors = {donor: _Donor() for donor in donors}
        self._requests: list[Request[Item]] = []

    @property
    def is_complete(self) -> bool:
        return not self._missing

    @property
    def is_hopeless(self) -> bool:
        """Nobody is left that could give what is missing."""
        return bool(self._missing) and not self._donors

    def is_asked(self, donor: str) -> bool:
        """Whether it is worth keeping a connection to that donor."""
        return donor in self._donors

    def needs(self, item: Item) -> bool:
        return item in self._missing

    def begin(self, donor: str, now_s: float) -> Request[Item] | None:
        """A request that this donor should get now; None when there is nothing for it to do.

        It must be ended by `end`, whatever comes of it.
        """
        state = self._donors.get(donor)
        if state is None or now_s < state.not_before_s:
            return None
        under_way = {i for request in self._requests for i in request.items if self.needs(i)}
        waiting = len(self._missing) - len(under_way)
        if waiting:
            share = max(1, waiting // (2 * len(self._donors)))
            free = (item for item in self._missing if item not in under_way)
            items = list(itertools.islice(free, min(BATCH, share)))
        else:
            items = self._overdue(donor, state, now_s)[:1]
        if not items:
            return None
        request = Request(donor, now_s, items)
        self._requests.append(request)
        return request

    def _overdue(self, donor: str, state: _Donor, now_s: float) -> list[Item]:
        """Missing items that this donor would have brought by now, if it had been asked."""
        patience_s = 2 * BATCH * state.busy_s / state.arrived + 1.0 if state.arrived else SLOW_S
        overdue = []
        for item in self._missing:
            holders = [request for request in self._requests if item in request.items]
            if len(holders) < MAX_HOLDERS and all(
                request.donor != donor and now_s - request.began_s > patience_s
                for request in holders
            ):
                overdue.append(item)
        return overdue

    def arrived(self, request: Request[Item], item: Item) -> None:
        """A verified item came and was kept, or had been kept before."""
        state = self._donors.get(request.donor)
        if state is not None:
            state.arrived += 1
            state.failures = 0
        if item in request.items:
            request.items.remove(item)
        self._missing.pop(item, None)

    def end(self, request: Request[Item], now_s: float, failure: str = "") -> None:
        """A request is over; what it did not bring is missing again.

        Args:
            failure: why it did not bring everything, if there is a reason that passes: the donor
                does not answer, or is busy.
        """
        self._requests.remove(request)
        state = self._donors.get(request.donor)
        if state is None:
            return
        state.busy_s += now_s - request.began_s
        if not any(item in self._missing for item in request.items):
            return
        state.failures += 1
        backoff_s = min(FIRST_BACKOFF_S * 2 ** (state.failures - 1), MAX_BACKOFF_S)
        state.not_before_s = now_s + backoff_s
        if state.failures >= MAX_FAILURES:
            self._give_up(request.donor, failure or "it no longer has what it offered")

    def drop(self, donor: str, why: str) -> None:
        """It sent something wrong: nothing of it is used from now on."""
        if donor in self._donors:
            self._give_up(donor, why)

    def _give_up(self, donor: str, why: str) -> None:
        del self._donors[donor]
        self.notes.append(f"donor {donor[:8]} is not asked any more: {why}")
