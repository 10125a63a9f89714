"""Does control traffic wait behind parts? Real peers whose rounds fill slow links, and a prober.

    python -m benchmarks.control            # links of 1, 2 and 10 mbit, a minute each
    python -m benchmarks.control --quick    # 1 mbit, 20 s

Three peers on hosts of their own, each with a link of that rate and caps of that rate, train so
that the link is always what rounds wait for. A fourth host asks each of them for its status ten
times a second: the request passes the peer's way in, the answer its way out, on a connection of
its own as control messages do. What that takes beyond the median while there were no rounds is the
delay. Prints a table and, as the last line, JSON:

    {"rows": [{"rate_mbit", "idle_ms", "median_ms", "p99_ms", "worst_ms", "mean_mbit"}]}

Delays are there and back, in milliseconds; `mean_mbit` is what left a peer meanwhile. Needs root,
iproute2 and tc; says so and has no rows without.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.processes import Swarm
from benchmarks.wan.lab import Lab
from protocol.errors import UnavailableError

PEERS = ("a", "b", "c")
PROBE = "probe"
IDLE_S = 8.0
MBIT_BYTES = 1e6 / 8
WIDTHS = {1: 96, 2: 128, 10: 256}
"""One fragment takes some seconds of the link; a step far less."""
MANIFEST = """
name = "control"
start_peers = 3
total_steps = 1_000_000

[model]
depth = 2
width = {width}
context = 8

[data]
batch_sequences = 1

[sync]
sync_every = 2
num_fragments = 2
edges = "spread"
sync_delay_steps = 0
codec = "fp32"

[evaluation]
every_rounds = 1_000_000
"""


@dataclass(frozen=True, slots=True)
class Row:
    rate_mbit: int
    idle_ms: float
    """Median of what an answer took before there were rounds."""
    median_ms: float
    p99_ms: float
    worst_ms: float
    mean_mbit: float


def measure(rate_mbit: int, for_s: float) -> Row:
    """One rate. Raises UnavailableError, with the end of what the peers printed."""
    caps = ("--up", f"{rate_mbit}mbit", "--down", f"{rate_mbit}mbit")
    with (
        tempfile.TemporaryDirectory(prefix="control-") as folder,
        Lab(len(PEERS) + 1, rate_mbit) as lab,
        Swarm(Path(folder), MANIFEST.format(width=WIDTHS[rate_mbit]), lab) as swarm,
    ):
        print(lab.links, flush=True)
        try:
            swarm.found(PEERS[0], *caps)
            swarm.join(PEERS[1], *caps)
            swarm.start(PROBE, [sys.executable, "-m", "benchmarks.control_probe", swarm.entrance])
            swarm.wait_until(lambda: len(_answers(swarm)) >= 4, "the first answers", *PEERS[:2])
            time.sleep(IDLE_S)
            idle_until_s = time.time()
            swarm.join(PEERS[2], *caps)
            swarm.wait_until(lambda: len(swarm.rounds(PEERS[0])) >= 2, "two rounds", *PEERS)
            from_s, sent = time.time(), _sent_bytes(lab)
            time.sleep(for_s)
            sent = [after - before for before, after in zip(sent, _sent_bytes(lab), strict=True)]
            answers = _answers(swarm)
        except UnavailableError as error:
            raise UnavailableError(f"{error}\n{swarm.tails()}") from error
    idle_ms = float(
        np.median([ms for t, ms in answers if idle_until_s - IDLE_S < t < idle_until_s])
    )
    delays_ms = np.array([ms - idle_ms for t, ms in answers if t >= from_s])
    return Row(
        rate_mbit=rate_mbit,
        idle_ms=round(idle_ms, 1),
        median_ms=round(float(np.median(delays_ms)), 1),
        p99_ms=round(float(np.percentile(delays_ms, 99)), 1),
        worst_ms=round(float(delays_ms.max()), 1),
        mean_mbit=round(float(np.mean(sent)) / MBIT_BYTES / for_s, 2),
    )


def _answers(swarm: Swarm) -> list[tuple[float, float]]:
    """(unix seconds, milliseconds) of every answer so far; a last line may be half written."""
    lines = swarm.log(PROBE).splitlines(keepends=True)
    answers = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [(answer["t"], answer["ms"]) for answer in answers]


def _sent_bytes(lab: Lab) -> list[int]:
    return [lab.counters(host)[0] for host in range(len(PEERS))]


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(
        title="What control messages wait while rounds fill the link",
        caption="Milliseconds, there and back, beyond what an answer takes without rounds.",
        box=None,
        min_width=80,
    )
    for name in ("link, mbit", "sent, mbit", "idle", "median", "99 %", "worst"):
        table.add_column(name, justify="right")
    for row in rows:
        times_ms = (row.idle_ms, row.median_ms, row.p99_ms, row.worst_ms)
        cells = (f"{ms:.0f}" for ms in times_ms)
        table.add_row(f"{row.rate_mbit}", f"{row.mean_mbit:.2f}", *cells)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.control", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="1 mbit, 20 s")
    arguments = parser.parse_args()
    rates, for_s = ((1,), 20.0) if arguments.quick else (tuple(WIDTHS), 60.0)
    rows: list[Row] = []
    try:
        for rate_mbit in rates:
            rows.append(measure(rate_mbit, for_s))
    except UnavailableError as error:
        print(f"failed: {error}")
        print(json.dumps({"rows": [asdict(row) for row in rows], "failed": f"{error}"[:200]}))
        return 1
    Console().print(table_of(rows))
    print(json.dumps({"rows": [asdict(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
