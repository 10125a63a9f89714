"""The one digest of the project, and the one canonical form of structured data."""

import json
from collections.abc import Iterable
from typing import Any, Final

import blake3

_HEXADECIMAL: Final = frozenset("0123456789abcdef")


def digest(data: bytes) -> str:
    """BLAKE3 of `data`, 64 hexadecimal digits."""
    return str(blake3.blake3(data).hexdigest())


def is_digest(text: Any) -> bool:
    """Whether it has the form of a digest; only then may it become part of a file's name."""
    return isinstance(text, str) and len(text) == 64 and _HEXADECIMAL.issuperset(text)


def canonical(value: Any) -> bytes:
    """The bytes that stand for `value` (None, bool, int, float, str, lists, dicts) in digests.

    Compact JSON with sorted keys, ASCII only. Floats are written in Python's shortest form that
    reads back to the same value, so equal values have equal bytes on every machine.

    Raises:
        ValueError: a float is not finite.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def digest_of_pieces(pieces: Iterable[bytes]) -> str:
    """`digest` of what the pieces are one after another."""
    hasher = blake3.blake3()
    for piece in pieces:
        hasher.update(piece)
    return str(hasher.hexdigest())
