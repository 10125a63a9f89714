"""The inner loop: AdamW on this peer's own batches, in a thread that nothing waits in.

Whoever changes the parameters does it between two inner steps (`at_boundary`); whoever only reads
them need not wait for the end of a step, just for the moment in which it changes them
(`unchanged`). A step limit is the one way to hold the trainer: lockstep mode sets it to the step
where the schedule blocks; elastic mode sets it only when the run is over (I3).
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from peer.cursor import Cursor
from peer.data import Corpus
from peer.inner import InnerOptimizer
from peer.tensors import Array
from peer.threads import in_thread, settle, tell
from protocol.manifest import Manifest

T = TypeVar("T")

PACE_WINDOW_S = 10.0
LOSS_WINDOW_S = 2.0
STOP_S = 2.0
MAX_GAPS = 16_384
"""Between the ends of inner steps that nobody has asked about yet."""
NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class _Step:
    ended_s: float
    took_s: float
    loss: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the trainer is; replaced as a whole after every step."""

    step: int = 0
    tokens: int = 0
    loss: float = float("nan")
    """Mean of the training losses of the last two seconds."""
    pace_steps_per_s: float = 0.0
    learning_rate: float = 0.0
    trained_s: float = 0.0
    """Wall time since the first step, until now or the end of training."""
    waited_s: float = 0.0
    """Of it: held at a step limit, that is, waiting for the network."""
    sync_s: float = 0.0
    """Of it: copying parameters for rounds and evaluating, between steps."""


class Trainer:
    """Owns the thread, the inner optimizer and the data cursor."""

    def __init__(
        self,
        manifest: Manifest,
        optimizer: InnerOptimizer,
        corpus: Corpus,
        cursor: Cursor,
        peer_id: str,
        device: torch.device,
        first_step: int = 0,
    ) -> None:
        """`first_step`: inner steps that earlier lives of this peer have done."""
        self._manifest = manifest
        self._corpus = corpus
        self._cursor = cursor
        self._peer_id = peer_id
        self._device = device
        self._position: Callable[[int], int] = lambda step: step - 1
        self._optimizer = optimizer
        self._first_step = first_step
        self._step_of_first_update = first_step - optimizer.updates
        self.progress = Progress(step=first_step, tokens=first_step * manifest.tokens_per_step)
        self._limit_step = NO_LIMIT
        self._finished = False
        self._stopping = False
        self._gaps_s: deque[float] = deque(maxlen=MAX_GAPS)
        self._wake: queue.Queue[Callable[[], None]] = queue.Queue(maxsize=64)
        self._loop = asyncio.get_running_loop()
        self._on_step: Callable[[int], None] = lambda step: None
        self._failure: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)

    def start(self, on_step: Callable[[int], None], position: Callable[[int], int]) -> None:
        """Begin training.

        Args:
            on_step: called in the event loop after every inner step, with its number.
            position: the schedule position at which an inner step (counted from 1) trains.
        """
        self._on_step = on_step
        self._position = position
        self._thread.start()

    @property
    def failed(self) -> asyncio.Future[None]:
        """Raises what stopped the thread, should anything."""
        return self._failure

    def hold_at(self, step: int) -> None:
        """Do not train past this step until told otherwise."""
        self._limit_step = step
        self._poke()

    def go_on(self) -> None:
        """Train without a limit."""
        self.hold_at(NO_LIMIT)

    def finish(self) -> None:
        """No more inner steps; `at_boundary` goes on working. Waiting is no longer counted."""
        self._finished = True
        self._poke()

    def take_up(self) -> None:
        """Train again: another log has led back from the end of the run."""
        self._finished = False
        self._poke()

    def take_largest_gap_s(self) -> float:
        """The longest time from the end of one inner step to the next one's, since the last call.

        Whatever held training up is in it: a step limit, a copy for a round, a busy machine.
        """
        largest_s = 0.0
        while self._gaps_s:
            largest_s = max(largest_s, self._gaps_s.popleft())
        return largest_s

    def save(self) -> dict[str, Array]:
        """(unchanged) A copy of the inner optimizer's state, for a checkpoint."""
        return self._optimizer.save()

    async def stop(self) -> None:
        """End the thread after the current step, or leave it behind if that takes long."""
        self._stopping = True
        self._poke()
        if self._thread.is_alive():
            # No longer: a step of a large model may take a minute, and the peer is going anyway.
            await in_thread(self._thread.join, STOP_S)

    @property
    def updated_step(self) -> int:
        """(unchanged) The inner step that the parameters come from; `progress` says so later."""
        return self._step_of_first_update + self._optimizer.updates

    @property
    def next_boundary_step(self) -> int:
        """Inner steps that will be done at the next boundary."""
        step = self.progress.step
        return step if self._finished or step >= self._limit_step else step + 1

    async def unchanged(self, work: Callable[[], T]) -> T:
        """Run `work` at once, in a thread of its own: meanwhile no parameter changes."""

        def run() -> T:
            with self._optimizer.updating:
                return work()

        return await in_thread(run)

    async def at_boundary(self, work: Callable[[], T], *, changes: bool = True) -> T:
        """Run `work` in the trainer thread, between two inner steps.

        Args:
            changes: whether it may change parameters.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                with self._optimizer.updating if changes else nullcontext():
                    result = work()
            except BaseException as error:
                self._tell(settle, future, None, error)
            else:
                self._tell(settle, future, result, None)

        self._wake.put_nowait(run)
        return await future

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._train()
        except BaseException as error:
            self._tell(settle, self._failure, None, error)

    def _train(self) -> None:
        began_s = time.monotonic()
        last_end_s: float | None = None
        waited_s = sync_s = 0.0
        recent: deque[_Step] = deque()
        step = self.progress.step
        while not self._stopping:
            entered_s = time.monotonic()
            held = self._finished or step >= self._limit_step
            self._at_boundary_now(block=held)
            left_s = time.monotonic()
            if self._finished:
                continue
            if step == self._first_step and held:
                began_s = left_s  # a newcomer that has not arrived yet: training has not begun
            elif held:
                waited_s += left_s - entered_s
            else:
                sync_s += left_s - entered_s
            if step < self._limit_step and not self._stopping:
                loss = self._inner_step(step + 1)
                step += 1
                now_s = time.monotonic()
                recent.append(_Step(now_s, now_s - left_s, loss))
                if last_end_s is not None:
                    self._gaps_s.append(now_s - last_end_s)
                last_end_s = now_s
                while recent[0].ended_s < now_s - PACE_WINDOW_S:
                    recent.popleft()
            losses = [s.loss for s in recent if s.ended_s > left_s - LOSS_WINDOW_S]
            took_s = sum(s.took_s for s in recent)
            self.progress = Progress(
                step=step,
                tokens=step * self._manifest.tokens_per_step,
                loss=sum(losses) / len(losses) if losses else self.progress.loss,
                pace_steps_per_s=len(recent) / took_s if took_s else 0.0,
                learning_rate=self._optimizer.learning_rate,
                trained_s=time.monotonic() - began_s,
                waited_s=waited_s,
                sync_s=sync_s,
            )
            self._tell(self._on_step, step)

    def _at_boundary_now(self, block: bool) -> None:
        """Do what was asked for; with `block`, wait for one thing to be asked."""
        while True:
            try:
                work = self._wake.get(block=block, timeout=1.0 if block else None)
            except queue.Empty:
                return
            work()
            block = False

    def _inner_step(self, step: int) -> float:
        cursor = self._cursor.take()
        inputs, targets = self._corpus.batch(self._manifest.seed, self._peer_id, cursor)
        return self._optimizer.step(
            self._position(step), inputs.to(self._device), targets.to(self._device)
        )

    def _poke(self) -> None:
        """Wake the thread if it waits at a limit."""
        self._wake.put_nowait(_nothing)

    def _tell(self, function: Callable[..., Any], *args: Any) -> None:
        tell(self._loop, function, *args)


def _nothing() -> None:
    """Something to take from the queue."""
