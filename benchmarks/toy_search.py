"""Find the demo's hyperparameters: four peers against one alone and against data-parallel.

    python -m benchmarks.toy_search                  # about 40 minutes on two cores
    python -m benchmarks.toy_search --processes 1    # on one core, with the same result
    python -m benchmarks.toy_search --quick          # a minute; shows that it works, no more

Each point of the grid trains the demo's model on the sources of Python's standard library with the
product's own pieces (model, data, fragments, schedule, codec, outer arithmetic), but without a
network: the replicas take turns in one process. Three kinds of points are compared after equally
many inner steps, by the loss of the same held-out batches:

    alone          one peer, plain AdamW
    swarm          PEERS peers, Streaming DiLoCo with E3M0 on both legs. A round is applied tau =
                   gap - 1 steps after its snapshot, about as late as in elastic mode
    data-parallel  one replica that averages the gradients of PEERS peers in every step

The search goes one group of hyperparameters after the other (see `search`); alone, swarm and
data-parallel get the same grid of inner learning rates. The last line of output is a JSON object
with every point.
"""

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from typing import TypedDict

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
SYNC_EVERY = (20, 10, 40)
OUTER_SETTINGS = (
    # (learning rate, momentum, merge_alpha); the first is where the inner rate is searched
    (0.8, 0.8, 0.5),
    (0.8, 0.6, 0.5),
    (0.6, 0.9, 0.5),
    (1.0, 0.8, 0.5),
    (1.2, 0.6, 0.5),
    (0.8, 0.8, 0.25),
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


Runner = Callable[[Iterable[Point]], list[Result]]


def search(run: Runner, base: Point) -> list[Result]:
    """Every point of the search, one group of hyperparameters after the other.

    1. The inner learning rate of all three kinds, of the swarm with the first outer settings.
    2. The outer settings at the first H, with the best inner learning rate.
    3. The three best of those at the other values of H.
    4. The neighbouring inner learning rates at the best settings of each H.
    5. More seeds of the best point of each kind and each H.
    """
    done = run(
        replace(base, kind=kind, inner_learning_rate=rate)
        for kind in KINDS
        for rate in INNER_LEARNING_RATES
    )
    start = best(done, "swarm")
    outer = run(_with_outer(start, settings) for settings in OUTER_SETTINGS[1:])
    leaders = sorted([*outer, *_of(done, "swarm", start.sync_every)], key=_loss_of)
    settings = list(dict.fromkeys(_outer_of(result.point) for result in leaders))[:3]
    done += outer
    done += run(
        replace(_with_outer(start, setting), sync_every=sync_every)
        for sync_every in SYNC_EVERY[1:]
        for setting in settings
    )
    tried = {result.point for result in done}
    done += run(
        neighbour
        for sync_every in SYNC_EVERY
        for neighbour in _neighbours(best(done, "swarm", sync_every))
        if neighbour not in tried
    )
    finalists = [best(done, "alone"), best(done, "data-parallel")]
    finalists += [best(done, "swarm", sync_every) for sync_every in SYNC_EVERY]
    done += run(replace(point, seed=seed) for point in finalists for seed in SEEDS[1:])
    return done


def _loss_of(result: Result) -> float:
    return result.heldout_loss


def _of(results: Sequence[Result], kind: str, sync_every: int | None = None) -> list[Result]:
    return [
        result
        for result in results
        if result.point.kind == kind and sync_every in (None, result.point.sync_every)
    ]


def best(results: Sequence[Result], kind: str, sync_every: int | None = None) -> Point:
    """The point with the lowest loss among those with the first seed."""
    first_seed = [r for r in _of(results, kind, sync_every) if r.point.seed == SEEDS[0]]
    return min(first_seed, key=_loss_of).point


def _with_outer(point: Point, settings: tuple[float, float, float]) -> Point:
    learning_rate, momentum, merge_alpha = settings
    return replace(
        point, outer_learning_rate=learning_rate, momentum=momentum, merge_alpha=merge_alpha
    )


def _outer_of(point: Point) -> tuple[float, float, float]:
    return point.outer_learning_rate, point.momentum, point.merge_alpha


def _neighbours(point: Point) -> list[Point]:
    index = INNER_LEARNING_RATES.index(point.inner_learning_rate)
    rates = INNER_LEARNING_RATES[max(0, index - 1) : index + 2]
    return [replace(point, inner_learning_rate=rate) for rate in rates]


class Row(TypedDict):
    """The best point of a kind, and of an H, with the losses of all its seeds."""

    point: Point
    losses: list[float]
    mean: float
    spread: float
    seeds: int


def summary(results: Sequence[Result]) -> dict[str, Row]:
    """One row per kind, and per H of the swarm, that has results."""
    rows: dict[str, Row] = {}
    sync_everys = sorted({result.point.sync_every for result in _of(results, "swarm")})
    for kind, sync_every in [
        ("alone", None),
        ("data-parallel", None),
        *(("swarm", sync_every) for sync_every in sync_everys),
    ]:
        point = best(results, kind, sync_every)
        losses = [r.heldout_loss for r in results if replace(r.point, seed=point.seed) == point]
        rows[kind if sync_every is None else f"{kind} H={sync_every}"] = Row(
            point=point,
            losses=losses,
            mean=statistics.mean(losses),
            spread=max(losses) - min(losses),
            seeds=len(losses),
        )
    return rows


def report(results: Sequence[Result]) -> None:
    """Print the table of the best points, and everything as one JSON object."""
    rows = summary(results)
    print(f"\n{'best of':16}{'mean loss':>10}{'spread':>9}{'seeds':>7}  point of the first seed")
    for name, row in rows.items():
        print(f"{name:16}{row['mean']:10.4f}{row['spread']:9.4f}{row['seeds']:7}  {row['point']}")
    best_points = {name: row | {"point": row["point"].as_json()} for name, row in rows.items()}
    everything = [
        dataclasses.asdict(result) | {"point": result.point.as_json()} for result in results
    ]
    print(json.dumps({"benchmark": "toy_search", "best": best_points, "results": everything}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the demo's hyperparameters.")
    parser.add_argument("--steps", type=int, default=500, help="inner steps of each point")
    parser.add_argument("--processes", type=int, default=2, help="points that train at once")
    parser.add_argument("--quick", action="store_true", help="40 steps, one point of each kind")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        arguments.processes, context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:

        def run(points: Iterable[Point]) -> list[Result]:
            results = []
            futures = [pool.submit(run_point, point) for point in dict.fromkeys(points)]
            for future in as_completed(futures):
                results.append(future.result())
                print(results[-1], flush=True)
            return results

        if arguments.quick:
            base = Point(kind="alone", inner_learning_rate=3e-3, total_steps=40)
            results = run(replace(base, kind=kind) for kind in KINDS)
        else:
            results = search(
                run, Point(kind="alone", inner_learning_rate=3e-3, total_steps=arguments.steps)
            )
    report(results)


if __name__ == "__main__":
    main()
