"""How busy a link lets the trainers be: the paper's simulator of compute utilization.

Streaming DiLoCo, arXiv 2501.18512, section 3.1 and Table 4. A step of L layers is 4 L - 1 nodes:
L forward, L - 1 backward to the activations (the first layer needs none), L backward to the
parameters, and L reductions. All but the reductions are one computer's work, one after another and
equally long; the reductions share one link, first come, first served. A layer's reduction begins
when its backward pass is over, and its forward pass of the step `delay_steps` later than the next
one waits for it. Only the bandwidth between the sites is modelled.

What the paper leaves open was chosen so that Table 4 comes out (`python -m benchmarks.table4`):
which steps are counted, and how many values of a model are reduced (there, `REDUCED_SHARE`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

CYCLES = 3
"""Periods of `sync_every` steps that are simulated."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """What is reduced after one step of each period: a fragment, layer by layer."""

    offset_steps: int
    """It follows the steps t, counted from 1, with t mod sync_every = offset_steps."""
    layers: tuple[int, ...]
    """From 0, the one next to the input."""
    layer_bytes: float
    """That one peer sends for one of these layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One way to train, as the simulator sees it."""

    layers: int
    step_s: float
    """Of an inner step that waits for nothing."""
    sync_every: int
    """H: steps between two reductions of the same layer; 1 is data-parallel."""
    delay_steps: int = 0
    """tau: 0, the next step's forward pass waits."""
    reductions: tuple[Reduction, ...]
    latency_s: float = 0.0
    """That every reduction of a layer takes beyond its bytes; 0 in the paper."""


def utilization(work: Workload, link_bytes_per_s: float) -> float:
    """Share of the time that is computed, from the first step until the last reduction is over.

    Args:
        link_bytes_per_s: of one peer, in the direction that is the narrower one.
    """
    due_by_step = {r.offset_steps % work.sync_every: r for r in work.reductions}
    backward_and_forward = 3 * work.layers - 1
    node_s = work.step_s / backward_and_forward
    steps = CYCLES * work.sync_every
    now_s = link_free_s = 0.0
    arrivals: dict[int, dict[int, float]] = {}
    """Step -> layer -> when its reduction is over."""
    for step in range(1, steps + 1):
        waited_for = arrivals.pop(step, None)
        reduction = due_by_step.get(step % work.sync_every)
        if waited_for is None and reduction is None:
            now_s += work.step_s
            continue
        now_s = _forward(now_s, node_s, work.layers, waited_for or {})
        if reduction is None:
            now_s += (2 * work.layers - 1) * node_s
            continue
        layer_s = work.latency_s + reduction.layer_bytes / link_bytes_per_s
        arrives_s = arrivals.setdefault(step + 1 + work.delay_steps, {})
        for layer in range(work.layers - 1, -1, -1):
            now_s += node_s if layer == 0 else 2 * node_s
            if layer in reduction.layers:
                link_free_s = max(link_free_s, now_s) + layer_s
                arrives_s[layer] = link_free_s
    return steps * work.step_s / max(now_s, link_free_s)


def _forward(now_s: float, node_s: float, layers: int, waited_for: dict[int, float]) -> float:
    """When a forward pass is over that begins now, and waits for some layers' parameters."""
    for layer in range(layers):
        now_s = max(now_s, waited_for.get(layer, 0.0)) + node_s
    return now_s


def data_parallel(*, layers: int, step_s: float, model_bytes: float) -> Workload:
    """Every gradient is reduced in every step, while the backward pass goes on.

    Args:
        model_bytes: that one peer sends for the whole model, here and below.
    """
    return diloco(layers=layers, step_s=step_s, model_bytes=model_bytes, sync_every=1)


def diloco(*, layers: int, step_s: float, model_bytes: float, sync_every: int) -> Workload:
    """The whole model every H steps (arXiv 2311.08105)."""
    return Workload(
        layers=layers,
        step_s=step_s,
        sync_every=sync_every,
        reductions=(Reduction(0, tuple(range(layers)), model_bytes / layers),),
    )


def streaming(
    *,
    layers: int,
    step_s: float,
    model_bytes: float,
    sync_every: int,
    fragment_layers: int = 3,
    delay_steps: int = 0,
) -> Workload:
    """Strided fragments of whole layers (section 2.2), one after another at even distances."""
    count = max(1, layers // fragment_layers)
    return Workload(
        layers=layers,
        step_s=step_s,
        sync_every=sync_every,
        delay_steps=delay_steps,
        reductions=tuple(
            Reduction(
                round(place * sync_every / count),
                tuple(range(place, layers, count)),
                model_bytes / layers,
            )
            for place in range(count)
        ),
    )


def first_that_reaches(
    work: Workload, target: float, grid_bytes_per_s: Sequence[float]
) -> float | None:
    """The first bandwidth of an ascending grid at which utilization reaches the target."""
    return next((rate for rate in grid_bytes_per_s if utilization(work, rate) >= target), None)
