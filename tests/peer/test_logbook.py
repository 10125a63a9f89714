"""The log on disk: nothing is lost, nothing damaged is believed, and all is bounded."""

import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from peer.disk import Disk, FolderDisk
from peer.logbook import LogBook
from peer.sealed import seal, unseal
from protocol.digest import digest
from protocol.messages import Decided
from tests.peer.chains import (
    SHARED,
    decide,
    extend,
    files,
    make_chain,
    make_empty,
    make_entry,
    open_book,
)
from tests.peer.disks import flip_bit, full, tear
from tests.protocol import makers
from tests.sim.disk import SimDisk

# --- what is kept ---------------------------------------------------------------------------------


def test_decided_entries_and_their_bytes_survive_a_restart(disk: Disk) -> None:
    chain = [*make_chain(3)]
    chain.append(make_empty(3, chain[-1][0].digest))
    extend(open_book(disk), chain)
    book = open_book(disk)
    assert (book.first_round, book.last_round, book.notes) == (0, 3, [])
    for entry, parts in chain:
        assert book.decided(entry.round) == decide(entry)
        assert book.parts_of(entry) == parts
    assert book.after(0, 2) == [decide(entry) for entry, _ in chain[1:3]]
    assert book.after(-1, 99) == [decide(entry) for entry, _ in chain]
    assert book.after(3, 5) == [] and book.after(5, 5) == []
    assert book.size_bytes == files(disk)


def test_an_empty_log(disk: Disk) -> None:
    book = open_book(disk)
    assert book.first_round is None and book.last_round is None and book.size_bytes == 0
    assert book.decided(0) is None and book.after(-1, 5) == [] and book.part("nothing") is None
    book.forget_after(-1)


def test_a_candidate_is_on_disk_and_not_decided(disk: Disk) -> None:
    entry, parts = make_entry(0, makers.DIGEST)
    open_book(disk).keep(entry, parts)
    book = open_book(disk)
    assert book.parts_of(entry) == parts and book.decided(0) is None and book.last_round is None
    book.append(decide(entry), (None, None, None))  # the bytes are here: nobody fetches them again
    assert open_book(disk).parts_of(entry) == parts


def test_empty_entries_need_no_bytes(disk: Disk) -> None:
    entry, parts = make_empty(0, makers.DIGEST)
    book = open_book(disk)
    book.keep(entry, parts)
    assert disk.names("log") == [] and book.parts_of(entry) == parts


def test_keeping_and_appending_once_more_changes_nothing(disk: Disk) -> None:
    entry, parts = make_entry(0, makers.DIGEST)
    book = open_book(disk)
    for _ in range(2):
        book.keep(entry, parts)
        assert book.size_bytes == files(disk)
    for _ in range(2):
        book.append(decide(entry), parts)
        assert book.size_bytes == files(disk)
    assert len(disk.names("log")) == 2 and book.parts_of(entry) == parts


def test_bytes_of_another_entry_are_never_written(disk: Disk) -> None:
    entry, _ = make_entry(0, makers.DIGEST)
    book = open_book(disk)
    for wrong in [(b"x", None, SHARED), (None, None, SHARED)]:
        with pytest.raises(AssertionError, match="not the bytes of this entry"):
            book.keep(entry, wrong)
    assert disk.names("log") == []


def test_the_files_are_those_of_the_formats(disk: Disk) -> None:
    ((entry, parts),) = chain = make_chain(1)
    extend(open_book(disk), chain)
    bytes_name, record_name = sorted(disk.names("log"), key=len, reverse=True)
    assert bytes_name == f"log/00000000-{entry.digest}.safetensors"
    tensors = load(disk.read(bytes_name))
    assert {name: tensor.tobytes() for name, tensor in tensors.items()} == {
        str(index): data for index, data in enumerate(parts) if data is not None
    }
    assert record_name == "log/00000000.json"
    record = json.loads(disk.read(record_name))
    assert Decided.from_json(record) == decide(entry)


def test_a_record_without_signatures_is_not_used_and_says_what_to_do(disk: Disk) -> None:
    chain = make_chain(2)
    extend(open_book(disk), chain)
    last = chain[1][0]
    disk.replace("log/00000001.json", [seal({"entry": last.to_json(), "accepted_by": ["a", "b"]})])
    book = open_book(disk)
    assert book.last_round == 0
    assert "kept no signatures: found the run anew" in book.notes[0]


# --- what goes ------------------------------------------------------------------------------------


def test_candidates_go_when_another_one_is_decided(disk: Disk) -> None:
    candidates = [make_entry(0, makers.DIGEST, name) for name in "xyz"]
    book = open_book(disk)
    for entry, parts in candidates:
        book.keep(entry, parts)
    chosen, parts = candidates[1]
    after = make_entry(1, chosen.digest)
    book.keep(*after)
    book.append(decide(chosen), parts)
    for found in (book, open_book(disk)):
        assert found.parts_of(chosen) == parts  # with the part that it shares with the others
        assert found.parts_of(after[0]) == after[1]  # a candidate of the round that is open now
        assert found.parts_of(candidates[0][0]) is None and found.parts_of(candidates[2][0]) is None
        assert len(disk.names("log")) == 3 and found.size_bytes == files(disk)


def test_bytes_that_another_candidate_holds_too_are_written_all_the_same(disk: Disk) -> None:
    one, parts = make_entry(0, makers.DIGEST)
    other = replace(one, missing=(("d", "another reason"),))
    book = open_book(disk)
    book.keep(one, parts)
    book.keep(other, parts)
    book.append(decide(other), (None, None, None))
    assert open_book(disk).parts_of(other) == parts and len(disk.names("log")) == 2


def test_the_oldest_go_first_by_count(disk: Disk) -> None:
    chain = make_chain(10)
    book = open_book(disk, limit_entries=3)
    extend(book, chain)
    for found in (book, open_book(disk)):
        assert (found.first_round, found.last_round) == (7, 9)
        assert found.decided(6) is None and found.parts_of(chain[6][0]) is None
        assert found.after(5, 9) == [] and len(found.after(6, 9)) == 3
        assert len(disk.names("log")) == 6 and found.size_bytes == files(disk)


def test_the_entries_since_the_last_checkpoints_stay_however_large_they_are(disk: Disk) -> None:
    book = LogBook(disk, limit_bytes=1, least_entries=4)
    extend(book, make_chain(10))
    assert (book.first_round, book.last_round) == (6, 9)


def test_the_oldest_go_first_by_bytes(disk: Disk) -> None:
    chain = make_chain(10)
    extend(open_book(disk), chain)
    limit_bytes = files(disk) // 2
    book = open_book(disk, limit_bytes=limit_bytes)
    assert book.first_round == 5 and book.last_round == 9
    assert book.size_bytes == files(disk) <= limit_bytes


def test_the_newest_entry_and_the_candidates_stay_whatever_the_limit(disk: Disk) -> None:
    chain = make_chain(3)
    book = open_book(disk, limit_bytes=1)
    candidates = [make_entry(3, chain[-1][0].digest, name) for name in "xy"]
    extend(book, chain)
    for candidate in candidates:
        book.keep(*candidate)
    for found in (book, open_book(disk, limit_bytes=1)):
        assert (found.first_round, found.last_round) == (2, 2)
        for entry, parts in [chain[-1], *candidates]:
            assert found.parts_of(entry) == parts


def test_another_chain_after_a_common_entry(disk: Disk) -> None:
    chain = make_chain(5)
    book = open_book(disk)
    extend(book, chain)
    book.keep(*make_entry(5, chain[-1][0].digest))
    book.forget_after(2)
    assert book.last_round == 2 and len(disk.names("log")) == 6
    other = make_entry(3, chain[2][0].digest, "other")
    book.append(decide(other[0]), other[1])
    for found in (book, open_book(disk)):
        assert (found.first_round, found.last_round) == (0, 3)
        assert found.decided(3) == decide(other[0]) and found.decided(4) is None
        assert found.parts_of(chain[3][0]) is None and found.size_bytes == files(disk)
    book.forget_after(-1)
    assert book.last_round is None and disk.names("log") == [] and book.size_bytes == 0


def test_a_jump_leaves_a_hole_and_only_the_end_counts(disk: Disk) -> None:
    book = open_book(disk)
    extend(book, make_chain(3))
    extend(book, make_chain(2, first=10))
    for found in (book, open_book(disk)):
        assert (found.first_round, found.last_round) == (10, 11)
        assert len(found.after(0, 99)) == 2 and len(found.after(9, 99)) == 2


@pytest.mark.parametrize("first", [3, 2, 0])
def test_neighbours_always_continue_each_other(disk: Disk, first: int) -> None:
    """Nobody forgot the old chain; the newer decision counts all the same."""
    book = open_book(disk)
    extend(book, make_chain(3))
    other = make_chain(1, "other", first=first)
    extend(book, other)
    for found in (book, open_book(disk)):
        assert (found.first_round, found.last_round) == (first, first)
        assert found.decided(first) == decide(other[0][0]) and found.after(-1, 9) == (
            [decide(other[0][0])] if first == 0 else []
        )
        assert len(disk.names("log")) == 2 and found.size_bytes == files(disk)


# --- what breaks ----------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_and_is_tried_again(disk: Disk) -> None:
    chain = make_chain(3)
    book = open_book(disk)
    extend(book, chain[:2])
    entry, parts = chain[2]
    with full(disk):
        with pytest.raises(OSError, match="No space left on device"):
            book.keep(entry, parts)
        with pytest.raises(OSError, match="No space left on device"):
            book.append(decide(entry), parts)
        assert book.last_round == 1 and book.parts_of(chain[1][0]) == chain[1][1]
        assert book.parts_of(entry) is None and book.size_bytes == files(disk)
    book.append(decide(entry), parts)
    assert open_book(disk).parts_of(entry) == parts


def test_bytes_that_went_bad_are_said_and_written_anew(disk: Disk) -> None:
    entry, parts = make_entry(0, makers.DIGEST)
    book = open_book(disk)
    book.append(decide(entry), parts)
    (name,) = [name for name in disk.names("log") if name.endswith("safetensors")]
    flip_bit(disk, name, 8 * disk.size(name) - 1)  # in the last part
    for _ in range(2):
        assert book.parts_of(entry) is None
    assert len(book.notes) == 1 and name in book.notes[0] and "\n" not in book.notes[0]
    good = [part.digest for part in entry.parts if part and book.part(part.digest) is not None]
    assert len(good) == 1  # what is still good is still served
    book.keep(entry, parts)
    assert book.parts_of(entry) == parts and open_book(disk).parts_of(entry) == parts


def test_a_damaged_record_is_removed_and_said(disk: Disk) -> None:
    chain = make_chain(3)
    extend(open_book(disk), chain)
    flip_bit(disk, "log/00000002.json", 77)
    book = open_book(disk)
    assert book.last_round == 1
    assert len(book.notes) == 1
    assert re.fullmatch(r"log/00000002.json was damaged \(.+\) and is removed", book.notes[0])
    assert book.parts_of(chain[2][0]) == chain[2][1]  # a candidate again
    book.append(decide(chain[2][0]), (None, None, None))
    assert open_book(disk).last_round == 2 and open_book(disk).notes == []


@given(data=st.data())
def test_no_damage_is_believed(data: st.DataObject) -> None:
    disk = SimDisk()
    chain = make_chain(3)
    extend(open_book(disk), chain)
    book = open_book(disk)
    name = data.draw(st.sampled_from(disk.names("log")))
    if data.draw(st.booleans()):
        flip_bit(disk, name, data.draw(st.integers(0, 8 * disk.size(name) - 1)))
    else:
        tear(disk, name, data.draw(st.integers(0, disk.size(name) - 1)))
    for _ in ("noticed in reading", "noticed at opening"):
        for entry, parts in chain:
            found, found_parts = book.decided(entry.round), book.parts_of(entry)
            assert found in (decide(entry), None) and found_parts in (parts, None)
            assert book.notes or (found and found_parts)  # nothing is missing without a word
        book = open_book(disk)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"[" * 10_000, b"\xff" * 64])
@pytest.mark.parametrize("name", ["00000007.json", f"00000007-{'a' * 64}.safetensors"])
def test_garbage_is_removed_and_said(disk: Disk, name: str, content: bytes) -> None:
    disk.replace(f"log/{name}", [content])
    book = open_book(disk)
    assert disk.names("log") == [] and book.last_round is None
    assert len(book.notes) == 1 and name in book.notes[0] and "\n" not in book.notes[0]


@pytest.mark.parametrize("header", ["[]", '{"__metadata__": {"entry": "{}"}}', "[" * 9_999])
def test_a_malformed_header_is_removed_and_said(disk: Disk, header: str) -> None:
    name = f"log/00000007-{'a' * 64}.safetensors"
    disk.replace(name, [len(header).to_bytes(8, "little"), header.encode()])
    book = open_book(disk)
    assert disk.names("log") == [] and len(book.notes) == 1


@pytest.mark.parametrize("place", [[0, 2**40], [-1, 3], [3, 1], [0, 1.5], ["0", "1"], [0], None])
def test_a_place_outside_the_file_is_refused(disk: Disk, place: object) -> None:
    entry, parts = make_entry(0, makers.DIGEST)
    open_book(disk).keep(entry, parts)
    (name,) = disk.names("log")
    data = disk.read(name)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["0"]["data_offsets"] = place
    forged = json.dumps(header).encode()
    disk.replace(name, [len(forged).to_bytes(8, "little"), forged, data[start:]])
    assert open_book(disk).parts_of(entry) is None and disk.names("log") == []


def test_files_that_are_none_of_ours_are_left_alone(disk: Disk) -> None:
    disk.replace("log/notes.txt", [b"mine"])
    book = open_book(disk, limit_bytes=1)
    extend(book, make_chain(2))
    assert disk.read("log/notes.txt") == b"mine" and book.notes == []


def test_giant_files_are_not_read(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    for name in ("log/00000007.json", f"log/00000007-{'a' * 64}.safetensors"):
        disk.replace(name, [(2**39).to_bytes(8, "little")])
        os.truncate(tmp_path / name, 2**40)
    book = open_book(disk)
    assert book.last_round is None and len(book.notes) == 2


def test_parts_are_served_from_another_thread_while_the_log_goes_on(tmp_path: Path) -> None:
    chain = make_chain(40)
    book = open_book(FolderDisk(tmp_path), limit_entries=2)
    book.append(decide(chain[0][0]), chain[0][1])
    wrong: list[bytes] = []
    is_over = threading.Event()

    def serve() -> None:
        own = [(digest(parts[0]), parts[0]) for _, parts in chain if parts[0] is not None]
        while not is_over.is_set():
            for name, expected in own:
                found = book.part(name)
                if found not in (None, expected):
                    wrong.append(found)

    server = threading.Thread(target=serve)
    server.start()
    extend(book, chain[1:])
    is_over.set()
    server.join()
    assert wrong == [] and book.notes == []


@pytest.mark.parametrize(
    "changed",
    [
        {"ballot": 2**63},
        {"ballot": "0"},
        {"accepts": [["\ud800", "a-0", "", ""]]},
        {"accepts": [[7, "a-0", "", ""]]},
    ],
    ids=str,
)
def test_a_record_that_nobody_could_be_sent_is_damage(changed: dict[str, object]) -> None:
    """However well it is sealed."""
    disk, name = SimDisk(), "log/00000000.json"
    extend(open_book(disk), make_chain(1))
    disk.replace(name, [seal({**unseal(disk.read(name)), **changed})])
    book = open_book(disk)
    assert book.last_round is None and name in book.notes[0]
