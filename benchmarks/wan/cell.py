"""One measured cell: a system's four peers on four hosts of a lab, for so long.

Traffic is what the network cards count, read every 100 ms; steps and averagings are what the peers
write down. Utilization and traffic are taken over the steady part: from one averaging to another,
whole cycles of all fragments, without the first.
"""

import itertools
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.netns import Lab
from benchmarks.processes import children
from benchmarks.wan.system import PEERS, System, Task
from benchmarks.wan.work import SNAPSHOTS
from protocol.errors import UnavailableError

SAMPLE_S = 0.1
WATCH_S = 0.2


@dataclass(slots=True)
class Traffic:
    """What each host has sent, every 100 ms."""

    times: list[float] = field(default_factory=list)
    """Unix."""
    sent_bytes: list[tuple[int, ...]] = field(default_factory=list)
    """By host, since the lab was made."""

    def between(self, begin_s: float, end_s: float) -> "Traffic":
        part = [place for place, t in enumerate(self.times) if begin_s <= t <= end_s]
        return Traffic([self.times[p] for p in part], [self.sent_bytes[p] for p in part])

    def bytes_per_peer(self) -> float:
        """The mean of the hosts."""
        first, last = self.sent_bytes[0], self.sent_bytes[-1]
        return fmean(b - a for a, b in zip(first, last, strict=True))

    def mean_mbit(self) -> float:
        return self.bytes_per_peer() * 8e-6 / (self.times[-1] - self.times[0])

    def peak_mbit(self) -> float:
        """The largest 100 ms of any host."""
        return max(max(rates) for _, rates in self.rates())

    def rates(self) -> list[tuple[float, list[float]]]:
        """(unix time, mbit of each host) of every sample."""
        return [
            (end_s, [(b - a) * 8e-6 / (end_s - begin_s) for a, b in zip(before, after, strict=True)])
            for (begin_s, before), (end_s, after) in itertools.pairwise(
                zip(self.times, self.sent_bytes, strict=True)
            )
        ]


class Sampler:
    """Reads the counters of the first hosts of a lab while its block runs."""

    def __init__(self, lab: Lab) -> None:
        self.traffic = Traffic()
        self._lab = lab
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        # A sample that comes late must not make the next window a short one.
        while not self._done.wait(SAMPLE_S):
            sent = tuple(self._lab.counters(host)[0] for host in range(PEERS))
            self.traffic.times.append(time.time())
            self.traffic.sent_bytes.append(sent)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()


@dataclass(slots=True, kw_only=True)
class Cell:
    """What was seen of one system with one setting on one rate."""

    system: type[System]
    task: Task
    began_s: float = math.nan
    """Unix time at which training began."""
    lasted_s: float = math.nan
    traffic: Traffic = field(default_factory=Traffic)
    steps: list[list[tuple[float, float]]] = field(default_factory=list)
    """By peer: (unix time, inner steps)."""
    syncs: list[float] = field(default_factory=list)
    """Unix times at which peer 0 had applied an averaging."""
    least_peers: int | None = None
    failures: int = 0
    check: "Check | None" = None
    snapshots: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    """Of a real training: (unix time, step, shared parameters by name)."""
    failure: str = ""
    """Why there is nothing, in words."""

    @property
    def steady(self) -> tuple[float, float] | None:
        """(begin, end) of the steady part; None: there were no two averagings."""
        if self.task.rounds_off:
            first = max(lines[1][0] for lines in self.steps)
            return first, min(lines[-1][0] for lines in self.steps)
        cycle = self.task.num_fragments if self.system.streams else 1
        return steady_part(self.began_s, self.syncs, cycle)

    def steps_by(self, t: float) -> float:
        """Inner steps of a peer by a unix time, the mean of the peers."""
        return fmean(interpolated(self.began_s, lines, t) for lines in self.steps)

    def steps_per_s(self) -> float | None:
        if self.steady is None:
            return None
        begin_s, end_s = self.steady
        return (self.steps_by(end_s) - self.steps_by(begin_s)) / (end_s - begin_s)


def steady_part(
    began_s: float, syncs: Sequence[float], cycle: int
) -> tuple[float, float] | None:
    """From one averaging to another, without the first cycle, whole cycles if there are any.

    With very few averagings, from the start to the last of them; with none, None.
    """
    if not syncs:
        return None
    for first in (cycle, 0):
        cycles = (len(syncs) - 1 - first) // cycle
        if cycles >= 1:
            return syncs[first], syncs[first + cycles * cycle]
    return (syncs[0], syncs[-1]) if len(syncs) > 1 else (began_s, syncs[0])


def interpolated(began_s: float, lines: Sequence[tuple[float, float]], t: float) -> float:
    """Steps by `t`, on a straight line between what was written down."""
    times, steps = zip((began_s, 0.0), *lines, strict=True)
    return float(np.interp(t, times, steps))


@dataclass(frozen=True, slots=True)
class Check:
    """Whether the averaged values are the averages."""

    averagings: int
    error: float
    """Of a peer's averaged values from the exact mean: rms, relative to the mean's, the worst."""
    spread: float
    """Largest difference between two peers' values, relative to the same; 0: equal bits."""


def check_of(checks: Sequence[dict[int, dict[str, Any]]]) -> Check | None:
    """Compare what the peers wrote down of the averagings that all of them did."""
    numbers = set.intersection(*(set(lines) for lines in checks)) if checks else set()
    error = spread = 0.0
    for number in numbers:
        sent = np.array([lines[number]["sent"] for lines in checks])
        got = np.array([lines[number]["mean"] for lines in checks])
        exact = sent.mean(axis=0)
        size = float(np.sqrt(np.mean(exact**2)))
        error = max(error, *(float(np.sqrt(np.mean((g - exact) ** 2))) / size for g in got))
        spread = max(spread, float(np.ptp(got, axis=0).max()) / size)
    return Check(len(numbers), error, spread) if numbers else None


def measure(
    system: type[System], task: Task, lab: Lab, limit_s: float, until_step: int | None = None
) -> Cell:
    """Start a system's peers, let them train, and end them.

    Args:
        limit_s: how long they train at most.
        until_step: they are ended when every one has done so many steps.
    """
    cell = Cell(system=system, task=task)
    with (
        tempfile.TemporaryDirectory(prefix="wan-") as folder,
        system(Path(folder), lab, task) as swarm,
        _Families(swarm),
    ):
        try:
            cell.began_s = swarm.start()
            with Sampler(lab) as sampler:
                _wait(swarm, cell.began_s + limit_s, until_step)
        except UnavailableError as error:
            cell.failure = f"{error}\n{swarm.processes.tails()}"
            return cell
        cell.lasted_s = time.time() - cell.began_s
        cell.traffic = sampler.traffic
        cell.steps = [swarm.steps(name) for name in swarm.names]
        cell.syncs = swarm.syncs(swarm.names[0])
        cell.least_peers = swarm.least_peers()
        cell.failures = swarm.failures()
        cell.check = check_of([swarm.checks(name) for name in swarm.names])
        cell.snapshots = _read_snapshots(swarm.folder)
    return cell


def _wait(swarm: System, end_s: float, until_step: int | None) -> None:
    while time.time() < end_s:
        for name in swarm.names:
            if not swarm.processes.is_running(name):
                raise UnavailableError(f"{name} ended by itself")
        done = [lines[-1][1] if (lines := swarm.steps(name)) else 0 for name in swarm.names]
        if until_step is not None and min(done) >= until_step:
            return
        time.sleep(WATCH_S)


class _Families:
    """Ends what the processes of a system have started and left behind, by pid."""

    def __init__(self, swarm: System) -> None:
        self._swarm = swarm

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        family = [
            pid
            for process in self._swarm.processes.running
            if process.poll() is None
            for pid in descendants(process.pid)
        ]
        self._swarm.processes.stop()
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def descendants(pid: int) -> list[int]:
    try:
        own = children(pid)
    except FileNotFoundError:
        return []
    return own + [below for child in own for below in descendants(child)]


def _read_snapshots(folder: Path) -> list[tuple[float, int, dict[str, Any]]]:
    found = []
    for path in folder.glob(f"**/{SNAPSHOTS}/*.npz"):
        step, t = path.name.removesuffix(".npz").split("-")
        with np.load(path, allow_pickle=False) as arrays:
            found.append((float(t), int(step), dict(arrays)))
    return sorted(found, key=lambda snapshot: snapshot[0])
