"""What encryption and the rules that bear lies cost: rounds without a pause at 200 mbit.

    python -m benchmarks.tls            # plaintext and TLS twice each, then every rule; 7 minutes
    python -m benchmarks.tls --quick    # plaintext and TLS, once; 2 minutes

Three real peers in network namespaces, each with a cap and a link of 200 mbit out and in. Rounds
begin where the last one ends, with the codec that takes the most bytes for the least computing;
inner steps are cheap, so that two cores are left to the network. What counts is the time from round
to round, against plaintext and the weighted mean in the same run. Prints a table and, as the last
line, JSON:

    {"rows": [{"rule", "tls", "mbit", "slowdown", "round_s", "rounds", "mean_mbit"}, ...]}

`slowdown` is 0.05 where rounds take 5 % longer; `mean_mbit` is what a peer's card sent. Needs root
and iproute2; says so and has no rows without.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.caps import MANIFEST
from benchmarks.processes import PORT, Swarm
from benchmarks.wan.lab import Lab
from benchmarks.wan.sampler import MBIT_BYTES
from benchmarks.wan.system import ROOT
from protocol.errors import UnavailableError
from protocol.robust import Rule

PEERS: Final = ("a", "b", "c")
RATE_MBIT: Final = 200
STEP_S: Final = 0.25
WARM_UP_ROUNDS: Final = 3
WIDTH: Final = 512


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement."""

    rule: Rule
    tls: bool
    round_s: float
    """Median time from one round to the next."""
    rounds: int
    mean_mbit: float


@dataclass(frozen=True, slots=True)
class Row:
    rule: Rule
    tls: bool
    mbit: int
    slowdown: float
    round_s: float
    rounds: int
    mean_mbit: float


class _Swarm(Swarm):
    """Peers whose inner steps take a fixed time, most of it asleep (benchmarks/uneven_peer.py)."""

    def __init__(self, folder: Path, rule: Rule, tls: bool, lab: Lab) -> None:
        manifest = MANIFEST.format(peers=len(PEERS), width=WIDTH)
        super().__init__(folder, f'{manifest}\n[aggregation]\nrule = "{rule}"\n', lab)
        self._tls = tls

    def _join(self, name: str, *flags: str) -> None:
        argv = [sys.executable, "-m", "benchmarks.uneven_peer", "--dir", str(self.path(name))]
        argv += ["--listen", f"{self.address(name)}:{PORT}", "--step-s", str(STEP_S)]
        argv += ["--cap-mbit", str(RATE_MBIT), *flags, *([] if self._tls else ["--insecure"])]
        self.start(name, argv, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")


def measure(rule: Rule, tls: bool, for_s: float) -> Cell:
    """Raises UnavailableError, with the end of what the peers printed."""
    with (
        tempfile.TemporaryDirectory(prefix="tls-") as folder,
        Lab(len(PEERS), RATE_MBIT) as lab,
        _Swarm(Path(folder), rule, tls, lab) as swarm,
    ):
        print(f"{rule}, {'TLS' if tls else 'plaintext'}: {lab.links}", flush=True)
        try:
            swarm.found(PEERS[0])
            for name in PEERS[1:]:
                swarm.join(name)
            swarm.wait_until(
                lambda: len(swarm.rounds(PEERS[0])) >= WARM_UP_ROUNDS, "the first rounds", *PEERS
            )
            from_s, before = time.time(), _sent_bytes(lab)
            time.sleep(for_s)
            sent_bytes = (_sent_bytes(lab) - before) / len(PEERS)
        except UnavailableError as error:
            raise UnavailableError(f"{error}\n{swarm.tails()}") from error
        rounds = [line for line in swarm.rounds(PEERS[0]) if line["t"] >= from_s]
        if len(rounds) < 3 or any(line["empty"] for line in rounds):
            raise UnavailableError(f"{len(rounds)} rounds, or empty ones\n{swarm.tails()}")
    times_s = [line["t"] for line in rounds]
    gaps_s = [after - before for before, after in itertools.pairwise(times_s)]
    return Cell(
        rule=rule,
        tls=tls,
        round_s=statistics.median(gaps_s),
        rounds=len(gaps_s),
        mean_mbit=sent_bytes / MBIT_BYTES / for_s,
    )


def _sent_bytes(lab: Lab) -> int:
    return sum(lab.counters(host)[0] for host in range(len(PEERS)))


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """One row for each kind of cell, against plaintext and the mean."""
    kinds = dict.fromkeys((cell.rule, cell.tls) for cell in cells)
    alike = {kind: [c for c in cells if (c.rule, c.tls) == kind] for kind in kinds}
    round_s = {kind: statistics.mean(c.round_s for c in found) for kind, found in alike.items()}
    base_s = round_s["mean", False]
    return [
        Row(
            rule=kind[0],
            tls=kind[1],
            mbit=RATE_MBIT,
            slowdown=round(round_s[kind] / base_s - 1, 3),
            round_s=round(round_s[kind], 3),
            rounds=sum(c.rounds for c in found),
            mean_mbit=round(statistics.mean(c.mean_mbit for c in found), 1),
        )
        for kind, found in alike.items()
    ]


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(
        title=f"Rounds of {len(PEERS)} peers, one after the other, on links of {RATE_MBIT} mbit",
        caption="Slowdown against plaintext and the weighted mean, in the same run.",
    )
    table.add_column("rule")
    table.add_column("line")
    for name in ("round, s", "slowdown", "rounds", "sent, mbit"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.rule,
            "TLS" if row.tls else "plaintext",
            f"{row.round_s:.2f}",
            f"{row.slowdown:+.1%}",
            str(row.rounds),
            f"{row.mean_mbit:.0f}",
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tls", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="plaintext and TLS, once")
    arguments = parser.parse_args()
    for_s = 15.0 if arguments.quick else 30.0
    kinds: list[tuple[Rule, bool]] = [("mean", False), ("mean", True)]
    if not arguments.quick:
        kinds += [*kinds, ("trimmed_mean", True), ("median", True), ("centered_clip", True)]
    try:
        with Lab(hosts=len(PEERS)):
            pass
    except UnavailableError as error:
        print(f"skipped, because {error}")
        print(json.dumps({"rows": [], "skipped": str(error)}))
        return 0
    cells: list[Cell] = []
    failed = {}
    try:
        for rule, tls in kinds:
            cells.append(measure(rule, tls, for_s))
            print(f"{cells[-1].round_s:.2f} s a round", flush=True)
    except UnavailableError as error:
        print(f"failed: {error}")
        failed = {"failed": str(error).partition("\n")[0]}
    rows = rows_of(cells) if cells else []
    Console().print(table_of(rows))
    print(json.dumps({"rows": [asdict(row) for row in rows], **failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
