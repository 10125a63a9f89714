"""Entries with bytes, chains of them, and a log to put them into."""

from collections.abc import Sequence

from peer.disk import Disk
from peer.logbook import LogBook
from protocol.digest import digest
from protocol.log import Entry, Part
from protocol.messages import Decided
from tests.protocol import makers
from tests.protocol.signed import decided

LOTS = 10**9
SHARED = b"the same in every entry"

Parts = tuple[bytes | None, ...]


def make_entry(
    round_: int, parent: str, name: str = "", members: Sequence[str] = makers.ABC
) -> tuple[Entry, Parts]:
    """An entry and its bytes: one part of its own, one absent, one that others have too."""
    parts = (f"part of {round_}{name}".encode() * 20, None, SHARED)
    made = makers.entry(
        round=round_,
        parent=parent,
        members=tuple(members),
        voters=tuple(members),
        tie_breaker=members[0],
        parts=tuple(None if data is None else Part(digest(data), (1, 2, 0)) for data in parts),
        missing=(("d", name),),
    )
    return made, parts


def make_empty(round_: int, parent: str) -> tuple[Entry, Parts]:
    return makers.entry("lost", round=round_, parent=parent, parts=(None, None, None)), (None,) * 3


def decide(entry: Entry) -> Decided:
    return decided(entry, ("a", "b"))


def make_chain(
    count: int, name: str = "", first: int = 0, members: Sequence[str] = makers.ABC
) -> list[tuple[Entry, Parts]]:
    chain: list[tuple[Entry, Parts]] = []
    parent = makers.DIGEST
    for round_ in range(first, first + count):
        chain.append(make_entry(round_, parent, name, members))
        parent = chain[-1][0].digest
    return chain


def extend(book: LogBook, chain: Sequence[tuple[Entry, Parts]]) -> None:
    for entry, parts in chain:
        book.append(decide(entry), parts)


def files(disk: Disk) -> int:
    return sum(disk.size(name) for name in disk.names("log"))


def open_book(disk: Disk, *, limit_bytes: int = LOTS, limit_entries: int = 4096) -> LogBook:
    return LogBook(disk, limit_bytes=limit_bytes, limit_entries=limit_entries)
