"""What is left of a run when one, two or three of ten peers lie?

    python -m benchmarks.byzantine            # every attack and rule: under an hour, two cores
    python -m benchmarks.byzantine --quick    # three liars, some attacks, two rules, short runs
    python -m benchmarks.byzantine --attack noise --rule median --attackers 2 --seeds 1,2,3

Ten real peers in one process, on a virtual clock and without gRPC (benchmarks/virtual/swarm.py):
protocol, codec, votes, aggregation and training are what every peer runs. Attackers do what
benchmarks/attacks.py says, through what a peer can really send. A run ends with the held-out loss
of global_params. *Clean* is the weighted mean with ten honest peers; how much three seeds of it
differ (largest less smallest) is the noise that everything here has. The trimmed mean with three
liars has three seeds too, all else one; a row is compared with the clean runs of its own seeds.

The setting was chosen by clean runs alone (docs/log.md, 2026-11-22).

Prints a line as each run ends, a table, and as the last line JSON:

    {"rows": [{"attack", "attackers", "rule", "loss", "clean_loss", "banned_after_rounds"}], ..}

`loss` is null where training broke (values that are not finite). Only false owners can be proven to
lie, and are banned; `banned_after_rounds` is null where not all of them were, or in all other rows.
With false owners every peer recomputes AUDITS parts a round, and one more that contradicts it.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.attacks import ATTACKS, LyingCorpus, LyingReplica
from benchmarks.virtual.loop import run_virtually
from benchmarks.virtual.swarm import CPU, Nature, VirtualSwarm
from peer.data import Corpus
from peer.evaluate import heldout_loss
from peer.model import build_model
from protocol.errors import DilocoError, UnavailableError
from protocol.manifest import Manifest

PEERS = 10
RULES = ("mean", "trimmed_mean", "median", "centered_clip")
JUDGED = "trimmed_mean"
"""With three attackers, or none, it has three seeds, as the clean mean has."""
ATTACKERS = (1, 2, 3)
SEEDS = (1, 2, 3)
CLEAN = "none"
TARGET = 0.02
"""How much worse than the clean run a robust rule may be, with three attackers."""
QUICK_ATTACKS = ("sign flip x10", "constant", "flipped labels")
QUICK_RULES = ("mean", "trimmed_mean")
STEPS, QUICK_STEPS = 300, 120
FALSE_OWNER = "false owner"
AUDITS = 1.0

MANIFEST = """
name = "byzantine"
seed = {seed}
start_peers = {peers}
total_steps = {steps}
[model]
depth = 1
width = 64
head_width = 16
context = 64
[data]
corpus = "python-stdlib"
batch_sequences = 8
[inner_optimizer]
learning_rate = 0.01
warmup_steps = 20
[outer_optimizer]
learning_rate = 1.2
momentum = 0.8
[sync]
sync_every = 20
num_fragments = 2
sync_delay_steps = 0
[aggregation]
rule = "{rule}"
max_weight = 2.0
trim = 0.3
audits = {audits}
[evaluation]
final_batches = 128
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run."""

    attack: str = CLEAN
    attackers: int = 0
    rule: str = "mean"
    seed: int = SEEDS[0]
    steps: int = STEPS

    def manifest(self) -> Manifest:
        audits = AUDITS if self.attack == FALSE_OWNER else 0.0
        return Manifest.from_toml(
            MANIFEST.format(
                seed=self.seed, peers=PEERS, steps=self.steps, rule=self.rule, audits=audits
            )
        )

    def __str__(self) -> str:
        lying = f"{self.attackers} x {self.attack}" if self.attackers else "clean"
        return f"{lying:<20} {self.rule:<14} seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a cell came to."""

    cell: Cell
    loss: float
    """Infinite where training broke."""
    rounds: int
    empty_rounds: int
    banned_after_rounds: int | None
    """Until the log banned the last attacker; None: it never did."""
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table: the mean over the seeds of a cell."""

    attack: str
    attackers: int
    rule: str
    loss: float | None
    clean_loss: float
    """Of the weighted mean with ten honest peers and the same seeds."""
    banned_after_rounds: int | None
    seeds: int

    @property
    def excess(self) -> float:
        """How much worse than clean, as a share."""
        return math.inf if self.loss is None else self.loss / self.clean_loss - 1


@cache
def corpus() -> Corpus:
    """One for all runs of this process: they cut it alike."""
    return Corpus.load(Cell().manifest())


def train(cell: Cell) -> Run:
    """From genesis to the held-out loss; raises UnavailableError when the rounds do not end."""
    torch.set_num_threads(1)
    began_s = time.process_time()
    manifest = cell.manifest()
    attacks = [
        ATTACKS[cell.attack](np.random.default_rng([cell.seed, number]), cell.attackers, PEERS)
        for number in range(cell.attackers)
    ]
    honest = [Nature(corpus()) for _ in range(PEERS - cell.attackers)]
    lying = [Nature(LyingCorpus.of(corpus(), a), partial(LyingReplica, attack=a)) for a in attacks]
    with tempfile.TemporaryDirectory(prefix="byzantine-") as folder:
        swarm = VirtualSwarm(manifest, [*honest, *lying], Path(folder))
        for attack in attacks:
            attack.honest = [peer.replica for peer in swarm.peers[: len(honest)]]
        try:
            run_virtually(swarm.run())
            loss = _loss(swarm, manifest)
        except DilocoError as error:
            if isinstance(error, UnavailableError):
                raise
            loss = math.inf
        banned = swarm.peers[0].banned_after_rounds()
        liars = [banned.get(peer.identity.peer_id) for peer in swarm.peers[len(honest) :]]
    counts = swarm.peers[0].driver.record.counts
    return Run(
        cell=cell,
        loss=loss if math.isfinite(loss) else math.inf,
        rounds=counts.committed + counts.empty,
        empty_rounds=counts.empty,
        banned_after_rounds=_slowest(liars) if liars else None,
        cpu_s=time.process_time() - began_s,
    )


def _loss(swarm: VirtualSwarm, manifest: Manifest) -> float:
    """Of global_params, which are the same on every peer, liars included that are not banned."""
    banned = swarm.peers[0].banned_after_rounds()
    taking_part = [peer for peer in swarm.peers if peer.identity.peer_id not in banned]
    digests = {peer.replica.state_digest() for peer in taking_part}
    assert len(digests) == 1, "peers hold different states after the same entry"
    model, replica = build_model(manifest), swarm.peers[0].replica
    replica.load_into(model, replica.global_params)
    return heldout_loss(model, corpus(), manifest.evaluation.final_batches, CPU)


def plan(quick: bool) -> list[Cell]:
    """Every run, the clean ones first."""
    if quick:
        clean = [Cell(rule=rule, steps=QUICK_STEPS) for rule in QUICK_RULES]
        return clean + [
            Cell(attack=attack, attackers=ATTACKERS[-1], rule=rule, steps=QUICK_STEPS)
            for attack in QUICK_ATTACKS
            for rule in QUICK_RULES
        ]
    clean = [Cell(rule=rule) for rule in RULES]
    attacked = [
        Cell(attack=attack, attackers=attackers, rule=rule)
        for attack in ATTACKS
        for attackers in ATTACKERS
        for rule in RULES
    ]
    once = clean + attacked
    seeded = [
        c for c in once if c == Cell() or (c.rule == JUDGED and c.attackers in (0, ATTACKERS[-1]))
    ]
    more = [replace(cell, seed=seed) for cell in seeded for seed in SEEDS[1:]]
    return sorted(once + more, key=lambda cell: cell.attackers > 0)


class Findings:
    """Runs as they end, and what they say together."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._runs: dict[Cell, Run] = {}

    def add(self, run: Run) -> None:
        self._runs[run.cell] = run

    def clean_loss(self, seed: int) -> float:
        """Of the weighted mean; NaN while that run has not ended."""
        clean = (r for r in self._runs.values() if not r.cell.attackers and r.cell.rule == "mean")
        return next((run.loss for run in clean if run.cell.seed == seed), math.nan)

    @property
    def clean_losses(self) -> list[float]:
        return [self.clean_loss(cell.seed) for cell in self._cells if cell == _clean(cell)]

    def in_words(self, run: Run) -> str:
        against = run.loss / self.clean_loss(run.cell.seed) - 1
        return (
            f"{run.cell}  loss {run.loss:.4f}  {_percent(against):>8}  {run.cpu_s:.0f} s of a core"
        )

    def rows(self) -> list[Row]:
        """Runs that differ by their seeds alone make one row; in the order of the plan."""
        groups: dict[Cell, list[Run]] = {}
        for cell in self._cells:
            groups.setdefault(replace(cell, seed=SEEDS[0]), []).append(self._runs[cell])
        return [self._row(cell, runs) for cell, runs in groups.items()]

    def _row(self, cell: Cell, runs: Sequence[Run]) -> Row:
        loss = statistics.mean(run.loss for run in runs)
        return Row(
            attack=cell.attack,
            attackers=cell.attackers,
            rule=cell.rule,
            loss=round(loss, 4) if math.isfinite(loss) else None,
            clean_loss=round(statistics.mean(self.clean_loss(r.cell.seed) for r in runs), 4),
            banned_after_rounds=_slowest([run.banned_after_rounds for run in runs]),
            seeds=len(runs),
        )


def _slowest(rounds: Sequence[int | None]) -> int | None:
    known = [count for count in rounds if count is not None]
    return max(known) if len(known) == len(rounds) else None


def _clean(cell: Cell) -> Cell:
    return Cell(seed=cell.seed, steps=cell.steps)


def measure(cells: Sequence[Cell], processes: int) -> Findings:
    """All runs, a line for each; raises UnavailableError when one does not end."""
    findings, began_s = Findings(cells), time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        runs = as_completed([pool.submit(train, cell) for cell in cells])
        for count, future in enumerate(runs, 1):
            findings.add(run := future.result())
            left_s = (time.monotonic() - began_s) / count * (len(cells) - count)
            left = f"about {left_s / 60:.0f} min left"
            print(f"[{count}/{len(cells)}] {findings.in_words(run)}; {left}", flush=True)
    return findings


def table_of(rows: Sequence[Row], noise: str) -> Table:
    table = Table(
        title="Held-out loss in nats per byte, and how much worse than clean",
        caption=f"Ten peers, of whom so many lie. Clean: weighted mean, nobody lies; {noise}."
        f" Rows of one seed are compared with the same seed. * {TARGET:.0%} or more above clean.",
        box=None,
        min_width=80,
    )
    rules = list(dict.fromkeys(row.rule for row in rows))
    for name in ("attack", "liars", *rules):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for (attack, attackers), line in groupby(rows, key=lambda row: (row.attack, row.attackers)):
        found = {row.rule: row for row in line}
        table.add_row(attack, str(attackers), *(_shown(found.get(rule)) for rule in rules))
    return table


def _verdict(rows: Sequence[Row]) -> str:
    """What one rule bears, and how soon false owners are banned."""
    far = [f"{r.attack} {_percent(r.excess)}" for r in rows if r.excess >= TARGET]
    within = f"{len(rows) - len(far)} of {len(rows)} attacks within {TARGET:.0%}"
    beyond = f"; not {', '.join(far)}" if far else ""
    bans = [str(r.banned_after_rounds or "never") for r in rows if r.attack == FALSE_OWNER]
    banned = f"; false owners banned after {bans[0]} rounds" if bans else ""
    return f"{rows[0].rule}, {rows[0].attackers} liars: {within}{beyond}{banned}"


def _shown(row: Row | None) -> str:
    if row is None:
        return ""
    mark = " *" if row.excess >= TARGET else "  "
    if row.loss is None:
        return f"{_percent(row.excess)}{mark}"
    return f"{row.loss:.3f} {_percent(row.excess)}{mark}"


def _percent(share: float) -> str:
    if not math.isfinite(share):
        return "?" if math.isnan(share) else "broken"
    return f"{share:+.1%}" if share < 10 else f"x{share + 1:,.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.byzantine", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="a few short runs")
    parser.add_argument("--processes", type=int, default=2, help="runs at once (%(default)s)")
    parser.add_argument("--attack", choices=ATTACKS, help="only this one, next to its clean runs")
    parser.add_argument("--rule", choices=RULES, default="trimmed_mean")
    parser.add_argument("--attackers", type=int, choices=ATTACKERS, default=ATTACKERS[-1])
    parser.add_argument("--seeds", default=str(SEEDS[0]), help="such as 1,2,3 (%(default)s)")
    arguments = parser.parse_args()
    cells = plan(arguments.quick)
    if arguments.attack:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        lying = Cell(attack=arguments.attack, attackers=arguments.attackers, rule=arguments.rule)
        cells = [replace(cell, seed=seed) for cell in (Cell(), lying) for seed in seeds]
    try:
        findings = measure(cells, arguments.processes)
    except UnavailableError as error:
        print(f"failed: {error}")
        print(json.dumps({"rows": [], "failed": 1}))
        return 1
    rows, clean = findings.rows(), findings.clean_losses
    spread = max(clean) - min(clean)
    noise = f"{len(clean)} seeds, spread {spread / clean[0]:.1%}" if spread else "one seed"
    Console(width=120).print(table_of(rows, noise))
    for rule in dict.fromkeys(row.rule for row in rows if row.attackers == ATTACKERS[-1]):
        print(_verdict([r for r in rows if r.rule == rule and r.attackers == ATTACKERS[-1]]))
    summary = {
        "rows": [asdict(row) for row in rows],
        "clean_losses": [round(loss, 4) for loss in clean],
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
