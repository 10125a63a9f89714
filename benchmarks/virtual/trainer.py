"""The inner loop without its thread: real AdamW steps, one every `STEP_S` of virtual time."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from peer.threads import settle
from peer.trainer import Progress, Trainer

T = TypeVar("T")

STEP_S = 0.2
"""Of every peer: they are all alike. Rounds take about 0.3 s besides their exchange."""


class VirtualTrainer(Trainer):
    """As `Trainer`, for an event loop on a virtual clock.

    A step happens at the moment in which it ends. So there is a boundary between any two events,
    and nobody waits for one.
    """

    def start(self, on_step: Callable[[int], None], position: Callable[[int], int]) -> None:
        self._on_step, self._position = on_step, position
        self._steps = self._loop.create_task(self._take_steps())
        self._steps.add_done_callback(self._tell_failure)

    def _tell_failure(self, steps: "asyncio.Task[None]") -> None:
        if not steps.cancelled() and (error := steps.exception()) is not None:
            settle(self._failure, None, error)

    async def stop(self) -> None:
        self._steps.cancel()

    async def unchanged(self, work: Callable[[], T]) -> T:
        return work()

    async def at_boundary(self, work: Callable[[], T], *, changes: bool = True) -> T:
        return work()

    def _poke(self) -> None:
        """Nothing sleeps at a limit: it is looked at before every step."""

    async def _take_steps(self) -> None:
        step = self.progress.step
        while True:
            await asyncio.sleep(STEP_S)
            if self._finished or step >= self._limit_step:
                continue
            step += 1
            loss = self._inner_step(step)
            self.progress = Progress(
                step=step,
                tokens=step * self._manifest.tokens_per_step,
                loss=loss,
                pace_steps_per_s=1 / STEP_S,
                learning_rate=self._optimizer.learning_rate,
                trained_s=step * STEP_S,
            )
            self._on_step(step)
