"""What is left of a run when one, two or three of ten peers lie?

    python -m benchmarks.byzantine                  # every attack and rule: under an hour, two cores
    python -m benchmarks.byzantine --quick          # three attackers, some attacks and two rules
    python -m benchmarks.byzantine --attack noise --rule median --attackers 2 --seeds 1,2,3

Ten real peers in one process, on a virtual clock and without gRPC (benchmarks/virtual/swarm.py):
protocol, codec, votes, aggregation and training are what every peer runs. Attackers do what
benchmarks/attacks.py says, through what a peer can really send. A run ends with the held-out loss of
global_params on an honest peer; `clean` is the mean over three seeds of the weighted mean with ten
honest peers, and its spread (largest less smallest) is the noise that everything here has. Attacks run
with one seed, and are compared with the clean run all the same: near misses deserve `--seeds`.

The setting was chosen by clean runs alone (docs/log.md, 2026-11-22).

Prints a row as each run ends, a table, and as the last line JSON:

    {"rows": [{"attack", "attackers", "rule", "loss", "clean_loss", "banned_after_rounds"}], ...}

`loss` is null where training broke (values that are not finite); `banned_after_rounds` is null as long
as nobody can be banned.
"""

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.attacks import ATTACKS, Attack, LyingCorpus, LyingReplica
from benchmarks.virtual.loop import run_virtually
from benchmarks.virtual.swarm import CPU, Nature, VirtualSwarm
from peer.data import Corpus
from peer.evaluate import heldout_loss
from peer.model import build_model
from protocol.errors import DilocoError, UnavailableError
from protocol.manifest import Manifest

PEERS = 10
RULES = ("mean", "trimmed_mean", "median", "centered_clip")
ATTACKERS = (1, 2, 3)
SEEDS = (1, 2, 3)
CLEAN = "none"
TARGET = 0.02
"""How much worse than the clean run a robust rule may be, with three attackers."""
QUICK_ATTACKS = ("sign flip x10", "constant", "flipped labels")
QUICK_RULES = ("mean", "trimmed_mean")
STEPS, QUICK_STEPS = 400, 100

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
batch_sequences = 4
[inner_optimizer]
learning_rate = 0.005
warmup_steps = 20
[outer_optimizer]
learning_rate = 0.8
momentum = 0.8
[sync]
sync_every = 20
num_fragments = 2
sync_delay_steps = 0
[aggregation]
rule = "{rule}"
max_weight = 2.0
trim = 0.3
[evaluation]
final_batches = 256
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
        return Manifest.from_toml(
            MANIFEST.format(seed=self.seed, peers=PEERS, steps=self.steps, rule=self.rule)
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
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table: the mean over the seeds of a cell."""

    attack: str
    attackers: int
    rule: str
    loss: float | None
    clean_loss: float
    banned_after_rounds: int | None
    seeds: int

    @property
    def ratio(self) -> float:
        return math.inf if self.loss is None else self.loss / self.clean_loss


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
    lying = [Nature(LyingCorpus(corpus(), a), partial(LyingReplica, attack=a)) for a in attacks]
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
    counts = swarm.peers[0].driver.record.counts
    return Run(
        cell=cell,
        loss=loss if math.isfinite(loss) else math.inf,
        rounds=counts.committed + counts.empty,
        empty_rounds=counts.empty,
        cpu_s=time.process_time() - began_s,
    )


def _loss(swarm: VirtualSwarm, manifest: Manifest) -> float:
    """Of global_params, which are the same on every peer, attackers included."""
    digests = {peer.replica.state_digest() for peer in swarm.peers}
    assert len(digests) == 1, "peers hold different states after the same entry"
    model, replica = build_model(manifest), swarm.peers[0].replica
    replica.load_into(model, replica.global_params)
    return heldout_loss(model, corpus(), manifest.evaluation.final_batches, CPU)
