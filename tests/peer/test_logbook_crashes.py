"""The log on disk, stopped at any moment: what was completed is there, and nothing half done."""

import contextlib
import itertools
import re
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.disk import Disk
from peer.logbook import LogBook
from protocol.log import Entry
from tests.peer.chains import (
    Parts,
    decide,
    extend,
    files,
    make_chain,
    make_empty,
    make_entry,
    open_book,
)
from tests.protocol import makers
from tests.sim.disk import Crash, SimDisk

Operation = tuple[str, int]
OPERATIONS = st.one_of(
    st.tuples(st.just("keep"), st.integers(0, 2)),  # which of three candidates
    st.tuples(st.just("append"), st.integers(0, 2)),
    st.tuples(st.just("append empty"), st.just(0)),
    st.tuples(st.just("forget"), st.integers(0, 3)),  # how many rounds
    st.tuples(st.just("restart"), st.just(0)),
)


@dataclass(frozen=True)
class Model:
    """What a log must hold after some completed operations."""

    chain: tuple[tuple[Entry, Parts], ...] = ()
    candidates: tuple[tuple[Entry, Parts], ...] = ()
    forks: int = 0
    """How often entries were forgotten: those after it are others."""

    def entry(self, operation: Operation) -> tuple[Entry, Parts]:
        """The one that the operation keeps or appends."""
        kind, number = operation
        parent = self.chain[-1][0].digest if self.chain else makers.DIGEST
        if kind == "append empty":
            return make_empty(len(self.chain), parent)
        return make_entry(len(self.chain), parent, f", candidate {number}, fork {self.forks}")

    def is_in(self, book: LogBook) -> bool:
        return (
            book.first_round == (0 if self.chain else None)
            and book.after(-1, 99) == [decide(entry) for entry, _ in self.chain]
            and book.last_round == (len(self.chain) - 1 if self.chain else None)
            and all(book.parts_of(e) == parts for e, parts in (*self.chain, *self.candidates))
        )


def outcomes(model: Model, operation: Operation) -> list[Model]:
    """What there may be when the operation is stopped on its way; when it is not, the last one."""
    kind, number = operation
    if kind == "keep":
        kept = model.entry(operation)
        return [model, replace(model, candidates=(*model.candidates, kept))]
    if kind == "forget":
        length = len(model.chain)
        chains = [model.chain[:n] for n in range(length, max(0, length - number) - 1, -1)]
        return [Model(chain, forks=model.forks + 1) for chain in chains]
    if kind == "restart":
        return [model]
    return [model, Model((*model.chain, model.entry(operation)), forks=model.forks)]


def perform(book: LogBook, model: Model, operation: Operation, disk: Disk) -> LogBook:
    """Do it, and return the log to go on with. Raises Crash when it is stopped on its way."""
    kind, number = operation
    if kind == "keep":
        book.keep(*model.entry(operation))
    elif kind == "forget":
        book.forget_after(len(model.chain) - 1 - number)
    elif kind == "restart":
        return open_book(disk)
    else:
        entry, parts = model.entry(operation)
        book.append(decide(entry), parts)
    return book


def leftovers(disk: Disk, model: Model) -> list[str]:
    """Files of rounds that are over and were not decided so."""
    decided = {entry.digest for entry, _ in model.chain}
    return [
        name
        for name in disk.names("log")
        if (match := re.fullmatch(r"log/(\d+)-(\w+).safetensors", name))
        and int(match[1]) < len(model.chain)
        and match[2] not in decided
    ]


@given(st.lists(st.tuples(OPERATIONS, st.none() | st.integers(0, 5)), max_size=15))
def test_no_crash_loses_what_was_completed(steps: list[tuple[Operation, int | None]]) -> None:
    """Every operation may be stopped before any change that it makes to the disk."""
    disk = SimDisk()
    book, model = open_book(disk), Model()
    for operation, disk.crash_after in steps:
        possible = outcomes(model, operation)
        try:
            book = perform(book, model, operation, disk)
            possible = possible[-1:]
        except Crash:
            disk.crash_after = None
            book = open_book(disk)
        disk.crash_after = None
        found = [outcome for outcome in possible if outcome.is_in(book)]
        assert found, (operation, disk.names("log"))
        model = found[-1]
        assert model.is_in(open_book(disk)) and not leftovers(disk, model)
        assert not book.notes and book.size_bytes == files(disk)


@pytest.mark.parametrize("crash_after", range(9))
@pytest.mark.parametrize("first", [3, 2, 0])
def test_no_crash_leaves_neighbours_of_two_chains(first: int, crash_after: int) -> None:
    disk = SimDisk()
    book = open_book(disk)
    extend(book, make_chain(3))
    disk.crash_after = crash_after
    with contextlib.suppress(Crash):
        extend(book, make_chain(1, "other", first=first))
    disk.crash_after = None
    chain = open_book(disk).after(-1, 9) or open_book(disk).after(first - 1, 9)
    assert chain
    for before, after in itertools.pairwise(chain):
        assert after.entry.parent == before.entry.digest
