"""A disk in memory."""

import errno
from collections.abc import Iterable


class SimDisk:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.capacity_bytes: int | None = None

    def read(self, name: str) -> bytes:
        try:
            return self.files[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", name) from None

    def read_at(self, name: str, offset: int, size: int) -> bytes:
        return self.read(name)[offset : offset + size]

    def replace(self, name: str, pieces: Iterable[bytes]) -> None:
        data = b"".join(pieces)
        others = sum(len(d) for n, d in self.files.items())
        if self.capacity_bytes is not None and others + len(data) > self.capacity_bytes:
            raise OSError(errno.ENOSPC, "no space left on device", name)
        self.files[name] = data

    def remove(self, name: str) -> None:
        self.read(name)
        del self.files[name]

    def names(self, folder: str) -> list[str]:
        return sorted(n for n in self.files if n.startswith(folder + "/"))

    def size(self, name: str) -> int:
        return len(self.read(name))
