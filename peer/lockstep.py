"""The paper's schedule (arXiv 2501.18512, Algorithm 2): the trainer is held at the step where a
round sends, and again, tau steps later, where it applies. For science and for the exact tests."""

import asyncio
from collections.abc import Awaitable, Callable

from peer.share import Share
from peer.trainer import Trainer
from protocol.codec import Values
from protocol.events import ApplyEntry
from protocol.schedule import Schedule


class Lockstep:
    """Leads the trainer through the rounds, step by step."""

    def __init__(self, schedule: Schedule, trainer: Trainer, share: Share) -> None:
        self.snapshot: Values | None = None
        """Taken at the schedule's step, before the roster asks for it."""
        self._schedule = schedule
        self._trainer = trainer
        self._share = share
        self._awaited_step = 0
        self._reached = asyncio.Event()
        self._decided: asyncio.Queue[ApplyEntry] = asyncio.Queue()
        """Until the trainer is at the step where they apply."""

    def on_step(self) -> None:
        """An inner step is done."""
        if self._share.last_step >= self._awaited_step:
            self._reached.set()

    def on_decided(self, effect: ApplyEntry) -> None:
        """An entry will apply once its step has come."""
        self._decided.put_nowait(effect)

    async def run(
        self,
        tell_share: Callable[[int], None],
        apply: Callable[[ApplyEntry], Awaitable[None]],
    ) -> None:
        """`tell_share` says that a round's share is trained."""
        schedule, tau = self._schedule, self._schedule.sync_delay_steps
        for round_ in range(schedule.total_rounds):
            send_step = schedule.step_of(round_)
            await self._train_until(send_step)
            draining = round_ >= schedule.training_rounds
            if draining:
                self._trainer.finish()
            self.snapshot = await self._share.snapshot(schedule.fragment_of(round_))
            tell_share(round_)
            apply_step = send_step if draining else min(send_step + tau, schedule.total_steps)
            await self._train_until(apply_step)
            effect = await self._decided.get()
            self.snapshot = None
            await apply(effect)

    async def _train_until(self, step: int) -> None:
        self._awaited_step = step
        self._reached.clear()
        self._trainer.hold_at(step)
        if self._share.last_step < step:
            await self._reached.wait()
