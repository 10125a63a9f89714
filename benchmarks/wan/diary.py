"""What a peer of a cell writes down of itself: averagings, samples of values, shared parameters."""

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from peer.metrics import METRICS_FILE, Metrics
from peer.tensors import Array

STEPS_LINE_S = 0.5
SNAPSHOT_EVERY_S = 2.5
CHECKS = 4
"""Averagings whose values are written down, to be checked afterwards."""
CHECKED_VALUES = 32
"""Of each tensor of one of these averagings."""
SNAPSHOTS = "snapshots"


class Diary:
    """What a rival's peer writes down of itself, in the lines of metrics.jsonl.

        steps   step, twice a second
        sync    number, steps, values averaged for how many peers: an averaging is over and applied
        check   number, sent, mean: samples of what went in and of what came out

    and, where it trains for real, the shared parameters now and then, to be evaluated afterwards.
    """

    def __init__(self, folder: Path, keeps_snapshots: bool) -> None:
        self._metrics = Metrics(folder / METRICS_FILE)
        self._snapshots = folder / SNAPSHOTS if keeps_snapshots else None
        if self._snapshots:
            self._snapshots.mkdir()
        self._line_s = self._snapshot_s = 0.0
        self._sent: list[float] | None = None
        self.syncs = 0

    def stepped(self, step: int) -> None:
        now_s = time.monotonic()
        if now_s - self._line_s >= STEPS_LINE_S:
            self._line_s = now_s
            self._metrics.write("steps", step=step)

    @property
    def is_looking(self) -> bool:
        """Whether the averaging to come is one of those that are checked."""
        return self.syncs < CHECKS

    def sends(self, tensors: Iterable[Tensor]) -> None:
        """What this peer puts into the next averaging."""
        self._sent = samples(tensors) if self.is_looking else None

    def receives(self, tensors: Iterable[Tensor]) -> None:
        """What this peer got out of it."""
        if self._sent is not None:
            mean = samples(tensors)
            self._metrics.write("check", number=self.syncs, sent=self._sent, mean=mean)
            self._sent = None

    def synced(self, step: int, peers: int) -> None:
        """An averaging among so many peers is applied."""
        self._metrics.write("sync", number=self.syncs, step=step, peers=peers)
        self.syncs += 1

    def failed(self, step: int, why: str) -> None:
        self._metrics.write("failed", step=step, why=why)

    def keep(self, step: int, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Keep the shared parameters, unless it was done a moment ago."""
        if self._snapshots and time.monotonic() - self._snapshot_s >= SNAPSHOT_EVERY_S:
            self._snapshot_s = time.monotonic()
            arrays = {name: tensor.detach().numpy() for name, tensor in parameters}
            write_snapshot(self._snapshots, step, arrays)


def write_snapshot(folder: Path, step: int, parameters: dict[str, Array]) -> None:
    """A file STEP-UNIXTIME.npz, there as a whole or not at all."""
    path = folder / f"{step}-{time.time():.3f}.npz"
    with path.with_suffix(".partial").open("wb") as file:
        np.savez(file, **parameters)
    path.with_suffix(".partial").rename(path)


def samples(tensors: Iterable[Tensor]) -> list[float]:
    """Some values of each tensor, always the same ones."""
    values: list[float] = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // CHECKED_VALUES)
        values += flat[::stride][:CHECKED_VALUES].tolist()
    return values
