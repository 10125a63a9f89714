"""The seam between a peer and its files."""

from collections.abc import Iterable
from typing import Protocol


class Disk(Protocol):
    """Files by relative posix path. Everything raises OSError."""

    def read(self, name: str) -> bytes: ...

    def read_at(self, name: str, offset: int, size: int) -> bytes: ...

    def replace(self, name: str, pieces: Iterable[bytes]) -> None: ...

    def remove(self, name: str) -> None: ...

    def names(self, folder: str) -> list[str]: ...

    def size(self, name: str) -> int: ...
