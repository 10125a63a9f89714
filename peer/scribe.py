"""What one peer writes down, in order and off the event loop.

Votes and entries go through one thread in the order in which the state machine wants them: an
entry is on disk before any vote on the next one is (protocol/events.py, ApplyEntry). Checkpoints
are large and may be late, so they have a thread of their own, and one that is due while the last
one is still being written is left out.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from peer.store import Store
from protocol.events import ApplyEntry, Record

T = TypeVar("T")


class Scribe:
    """The threads around a `Store`."""

    def __init__(
        self, store: Store, on_failure: Callable[[str], None], note: Callable[[str], None]
    ) -> None:
        """Args:
        on_failure: called in the event loop when a vote or an entry cannot be written.
        note: takes a sentence for people.
        """
        self.store = store
        self._on_failure = on_failure
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._votes = ThreadPoolExecutor(1, thread_name_prefix="votes")
        self._checkpoints = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._saving: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, record: Record, then: Callable[[], None]) -> None:
        """Write a vote; `then` is called once it is on disk, and never if it is not."""
        self._keep(self._write(lambda: self.store.record(record), then))

    def append(self, effect: ApplyEntry) -> None:
        """Write a decided entry."""
        self._keep(self._write(lambda: self.store.append(effect.decided, effect.parts), _nothing))

    async def ask(self, question: Callable[[], T]) -> T:
        """Read or change the log, after everything that was to be written before."""
        return await self._loop.run_in_executor(self._votes, question)

    def save(self, checkpoint: Callable[[], None]) -> None:
        """Write a checkpoint, unless the last one is still being written."""
        if self._saving is None or self._saving.done():
            self._saving = self._loop.run_in_executor(self._checkpoints, checkpoint)
            self._keep(self._saved(self._saving))

    @property
    def is_saving(self) -> bool:
        return self._saving is not None and not self._saving.done()

    async def finish(self) -> None:
        """Wait until everything is on disk."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        for executor in (self._votes, self._checkpoints):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _write(self, write: Callable[[], None], then: Callable[[], None]) -> None:
        try:
            await self._loop.run_in_executor(self._votes, write)
        except OSError as error:
            self._on_failure(f"nothing can be written ({error.strerror}): make room on the disk")
        else:
            then()

    async def _saved(self, saving: "asyncio.Future[None]") -> None:
        try:
            await saving
        except OSError as error:
            self._note(f"no checkpoint was written ({error.strerror}); training goes on")

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _nothing() -> None:
    """There is nothing to do once an entry is written."""
