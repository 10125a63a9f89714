"""The one seam to files for everything that must survive: log, journal, checkpoints, snapshots.

`FolderDisk` is the real one; the simulation's (tests/sim/disk.py) keeps the same contract.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol, TypeAlias

Pieces: TypeAlias = Iterable[bytes | memoryview]

MAX_SMALL_BYTES = 2 * 1024 * 1024
"""Of a file that is read in one piece: a journal, a decided entry. Twice what the wire allows."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class Disk(Protocol):
    """Files by relative posix path, such as "log/00000012.json".

    A completed `replace` or `remove` survives any crash; one that a crash interrupted has happened
    or has not. At most one thread changes a name at a time; any number may read meanwhile, and each
    read sees one version of the file. Every method raises ValueError for a path that could leave
    the disk.
    """

    def read(self, name: str, *, limit_bytes: int = MAX_SMALL_BYTES) -> bytes:
        """The whole file.

        Raises:
            OSError: not there (FileNotFoundError), unreadable, or larger than the limit (EFBIG).
        """

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer where the file ends.

        Raises:
            OSError: not there (FileNotFoundError) or unreadable.
        """

    def replace(self, name: str, pieces: Pieces) -> None:
        """Put a file in place, whole and durable, made of these pieces one after another.

        Raises:
            OSError: it was not written, or not durably (no room, not writable, a broken disk). The
                file has its old content, or all of the new one when only the last sync failed.
        """

    def remove(self, name: str) -> None:
        """Remove a file, durably; nothing happens where there is none. Raises OSError."""

    def names(self, folder: str) -> list[str]:
        """Full names of the files directly in a folder, sorted; none where there is no folder.

        Files whose names no `Disk` takes, such as an editor's copies, are nobody's business here.

        Raises:
            OSError: the folder cannot be listed.
        """

    def size(self, name: str) -> int:
        """In bytes.

        Raises:
            OSError: not there (FileNotFoundError) or unreadable.
        """


class FolderDisk:
    """A folder of the file system."""

    def __init__(self, root: Path, *, only_reads: bool = False) -> None:
        """Make the folder if need be, and remove what a crash left half written.

        Open it once, before anything writes there: a write under way looks like such a leftover.

        Args:
            only_reads: leave everything as it is; a running peer may own the folder.

        Raises:
            OSError: it cannot be made or written.
        """
        self._root = root
        if only_reads:
            return
        _make_folder(root)
        for leftover in root.rglob(_temporary_name("*")):
            leftover.unlink()

    def read(self, name: str, *, limit_bytes: int = MAX_SMALL_BYTES) -> bytes:
        # One byte more than allowed, so that a file that grows meanwhile is noticed too.
        data = self.read_at(name, 0, limit_bytes + 1)
        if len(data) > limit_bytes:
            raise too_large(name, limit_bytes)
        return data

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        with self._path(name).open("rb") as file:
            # Python allocates what is asked for, not what is there.
            rest = max(0, os.fstat(file.fileno()).st_size - offset)
            file.seek(offset)
            return file.read(min(size, rest))

    def replace(self, name: str, pieces: Pieces) -> None:
        path = self._path(name)
        _make_folder(path.parent)
        replace_file(path, pieces)

    def remove(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        _sync_folder(path.parent)

    def names(self, folder: str) -> list[str]:
        try:
            paths = [path for path in self._path(folder).iterdir() if path.is_file()]
        except FileNotFoundError:
            return []
        names = (f"{folder}/{path.name}" for path in paths)
        return sorted(name for name in names if _NAME.fullmatch(name))

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def _path(self, name: str) -> Path:
        return self._root / checked_name(name)


def checked_name(name: str) -> str:
    """The same name; raises ValueError unless it is one that a `Disk` takes."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name of a file here: {name!r}")
    return name


def too_large(name: str, limit_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", name)


def replace_file(path: Path, pieces: Pieces) -> None:
    """Old content or new content after a crash at any moment, never a mixture.

    Raises:
        OSError: as `Disk.replace` says.
    """
    temporary = path.with_name(_temporary_name(path.name))
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is what is worth telling
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)  # the rename itself


def _temporary_name(name: str) -> str:
    """Of the file that becomes `name`: no name of a `Disk` begins with a dot."""
    return f".{name}.new"


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
