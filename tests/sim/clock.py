"""Virtual time: nothing sleeps, and hours take milliseconds."""

import heapq
from collections.abc import Callable


class Clock:
    """Calls in the order of their time; those of one moment in the order they were asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._asked = 0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, call)

    def at(self, at_s: float, call: Callable[[], None]) -> None:
        assert at_s >= self.now_s
        heapq.heappush(self._calls, (at_s, self._asked, call))
        self._asked += 1

    def run(self, until_s: float) -> None:
        while self._calls and self._calls[0][0] <= until_s:
            self.now_s, _, call = heapq.heappop(self._calls)
            call()
        self.now_s = until_s
