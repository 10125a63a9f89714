"""The contract that everything stored builds on, for the real disk and the simulated one."""

import errno
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from peer.disk import Disk, FolderDisk, replace_file
from tests.peer.disks import full
from tests.sim.disk import Crash, SimDisk


def test_what_was_put_in_place_is_read_back(disk: Disk) -> None:
    disk.replace("a.json", [b"one", memoryview(b"two"), b""])
    disk.replace("log/deep/b", [])
    assert disk.read("a.json") == b"onetwo" and disk.size("a.json") == 6
    assert disk.read("log/deep/b") == b"" and disk.size("log/deep/b") == 0
    disk.replace("a.json", (piece for piece in [b"th", b"ree"]))
    assert disk.read("a.json") == b"three"


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(0, 4, b"0123"), (2, 2, b"23"), (8, 5, b"89"), (10, 1, b""), (99, 1, b""), (3, 0, b"")],
)
def test_reading_at_a_place_ends_with_the_file(
    disk: Disk, offset: int, size: int, expected: bytes
) -> None:
    disk.replace("a", [b"0123456789"])
    assert disk.read_at("a", offset, size) == expected


def test_names_are_those_directly_in_a_folder(disk: Disk) -> None:
    for name in ("log/b", "log/a", "log/deep/c", "logs/d", "e"):
        disk.replace(name, [b"x"])
    assert disk.names("log") == ["log/a", "log/b"]
    assert disk.names("log/deep") == ["log/deep/c"]
    assert disk.names("nowhere") == []


def test_what_is_removed_is_gone_and_may_be_removed_again(disk: Disk) -> None:
    disk.replace("log/a", [b"x"])
    disk.remove("log/a")
    disk.remove("log/a")
    disk.remove("nowhere/a")
    assert disk.names("log") == []


def test_a_file_that_is_not_there(disk: Disk) -> None:
    with pytest.raises(FileNotFoundError):
        disk.read("a")
    with pytest.raises(FileNotFoundError):
        disk.read_at("a", 0, 1)
    with pytest.raises(FileNotFoundError):
        disk.size("a")


def test_a_file_above_the_limit_is_not_read(disk: Disk) -> None:
    disk.replace("a", [b"12345"])
    assert disk.read("a", limit_bytes=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes") as caught:
        disk.read("a", limit_bytes=4)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize(
    "name",
    ["", "/a", "../a", "a/../b", "a/", "a//b", ".a", "a/.b", ".", "a\\b", "a\n", "a\0b", "ä"],
)
def test_no_name_leads_off_the_disk(disk: Disk, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        disk.replace(name, [b"x"])
    with pytest.raises(ValueError, match="not a name"):
        disk.read(name)
    with pytest.raises(ValueError, match="not a name"):
        disk.read_at(name, 0, 1)
    with pytest.raises(ValueError, match="not a name"):
        disk.size(name)
    with pytest.raises(ValueError, match="not a name"):
        disk.remove(name)
    with pytest.raises(ValueError, match="not a name"):
        disk.names(name)


def test_a_full_disk_keeps_what_was_there(disk: Disk) -> None:
    disk.replace("a", [b"old"])
    with full(disk):
        for name in ("a", "b"):
            with pytest.raises(OSError, match="No space left on device"):
                disk.replace(name, [b"new"])
        assert disk.read("a") == b"old"
    assert disk.read("a") == b"old"
    with pytest.raises(FileNotFoundError):
        disk.read("b")
    disk.replace("a", [b"new"])
    assert disk.read("a") == b"new"


def test_pieces_that_break_off_leave_what_was_there(disk: Disk) -> None:
    def pieces():
        yield b"half"
        raise OSError(errno.EIO, "Input/output error")

    disk.replace("a/b", [b"old"])
    with pytest.raises(OSError, match="Input/output error"):
        disk.replace("a/b", pieces())
    assert disk.read("a/b") == b"old" and disk.names("a") == ["a/b"]


# --- the folder only ------------------------------------------------------------------------------


def test_files_and_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FolderDisk(tmp_path / "state")
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append(str(path.relative_to(tmp_path)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    disk.replace("log/a", [b"x"])
    assert synced == ["state", "state/log/.a.new", "state/log"]
    synced.clear()
    disk.remove("log/a")
    assert synced == ["state/log"]


@pytest.mark.parametrize("dies_in", ["fsync", "replace"])
def test_a_crash_before_the_rename_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a"
    replace_file(path, [b"old"])
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync", die) if dies_in == "fsync" else (Path, "replace", die)))
        with pytest.raises(KeyboardInterrupt):
            replace_file(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_a_crash_are_no_files_and_are_removed_at_opening(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    disk.replace("log/a", [b"x"])
    (tmp_path / "log" / ".a.new").write_bytes(b"hal")
    (tmp_path / ".b.new").write_bytes(b"hal")
    assert disk.names("log") == ["log/a"]
    FolderDisk(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["log/a"]


ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from peer.disk import FolderDisk
disk, turn = FolderDisk(Path(sys.argv[1])), 0
while True:
    disk.replace("a", [bytes([turn % 256]) * 4096] * 64)
    turn += 1
    print(turn, flush=True)
"""


def test_kill_leaves_one_whole_version(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as writer:
        assert writer.stdout is not None
        told = b"".join(writer.stdout.readline() for _ in range(5))
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read()
    completed = int(told.split()[-1])
    found = FolderDisk(tmp_path).read("a")
    # The last turn that was told, or the one that was killed before it could tell.
    assert found in [bytes([turn % 256]) * 4096 * 64 for turn in (completed - 1, completed)]


def test_a_giant_file_takes_no_memory(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    disk.replace("a", [b"x"])
    os.truncate(tmp_path / "a", 2**40)  # sparse: it takes no room on the disk either
    disk.replace("b", [b"xyz"])
    tracemalloc.start()
    with pytest.raises(OSError, match="larger than"):
        disk.read("a")
    assert disk.read_at("b", 0, 2**40) == b"xyz"
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8e6


# --- the simulated one only -----------------------------------------------------------------------


def test_a_simulated_crash_keeps_what_was_completed() -> None:
    disk = SimDisk()
    disk.crash_after = 2
    disk.replace("a", [b"1"])
    disk.replace("b", [b"2"])
    for _ in range(2):
        with pytest.raises(Crash):
            disk.replace("a", [b"3"])
        with pytest.raises(Crash):
            disk.remove("b")
    disk.crash_after = None
    assert disk.read("a") == b"1" and disk.read("b") == b"2"


def test_a_bit_of_the_simulated_disk_flips() -> None:
    disk = SimDisk()
    disk.replace("a", [b"\x00\x00"])
    disk.flip_bit("a", 9)
    assert disk.read("a") == b"\x00\x02"
