"""The state of a fragment as bytes: what snapshots carry, checkpoints keep and Ready names.

docs/protocol.md ("State"): the state is global_params and after them momentum, little-endian fp32.
It travels and is verified in chunks of 1 MiB, the last one shorter. Its root, the digest of the
list of the chunks' digests, names it: peers with equal roots hold equal bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from protocol.codec import Values
from protocol.digest import canonical, digest, is_digest
from protocol.log import GENESIS_ROUND
from protocol.messages import Decided

CHUNK_BYTES: Final = 1024 * 1024
MAX_CHUNKS: Final = 16_384
"""Of one fragment: 16 GiB, two thousand million values. Their list stays a message of 1.1 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentState:
    """One fragment of a snapshot or a checkpoint, by name."""

    values: int
    version: int
    """Round of the last entry that averaged it; GENESIS_ROUND before the first."""
    root: str

    def is_possible(self, round_: int) -> bool:
        """Whether the state after that round's entry can have such a fragment."""
        return (
            self.values > 0
            and chunk_count(self.values) <= MAX_CHUNKS
            and GENESIS_ROUND <= self.version <= round_
            and is_digest(self.root)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The shared state after one entry, as a peer can give it to a newcomer."""

    decided: Decided
    fragments: tuple[FragmentState, ...]
    """In the order of their fragment_id."""

    @property
    def round(self) -> int:
        return self.decided.round

    @property
    def digest(self) -> str:
        """Of the entry and of the state after it: healthy peers with the same round agree on it."""
        states = [[f.values, f.version, f.root] for f in self.fragments]
        return digest(canonical([self.decided.entry.digest, states]))


def state_bytes(values: int) -> int:
    """Size of the state of a fragment of that many values."""
    return 2 * 4 * values


def chunk_count(values: int) -> int:
    return -(-state_bytes(values) // CHUNK_BYTES)


def chunk_bytes_of(values: int, index: int) -> int:
    """Size of one chunk; raises IndexError when the state has no such chunk."""
    if not 0 <= index < chunk_count(values):
        raise IndexError(f"chunk {index} of a fragment of {values} values")
    return min(CHUNK_BYTES, state_bytes(values) - index * CHUNK_BYTES)


def chunk(global_params: Values, momentum: Values, index: int) -> bytes:
    """The bytes of one chunk of a state; both arrays are flat and of one length.

    Raises:
        IndexError: the state has no such chunk.
    """
    start = index * CHUNK_BYTES
    stop = start + chunk_bytes_of(global_params.size, index)
    half = state_bytes(global_params.size) // 2
    return (
        little_endian(global_params)[start:stop].tobytes()
        + little_endian(momentum)[max(start - half, 0) : max(stop - half, 0)].tobytes()
    )


def chunk_digests(global_params: Values, momentum: Values) -> tuple[str, ...]:
    """The digest of each chunk of a state, in order."""
    count = chunk_count(global_params.size)
    return tuple(digest(chunk(global_params, momentum, index)) for index in range(count))


def list_of(chunk_digests: Sequence[str]) -> bytes:
    """The canonical bytes of the list, whose digest is the root."""
    return canonical(list(chunk_digests))


def parse_list(data: bytes, values: int) -> tuple[str, ...]:
    """The chunk digests in a chunk list whose digest was checked.

    Raises:
        ValueError: it is not the list of a fragment of that many values.
    """
    digests = tuple(data.decode("ascii")[2:-2].split('","'))
    if list_of(digests) != data or len(digests) != chunk_count(values):
        raise ValueError("not the chunk list of such a fragment")
    if not all(map(is_digest, digests)):
        raise ValueError("a chunk list with something else in it")
    return digests


def list_bytes(values: int) -> int:
    """Size of the canonical list of a fragment of that many values."""
    count = chunk_count(values)
    return len('""') * count + 64 * count + max(count - 1, 0) + len("[]")


def root_of(chunk_digests: Sequence[str]) -> str:
    return digest(list_of(chunk_digests))


def little_endian(values: Values) -> memoryview:
    """The bytes of flat fp32 values as they travel; on most machines the very memory."""
    return np.ascontiguousarray(values, dtype="<f4").view(np.uint8).data
