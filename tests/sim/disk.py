"""A disk in memory, under the contract of `peer.disk.Disk`, that breaks when it is told to."""

import errno

from peer.disk import MAX_SMALL_BYTES, Pieces, checked_name, too_large


class Crash(Exception):
    """The process dies here; what the disk has by now is what the next one finds."""


class SimDisk:
    """Every completed change is durable; a crash keeps those and nothing else."""

    def __init__(self) -> None:
        self.is_full = False
        """Nothing can be written any more; what is there can be read and removed."""
        self.crash_after: int | None = None
        """So many changes are still made; the one after them raises Crash instead."""
        self._files: dict[str, bytes] = {}

    def all_names(self) -> list[str]:
        return sorted(self._files)

    def flip_bit(self, name: str, bit: int) -> None:
        """Flip one bit of a file, counted from its start and around its end."""
        data = bytearray(self._files[name])
        data[bit // 8 % len(data)] ^= 1 << bit % 8
        self._files[name] = bytes(data)

    def tear(self, name: str, size: int) -> None:
        """Leave only the first `size` bytes of a file."""
        self._files[name] = self._files[name][:size]

    def read(self, name: str, *, limit_bytes: int = MAX_SMALL_BYTES) -> bytes:
        data = self._content(name)
        if len(data) > limit_bytes:
            raise too_large(name, limit_bytes)
        return data

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        return self._content(name)[offset : offset + size]

    def replace(self, name: str, pieces: Pieces) -> None:
        data = b"".join(pieces)
        checked_name(name)
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device", name)
        self._count_change()
        self._files[name] = data

    def remove(self, name: str) -> None:
        if checked_name(name) in self._files:
            self._count_change()
            del self._files[name]

    def names(self, folder: str) -> list[str]:
        checked_name(folder)
        return sorted(name for name in self._files if name.rpartition("/")[0] == folder)

    def size(self, name: str) -> int:
        return len(self._content(name))

    def _content(self, name: str) -> bytes:
        if checked_name(name) not in self._files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        return self._files[name]

    def _count_change(self) -> None:
        if self.crash_after is not None:
            if self.crash_after == 0:
                raise Crash
            self.crash_after -= 1
