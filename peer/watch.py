"""Watching this peer's traffic: ten samples a second from the kernel's counters."""

import asyncio
from collections import deque
from typing import Final

from peer.metrics import Metrics
from peer.pacer import Lanes
from peer.traffic import TrafficMeter, TrafficSample, Windows

INTERVAL_S: Final = 0.1
WINDOWS: Final = 10


class TrafficWatch:
    """Samples what this process and its p2pd send and receive, and shows, records and owes it."""

    def __init__(
        self, meter: TrafficMeter, daemon_pid: int, lanes: Lanes, metrics: Metrics
    ) -> None:
        self._meter = meter
        self._daemon_pid = daemon_pid
        self._lanes = lanes
        self._metrics = metrics
        self._up: deque[int] = deque(maxlen=WINDOWS)
        self._down: deque[int] = deque(maxlen=WINDOWS)
        self._daemon_sent = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.peak_up_bytes_per_s = 0.0
        self.peak_down_bytes_per_s = 0.0

    async def run(self) -> None:
        """Sample until cancelled."""
        windows = Windows(INTERVAL_S, self._sample())
        unwritten: list[tuple[int, int]] = []
        while True:
            await asyncio.sleep(INTERVAL_S)
            for up, down in windows.add(self._sample()):
                self._show(up, down)
                unwritten.append((up, down))
                if len(unwritten) == WINDOWS:
                    self._write(unwritten)
                    unwritten.clear()

    def _sample(self) -> TrafficSample:
        before = self._daemon_sent
        sample = self._meter.sample()
        self.sent_bytes, self.received_bytes = sample.sent_bytes, sample.received_bytes
        # p2pd does not ask before it sends: what it sent is owed, and bulk data makes room for it.
        self._daemon_sent, _ = sample.by_pid.get(self._daemon_pid, (0, 0))
        self._lanes.note_foreign(self._daemon_sent - before)
        return sample

    def _show(self, up: int, down: int) -> None:
        self._up.append(up)
        self._down.append(down)
        self.peak_up_bytes_per_s = max(self.peak_up_bytes_per_s, up / INTERVAL_S)
        self.peak_down_bytes_per_s = max(self.peak_down_bytes_per_s, down / INTERVAL_S)

    def _write(self, windows: list[tuple[int, int]]) -> None:
        self._metrics.write(
            "traffic",
            interval_s=INTERVAL_S,
            up=[up for up, _ in windows],
            down=[down for _, down in windows],
            up_total=self.sent_bytes,
            down_total=self.received_bytes,
        )

    @property
    def up_bytes_per_s(self) -> float:
        """Over the last second."""
        return sum(self._up) / (INTERVAL_S * WINDOWS)

    @property
    def down_bytes_per_s(self) -> float:
        return sum(self._down) / (INTERVAL_S * WINDOWS)
