"""Votes and entries on their way to a disk that fills up and is emptied again."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

import pytest

from peer import scribe as module
from peer.scribe import Scribe
from peer.store import Store
from protocol.ballots import Ballots
from protocol.events import ApplyEntry, Record
from tests.peer.chains import decide, make_chain
from tests.protocol.makers import RUN
from tests.sim.disk import SimDisk
from tests.sim.keys import tally_of


class Bench:
    """A scribe on a simulated disk, and all that it calls back with, in order."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        self.store = Store(self.disk, tally_of(RUN), new_incarnation=lambda: "first")
        self.heard: list[str] = []
        self._was_heard: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.scribe = Scribe(
            self.store,
            on_failure=lambda why: self._hear("failed"),
            on_repair=lambda: self._hear("works"),
            note=self._hear,
        )

    def _hear(self, event: str) -> None:
        self.heard.append(event)
        self._was_heard[event].set()

    def promise(self, ballot: int) -> None:
        ballots = Ballots(round=0, parent="p", promised=ballot)
        record = Record(ballots=ballots, parts=None, then=())
        self.scribe.record(record, lambda: self._hear(f"promised {ballot}"))

    async def until(self, event: str) -> None:
        async with asyncio.timeout(10):
            await self._was_heard[event].wait()


def run(test: Callable[[Bench], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_EVERY_S", 0.01)

    async def with_bench() -> None:
        bench = Bench()
        try:
            await test(bench)
        finally:
            bench.scribe.close()

    asyncio.run(with_bench())


def test_nothing_is_voted_between_a_failed_write_and_a_disk_that_works(monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        ((entry, parts),) = make_chain(1)
        bench.disk.is_full = True
        bench.scribe.append(ApplyEntry(decide(entry), parts))
        await bench.until("failed")
        bench.promise(1)
        await bench.scribe.finish()
        assert bench.store.ballots is None and bench.heard == ["failed"]

        bench.disk.is_full = False
        await bench.until("works")
        assert bench.disk.all_names() == ["journal.json"], "nothing is left of the attempt"
        bench.promise(2)
        await bench.scribe.finish()
        assert bench.heard == ["failed", "works", "promised 2"]
        assert bench.store.ballots and bench.store.ballots.promised == 2

    run(test, monkeypatch)


def test_it_is_said_once_and_entries_are_tried_each_time(monkeypatch) -> None:
    async def test(bench: Bench) -> None:
        bench.disk.is_full = True
        chain = make_chain(3)
        for entry, parts in chain[:2]:
            bench.scribe.append(ApplyEntry(decide(entry), parts))
        await bench.scribe.finish()
        bench.disk.is_full = False
        entry, parts = chain[2]
        bench.scribe.append(ApplyEntry(decide(entry), parts))
        await bench.scribe.finish()
        assert bench.heard[0] == "failed" and "failed" not in bench.heard[1:]
        assert bench.store.book.first_round == bench.store.book.last_round == 2

    run(test, monkeypatch)
