"""Scribe: what is written, in which order, and what may be said before it is."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from peer.disk import Disk
from peer.scribe import Scribe
from peer.store import Store
from protocol.ballots import Ballots
from protocol.events import ApplyEntry, Record
from tests.peer.chains import decide, make_chain
from tests.peer.disks import full
from tests.protocol.makers import RUN
from tests.sim.keys import tally_of


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def store_on(disk: Disk) -> Store:
    return Store(disk, tally_of(RUN), new_incarnation=lambda: "1")


def promise(round_: int) -> Record:
    return Record(ballots=Ballots(round=round_, parent="p", promised=1), parts=None, then=())


def test_nothing_is_said_before_it_is_on_disk(disk: Disk) -> None:
    async def work() -> None:
        store = store_on(disk)
        said: list[int] = []
        scribe = Scribe(store, on_failure=lambda why: said.append(-1), on_repair=print, note=print)

        def say() -> None:
            assert store_on(disk).ballots == promise(3).ballots
            said.append(3)

        scribe.record(promise(3), say)
        assert said == []
        await scribe.finish()
        assert said == [3]
        scribe.close()

    run(work)


def test_an_entry_is_on_disk_before_a_vote_on_the_next_one(disk: Disk) -> None:
    async def work() -> None:
        store = store_on(disk)
        scribe = Scribe(store, on_failure=print, on_repair=print, note=print)
        (entry, parts), *_ = make_chain(1)
        found: list[Any] = []
        scribe.append(ApplyEntry(decide(entry), parts))
        scribe.record(promise(1), lambda: found.append(store_on(disk).book.decided(0)))
        await scribe.finish()
        assert found == [decide(entry)]
        scribe.close()

    run(work)


def test_a_vote_that_cannot_be_written_is_never_said(disk: Disk) -> None:
    async def work() -> None:
        store = store_on(disk)
        failures: list[str] = []
        said: list[bool] = []
        scribe = Scribe(store, on_failure=failures.append, on_repair=print, note=print)
        with full(disk):
            scribe.record(promise(3), lambda: said.append(True))
            await scribe.finish()
        assert said == [] and len(failures) == 1 and "make room" in failures[0]
        scribe.close()

    run(work)


def test_a_checkpoint_that_is_late_holds_up_no_vote_and_a_second_one_is_left_out(
    disk: Disk,
) -> None:
    async def work() -> None:
        scribe = Scribe(store_on(disk), on_failure=print, on_repair=print, note=print)
        go_on, saved, said = threading.Event(), [], asyncio.Event()

        def save() -> None:
            go_on.wait(10)
            saved.append("first")

        scribe.save(save)
        scribe.save(lambda: saved.append("second"))
        scribe.record(promise(3), said.set)
        async with asyncio.timeout(10):
            await said.wait()
        assert scribe.is_saving and saved == []
        go_on.set()
        await scribe.finish()
        assert saved == ["first"]
        scribe.close()

    run(work)


def test_a_checkpoint_that_fails_is_said(disk: Disk) -> None:
    async def work() -> None:
        notes: list[str] = []
        scribe = Scribe(store_on(disk), on_failure=print, on_repair=print, note=notes.append)

        def fail() -> None:
            raise OSError(28, "No space left on device")

        scribe.save(fail)
        await scribe.finish()
        assert notes == ["no checkpoint was written (No space left on device); training goes on"]
        scribe.close()

    run(work)
