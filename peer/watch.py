"""Watching this peer's traffic: ten samples a second from the kernel's counters."""

import asyncio
from collections import deque
from typing import Final

from peer.metrics import Metrics
from peer.pacer import Lanes
from peer.traffic import TrafficMeter

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
        self.sent_bytes = 0
        self.received_bytes = 0
        self.peak_up_bytes_per_s = 0.0
        self.peak_down_bytes_per_s = 0.0

    async def run(self) -> None:
        """Sample until cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        daemon_sent = 0
        while True:
            for _ in range(WINDOWS):
                due_s = max(due_s + INTERVAL_S, loop.time())
                await asyncio.sleep(due_s - loop.time())
                daemon_sent = self._sample(daemon_sent)
            self._metrics.write(
                "traffic",
                interval_s=INTERVAL_S,
                up=list(self._up),
                down=list(self._down),
                up_total=self.sent_bytes,
                down_total=self.received_bytes,
            )

    def _sample(self, daemon_sent: int) -> int:
        sample = self._meter.sample()
        self._up.append(sample.sent_bytes - self.sent_bytes)
        self._down.append(sample.received_bytes - self.received_bytes)
        self.sent_bytes, self.received_bytes = sample.sent_bytes, sample.received_bytes
        self.peak_up_bytes_per_s = max(self.peak_up_bytes_per_s, self._up[-1] / INTERVAL_S)
        self.peak_down_bytes_per_s = max(self.peak_down_bytes_per_s, self._down[-1] / INTERVAL_S)
        # p2pd does not ask before it sends: what it sent is owed, and bulk data makes room for it.
        sent, _ = sample.by_pid.get(self._daemon_pid, (0, 0))
        self._lanes.note_foreign(sent - daemon_sent)
        return sent

    @property
    def up_bytes_per_s(self) -> float:
        """Over the last second."""
        return sum(self._up) / (INTERVAL_S * WINDOWS)

    @property
    def down_bytes_per_s(self) -> float:
        return sum(self._down) / (INTERVAL_S * WINDOWS)
