"""The owner of a part applies the mean as it computed it; the others apply what they decode.

hivemind does so with every lossy codec. I1: whoever holds an entry holds the same bits.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from unittest.mock import patch

from protocol import outer
from protocol.codec import Values
from protocol.digest import digest
from protocol.log import Entry
from tests.sim.climate import Climate
from tests.sim.replica import LEARNING_RATE, MOMENTUM, State, TinyReplica

INVARIANT = "I1"
CLIMATE = Climate(peers=(3,), storm_s=5.0, lockstep=0.0, codecs=("e3m0",))


def apply() -> ExitStack:
    exact: dict[tuple[int, str], Values] = {}

    def average(
        replica: TinyReplica, contributions: Sequence[bytes], tokens: Sequence[int], values: int
    ) -> bytes:
        decoded = [replica._codec.decode(data, values) for data in contributions]
        mean = outer.weighted_mean(decoded, outer.weights_of(tokens))
        data = replica._codec.encode(mean)
        exact[id(replica), digest(data)] = mean
        return data

    def outer_step(
        replica: TinyReplica, state: State, entry: Entry, parts: Sequence[bytes | None]
    ) -> State:
        bounds = replica._bounds[entry.fragment_id]
        means = [
            None
            if data is None
            else exact.get((id(replica), digest(data)), replica._codec.decode(data, b - a))
            for (a, b), data in zip(bounds, parts, strict=True)
        ]
        return outer.apply_parts(
            *state, means, bounds, learning_rate=LEARNING_RATE, momentum_decay=MOMENTUM
        )

    with ExitStack() as stack:
        stack.enter_context(patch.object(TinyReplica, "average", average))
        stack.enter_context(patch.object(TinyReplica, "outer_step", outer_step))
        return stack.pop_all()
