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
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.processes import Swarm
from benchmarks.wan.lab import Lab
from benchmarks.wan.sampler import SAMPLE_S, Sampler, Traffic
from protocol.errors import UnavailableError

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


def rows_of(traffic: Traffic, training_since_s: float, cap_mbit: float) -> list[Row]:
    """One row for each direction."""
    means = traffic.between(training_since_s).mean_mbit().mean(axis=0)
    seconds, samples = (traffic.peak_mbit(window_s).max(axis=0) for window_s in (1.0, SAMPLE_S))
    return [
        Row(direction, cap_mbit, *(round(float(mbit), 3) for mbit in rates))
        for direction, *rates in zip(("up", "down"), means, seconds, samples, strict=True)
    ]


def measure(
    lab: Lab, cap_mbit: float, train_s: float, start: Callable[[], list[subprocess.Popen[bytes]]]
) -> list[Row]:
    """Start the processes, wait until the link is in use, and count for `train_s` from then on.

    Raises:
        UnavailableError: a process ended, or the link stayed idle for START_S.
    """
    with Sampler(lab.totals) as sampler:
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
    return rows_of(sampler.traffic(), training_since_s, cap_mbit)


def _in_use(sampler: Sampler, cap_mbit: float) -> bool:
    """Everybody sends at a quarter of the cap, on average over the last second."""
    traffic = sampler.traffic()
    last = traffic.between(traffic.times_s[-1] - 1.0)
    if len(last.times_s) < 5:
        return False
    return bool((last.mean_mbit()[:, 0] >= cap_mbit / 4).all())


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
