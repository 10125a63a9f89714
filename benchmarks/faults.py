"""What becomes of a swarm when its peers are killed, frozen, filled up, torn, and started again?

    python -m benchmarks.faults                      # every fault, then ten quiet minutes
    python -m benchmarks.faults --quick              # the short set: three minutes
    python -m benchmarks.faults --quiet-minutes 0    # every fault, without the quiet run

Five peers train on loopback with capped links. One fault after another is done to the same swarm;
after each one, the benchmark waits until everybody who should be there has applied five more rounds
that moved the model. Prints a table and, as the last line, JSON:

    {"rows": [{"fault", "digests_equal", "largest_step_gap_s", "commits_after", "loss_fell"}],
     "false_suspicions"}

`digests_equal`: all peers, killed lives included, recorded the same entries and the same state
after each of them since the fault. `largest_step_gap_s`: the longest that any running peer's
training stood still, from the end of an inner step to the next one's. `commits_after`: what the
slowest peer has applied. `loss_fell`: the held-out loss of global_params is lower than before the
fault, twenty rounds later at most. `false_suspicions`: how often, all the time, somebody took a
peer for dead that was running.

Filling a disk needs root (a small tmpfs); without, that row is left out, and the reason printed.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.fault_list import (
    FULL,
    LAST,
    ON_SMALL_DISK,
    QUICK,
    Broken,
    Fault,
    SkippedError,
    quiet,
    small_disk,
    two_leave,
)
from benchmarks.faults_swarm import COMMITS, PEERS, Peers
from benchmarks.processes import SMALL_CORPUS
from peer.run import FINAL_FILE
from peer.signals import signals_raise
from protocol.errors import UnavailableError

MAX_GAP_S = 3.0
"""Five peers share the cores of one machine with those that are starting; longer is no accident."""
LONG_GAP_S = 1.0
FOREVER_STEPS = 1_000_000
SHORT_STEPS = 900
"""45 rounds: more than the measurement after two have left takes, should the loss not fall."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a fault did."""

    fault: str
    digests_equal: bool
    largest_step_gap_s: float
    commits_after: int
    loss_fell: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A row, and what only people want to know."""

    row: Row
    suspicions: tuple[str, ...]
    remark: str

    @property
    def is_good(self) -> bool:
        row = self.row
        return (
            row.digests_equal
            and row.loss_fell
            and row.commits_after >= COMMITS
            and row.largest_step_gap_s < MAX_GAP_S
        )


def measure(peers: Peers, name: str, fault: Fault) -> Seen:
    """Do one fault, and look at everybody until five rounds later. What goes wrong is said.

    Raises:
        SkippedError: this machine cannot do it.
    """
    began_s = time.time()
    broken, failure = Broken(began_s, PEERS), ""
    try:
        with fault(peers) as broken:
            peers.wait_for_commits(*peers.live, since_s=broken.since_s)
            peers.wait_for_progress(since_s=broken.since_s)
            peers.wait_for_steps(*peers.live)
            seen = _look(peers, name, broken)
    except UnavailableError as error:
        failure = f"failed: {error}"
        print(peers.tails(), flush=True)
        seen = _look(peers, name, broken)
        seen = replace(seen, row=replace(seen.row, digests_equal=False), remark=failure)
    verdict = "good" if seen.is_good else f"BAD, {seen.row}"
    print(f"{name}: {verdict}; {seen.remark}; {time.time() - began_s:.0f} s", flush=True)
    for suspicion in seen.suspicions:
        print(f"  false suspicion: {suspicion}", flush=True)
    return seen


def _look(peers: Peers, name: str, broken: Broken) -> Seen:
    since_s = broken.since_s
    gap_s, whose = peers.largest_gap_s(since_s, broken.frozen)
    row = Row(
        fault=name,
        digests_equal=peers.digests_equal(since_s),
        largest_step_gap_s=round(gap_s, 2),
        commits_after=min(peers.commits(peer, since_s) for peer in peers.live),
        loss_fell=peers.loss_fell(since_s),
    )
    remark = f"{broken.remark}; largest gap in {whose}" if gap_s > LONG_GAP_S else broken.remark
    return Seen(row, tuple(peers.suspicions(broken.victims)), remark)


def series(faults: Mapping[str, Fault], quiet_s: float, folder: Path) -> list[Seen]:
    """All faults in one swarm, then a quiet run. After a failure everybody is started again.

    In this order the loss still falls fast enough to be seen falling after each fault.
    """
    results = []
    folder.mkdir()
    with (
        small_disk(folder / ON_SMALL_DISK),
        Peers(folder, SMALL_CORPUS, FOREVER_STEPS) as peers,
    ):
        peers.begin()
        for name, fault in faults.items():
            try:
                results.append(measure(peers, name, fault))
            except SkippedError as error:
                print(f"{name}: skipped, because {error}")
                continue
            if results[-1].remark.startswith("failed"):
                try:
                    peers.heal()
                except UnavailableError as error:
                    print(f"the others are left out: {error}\n{peers.tails()}", flush=True)
                    return results
        if quiet_s:
            results.append(measure(peers, f"nothing, for {quiet_s / 60:g} minutes", quiet(quiet_s)))
    return results


def the_end(folder: Path) -> Seen:
    """A short run that two of five leave; the others end it with the same bytes."""
    folder.mkdir()
    with Peers(folder, SMALL_CORPUS, SHORT_STEPS) as peers:
        peers.begin()
        seen = measure(peers, LAST, two_leave)
        try:
            codes = [peers.wait(name) for name in peers.live]
            finals = {(peers.path(name) / FINAL_FILE).read_bytes() for name in peers.live}
        except (UnavailableError, OSError) as error:
            print(f"{LAST}: the run did not end: {error}\n{peers.tails()}", flush=True)
            return replace(seen, row=replace(seen.row, digests_equal=False), remark=f"{error}")
        is_equal = seen.row.digests_equal and not any(codes) and len(finals) == 1
        return replace(seen, row=replace(seen.row, digests_equal=is_equal))


def table_of(results: Sequence[Seen]) -> Table:
    table = Table(title="Five peers, one fault after another", box=None)
    table.add_column("fault")
    for name in ("equal", "largest gap", "commits", "loss fell"):
        table.add_column(name, justify="right")
    table.add_column("")
    for seen in results:
        row = seen.row
        table.add_row(
            row.fault,
            "yes" if row.digests_equal else "NO",
            f"{row.largest_step_gap_s:.2f} s",
            str(row.commits_after),
            "yes" if row.loss_fell else "NO",
            seen.remark,
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="the short set")
    parser.add_argument(
        "--quiet-minutes",
        type=float,
        help="how long nothing happens at last (default: 10, with --quick 0)",
    )
    parser.add_argument("--only", metavar="TEXT", help="only faults whose name has this text")
    parser.add_argument(
        "--folder", type=Path, help="where the peers' directories and logs stay; must be new"
    )
    arguments = parser.parse_args()
    quiet_minutes = arguments.quiet_minutes
    if quiet_minutes is None:
        quiet_minutes = 0.0 if arguments.quick else 10.0
    chosen = arguments.only or ""
    faults = {n: f for n, f in (QUICK if arguments.quick else FULL).items() if chosen in n}
    results = []
    with contextlib.ExitStack() as stack:
        # Whoever ends this ends the peers, too, and their disk.
        stack.enter_context(signals_raise())
        folder = arguments.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        if faults or quiet_minutes:
            results += series(faults, 60 * quiet_minutes, folder / "long")
        if not arguments.quick and chosen in LAST:
            results.append(the_end(folder / "short"))
    Console().print(table_of(results))
    summary = {
        "rows": [asdict(seen.row) for seen in results],
        "false_suspicions": sum(len(seen.suspicions) for seen in results),
    }
    print(json.dumps(summary))
    return 0 if all(seen.is_good and not seen.suspicions for seen in results) else 1


if __name__ == "__main__":
    sys.exit(main())
