"""Do the bandwidth caps hold at the network card? Real peers on unshaped links, counted outside.

    python -m benchmarks.caps            # caps of 2, 10 and 50 mbit, about 40 s of training each
    python -m benchmarks.caps --quick    # 2 and 10 mbit, 12 s each

Peers run in network namespaces on one bridge, and nothing but their own caps holds them back. The
only source are the byte counters of the virtual network cards, read every 100 ms, so headers,
acknowledgements, retransmissions and p2pd are counted. Prints a table and, as the last line, JSON:

    {"rows": [{"direction", "cap_mbit", "mean_mbit", "max_1s_mbit", "max_100ms_mbit"}, ...]}

`mean` is over training and over the peers; the two `max` are those of the worst peer, from its
first packet on, joining included. Needs root and iproute2; says so and has no rows without.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.netns import Lab
from benchmarks.processes import Swarm
from protocol.errors import UnavailableError

MBIT_BYTES = 1e6 / 8
SAMPLE_S = 0.1
START_S = 120.0
"""How long peers may take from their start until the link is in use."""

# Widths that give one fragment about 2.5 s of the cap to send, with a step of well under a second
# on one slow core: the link is always what everybody waits for.
WIDTHS = {2: 128, 10: 256, 50: 576}
MANIFEST = """
name = "caps"
start_peers = {peers}
total_steps = 1_000_000

[model]
depth = 2
width = {width}
context = 8

[data]
batch_sequences = 1

[inner_optimizer]
learning_rate = 1e-4

[sync]
sync_every = 2
num_fragments = 2
edges = "spread"
sync_delay_steps = 0
codec = "fp32"  # most bytes for the least computing

[evaluation]
every_rounds = 1_000_000
"""


@dataclass(frozen=True, slots=True)
class Row:
    direction: str
    cap_mbit: float
    mean_mbit: float
    max_1s_mbit: float
    max_100ms_mbit: float


class Sampler:
    """Reads a lab's counters every 100 ms, from a thread, while the block lasts."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._times_s: list[float] = []
        self._totals: list[list[tuple[int, int]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
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

    def _run(self) -> None:
        # A wake-up that comes late makes a longer window, never two short ones after it.
        while not self._ended.wait(SAMPLE_S):
            totals = [self._lab.counters(host) for host in range(self._lab.hosts)]
            self._totals.append(totals)
            self._times_s.append(time.monotonic())

    def samples(
        self,
    ) -> tuple[
        NDArray[np.float64],  # (samples,) seconds
        NDArray[np.float64],  # (samples, hosts, 2) bytes sent, received
    ]:
        count = len(self._times_s)
        totals = np.array(self._totals[:count], dtype=np.float64)
        return np.array(self._times_s[:count]), totals.reshape(count, self._lab.hosts, 2)


def largest_mbit(
    times_s: NDArray[np.float64],  # (samples,)
    totals: NDArray[np.float64],  # (samples,) bytes so far
    window_s: float,
) -> float:
    """Largest rate in any window that begins or ends at a sample; traffic between two is even."""
    span_s = times_s[-1] - times_s[0]
    if span_s < window_s:
        return float((totals[-1] - totals[0]) / MBIT_BYTES / span_s) if span_s else 0.0
    starts = np.concatenate([times_s, times_s - window_s])
    starts = starts[(starts >= times_s[0]) & (starts + window_s <= times_s[-1])]
    sent = np.interp(starts + window_s, times_s, totals) - np.interp(starts, times_s, totals)
    return float(sent.max() / MBIT_BYTES / window_s)


def rows_of(
    times_s: NDArray[np.float64],  # (samples,)
    totals: NDArray[np.float64],  # (samples, hosts, 2) bytes sent, received
    training_since_s: float,
    cap_mbit: float,
) -> list[Row]:
    """One row for each direction."""
    training = times_s >= training_since_s
    train_s = np.ptp(times_s[training])
    rows = []
    for index, direction in enumerate(("up", "down")):
        peers = totals[:, :, index].T
        means = [np.ptp(peer[training]) / MBIT_BYTES / train_s for peer in peers]
        rows.append(
            Row(
                direction,
                cap_mbit,
                round(float(np.mean(means)), 3),
                round(max(largest_mbit(times_s, peer, 1.0) for peer in peers), 3),
                round(max(largest_mbit(times_s, peer, SAMPLE_S) for peer in peers), 3),
            )
        )
    return rows


def measure(
    lab: Lab, cap_mbit: float, train_s: float, start: Callable[[], list[subprocess.Popen[bytes]]]
) -> list[Row]:
    """Start the processes, wait until the link is in use, and count for `train_s` from then on.

    Raises:
        UnavailableError: a process ended, or the link stayed idle for START_S.
    """
    with Sampler(lab) as sampler:
        processes = start()
        begin_s = time.monotonic()
        while not _in_use(sampler, cap_mbit):
            _all_run(processes)
            if time.monotonic() > begin_s + START_S:
                raise UnavailableError(f"after {START_S:.0f} s the peers still exchange nothing")
            time.sleep(SAMPLE_S)
        training_since_s = time.monotonic()
        while time.monotonic() < training_since_s + train_s:
            _all_run(processes)
            time.sleep(SAMPLE_S)
    return rows_of(*sampler.samples(), training_since_s, cap_mbit)


def _in_use(sampler: Sampler, cap_mbit: float) -> bool:
    """Everybody sends at a quarter of the cap, on average over the last second."""
    times_s, totals = sampler.samples()
    last = times_s >= times_s[-1] - 1.0 if len(times_s) else np.zeros(0, dtype=bool)
    if last.sum() < 5:
        return False
    sent = totals[last, :, 0]
    rates = (sent[-1] - sent[0]) / MBIT_BYTES / np.ptp(times_s[last])
    return bool((rates >= cap_mbit / 4).all())


def _all_run(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for number, process in enumerate(processes):
        if (code := process.poll()) is not None:
            raise UnavailableError(f"peer {number} ended with {code}")


def table_of(rows: Sequence[Row], peers: int) -> Table:
    table = Table(title=f"Traffic of {peers} peers at the network card, mbit/s")
    for name in ("direction", "cap", "mean", "largest 1 s", "largest 100 ms"):
        table.add_column(name, justify="left" if name == "direction" else "right")
    for row in rows:
        second = f"{row.max_1s_mbit:.2f}"
        if row.max_1s_mbit > row.cap_mbit:
            second = f"[bold red]{second}[/]"
        table.add_row(
            row.direction,
            f"{row.cap_mbit:g}",
            f"{row.mean_mbit:.2f}",
            second,
            f"{row.max_100ms_mbit:.2f}",
        )
    return table


def run(cap_mbit: int, peers: int, train_s: float) -> list[Row]:
    """Measure one cap with real peers. Raises UnavailableError with the end of their output."""
    manifest = MANIFEST.format(peers=peers, width=WIDTHS[cap_mbit])
    caps = ("--up", f"{cap_mbit}mbit", "--down", f"{cap_mbit}mbit")
    with (
        tempfile.TemporaryDirectory(prefix="caps-") as folder,
        Lab(hosts=peers) as lab,
        Swarm(Path(folder), manifest, lab) as swarm,
    ):

        def start() -> list[subprocess.Popen[bytes]]:
            swarm.found("peer0", *caps)
            for number in range(1, peers):
                swarm.join(f"peer{number}", *caps)
            return swarm.running

        try:
            return measure(lab, cap_mbit, train_s, start)
        except UnavailableError as error:
            raise UnavailableError(f"{error}\n{swarm.tails()}") from error


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.caps", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="2 and 10 mbit, 12 s each")
    parser.add_argument("--peers", type=int, default=2, help="how many (default: 2)")
    arguments = parser.parse_args()
    caps, train_s = ((2, 10), 12.0) if arguments.quick else ((2, 10, 50), 40.0)
    try:
        with Lab(hosts=arguments.peers):
            pass
    except UnavailableError as error:
        print(f"skipped, because {error}")
        print(json.dumps({"rows": [], "skipped": str(error)}))
        return 0
    rows: list[Row] = []
    failed = {}
    try:
        for cap_mbit in caps:
            print(f"{arguments.peers} peers at {cap_mbit} mbit, {train_s:.0f} s", flush=True)
            rows += run(cap_mbit, arguments.peers, train_s)
    except UnavailableError as error:
        print(f"failed: {error}")
        failed = {"failed": str(error).partition("\n")[0]}
    Console().print(table_of(rows, arguments.peers))
    print(json.dumps({"rows": [asdict(row) for row in rows], **failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
