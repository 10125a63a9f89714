"""The plan of one run: its model cut into fragments, the arithmetic of protocol/plan, and words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from peer.measure import measure_step_s
from peer.model import GPT, tensor_specs
from peer.preflight import read_manifest, usable_device
from protocol.advice import Cut, next_step, recommend
from protocol.errors import InputError, ManifestError
from protocol.fragments import Fragment, TensorSpec
from protocol.manifest import Manifest
from protocol.plan import (
    TARGET,
    Outlook,
    Setting,
    Swarm,
    even_fragments,
    exchanged_bytes,
    needed_bytes_per_s,
    outlook,
)
from protocol.simulator import Workload, data_parallel, diloco, first_that_reaches

BF16_BYTES = 2
BLOCK_VALUES = 12 * 64**2
"""Parameters of a model of depth d are about d^3 times this: d blocks of 12 matrices' worth of
the width, which is 64 d (peer/model.py)."""
LEAST_PARAMETERS = 1000
_GRID_BYTES_PER_S = tuple(10 ** (2 + place / 50) for place in range(651))
"""800 bit/s to 8 petabit/s in steps of 4.7 %, for what is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model and how its manifest cuts it."""

    given_as: str
    """'manifest', or 'defaults' where there is none."""
    setting: Setting
    layers: int
    cut: Cut
    counts: Sequence[int]
    """Numbers of fragments that it may be cut into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A setting, what comes of it, and what it would need."""

    setting: Setting
    outlook: Outlook
    needed_bytes_per_s: float | None
    """The least cap that reaches the target, up and down alike; None: no link is enough."""

    def to_json(self) -> dict[str, Any]:
        setting = self.setting
        return {
            "sync_every": setting.sync_every,
            "longest_sync_every": setting.longest_sync_every or setting.sync_every,
            "num_fragments": setting.num_fragments,
            "sync_delay_steps": setting.sync_delay_steps,
            "codec": setting.codec,
            "round_deadline_s": setting.round_deadline_s,
            # JSON has no infinity.
            **asdict(self.outlook),
            "times_fewer_bytes": self.outlook.times_fewer_bytes
            if self.outlook.sent_bytes
            else None,
            "needed_bytes_per_s": self.needed_bytes_per_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that `diloco-peer plan` says."""

    swarm: Swarm
    target: float
    layers: int
    given_as: str
    """'manifest' or 'defaults'."""
    given: Column
    recommended: Column | None
    """None: no H reaches the target."""
    next_step: str | None
    """None: the link carries the given one."""
    diloco_bytes_per_s: float | None
    data_parallel_bytes_per_s: float | None
    """What the target takes without fragments, delay and codec, in bf16, by the paper's simulator;
    DiLoCo at the given H."""

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": self.given.setting.parameters,
            "mode": "lockstep" if self.given.setting.lockstep else "elastic",
            "target": self.target,
            **asdict(self.swarm),
            self.given_as: self.given.to_json(),
            "recommended": self.recommended.to_json() if self.recommended else None,
            "next_step": self.next_step,
            "diloco_bytes_per_s": self.diloco_bytes_per_s,
            "data_parallel_bytes_per_s": self.data_parallel_bytes_per_s,
        }


def shape_of(manifest: Manifest) -> Shape:
    """The fragments of a run's model, which is not built for it.

    Raises:
        ManifestError: the model cannot be cut as the manifest says.
    """
    with torch.device("meta"):
        specs = tensor_specs(GPT(manifest.model, manifest.tokenizer.vocabulary))
    setting = Setting.of(manifest, manifest.fragments(specs))
    counts = range(1, manifest.model.depth + 3)
    return Shape(
        given_as="manifest",
        setting=setting,
        layers=manifest.model.depth,
        cut=_cutting(manifest, specs),
        counts=counts,
    )


def shape_of_size(parameters: int, peers: int, lockstep: bool) -> Shape:
    """A model of which only the size is known: as deep as this project's own models of that size,
    in equal fragments, with the manifest's defaults for the rest.

    Raises:
        InputError: there would be fragments with nothing in them.
    """
    if parameters < LEAST_PARAMETERS:
        raise InputError(
            f"{parameters} parameters are no model: give --parameters {LEAST_PARAMETERS} or more"
        )
    mode = "lockstep" if lockstep else "elastic"
    manifest = Manifest.model_validate({"mode": mode})
    layers = max(1, round((parameters / BLOCK_VALUES) ** (1 / 3)))

    def cut(count: int) -> tuple[Fragment, ...]:
        return even_fragments(parameters, count, part_values=manifest.sync.part_values, peers=peers)

    setting = Setting.of(manifest, cut(manifest.sync.num_fragments))
    return Shape(
        given_as="defaults", setting=setting, layers=layers, cut=cut, counts=range(1, layers + 1)
    )


def _cutting(manifest: Manifest, specs: list[TensorSpec]) -> Cut:
    def cut(count: int) -> tuple[Fragment, ...] | None:
        sync = manifest.sync.model_copy(update={"num_fragments": count})
        try:
            return manifest.model_copy(update={"sync": sync}).fragments(specs)
        except ManifestError:
            return None

    return cut


def make_plan(shape: Shape, swarm: Swarm, target: float) -> Plan:
    """Everything from the arithmetic."""
    better = recommend(shape.setting, swarm, cut=shape.cut, counts=shape.counts, target=target)
    plain, in_step = compared_with(shape.setting, shape.layers, swarm)
    alone = swarm.peers == 1
    return Plan(
        swarm=swarm,
        target=target,
        layers=shape.layers,
        given_as=shape.given_as,
        given=_column(shape.setting, swarm, target),
        recommended=None if better is None else _column(better, swarm, target),
        next_step=next_step(shape.setting, swarm, better, target=target),
        diloco_bytes_per_s=None if alone else first_that_reaches(plain, target, _GRID_BYTES_PER_S),
        data_parallel_bytes_per_s=None
        if alone
        else first_that_reaches(in_step, target, _GRID_BYTES_PER_S),
    )


def compared_with(setting: Setting, layers: int, swarm: Swarm) -> tuple[Workload, Workload]:
    """The same training without what makes ours cheap, for the paper's simulator: DiLoCo at the
    same H, and data-parallel; both in bf16, as rings among as many peers."""
    model_bytes = exchanged_bytes(BF16_BYTES * setting.parameters, swarm.peers)
    return (
        diloco(
            layers=layers,
            step_s=swarm.step_s,
            model_bytes=model_bytes,
            sync_every=setting.sync_every,
        ),
        data_parallel(layers=layers, step_s=swarm.step_s, model_bytes=model_bytes),
    )


def _column(setting: Setting, swarm: Swarm, target: float) -> Column:
    return Column(
        setting=setting,
        outlook=outlook(setting, swarm),
        needed_bytes_per_s=needed_bytes_per_s(setting, swarm, target),
    )


def link_warning(manifest: Manifest, swarm: Swarm) -> str | None:
    """One sentence for a peer whose link cannot carry its run, with the next step in it."""
    shape = shape_of(manifest)
    if outlook(shape.setting, swarm).reaches(TARGET):
        return None
    return make_plan(shape, swarm, TARGET).next_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What `diloco-peer plan` was asked. Either a manifest or a number of parameters is given."""

    manifest: Path | None
    parameters: int | None
    lockstep: bool
    step_s: float | None
    """None: measure the manifest's step on this machine."""
    peers: int | None
    """None: as many as the manifest waits for, or `least_peers` if that is more."""
    least_peers: int
    up_bytes_per_s: float
    down_bytes_per_s: float
    rtt_s: float
    target: float
    device: str = "cpu"
    threads: int | None = None


def answer(question: Question) -> Plan:
    """The plan that was asked for.

    Raises:
        InputError: the manifest or the device cannot be used.
    """
    manifest = None
    if question.manifest is not None:
        manifest = read_manifest(question.manifest, question.lockstep)
    peers = question.peers
    if peers is None:
        peers = max(question.least_peers, manifest.start_peers if manifest else 0)
    if manifest is not None:
        shape = shape_of(manifest)
    else:
        assert question.parameters is not None
        shape = shape_of_size(question.parameters, peers, question.lockstep)
    step_s = question.step_s
    if step_s is None:
        assert manifest is not None
        if question.threads is not None:
            torch.set_num_threads(question.threads)
        step_s = measure_step_s(manifest, usable_device(question.device))
    swarm = Swarm(
        peers=peers,
        step_s=step_s,
        up_bytes_per_s=question.up_bytes_per_s,
        down_bytes_per_s=question.down_bytes_per_s,
        rtt_s=question.rtt_s,
    )
    return make_plan(shape, swarm, question.target)
