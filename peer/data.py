"""The training text: where it comes from, what is held out, and which bytes each batch reads.

A batch is a pure function of the manifest's seed, a peer_id, that peer's private cursor and the
corpus. Peers need no coordination to read different text, and a replayed cursor reads the same.
"""

import math
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import blake3
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from protocol.digest import digest
from protocol.errors import InputError
from protocol.manifest import Manifest

Bytes = npt.NDArray[np.uint8]

PYTHON_STDLIB: Final = "python-stdlib"
MAX_CORPUS_BYTES: Final = 8 * 2**30
"""A corpus is held in memory, once: this bounds what a peer needs for it."""
MAX_CORPUS_FILES: Final = 1_000_000
BLOCK_BYTES: Final = 64 * 1024
"""A single file is held out in blocks of this size, since it has no other files to hold out."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """The bytes of a corpus, split in two, and the batches that are cut from them."""

    training: Bytes
    heldout: Bytes
    """No peer with the same file names trains on these."""
    batch_sequences: int
    context: int

    @classmethod
    def load(cls, manifest: Manifest, source: str = "") -> "Corpus":
        """Read the corpus that a manifest names, or the local copy of it at `source`.

        Raises:
            InputError: it is missing, unreadable, over 8 GiB, or too small for one sequence.
        """
        source = source or manifest.data.corpus
        heldout_share = manifest.data.heldout_percent / 100
        training, heldout = bytearray(), bytearray()
        for name, content in _pieces(source):
            (heldout if _position(name) < heldout_share else training).extend(content)
        needed = manifest.model.context + 1
        if min(len(training), len(heldout)) < needed:
            raise InputError(
                f"the corpus {source} has {len(training)} bytes to train on and {len(heldout)} held"
                f" out, and at least {needed} of each are needed: name a larger one, or raise"
                " data.heldout_percent in the manifest"
            )
        return cls(
            training=np.frombuffer(training, dtype=np.uint8),
            heldout=np.frombuffer(heldout, dtype=np.uint8),
            batch_sequences=manifest.data.batch_sequences,
            context=manifest.model.context,
        )

    @cached_property
    def heldout_digest(self) -> str:
        """What peers compare before they compare losses: equal text gives equal digests."""
        return digest(self.heldout.tobytes())

    def batch(self, seed: int, peer_id: str, cursor: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one inner step, each int64 (batch_sequences, context).

        The generator is counter-based (Philox), so that any cursor costs the same.

        Args:
            seed: the manifest's.
            cursor: from 0; one per inner step of this peer.
        """
        key = blake3.blake3(f"data {seed} {peer_id}".encode()).digest(length=16)
        random = np.random.Philox(key=int.from_bytes(key, "little"), counter=cursor << 128)
        # Raw output and a remainder: numpy keeps those from version to version, and not how it
        # makes bounded integers of them. The bias is below 2^-31.
        starts = random.random_raw(self.batch_sequences) % np.uint64(
            self.training.size - self.context
        )
        return self._cut(self.training, starts.astype(np.int64))

    def heldout_batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`count` batches as `batch` gives them, evenly spaced over the held-out bytes."""
        last_start = self.heldout.size - self.context - 1
        starts = np.linspace(0, last_start, count * self.batch_sequences).astype(np.int64)
        for batch_starts in starts.reshape(count, self.batch_sequences):
            yield self._cut(self.heldout, batch_starts)

    def _cut(self, text: Bytes, starts: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        windows = text[starts[:, None] + np.arange(self.context + 1)].astype(np.int64)
        tokens = torch.from_numpy(windows)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _position(name: str) -> float:
    """Where a name falls between 0 and 1: of the name alone, so all machines hold out alike."""
    return int(digest(os.fsencode(name))[:8], 16) / 2**32


def _pieces(source: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of what is held out or trained on as a whole."""
    path = Path(sysconfig.get_path("stdlib") if source == PYTHON_STDLIB else source).expanduser()
    if path.is_file():
        yield from _blocks_of_file(path)
    elif path.is_dir():
        yield from _files_of_folder(path, python_only=source == PYTHON_STDLIB)
    else:
        raise InputError(
            f"the corpus {source} is neither a text file nor a folder of them:"
            f" correct the path, or use {PYTHON_STDLIB!r}"
        )


def _blocks_of_file(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            _refuse_too_large(path, size_bytes)
            for index in range(math.ceil(size_bytes / BLOCK_BYTES)):
                yield f"block {index}", file.read(BLOCK_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error


def _files_of_folder(root: Path, *, python_only: bool) -> Iterator[tuple[str, bytes]]:
    total_bytes = 0
    for name in _names(root, python_only=python_only):
        path = root / name
        try:
            size_bytes = path.stat().st_size
            total_bytes += size_bytes
            _refuse_too_large(root, total_bytes)
            with path.open("rb") as file:
                content = file.read(size_bytes)
        except OSError as error:
            raise _unreadable(path, error) from error
        yield name, content


def _names(root: Path, *, python_only: bool) -> list[str]:
    """Relative paths, with "/", of all regular files that are not hidden, in one order everywhere.

    Args:
        python_only: only sources, and only Python's own: not what was installed or compiled later.
    """
    left_out = {"site-packages", "dist-packages", "__pycache__"} if python_only else set()
    names: list[str] = []

    def refuse(error: OSError) -> None:
        raise _unreadable(root, error) from error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name not in left_out and name[0] != "."]
        paths = [Path(folder, name) for name in files if name[0] != "."]
        names += [
            path.relative_to(root).as_posix()
            for path in paths
            if path.is_file() and (path.suffix == ".py" or not python_only)
        ]
        if len(names) > MAX_CORPUS_FILES:
            raise InputError(
                f"the corpus {root} has more than {MAX_CORPUS_FILES} files: name a smaller folder,"
                " or put the text into fewer files"
            )
    return sorted(names, key=os.fsencode)


def _refuse_too_large(path: Path, size_bytes: int) -> None:
    if size_bytes > MAX_CORPUS_BYTES:
        raise InputError(
            f"the corpus {path} has more than {MAX_CORPUS_BYTES // 2**30} GiB and is held in"
            " memory: name a smaller part of it (peers may hold different parts)"
        )


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"the corpus file {path} cannot be read: {error.strerror}; make it readable or move it away"
    )
