"""What went over links, read from their byte counters every 100 ms while a block lasts.

with Sampler(lab.totals) as sampler:
    ...
steady = sampler.traffic().between(begin_s, end_s)
steady.mean_mbit()      # (hosts, 2): sent, received
steady.peak_mbit(1.0)   # of the busiest second
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

MBIT_BYTES = 1e6 / 8
SAMPLE_S = 0.1
MOMENT_S, TRIES = 0.005, 5


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of frames so far, at the times of the samples; the last axis is sent, received."""

    times_s: NDArray[np.float64]  # (samples,) of time.monotonic()
    totals: NDArray[np.float64]  # (samples, hosts, 2)

    def between(self, begin_s: float, end_s: float = float("inf")) -> "Traffic":
        """Only the samples of that time, for example when everything was in full swing."""
        inside = (self.times_s >= begin_s) & (self.times_s <= end_s)
        return Traffic(self.times_s[inside], self.totals[inside])

    @property
    def span_s(self) -> float:
        return float(self.times_s[-1] - self.times_s[0]) if len(self.times_s) else 0.0

    def rates_mbit(self) -> NDArray[np.float64]:  # (samples - 1, hosts, 2)
        """The series: the rate in each interval between two samples."""
        return np.diff(self.totals, axis=0) / MBIT_BYTES / np.diff(self.times_s)[:, None, None]

    def moved_bytes(self) -> NDArray[np.float64]:  # (hosts, 2)
        """How many bytes each host sent and received."""
        if len(self.times_s) == 0:
            return np.zeros(self.totals.shape[1:])
        return self.totals[-1] - self.totals[0]

    def mean_mbit(self) -> NDArray[np.float64]:  # (hosts, 2)
        return self.moved_bytes() / MBIT_BYTES / (self.span_s or np.inf)

    def peak_mbit(self, window_s: float) -> NDArray[np.float64]:  # (hosts, 2)
        """The largest rate in any window of that length."""
        hosts = self.totals.shape[1]
        peaks = [
            [largest_mbit(self.times_s, self.totals[:, host, way], window_s) for way in range(2)]
            for host in range(hosts)
        ]
        return np.array(peaks).reshape(hosts, 2)


def largest_mbit(
    times_s: NDArray[np.float64],  # (samples,)
    totals: NDArray[np.float64],  # (samples,) bytes so far
    window_s: float,
) -> float:
    """Largest rate in any window that begins or ends at a sample; traffic between two is even."""
    if len(times_s) < 2:
        return 0.0
    span_s = times_s[-1] - times_s[0]
    if span_s < window_s:
        return float((totals[-1] - totals[0]) / MBIT_BYTES / span_s)
    starts = np.concatenate([times_s, times_s - window_s])
    starts = starts[(starts >= times_s[0]) & (starts + window_s <= times_s[-1])]
    sent = np.interp(starts + window_s, times_s, totals) - np.interp(starts, times_s, totals)
    return float(sent.max() / MBIT_BYTES / window_s)


class Sampler:
    """Reads the counters every 100 ms, from a thread, while the block lasts.

    Args:
        counters: gives (sent, received) bytes so far of every host, in one order.
    """

    def __init__(self, counters: Callable[[], Sequence[tuple[int, int]]]) -> None:
        self._counters = counters
        self._samples: list[tuple[float, Sequence[tuple[int, int]]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._read()

    def _run(self) -> None:
        # A wake-up that comes late makes a longer window, never two short ones after it.
        while not self._ended.wait(SAMPLE_S):
            self._read()

    def _read(self) -> None:
        """A reading that was interrupted is of no one moment: it is made again."""
        for _ in range(TRIES):
            began_s = time.monotonic()
            totals = self._counters()
            ended_s = time.monotonic()
            if ended_s - began_s < MOMENT_S:
                break
        self._samples.append(((began_s + ended_s) / 2, totals))

    def traffic(self) -> Traffic:
        """What has been read up to now."""
        times_s, totals = zip(*self._samples[:], strict=True)
        shape = (len(times_s), len(totals[0]), 2)
        return Traffic(np.array(times_s), np.array(totals, dtype=np.float64).reshape(shape))
