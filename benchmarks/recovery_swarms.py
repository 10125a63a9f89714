"""The two swarms that the recovery benchmark breaks: this project's, and torchft's.

Both train the same model in the same fragments on the hosts of one lab, with fp32 on the wire, so
that a round moves the same bytes: 4 peers send 1.5 times a fragment each.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.processes import Processes, Record, Swarm
from benchmarks.wan.lab import Lab
from peer.metrics import METRICS_FILE
from protocol.errors import UnavailableError
from protocol.manifest import Manifest

ROOT = Path(__file__).parents[1]
PEERS = 4
HOSTS = PEERS + 1
"""torchft's lighthouse has a host of its own."""
RATE_MBIT = 50
LIGHTHOUSE_PORT = 29510
LIGHTHOUSE_OPTIONS = (
    *("--min_replicas", "1"),
    *("--quorum_tick_ms", "100"),
    *("--join_timeout_ms", "10000"),
)
"""Those of torchft's README."""
SNAPSHOT_S = 1.0
"""A peer's snapshot is taken at its next step boundary: this long after the roster at most."""

# 8 M parameters in two fragments: 24 MB leave each peer in a round, 4 s of the link. Little text
# makes short steps: four trainers on two cores train the 40 between two rounds in 6 to 8 s. torchft
# overlaps half of them with its transfer, as its example does.
MANIFEST = f"""
name = "recovery"
start_peers = {PEERS}
total_steps = 1_000_000

[model]
depth = 2
width = 576
context = 8

[data]
batch_sequences = 1

[inner_optimizer]
learning_rate = 1e-4

[sync]
sync_every = 80
num_fragments = 2
edges = "spread"
sync_delay_steps = 20
codec = "fp32"

[evaluation]
every_rounds = 1_000_000
"""


class Subject(ABC):
    """A swarm under test on the first hosts of a lab. Leaving the block ends its processes."""

    names: tuple[str, ...]
    processes: Processes

    @abstractmethod
    def start(self) -> None:
        """Start everybody, and return before the first commit.

        Raises:
            UnavailableError: a process ended or did not get ready.
        """

    @abstractmethod
    def commits(self, name: str) -> dict[int, float]:
        """Unix time of each commit of a peer that moved the model, by its number."""

    @abstractmethod
    def steps_lost(self, name: str) -> int:
        """Inner steps of a survivor whose movement will never be in global_params.

        Steps that moved only one of P fragments in vain count as a P-th.
        """

    @abstractmethod
    def bytes_resent(self, name: str, since_s: float, in_flight_bytes: int) -> int | None:
        """What a survivor sent in vain and had to send again; None if nobody counts it.

        Args:
            since_s: unix time of the fault.
            in_flight_bytes: what it had sent by then since its last commit.
        """

    def __enter__(self) -> "Subject":
        return self

    def __exit__(self, *exception: object) -> None:
        self.processes.stop()


class Ours(Subject):
    """`diloco-peer join`, four times, with caps as large as the links."""

    names = tuple(f"peer{number}" for number in range(PEERS))

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.processes = self._swarm = Swarm(folder, MANIFEST, lab)
        self._manifest = Manifest.from_toml(MANIFEST)

    def start(self) -> None:
        caps = ("--up", f"{RATE_MBIT}mbit", "--down", f"{RATE_MBIT}mbit")
        founder, *others = self.names
        self._swarm.found(founder, *caps)
        for name in others:
            self._swarm.join(name, *caps)

    def commits(self, name: str) -> dict[int, float]:
        return {line["round"]: line["t"] for line in self._swarm.rounds(name) if not line["empty"]}

    def steps_lost(self, name: str) -> int:
        lines = self._swarm.lines
        (start, *_) = lines(name, "start")
        return steps_gone(
            self._manifest, start["peer_id"], lines(name, "steps"), lines(name, "round")
        )

    def bytes_resent(self, name: str, since_s: float, in_flight_bytes: int) -> int | None:
        rounds = [line for line in self._swarm.rounds(name) if line["t"] > since_s]
        if not any("resent_bytes" in line for line in rounds):
            return None
        return sum(int(line.get("resent_bytes", 0)) for line in rounds)


def steps_gone(
    manifest: Manifest,
    peer_id: str,
    steps: Sequence[dict[str, Any]],
    rounds: Sequence[dict[str, Any]],
) -> int:
    """Steps that a peer went back, or that it left out of a contribution.

    A contribution stands for the tokens since the one before to the same fragment. Lines of kind
    "steps" come once a second, so steps around a snapshot may escape; those of a round do not.

    Args:
        steps, rounds: the peer's metrics lines of these kinds.
    """
    back = sum(max(0, before["step"] - after["step"]) for before, after in pairwise(steps))
    # More tokens than this are not claimed, whatever was trained: the cap of a weight.
    most = 2 * manifest.sync.sync_every * manifest.tokens_per_step
    from_tokens: dict[int, int] = {}
    left_out = 0
    for line in rounds:
        if line["empty"] or peer_id not in line["contributors"]:
            continue
        fragment_id, told = line["fragment_id"], line["tokens"][peer_id]
        roster_s = line["t"] - line["apply_s"] - line["exchange_s"]
        told_s, snapshot_s = roster_s - line["ready_s"], roster_s + SNAPSHOT_S
        trained = max((s["tokens"] for s in steps if s["t"] <= told_s), default=0)
        if told < most:
            left_out += max(0, trained - from_tokens.get(fragment_id, 0) - told)
        later = (s["tokens"] for s in steps if s["t"] >= snapshot_s)
        from_tokens[fragment_id] = min(later, default=trained)
    return int(back + left_out // manifest.tokens_per_step)


class Torchft(Subject):
    """A lighthouse, and four replica groups of one process each (benchmarks/torchft_peer.py)."""

    names = tuple(f"replica{number}" for number in range(PEERS))

    def __init__(self, folder: Path, lab: Lab, venv: Path) -> None:
        self.processes = Processes(folder, lab)
        self._folder = folder
        self._bin = venv / "bin"
        self._manifest = Manifest.from_toml(MANIFEST)
        self._records = {name: Record(folder / name / METRICS_FILE) for name in self.names}

    def start(self) -> None:
        processes, go = self.processes, self._folder / "go"
        manifest = self._folder / "manifest.toml"
        manifest.write_text(MANIFEST, encoding="utf-8")
        for name in self.names:
            processes.host(name)
        lighthouse = f"http://{processes.address('lighthouse')}:{LIGHTHOUSE_PORT}"
        processes.start("lighthouse", [str(self._bin / "torchft_lighthouse"), *LIGHTHOUSE_OPTIONS])
        for number, name in enumerate(self.names):
            (self._folder / name).mkdir()
            address = processes.address(name)
            argv = [str(self._bin / "python"), "-m", "benchmarks.torchft_peer"]
            argv += ["--manifest", str(manifest), "--dir", str(self._folder / name)]
            argv += ["--number", str(number), "--address", address]
            argv += ["--lighthouse", lighthouse, "--go", str(go)]
            processes.start(
                name,
                with_hostname(address, argv),
                PYTHONPATH=str(ROOT),
                GLOO_SOCKET_IFNAME="eth0",
                OMP_NUM_THREADS="1",
            )
        for name in self.names:
            processes.wait_for(name, r"(?m)^ready$")
        go.touch()

    def commits(self, name: str) -> dict[int, float]:
        return {vote["number"]: vote["t"] for vote in self._votes(name) if vote["committed"]}

    def steps_lost(self, name: str) -> int:
        # "The model parameters will reset back to the last time DiLoCo synchronized": H steps of
        # the fragment, one of P.
        failed = sum(not vote["committed"] for vote in self._votes(name))
        return failed * self._manifest.sync.sync_every // self._manifest.sync.num_fragments

    def bytes_resent(self, name: str, since_s: float, in_flight_bytes: int) -> int | None:
        votes = [vote for vote in self._votes(name) if vote["t"] > since_s]
        return in_flight_bytes if votes and not votes[0]["committed"] else 0

    def _votes(self, name: str) -> list[dict[str, Any]]:
        return self._records[name].lines("commit")


def with_hostname(address: str, argv: Sequence[str]) -> list[str]:
    """torchft tells others the name of its host; here that is an address which they can dial."""
    return ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', address, *argv]


def torchft_version(venv: Path) -> str:
    """What is installed there, in words; raises UnavailableError when nothing is."""
    distributions = [path.name for path in venv.glob("lib/python*/site-packages/torch*.dist-info")]
    found = {
        name.replace("_", "-"): version
        for directory in distributions
        if (match := re.fullmatch(r"(torch|torchft_nightly)-(.+)\.dist-info", directory))
        for name, version in [match.groups()]
    }
    if len(found) < 2:
        raise UnavailableError(f"{venv} has no torchft; 'make torchft-venv' installs it")
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
