"""What a cell needs to know of a system: how its four peers start, and what they wrote down."""

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Processes, Record
from benchmarks.wan.lab import Lab
from peer.metrics import METRICS_FILE
from protocol.manifest import Manifest

PEERS = 4
HOSTS = PEERS + 1
"""torchft's lighthouse has a host of its own."""
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to set a system up."""

    name: str
    tolerance: float
    """How far its averaged values may be off the exact mean, relative to that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the peers of a cell are to do."""

    manifest: str
    emulated: bool
    setting: Setting
    """One of the system's."""
    rate_mbit: float | None
    """Of every link; None: as fast as the kernel."""
    rounds_off: bool = False
    """Nothing is averaged: what the steps are compared with."""
    batches_of: tuple[str, ...] = ("",) * PEERS
    """The peer_ids that each peer's batches are drawn by; ours have the keys of them."""


class System(ABC):
    """Four peers on the first hosts of a lab. Leaving the block ends their processes."""

    name: str
    settings: tuple[Setting, ...]
    """The first is the one of its own example."""
    streams: bool
    """Whether it averages the manifest's fragments one by one, or everything at once."""
    is_planned = False
    """Whether our planner says what to expect of it."""
    note = ""
    """What it cannot do, for the reader of the table."""

    names = tuple(f"peer{number}" for number in range(PEERS))

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """What is installed; raises UnavailableError when nothing is."""

    def __init__(self, folder: Path, lab: Lab | None, task: Task) -> None:
        self.folder = folder
        self.task = task
        self.processes = Processes(folder, lab)
        self.manifest = folder / "manifest.toml"
        self.manifest.write_text(task.manifest, encoding="utf-8")
        self._records = {name: Record(folder / name / METRICS_FILE) for name in self.names}

    @property
    def cycle(self) -> int:
        """Averagings in which every parameter has its turn."""
        manifest = Manifest.from_toml(self.task.manifest)
        return manifest.sync.num_fragments if self.streams else 1

    @abstractmethod
    def start(self) -> float:
        """Start everybody; returns the unix time at which training began.

        Raises:
            UnavailableError: a process ended or did not get ready.
        """

    def steps(self, name: str) -> list[tuple[float, float]]:
        """(unix time, inner steps done by then), of a peer, in order."""
        lines = self.lines(name, "steps") + self.lines(name, "sync")
        return sorted((line["t"], line["step"]) for line in lines)

    def syncs(self, name: str) -> list[float]:
        """Unix times at which a peer had applied an averaging."""
        return [line["t"] for line in self.lines(name, "sync")]

    def has_trained(self, steps: int) -> bool:
        """Whether every peer is through with a schedule of so many steps."""
        lines = [self.steps(name) for name in self.names]
        return all(line and line[-1][1] >= steps for line in lines)

    def least_peers(self) -> int | None:
        """Among how many the smallest averaging was; None: there was none."""
        return min(
            (s["peers"] for name in self.names for s in self.lines(name, "sync")), default=None
        )

    def failures(self) -> int:
        """Averagings that came to nothing."""
        return sum(len(self.lines(name, "failed")) for name in self.names)

    def checks(self, name: str) -> dict[int, dict[str, Any]]:
        """Samples of what went into an averaging and came out of it, by its number."""
        return {line["number"]: line for line in self.lines(name, "check")}

    def lines(self, name: str, kind: str) -> list[dict[str, Any]]:
        return self._records[name].lines(kind)

    def __enter__(self) -> "System":
        return self

    def __exit__(self, *exception: object) -> None:
        self.processes.stop()


class Rival(System):
    """A system whose peers are `python -m MODULE`, and begin together when a file is there."""

    module: str
    python = sys.executable

    def start(self) -> float:
        for name in self.names:
            self.processes.host(name)
            (self.folder / name).mkdir()
        self.start_others()
        for number, name in enumerate(self.names):
            gloo = {"GLOO_SOCKET_IFNAME": "lo" if self.processes.lab is None else "eth0"}
            self.processes.start(name, self.command(number, name), **ENVIRONMENT, **gloo)
        for name in self.names:
            self.processes.wait_for(name, r"(?m)^ready$")
        go = self.folder / "go"
        go.touch()
        return go.stat().st_mtime

    def start_others(self) -> None:
        """Whatever has to be there before the peers."""

    def command(self, number: int, name: str) -> list[str]:
        """What starts a peer; the ones before it have been started."""
        task, processes = self.task, self.processes
        flags = [flag for flag in ("emulated", "rounds_off") if getattr(task, flag)]
        return [
            *(self.python, "-m", self.module),
            *("--manifest", str(self.manifest), "--dir", str(self.folder / name)),
            *("--number", str(number), "--address", processes.address(name)),
            *("--first", processes.address(self.names[0]), "--setting", task.setting.name),
            *("--batches-of", task.batches_of[number]),
            *("--go", str(self.folder / "go"), *(f"--{flag.replace('_', '-')}" for flag in flags)),
        ]
