"""The data cursor: no batch is trained twice, whenever the process dies."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from peer.cursor import RENEWED_BATCHES, RESERVED_BATCHES, RETRY_BATCHES, Cursor
from peer.sealed import seal
from protocol.errors import InputError

RUN = "a" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cursor.json"


def open_cursor(path: Path, **options: Any) -> Cursor:
    """Its writes are done before training goes on: a test takes batches faster than any disk."""
    return Cursor.open(path, RUN, beside=lambda work: work(), **options)


def take(opened: Cursor, count: int) -> list[int]:
    return [opened.take() for _ in range(count)]


def test_a_clean_exit_skips_nothing(path: Path) -> None:
    first = open_cursor(path)
    assert take(first, 300) == list(range(300))
    first.release()
    second = open_cursor(path)
    assert second.next_cursor == 300
    assert take(second, 3) == [300, 301, 302]


@pytest.mark.parametrize("taken", [1, 255, 256, 257, 1000])
def test_no_cursor_repeats_after_a_crash(path: Path, taken: int) -> None:
    used: list[int] = []
    for _ in range(3):  # never released: as after kill -9
        used += take(open_cursor(path), taken)
    assert len(set(used)) == len(used)
    assert max(used) < 3 * (taken + RESERVED_BATCHES)


def test_a_crash_after_a_release_repeats_nothing(path: Path) -> None:
    opened = open_cursor(path)
    used = take(opened, 5)
    opened.release()
    used += take(opened, 5)
    used += take(open_cursor(path), 5)
    assert len(set(used)) == 15


def test_it_never_starts_below_what_the_log_has_credited(path: Path) -> None:
    assert open_cursor(path, at_least=40).take() == 40
    assert open_cursor(path, at_least=10).take() == 40 + RESERVED_BATCHES


def test_the_disk_is_written_twice_per_reservation(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    take(open_cursor(path), 2 * RESERVED_BATCHES)
    assert len(syncs) == 2 * 4  # the file and its folder


def test_a_full_disk_is_said_and_training_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    opened = open_cursor(path, note=notes.append)
    used = take(opened, RESERVED_BATCHES)

    def fail(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        used += take(opened, 3 * RETRY_BATCHES)
        assert len(notes) == 1 and "No space left on device" in notes[0]
        assert open_cursor(path).next_cursor == RESERVED_BATCHES + RENEWED_BATCHES  # as it was
    used += take(opened, 1)
    # There is room again, so a crash repeats nothing any more.
    used += take(open_cursor(path), 3)
    assert len(set(used)) == len(used)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"run_id": "aa', b"[]", b"null", b"\xff", b"[" * 4000, seal({"run_id": RUN})]
    + [seal({"run_id": RUN, "next_cursor": n}) for n in (-1, 1.5, True, "7", 2**63)],
)
def test_a_torn_file_is_refused_with_what_to_do(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="torn or was edited; delete it") as caught:
        open_cursor(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_that_was_changed_is_not_believed(path: Path) -> None:
    """A cursor that moves back trains batches twice."""
    take(open_cursor(path), 1)
    path.write_bytes(path.read_bytes().replace(b"256", b"156"))
    with pytest.raises(InputError, match="torn or was edited"):
        open_cursor(path)


def test_the_file_of_another_run_is_refused(path: Path) -> None:
    take(Cursor.open(path, "b" * 64), 1)
    with pytest.raises(InputError, match="of another run"):
        open_cursor(path)


def test_an_unreadable_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        open_cursor(path)


def test_a_disk_that_hangs_holds_no_batch_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works = threading.Event()
    opened = Cursor.open(path, RUN)
    used = take(opened, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: works.wait(10))
        used += take(opened, 3 * RESERVED_BATCHES)  # would wait here
        works.set()
        opened.release()
    assert used == list(range(len(used)))
    assert open_cursor(path).next_cursor == len(used)
