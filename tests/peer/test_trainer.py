"""The trainer: who changes parameters waits for a step's end, who reads them does not."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from peer.inner import InnerOptimizer
from peer.replica import Replica
from peer.trainer import Trainer
from tests.peer.test_replica import entry_of, manifest_of, random_parts

MANIFEST = manifest_of()
PATIENCE_S = 20.0


class Gate(InnerOptimizer):
    """Real steps; each takes its gradients and then waits until it is let through."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(MANIFEST, replica.model)
        self.is_under_way = threading.Event()
        self.may_end = threading.Event()
        self.is_updated = threading.Event()
        self.may_be_told = threading.Event()
        self.may_be_told.set()

    def step(self, position: int, inputs: Tensor, targets: Tensor) -> float:
        self.is_under_way.set()
        assert self.may_end.wait(PATIENCE_S)
        loss = super().step(position, inputs, targets)
        self.is_updated.set()
        assert self.may_be_told.wait(PATIENCE_S)
        return loss


def train(tmp_path: Path, work: Callable[[Trainer, Replica, Gate], Awaitable[None]]) -> None:
    """Run `work` while the first inner step is under way."""

    async def run() -> None:
        replica = Replica(MANIFEST, torch.device("cpu"))
        optimizer = Gate(replica)
        tokens = torch.arange(64).view(4, 16)
        corpus = SimpleNamespace(batch=lambda *_: (tokens, tokens + 1))
        cursor = SimpleNamespace(take=lambda: 0)
        trainer = Trainer(MANIFEST, optimizer, corpus, cursor, "me", torch.device("cpu"))  # type: ignore[arg-type]
        trainer.start(lambda step: None, lambda step: 0)
        try:
            await asyncio.to_thread(optimizer.is_under_way.wait, PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S):
                await work(trainer, replica, optimizer)
        finally:
            optimizer.may_end.set()
            optimizer.may_be_told.set()
            await trainer.stop()

    asyncio.run(run())


def test_parameters_are_read_while_a_step_is_under_way(tmp_path: Path) -> None:
    async def work(trainer: Trainer, replica: Replica, gate: Gate) -> None:
        before = await trainer.unchanged(lambda: replica.local_params(0))
        assert trainer.progress.step == 0 and trainer.next_boundary_step == 1
        gate.may_end.set()
        after = await trainer.at_boundary(lambda: replica.local_params(0))
        assert (before == replica.global_params[0]).all() and (after != before).any()

    train(tmp_path, work)


def test_parameters_and_their_step_belong_together_before_the_step_is_told(tmp_path: Path) -> None:
    async def work(trainer: Trainer, replica: Replica, gate: Gate) -> None:
        def look() -> tuple[int, bool]:
            is_as_before = bool((replica.local_params(0) == replica.global_params[0]).all())
            return trainer.updated_step, is_as_before

        assert await trainer.unchanged(look) == (0, True)
        gate.may_be_told.clear()
        gate.may_end.set()
        await asyncio.to_thread(gate.is_updated.wait, PATIENCE_S)
        assert await trainer.unchanged(look) == (1, False)
        assert trainer.progress.step == 0

    train(tmp_path, work)


def test_who_changes_parameters_waits_for_the_end_of_the_step(tmp_path: Path) -> None:
    async def work(trainer: Trainer, replica: Replica, gate: Gate) -> None:
        change = asyncio.ensure_future(trainer.at_boundary(lambda: trainer.progress.step))
        await trainer.unchanged(lambda: None)
        assert not change.done()
        gate.may_end.set()
        assert await change >= 1

    train(tmp_path, work)


def test_an_outer_step_in_force_shows_in_what_is_read_before_the_model_follows(
    tmp_path: Path,
) -> None:
    async def work(trainer: Trainer, replica: Replica, gate: Gate) -> None:
        parts = tuple(random_parts(replica, MANIFEST, 0, seed=1))
        entry = entry_of(replica, 0, parts, tokens=1)
        step = replica.outer_step(entry, parts, entry.contributed_parts("me"))
        await trainer.unchanged(lambda: replica.advance(step))
        seen = await trainer.unchanged(lambda: replica.local_params(0))
        half = np.float32(0.5)
        np.testing.assert_array_equal(seen, step.old_global * half + step.new_global * half)

    train(tmp_path, work)


def test_nothing_is_read_while_an_update_is_half_done() -> None:
    replica = Replica(MANIFEST, torch.device("cpu"))
    optimizer = InnerOptimizer(MANIFEST, replica.model)
    is_held = list[bool]()
    adamw_step = optimizer._adamw.step
    optimizer._adamw.step = lambda: (is_held.append(optimizer.updating.locked()), adamw_step())  # type: ignore[method-assign,assignment]
    tokens = torch.arange(64).view(4, 16)
    optimizer.step(0, tokens, tokens + 1)
    assert is_held == [True] and not optimizer.updating.locked()
