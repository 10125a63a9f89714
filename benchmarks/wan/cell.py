"""One measured cell: a system's four peers on four hosts of a lab, for so long.

Traffic is what the network cards count, read every 100 ms; steps and averagings are what the peers
write down. Utilization and traffic are taken over the steady part: from one averaging to another,
whole cycles of all fragments, without the first.
"""

import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.processes import children
from benchmarks.wan.diary import SNAPSHOTS
from benchmarks.wan.lab import Lab
from benchmarks.wan.sampler import Sampler, Traffic
from benchmarks.wan.system import PEERS, System, Task
from protocol.errors import UnavailableError

WATCH_S = 0.2


@dataclass(slots=True, kw_only=True)
class Cell:
    """What was seen of one system with one setting on one rate."""

    system: type[System]
    task: Task
    began_s: float = math.nan
    """Unix time at which training began."""
    lasted_s: float = math.nan
    starting_s: float = math.nan
    """How long it took until then."""
    traffic: Traffic | None = None
    """Its times are unix ones, like all others here."""
    steps: list[list[tuple[float, float]]] = field(default_factory=list)
    """By peer: (unix time, inner steps)."""
    syncs: list[float] = field(default_factory=list)
    """Unix times at which peer 0 had applied an averaging."""
    cycle: int = 1
    """Averagings in which every parameter has its turn."""
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
        return steady_part(self.began_s, self.syncs, self.cycle)

    def steps_by(self, t: float) -> float:
        """Inner steps of a peer by a unix time, the mean of the peers."""
        return fmean(interpolated(self.began_s, lines, t) for lines in self.steps)

    def sync_every_in_effect(self) -> float | None:
        """Inner steps between two averagings of the same parameter."""
        if self.steady is None:
            return None
        begin_s, end_s = self.steady
        syncs = sum(begin_s < t <= end_s for t in self.syncs)
        return (
            (self.steps_by(end_s) - self.steps_by(begin_s)) * self.cycle / syncs if syncs else None
        )

    def steps_per_s(self) -> float | None:
        if self.steady is None:
            return None
        begin_s, end_s = self.steady
        return (self.steps_by(end_s) - self.steps_by(begin_s)) / (end_s - begin_s)


def steady_part(began_s: float, syncs: Sequence[float], cycle: int) -> tuple[float, float] | None:
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
    system: type[System],
    task: Task,
    lab: Lab | None,
    limit_s: float,
    is_enough: Callable[[System, float], bool] = lambda swarm, began_s: False,
) -> Cell:
    """Start a system's peers, let them train, and end them.

    Args:
        lab: None: all of them on this machine's loopback, and their traffic is not measured.
        limit_s: how long they train at most.
        is_enough: whether they have trained long enough, given when they began, in unix time.
    """
    cell = Cell(system=system, task=task)
    with (
        tempfile.TemporaryDirectory(prefix="wan-") as folder,
        system(Path(folder), lab, task) as swarm,
        _Families(swarm),
    ):
        try:
            called_s = time.time()
            cell.began_s = swarm.start()
            cell.starting_s = cell.began_s - called_s
            with nullcontext() if lab is None else Sampler(lab.totals) as sampler:
                _wait(swarm, cell.began_s, limit_s, is_enough)
        except UnavailableError as error:
            cell.failure = f"{error}\n{swarm.processes.tails()}"
            return cell
        cell.lasted_s = time.time() - cell.began_s
        cell.traffic = None if sampler is None else _in_unix_time(sampler.traffic())
        cell.steps = [swarm.steps(name) for name in swarm.names]
        cell.cycle = swarm.cycle
        cell.syncs = swarm.syncs(swarm.names[0])
        cell.least_peers = swarm.least_peers()
        cell.failures = swarm.failures()
        cell.check = check_of([swarm.checks(name) for name in swarm.names])
        cell.snapshots = _read_snapshots(swarm.folder)
    return cell


def _in_unix_time(traffic: Traffic) -> Traffic:
    """Of the peers' hosts only."""
    return Traffic(traffic.times_s + (time.time() - time.monotonic()), traffic.totals[:, :PEERS])


def _wait(
    swarm: System, began_s: float, limit_s: float, is_enough: Callable[[System, float], bool]
) -> None:
    while time.time() < began_s + limit_s and not is_enough(swarm, began_s):
        for name in swarm.names:
            if not swarm.processes.is_running(name) and swarm.processes.wait(name):
                raise UnavailableError(f"{name} failed")
        time.sleep(WATCH_S)


def trained(steps: int) -> Callable[[System, float], bool]:
    """Every peer is through with a schedule of so many inner steps."""
    return lambda swarm, began_s: swarm.has_trained(steps)


def steady_for(seconds: float) -> Callable[[System, float], bool]:
    """The steady part is so long."""

    def is_enough(swarm: System, began_s: float) -> bool:
        syncs = swarm.syncs(swarm.names[0])
        cycle = swarm.cycle
        if len(syncs) <= 2 * cycle:
            return False
        begin_s, end_s = steady_part(began_s, syncs, cycle) or (0.0, 0.0)
        return end_s - begin_s >= seconds

    return is_enough


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
