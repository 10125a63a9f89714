"""What one peer writes down, in order and off the event loop.

Votes and entries go through one thread in the order in which the state machine wants them: an
entry is on disk before any vote on the next one is (protocol/events.py, ApplyEntry). Checkpoints
are large and may be late, so they have a thread of their own, and one that is due while the last
one is still being written is left out.

When a vote or an entry cannot be written, no vote is written any more until the disk works again:
a later one could name bytes that are not there. Entries are tried each time; what is missing in the
log then, a restarted peer gets from the others.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from peer.store import Store
from protocol.events import ApplyEntry, Record

PROBE_EVERY_S: Final = 5.0
"""How often a disk that could not be written is tried again."""
VOTE_BYTES: Final = 2**16
"""Room that votes need, besides the bytes of an entry."""

T = TypeVar("T")


class Scribe:
    """The threads around a `Store`."""

    def __init__(
        self,
        store: Store,
        on_failure: Callable[[str], None],
        on_repair: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        """Args:
        on_failure: called in the event loop when a vote or an entry cannot be written.
        on_repair: called in the event loop when that works again.
        note: takes a sentence for people.
        """
        self.store = store
        self._on_failure = on_failure
        self._on_repair = on_repair
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._votes = ThreadPoolExecutor(1, thread_name_prefix="votes")
        self._checkpoints = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._saving: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed_bytes = 0
        """(votes thread) What a write needs before votes are written again; 0: all is well."""
        self._repairing: asyncio.Task[None] | None = None

    def record(self, record: Record, then: Callable[[], None]) -> None:
        """Write a vote; `then` is called once it is on disk, and never if it is not."""

        def write() -> bool:
            if self._failed_bytes:
                return False
            self._try(lambda: self.store.record(record), record.parts or ())
            return True

        self._keep(self._write(write, then))

    def append(self, effect: ApplyEntry) -> None:
        """Write a decided entry."""

        def write() -> bool:
            self._try(lambda: self.store.append(effect.decided, effect.parts), effect.parts)
            return True

        self._keep(self._write(write, _nothing))

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
        if self._repairing is not None:
            self._repairing.cancel()
        for executor in (self._votes, self._checkpoints):
            executor.shutdown(wait=False, cancel_futures=True)

    def _try(self, write: Callable[[], None], parts: Sequence[bytes | None]) -> None:
        """(votes thread) Raises OSError, and remembers what could not be written."""
        try:
            write()
        except OSError:
            needed = VOTE_BYTES + sum(len(part) for part in parts if part is not None)
            self._failed_bytes = max(self._failed_bytes, needed)
            raise

    async def _write(self, write: Callable[[], bool], then: Callable[[], None]) -> None:
        try:
            is_written = await self._loop.run_in_executor(self._votes, write)
        except OSError as error:
            if self._repairing is None:
                self._repairing = self._loop.create_task(self._repair())
                self._on_failure(
                    f"nothing can be written ({error.strerror}): make room on the disk"
                )
        else:
            if is_written:
                then()

    async def _repair(self) -> None:
        """Wait until what has failed can be written."""
        is_broken = True
        while is_broken:
            await asyncio.sleep(PROBE_EVERY_S)
            is_broken = not await self._loop.run_in_executor(self._votes, self._probe)
        self._repairing = None
        self._on_repair()

    def _probe(self) -> bool:
        """(votes thread) Whether the disk works again."""
        try:
            self.store.probe(self._failed_bytes)
        except OSError:
            return False
        self._failed_bytes = 0
        return True

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
