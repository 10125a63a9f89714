"""How long does a peer take to join a run of 100 MB, and what does that cost the others?

    python -m benchmarks.join            # caps of 20 and 100 mbit with 1, 2 and 4 donors: 20 min
    python -m benchmarks.join --quick    # 100 mbit with 2 donors, and nobody catches up

Donors train a model of 12.6 M parameters, 8 bytes each (global_params and momentum), until their
logs no longer begin at the first entry; then a peer joins. Everybody has the same cap up and down,
and a link of just that rate where this machine lets us make network namespaces.

Then, with a smaller model (benchmarks/catch_up.py), a peer is killed and started again 20 rounds
later. Prints two tables and, as the last line, JSON:

    {"rows": [{"cap_mbit", "donors", "join_s", "limit_s", "others_slowdown", ...}],
     "catch_up": [{"sync_every", "rounds", "how", "bytes", "entries_bytes", "snapshot_bytes",
                   "seconds"}]}

`join_s` is the time from the newcomer's first request until it holds what the others hold;
`limit_s` what the state alone takes on the narrowest link, the newcomer's down or all donors' up;
`others_slowdown` the share of their inner steps or of their rounds per second, whichever is larger,
that the donors lost meanwhile. Newcomer and donors run on different cores, as they would on
machines of their own.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import catch_up
from benchmarks.processes import Swarm
from benchmarks.wan.lab import lab_or_loopback
from protocol.errors import UnavailableError

MBIT_BYTES = 1e6 / 8
STATE_BYTES_PER_PARAMETER = 8
NEWCOMER = "newcomer"
LOG_ENTRIES = 10
ENTRY_MB = 3.3
"""An entry of the model below, and the list of what is in it."""
ROUNDS_BEFORE = LOG_ENTRIES + 3
"""Then the first entries are no longer kept, and a newcomer needs a snapshot."""
WARM_UP_ROUNDS = 2
"""Not counted in the pace before: everybody has just begun."""
DOWNLOAD_MB = 130
"""The state, and a few entries on top."""
STEP_S = 0.09
"""An inner step of one trainer that has a core to itself, about."""
JOIN_PATIENCE_S = 900.0

MANIFEST = """
name = "join"
start_peers = {donors}
total_steps = 1_000_000

[model]
depth = 2
width = 710
head_width = 10
context = 8

[data]
batch_sequences = 1

[inner_optimizer]
learning_rate = 1e-4

[sync]
sync_every = {sync_every}
num_fragments = 2
edges = "spread"
sync_delay_steps = 0

[limits]
checkpoint_rounds = 2

[evaluation]
every_rounds = 1_000_000
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One join. Ratios are means over the donors: while the peer joined / before."""

    cap_mbit: int
    donors: int
    join_s: float
    limit_s: float
    others_slowdown: float
    steps_ratio: float
    rounds_ratio: float
    snapshot_bytes: int
    """Payload, as is the next."""
    replay_bytes: int


def sync_every(cap_mbit: int, donors: int, cores: int) -> int:
    """H such that a log of LOG_ENTRIES outlives the download one and a half times."""
    download_s = DOWNLOAD_MB / (cap_mbit * MBIT_BYTES / 1e6)
    round_s = 1.5 * download_s / LOG_ENTRIES
    step_s = STEP_S * max(1.0, donors / cores)
    return 2 * max(2, round(round_s / step_s))


def join(cap_mbit: int, donors: int) -> Row:
    """Measure one join, with real peers.

    Raises:
        UnavailableError: a peer ended, or did not do what it has to; with the end of their output.
    """
    cores = sorted(os.sched_getaffinity(0))
    theirs, its = set(cores[:-1] or cores), {cores[-1]}
    manifest = MANIFEST.format(donors=donors, sync_every=sync_every(cap_mbit, donors, len(theirs)))
    caps = ("--up", f"{cap_mbit}mbit", "--down", f"{cap_mbit}mbit")
    keep = ("--log-size", f"{LOG_ENTRIES * ENTRY_MB:.0f}MB")
    names = [f"donor{number}" for number in range(donors)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="join-")))
        lab = stack.enter_context(lab_or_loopback(donors + 1, cap_mbit))
        swarm = stack.enter_context(Swarm(folder, manifest, lab))
        try:
            swarm.found(names[0], *caps, *keep)
            for name in names[1:]:
                swarm.join(name, *caps, *keep)
            for name in names:
                os.sched_setaffinity(swarm.pid(name), theirs)
            for count in range(1, ROUNDS_BEFORE + 1):
                swarm.wait_until(
                    lambda n=count: len(swarm.rounds(names[0])) >= n, "a round", *names
                )
            swarm.join(NEWCOMER, *caps)
            os.sched_setaffinity(swarm.pid(NEWCOMER), its)
            swarm.wait_until(
                lambda: bool(swarm.lines(NEWCOMER, "arrived")),
                "the newcomer to arrive",
                *names,
                NEWCOMER,
                patience_s=JOIN_PATIENCE_S,
            )
        except UnavailableError as error:
            raise UnavailableError(f"{error}\n{swarm.tails()}") from error
        return _row(cap_mbit, swarm, names)


def _row(cap_mbit: int, swarm: Swarm, names: Sequence[str]) -> Row:
    start, arrived = swarm.lines(NEWCOMER, "start")[0], swarm.lines(NEWCOMER, "arrived")[0]
    if not arrived["snapshot_bytes"]:
        raise UnavailableError("the newcomer replayed the log: it was to need a snapshot")
    began_s = arrived["t"] - arrived["seconds"]
    state_bytes = STATE_BYTES_PER_PARAMETER * start["parameters"]
    steps, rounds = [], []
    for name in names:
        applied = swarm.rounds(name)
        before = (applied[WARM_UP_ROUNDS]["t"], start["t"])
        during = (began_s, arrived["t"])
        done = [(line["t"], line["step"]) for line in swarm.lines(name, "steps")]
        steps.append(pace(done, *during) / pace(done, *before))
        counted = [(line["t"], line["round"]) for line in applied]
        rounds.append(pace(counted, *during) / pace(counted, *before))
    steps_ratio, rounds_ratio = float(np.mean(steps)), float(np.mean(rounds))
    return Row(
        cap_mbit=cap_mbit,
        donors=len(names),
        join_s=round(arrived["seconds"], 1),
        limit_s=round(state_bytes / (cap_mbit * MBIT_BYTES), 1),
        others_slowdown=round(1 - min(steps_ratio, rounds_ratio), 3),
        steps_ratio=round(steps_ratio, 3),
        rounds_ratio=round(rounds_ratio, 3),
        snapshot_bytes=arrived["snapshot_bytes"],
        replay_bytes=arrived["replay_bytes"],
    )


def pace(counts: Sequence[tuple[float, float]], from_s: float, to_s: float) -> float:
    """How fast a count grew between two moments, taken as even between two lines of the record."""
    times, values = zip(*counts, strict=True)
    begin, end = np.interp((from_s, to_s), times, values)
    return float((end - begin) / (to_s - from_s))


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(
        title="A peer joins a run of 100 MB",
        caption="Seconds from its first request until it holds what the others hold, and what the"
        " state alone takes on the link. Then MB of the snapshot and of the entries replayed on top"
        " of it, and the donors' inner steps and rounds per second meanwhile, before = 1.",
        box=None,
        min_width=80,
    )
    for name in ("cap, mbit", "donors", "joins in", "limit", "ratio", "snapshot", "replay"):
        table.add_column(name, justify="right")
    for name in ("steps", "rounds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row.cap_mbit}",
            f"{row.donors}",
            f"{row.join_s:.1f}",
            f"{row.limit_s:.1f}",
            f"{row.join_s / row.limit_s:.2f}",
            f"{row.snapshot_bytes / 1e6:.1f}",
            f"{row.replay_bytes / 1e6:.1f}",
            f"{row.steps_ratio:.2f}",
            f"{row.rounds_ratio:.2f}",
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.join", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one join, and nobody catches up")
    parser.add_argument("--cap", type=int, nargs="*", default=(20, 100), help="caps in mbit")
    parser.add_argument("--donors", type=int, nargs="*", default=(1, 2, 4), help="numbers of them")
    parser.add_argument("--only", choices=("join", "catch-up"), help="measure one of the two")
    arguments = parser.parse_args()
    cases = [(cap, donors) for cap in arguments.cap for donors in arguments.donors]
    ways = list(catch_up.CASES)
    if arguments.quick:
        cases, ways = [(100, 2)], []
    if arguments.only is not None:
        cases, ways = (cases, []) if arguments.only == "join" else ([], ways)
    rows, returns, failures = list[Row](), list[catch_up.Return](), list[str]()
    for cap_mbit, donors in cases:
        print(f"{donors} donors at {cap_mbit} mbit", flush=True)
        try:
            row = join(cap_mbit, donors)
        except UnavailableError as error:
            failures.append(f"{donors} donors at {cap_mbit} mbit: {error}")
        else:
            rows.append(row)
            print(f"  joined in {row.join_s:.1f} s, limit {row.limit_s:.1f} s", flush=True)
    for way in ways:
        print(f"a peer comes back: {way.how}, H = {way.sync_every}", flush=True)
        try:
            back = catch_up.come_back(way)
        except UnavailableError as error:
            failures.append(f"{way.how}: {error}")
        else:
            returns.append(back)
            print(f"  {back.bytes / 1e6:.1f} MB for {back.rounds} rounds", flush=True)
    for failure in failures:
        print(f"failed: {failure}")
    if rows:
        Console().print(table_of(rows))
    if returns:
        Console().print(catch_up.table_of(returns))
    result: dict[str, Any] = {
        "rows": [asdict(row) for row in rows],
        "catch_up": [asdict(one) for one in returns],
    }
    print(json.dumps(result | ({"failed": len(failures)} if failures else {})))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
