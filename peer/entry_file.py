"""The bytes of one entry's parts as one safetensors file.

Each part is a tensor of bytes, named by its part_index; the metadata hold the entry. A part is read
alone, by its place in the file, which the library does for paths only: the header is read here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from safetensors.numpy import save

from peer.disk import Disk
from protocol.digest import canonical, digest
from protocol.log import Entry

FOLDER: Final = "log"
FILE_NAME: Final = re.compile(rf"{FOLDER}/\d{{8,}}-[0-9a-f]{{64}}\.safetensors")
MAX_PART_BYTES = 4 * 2**22
"""fp32, with the largest part_values that a manifest may have."""
MAX_HEADER_BYTES = 8 * 1024 * 1024
"""An entry that fits into a control message, quoted, and the places of its parts."""
_LENGTH_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFile:
    """What is where in one file. It holds no bytes of parts, and promises nothing about them."""

    name: str
    round: int
    entry_digest: str
    size_bytes: int
    places: Mapping[str, tuple[int, int]]
    """(offset, size in bytes) of each part, by its digest."""

    @classmethod
    def open(cls, disk: Disk, name: str) -> "EntryFile":
        """Read the header.

        Raises:
            OSError: not there, or unreadable.
            ValueError: torn or flipped, as far as the header tells.
        """
        size = disk.size(name)
        prefix = disk.read_at(name, 0, _LENGTH_BYTES)
        start = _LENGTH_BYTES + int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES or not _LENGTH_BYTES < start <= size:
            raise ValueError("torn")
        if start > MAX_HEADER_BYTES:
            raise ValueError(f"a header of more than {MAX_HEADER_BYTES} bytes")
        header = disk.read_at(name, _LENGTH_BYTES, start - _LENGTH_BYTES)
        try:
            entry, places = _parse(json.loads(header), start, size)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("a malformed header") from error
        if file_name(entry.round, entry.digest) != name:
            raise ValueError("the entry in it is another one")
        return cls(
            name=name,
            round=entry.round,
            entry_digest=entry.digest,
            size_bytes=size,
            places=places,
        )

    def part(self, disk: Disk, part_digest: str) -> bytes:
        """Read one part.

        Raises:
            OSError: the file is gone, or unreadable.
            ValueError: these are not the bytes with this digest.
        """
        data = disk.read_at(self.name, *self.places[part_digest])
        if digest(data) != part_digest:
            raise ValueError(f"part {part_digest[:8]} is not what its digest says")
        return data


def file_name(round_: int, entry_digest: str) -> str:
    return f"{FOLDER}/{round_:08d}-{entry_digest}.safetensors"


def encode(entry: Entry, parts: Sequence[bytes | None]) -> bytes:
    """A file with the bytes of a non-empty entry: for each of its parts those that it names."""
    tensors = {}
    for index, (part, data) in enumerate(zip(entry.parts, parts, strict=True)):
        if part is not None:
            assert data is not None and digest(data) == part.digest, "not the bytes of this entry"
            assert len(data) <= MAX_PART_BYTES
            tensors[str(index)] = np.frombuffer(data, dtype=np.uint8)
    data = save(tensors, metadata={"entry": canonical(entry.to_json()).decode()})
    assert int.from_bytes(data[:_LENGTH_BYTES], "little") <= MAX_HEADER_BYTES - _LENGTH_BYTES
    return data


def _parse(header: Any, start: int, size: int) -> tuple[Entry, dict[str, tuple[int, int]]]:
    """The entry, and the places of its parts; raises KeyError, TypeError or ValueError.

    Args:
        start: where the tensors begin in a file of `size` bytes.
    """
    entry = Entry.from_json(json.loads(header["__metadata__"]["entry"]))
    places = {}
    for index, part in enumerate(entry.parts):
        if part is not None:
            begin, end = header[str(index)]["data_offsets"]
            if type(begin) is not int or type(end) is not int:
                raise TypeError("a place that is no integer")
            if not 0 <= begin <= end <= size - start or end - begin > MAX_PART_BYTES:
                raise ValueError("torn")
            places[part.digest] = (start + begin, end - begin)
    return entry, places
