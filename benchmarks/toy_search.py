"""Find the demo's hyperparameters: four peers against one alone and against data-parallel.

    python -m benchmarks.toy_search                        # about 40 minutes on two free cores
    python -m benchmarks.toy_search --processes 1          # on one core, with the same result
    python -m benchmarks.toy_search --resume points.jsonl  # keeps finished points there
    python -m benchmarks.toy_search --quick                # a minute; shows that it works

Each point of the grid trains the demo's model on the sources of Python's standard library with the
product's own pieces (model, data, fragments, schedule, codec, outer arithmetic), but without a
network: the replicas take turns in one process. Three kinds of points are compared after equally
many inner steps, by the loss of the same held-out batches:

    alone          one peer, plain AdamW
    swarm          PEERS peers, Streaming DiLoCo with E3M0 on both legs. A round is applied tau =
                   gap - 1 steps after its snapshot, about as late as in elastic mode
    data-parallel  one replica that averages the gradients of PEERS peers in every step

The search takes one group of hyperparameters after the other (`Search.run_all`); alone, swarm and
data-parallel get the same grid of inner learning rates. The last line of output is a JSON object
with every point.
"""

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from peer.data import Corpus
from peer.model import GPT, build_model, loss, tensor_specs
from protocol.codec import Values
from protocol.fragments import Fragment
from protocol.manifest import Manifest
from protocol.outer import merge, outer_step, pseudo_gradient, weighted_mean, weights_of

PEERS = 4
KINDS = ("swarm", "alone", "data-parallel")
FRAGMENTS = 4
INNER_LEARNING_RATES = (1e-3, 2e-3, 3e-3, 5e-3, 8e-3)
SYNC_EVERY = (20, 40, 80)
OUTER_SETTINGS = (
    # (learning rate, momentum, merge_alpha); the first is where the inner rate is searched
    (0.8, 0.8, 0.5),
    (0.8, 0.6, 0.5),
    (0.6, 0.9, 0.5),
    (1.0, 0.8, 0.5),
    (0.8, 0.8, 0.0),
)
SEEDS = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One training run of the search."""

    kind: str
    inner_learning_rate: float
    seed: int = SEEDS[0]
    sync_every: int = SYNC_EVERY[0]
    outer_learning_rate: float = OUTER_SETTINGS[0][0]
    momentum: float = OUTER_SETTINGS[0][1]
    merge_alpha: float = OUTER_SETTINGS[0][2]
    total_steps: int = 500

    def manifest(self) -> Manifest:
        return Manifest.model_validate(
            {
                "name": "toy-search",
                "seed": self.seed,
                "start_peers": PEERS,
                "total_steps": self.total_steps,
                "model": {"depth": 4, "width": 128, "head_width": 32, "context": 128},
                "data": {"batch_sequences": 4},
                "inner_optimizer": {"learning_rate": self.inner_learning_rate},
                "outer_optimizer": {
                    "learning_rate": self.outer_learning_rate,
                    "momentum": self.momentum,
                },
                "sync": {
                    "sync_every": self.sync_every,
                    "num_fragments": FRAGMENTS,
                    "edges": "spread",
                    "sync_delay_steps": self.sync_every // FRAGMENTS - 1,
                    "merge_alpha": self.merge_alpha,
                },
                "evaluation": {"final_batches": 128},
            }
        )

    def as_json(self) -> dict[str, object]:
        """The fields that matter to a point of its kind."""
        swarm_only = {"sync_every", "outer_learning_rate", "momentum", "merge_alpha"}
        fields = dataclasses.asdict(self)
        return {k: v for k, v in fields.items() if self.kind == "swarm" or k not in swarm_only}

    def __str__(self) -> str:
        text = f"{self.kind:13}  seed {self.seed}  inner {self.inner_learning_rate:<6}"
        if self.kind != "swarm":
            return text
        return text + (
            f"  H {self.sync_every:<3} outer {self.outer_learning_rate:<4}"
            f" momentum {self.momentum:<4} alpha {self.merge_alpha:<4}"
        )


@dataclass(frozen=True)
class Result:
    point: Point
    heldout_loss: float
    sent_bytes_per_peer: float
    """Encoded parts only; 0 where nothing is sent in this simulation."""
    wall_s: float

    def as_json(self) -> dict[str, object]:
        return dataclasses.asdict(self) | {"point": self.point.as_json()}

    def __str__(self) -> str:
        return f"{self.point}  loss {self.heldout_loss:.4f}  {self.wall_s:.0f} s"


class Replica:
    """One model and its inner optimizer."""

    def __init__(self, manifest: Manifest) -> None:
        inner = manifest.inner_optimizer
        self.manifest = manifest
        self.model = build_model(manifest)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            betas=(inner.beta1, inner.beta2),
            eps=inner.epsilon,
            weight_decay=inner.weight_decay,
            fused=True,
        )

    def inner_step(self, position: int, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.manifest.inner_learning_rate(position)
        self.optimizer.zero_grad()
        loss(self.model, inputs, targets).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.manifest.inner_optimizer.gradient_clip
        )
        self.optimizer.step()

    @torch.no_grad()
    def read(self, fragment: Fragment) -> Values:
        """A flat copy of a fragment's local_params."""
        tensors = [self.parameters[spec.name].flatten() for spec in fragment.tensors]
        values: Values = torch.cat(tensors).numpy()
        return values

    @torch.no_grad()
    def write(self, fragment: Fragment, values: Values) -> None:
        pieces = torch.split(torch.from_numpy(values), [spec.values for spec in fragment.tensors])
        for spec, piece in zip(fragment.tensors, pieces, strict=True):
            parameter = self.parameters[spec.name]
            parameter.copy_(piece.view_as(parameter))


class Swarm:
    """Replicas in lockstep and the state that they share, as Algorithm 2 of arXiv 2501.18512."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.replicas = [Replica(manifest) for _ in range(manifest.start_peers)]
        self.fragments = manifest.fragments(tensor_specs(self.replicas[0].model))
        self.global_params = [self.replicas[0].read(fragment) for fragment in self.fragments]
        self.momentum = [values * 0 for values in self.global_params]
        self.sent_bytes_per_peer = 0.0

    def train(self, corpus: Corpus) -> GPT:
        """All inner steps and all rounds; returns a model of the final global_params."""
        schedule = self.manifest.schedule
        starts = {schedule.step_of(round_): round_ for round_ in range(schedule.training_rounds)}
        pending: tuple[int, int, Values] | None = None  # step to apply at, fragment_id, mean
        for step in range(1, schedule.total_steps + 1):
            for index, replica in enumerate(self.replicas):
                batch = corpus.batch(self.manifest.seed, f"peer {index}", cursor=step - 1)
                replica.inner_step(step - 1, *batch)
            if step in starts:
                fragment_id = schedule.fragment_of(starts[step])
                pending = (step + schedule.sync_delay_steps, fragment_id, self._mean(fragment_id))
            if pending and step == min(pending[0], schedule.total_steps):
                self._apply(*pending[1:])
                pending = None
        for round_ in range(schedule.training_rounds, schedule.total_rounds):
            fragment_id = schedule.fragment_of(round_)
            self._apply(fragment_id, self._mean(fragment_id))
        for fragment, values in zip(self.fragments, self.global_params, strict=True):
            self.replicas[0].write(fragment, values)
        return self.replicas[0].model

    def _mean(self, fragment_id: int) -> Values:
        """The averaged pseudo-gradient as every peer decodes it."""
        fragment, codec = self.fragments[fragment_id], self.manifest.codec
        moved = [
            pseudo_gradient(self.global_params[fragment_id], replica.read(fragment))
            for replica in self.replicas
        ]
        weights = weights_of([self.manifest.tokens_per_step] * len(moved))
        mean = moved[0] * 0
        for start, stop in fragment.part_bounds:
            count = stop - start
            sent = [codec.decode(codec.encode(values[start:stop]), count) for values in moved]
            answer = codec.encode(weighted_mean(sent, weights))
            mean[start:stop] = codec.decode(answer, count)
            self.sent_bytes_per_peer += 2 * len(answer) * (1 - 1 / len(moved))
        return mean

    def _apply(self, fragment_id: int, mean: Values) -> None:
        self.global_params[fragment_id], self.momentum[fragment_id] = outer_step(
            self.global_params[fragment_id],
            self.momentum[fragment_id],
            mean,
            learning_rate=self.manifest.outer_optimizer.learning_rate,
            momentum_decay=self.manifest.outer_optimizer.momentum,
        )
        fragment = self.fragments[fragment_id]
        for replica in self.replicas:
            local, new_global = replica.read(fragment), self.global_params[fragment_id]
            replica.write(fragment, merge(local, new_global, self.manifest.sync.merge_alpha))


def train_one_replica(manifest: Manifest, corpus: Corpus, peers: int) -> GPT:
    """Plain AdamW on the batches of `peers` peers together: alone with 1, else data-parallel."""
    replica = Replica(manifest)
    for position in range(manifest.total_steps):
        batches = [corpus.batch(manifest.seed, f"peer {i}", position) for i in range(peers)]
        inputs, targets = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        replica.inner_step(position, inputs, targets)
    return replica.model


@torch.no_grad()
def heldout_loss(model: GPT, corpus: Corpus, batches: int) -> float:
    losses = [loss(model, *batch).item() for batch in corpus.heldout_batches(batches)]
    return sum(losses) / len(losses)


@cache
def the_corpus() -> Corpus:
    """One for all points: they differ in nothing that it is cut by."""
    return Corpus.load(Point(kind="alone", inner_learning_rate=1e-3).manifest())


def run_point(point: Point) -> Result:
    started_s = time.monotonic()
    manifest, corpus = point.manifest(), the_corpus()
    sent_bytes = 0.0
    if point.kind == "swarm":
        swarm = Swarm(manifest)
        model = swarm.train(corpus)
        sent_bytes = swarm.sent_bytes_per_peer
    else:
        model = train_one_replica(manifest, corpus, 1 if point.kind == "alone" else PEERS)
    final_loss = heldout_loss(model, corpus, manifest.evaluation.final_batches)
    return Result(point, final_loss, sent_bytes, time.monotonic() - started_s)


class Search:
    """Points that are finished, and a pool that trains more, each of them once."""

    def __init__(self, pool: Executor, base: Point, journal: Path | None = None) -> None:
        self._pool = pool
        self._journal = journal
        self.base = base
        self.results: dict[Point, Result] = {}
        if journal and journal.exists():
            for line in journal.read_text().splitlines():
                fields = json.loads(line)
                point = Point(**fields.pop("point"))
                self.results[point] = Result(point, **fields)

    def run(self, points: Iterable[Point]) -> None:
        """Train those points that are not finished; print each when it is."""
        new = [point for point in dict.fromkeys(points) if point not in self.results]
        for future in as_completed([self._pool.submit(run_point, point) for point in new]):
            result = future.result()
            self.results[result.point] = result
            print(result, flush=True)
            if self._journal:
                with self._journal.open("a") as file:
                    file.write(json.dumps(result.as_json()) + "\n")

    def of(self, kind: str, sync_every: int | None = None) -> list[Result]:
        """Finished points of a kind, and of an H, with the first seed; the best one first."""
        found = [
            result
            for point, result in self.results.items()
            if point.kind == kind
            and sync_every in (None, point.sync_every)
            and (point.seed, point.total_steps) == (self.base.seed, self.base.total_steps)
        ]
        return sorted(found, key=lambda result: result.heldout_loss)

    def best(self, kind: str, sync_every: int | None = None) -> Point:
        return self.of(kind, sync_every)[0].point

    def run_all(self) -> None:
        """One group of hyperparameters after the other.

        1. The inner learning rate of all three kinds; the swarm with the smallest H and the first
           outer settings.
        2. The outer settings at the middle H, with the best inner learning rate.
        3. The two best of those at the other values of H.
        4. The neighbouring inner learning rates at the best settings of the larger H.
        5. More seeds of the best point of each kind and each H.
        """
        smallest, middle, largest = SYNC_EVERY
        self.run(
            replace(self.base, kind=kind, inner_learning_rate=rate)
            for kind in KINDS
            for rate in INNER_LEARNING_RATES
        )
        start = replace(self.best("swarm", smallest), sync_every=middle)
        self.run(_with_outer(start, settings) for settings in OUTER_SETTINGS)
        self.run(
            replace(leader.point, sync_every=sync_every)
            for sync_every in (smallest, largest)
            for leader in self.of("swarm", middle)[:2]
        )
        self.run(_neighbours(self.best("swarm", middle)) + _neighbours(self.best("swarm", largest)))
        finalists = [self.best("alone"), self.best("data-parallel")]
        finalists += [self.best("swarm", sync_every) for sync_every in SYNC_EVERY]
        self.run(replace(point, seed=seed) for point in finalists for seed in SEEDS)


def _with_outer(point: Point, settings: tuple[float, float, float]) -> Point:
    learning_rate, momentum, merge_alpha = settings
    return replace(
        point, outer_learning_rate=learning_rate, momentum=momentum, merge_alpha=merge_alpha
    )


def _neighbours(point: Point) -> list[Point]:
    index = INNER_LEARNING_RATES.index(point.inner_learning_rate)
    rates = INNER_LEARNING_RATES[max(0, index - 1) : index + 2]
    return [replace(point, inner_learning_rate=rate) for rate in rates]


def report(search: Search) -> None:
    """Print the best point of each kind and H with all its seeds, then everything as JSON."""
    sync_everys = sorted({p.sync_every for p in search.results if p.kind == "swarm"})
    best = [search.best("alone"), search.best("data-parallel")]
    best += [search.best("swarm", sync_every) for sync_every in sync_everys]
    rows = []
    print(f"\n{'mean loss':>10}{'spread':>9}{'seeds':>7}  best point of each kind and H")
    for point in best:
        seeds = [replace(point, seed=seed) for seed in SEEDS]
        losses = [search.results[p].heldout_loss for p in seeds if p in search.results]
        mean, spread = statistics.mean(losses), max(losses) - min(losses)
        print(f"{mean:10.4f}{spread:9.4f}{len(losses):7}  {point}")
        rows.append({"point": point.as_json(), "losses": losses, "mean": mean, "spread": spread})
    points = [result.as_json() for result in search.results.values()]
    print(json.dumps({"benchmark": "toy_search", "best": rows, "results": points}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the demo's hyperparameters.")
    parser.add_argument("--steps", type=int, default=500, help="inner steps of each point")
    parser.add_argument("--processes", type=int, default=2, help="points that train at once")
    parser.add_argument("--resume", type=Path, help="file of finished points; it is added to")
    parser.add_argument("--quick", action="store_true", help="40 steps, one point of each kind")
    arguments = parser.parse_args()
    steps = 40 if arguments.quick else arguments.steps
    base = Point(kind="alone", inner_learning_rate=3e-3, total_steps=steps)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        arguments.processes, context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        search = Search(pool, base, arguments.resume)
        if arguments.quick:
            search.run(replace(base, kind=kind) for kind in KINDS)
        else:
            search.run_all()
    report(search)


if __name__ == "__main__":
    main()
