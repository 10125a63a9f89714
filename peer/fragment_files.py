"""States of fragments on disk, each named by its root: fragments/<root>.safetensors.

A file holds the flat fp32 tensors global_params and momentum, in this order and nothing between
them, so that its data is the state as protocol/state.py cuts it into chunks; the list of the
chunks' digests stands in its metadata. Equal states are equal files on every machine. Everything
that is read is verified chunk by chunk; a file that is not what its name says is not used again.
"""

import contextlib
import errno
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from peer import tensors
from peer.disk import Disk
from protocol.codec import Values
from protocol.digest import digest
from protocol.state import (
    CHUNK_BYTES,
    chunk,
    chunk_bytes_of,
    chunk_count,
    chunk_digests,
    list_of,
    root_of,
    state_bytes,
)

FOLDER: Final = "fragments"


class DamagedError(OSError):
    """A file is not what was written: torn, or with flipped bits. Nothing of it is used."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(errno.EIO, f"{name} is damaged: {what}", name)

    def __str__(self) -> str:
        return self.strerror or ""  # for people: no number, and the name once


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the data of a file begins, and what it must be."""

    data_start: int
    values: int
    digests: tuple[str, ...]


class FragmentFiles:
    """Writes are for one thread at a time; any thread may read meanwhile."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._layouts: dict[str, _Layout] = {}
        """By root; of files whose chunk list is known to be right."""
        self._whole: set[str] = set()
        """Roots of files that were written or verified from end to end by this process."""

    # --- writing ---------------------------------------------------------------------------------

    def write(self, global_params: Values, momentum: Values) -> str:
        """Make sure that there is a file of this state, and return its root.

        Raises:
            OSError: it could not be written, and was not.
        """
        digests = chunk_digests(global_params, momentum)
        root = root_of(digests)
        if not self.is_whole(root):
            self._write(
                root,
                global_params.size,
                digests,
                lambda index: chunk(global_params, momentum, index),
            )
        return root

    def assemble(self, values: int, digests: Sequence[str], read: Callable[[int], bytes]) -> None:
        """Write the state that these chunks are, holding one of them at a time.

        Raises:
            DamagedError: `read` gave a chunk that is not the one of that digest.
            OSError: it could not be written, and was not.
        """

        def verified(index: int) -> bytes:
            data = read(index)
            if digest(data) != digests[index]:
                raise DamagedError(file_of(root), f"chunk {index} came out differently")
            return data

        root = root_of(digests)
        self._write(root, values, tuple(digests), verified)

    def _write(
        self, root: str, values: int, digests: tuple[str, ...], read: Callable[[int], bytes]
    ) -> None:
        head = _header(values, digests)

        def pieces() -> Iterator[bytes]:
            yield head
            for index in range(len(digests)):
                yield read(index)

        self._disk.replace(file_of(root), pieces())
        self._layouts[root] = _Layout(len(head), values, digests)
        self._whole.add(root)

    def keep_only(self, roots: Collection[str]) -> None:
        """Remove all other files, as far as the disk lets us."""
        for name in self._disk.names(FOLDER):
            root = name.removeprefix(f"{FOLDER}/").removesuffix(".safetensors")
            if root not in roots:
                self.distrust(root)
                with contextlib.suppress(OSError):
                    self._disk.remove(name)

    def distrust(self, root: str) -> None:
        """Rely no more on what was known of a file: the next state of this root is written anew."""
        self._whole.discard(root)
        self._layouts.pop(root, None)

    # --- reading ---------------------------------------------------------------------------------

    def is_whole(self, root: str) -> bool:
        """Whether this process wrote that file or has verified all of it."""
        return root in self._whole

    def digests(self, root: str) -> tuple[str, ...]:
        """Of the chunks of a state. Raises DamagedError or another OSError."""
        return self._layout(root).digests

    def chunk(self, root: str, index: int) -> bytes:
        """One verified chunk of a state.

        Raises:
            IndexError: the state has no such chunk.
            DamagedError: the file is not what its name says.
            OSError: it cannot be read.
        """
        layout = self._layout(root)
        size = chunk_bytes_of(layout.values, index)
        data = self._disk.read_at(file_of(root), layout.data_start + index * CHUNK_BYTES, size)
        if digest(data) != layout.digests[index]:
            self.distrust(root)
            raise DamagedError(file_of(root), f"chunk {index} has another digest")
        return data

    def read(self, root: str) -> tuple[Values, Values]:
        """(global_params, momentum), verified. Raises DamagedError or another OSError."""
        layout = self._layout(root)
        flat = np.empty(2 * layout.values, dtype="<f4")
        data = flat.view(np.uint8).data
        for index in range(len(layout.digests)):
            piece = self.chunk(root, index)
            data[index * CHUNK_BYTES : index * CHUNK_BYTES + len(piece)] = piece
        self._whole.add(root)
        native: Values = flat.astype(np.float32, copy=False)
        return native[: layout.values], native[layout.values :]

    def verify(self, root: str) -> None:
        """Read all of a file, one chunk at a time. Raises DamagedError or another OSError."""
        for index in range(len(self.digests(root))):
            self.chunk(root, index)
        self._whole.add(root)

    def _layout(self, root: str) -> _Layout:
        layout = self._layouts.get(root)
        if layout is None:
            layout = self._layouts[root] = self._read_layout(root)
        return layout

    def _read_layout(self, root: str) -> _Layout:
        name = file_of(root)
        size = int.from_bytes(self._disk.read_at(name, 0, 8), "little")
        if size > tensors.MAX_HEADER_BYTES:
            raise DamagedError(name, "its header has no end")
        head = self._disk.read_at(name, 0, 8 + size)
        try:
            fields = json.loads(head[8:])
            values = int(fields["global_params"]["shape"][0])
            digests = tuple(map(str, json.loads(fields["__metadata__"]["chunks"])))
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            raise DamagedError(name, "its header makes no sense") from error
        # The name vouches for the list, and the list for the data; the rest must follow from them.
        fits = (
            root_of(digests) == root
            and len(digests) == chunk_count(values)
            and _header(values, digests) == head
            and self._disk.size(name) == len(head) + state_bytes(values)
        )
        if not fits:
            raise DamagedError(name, "it does not fit its name")
        return _Layout(len(head), values, digests)


def file_of(root: str) -> str:
    """The name of the file of a state."""
    return f"{FOLDER}/{root}.safetensors"


def _header(values: int, digests: Sequence[str]) -> bytes:
    shape = (np.dtype("<f4"), (values,))
    metadata = {"chunks": list_of(digests).decode()}
    return tensors.header({"global_params": shape, "momentum": shape}, metadata)
