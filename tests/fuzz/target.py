"""What is fuzzed: a seam where bytes come in that somebody else may have written or damaged."""

from collections.abc import Sequence
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from protocol.errors import RemoteError
from tests.fuzz import mutations


class Refused(Exception):
    """A seam that returns instead of raising, such as None and a note, has refused the input."""


class Target:
    """One seam. A new one says what is valid there, how to feed it, and what must never happen."""

    name: str
    samples: Sequence[bytes]
    """What the real encoders write. Every one of them is accepted."""
    structured: mutations.Mutation = staticmethod(mutations.damaged)
    """How inputs are made that get past a parser."""
    refusals: tuple[type[Exception], ...] = (RemoteError,)
    """What the seam promises to raise; anything else is a crash."""
    share: float = 1.0
    """Of the inputs, beside the others: less where one input takes long."""

    def feed(self, data: bytes) -> Any:
        """Hand the bytes over; returns what was made of them.

        Raises:
            Exception: one of `refusals`, or Refused: nothing of them was used.
        """
        raise NotImplementedError

    def is_right(self, data: bytes, made: Any) -> bool:
        """Whether this is something that these bytes may be taken for."""
        return True

    def state(self) -> Any:
        """What no refused input may change; compared by ==."""
        return None

    def reset(self) -> None:
        """As new: after an input that was accepted, or that showed something."""

    def close(self) -> None:
        """The last input was fed."""

    def input(self, seed: int, place: int) -> bytes:
        """The input at a place of this target's sequence: the same for the same seed."""
        rng = Random(f"{seed}/{self.name}/{place}")
        sample, other = rng.choice(self.samples), rng.choice(self.samples)
        chance = rng.random()
        if chance < 0.01:
            return sample
        if chance < 0.05:
            return rng.randbytes(rng.choice((0, 1, 8, 100, 1000)))
        if chance < 0.3:
            return mutations.damaged(rng, sample, other)
        return type(self).structured(rng, sample, other)


class Protobuf(Target):
    """A message of the wire; what gRPC itself cannot decode never comes further."""

    structured = staticmethod(mutations.protobuf)
    refusals = (RemoteError, DecodeError)
