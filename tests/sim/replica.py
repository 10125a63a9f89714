"""A model of a few values: real codec, real mean, real outer step; only training is made up."""

from collections.abc import Sequence

import numpy as np

from protocol import outer
from protocol.codec import Values
from protocol.digest import digest
from protocol.log import Entry
from tests.sim.plan import Plan

MERGE_ALPHA = 0.5


def bounds_of(part_values: Sequence[int]) -> list[tuple[int, int]]:
    stops = np.cumsum(part_values).tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))


class TinyReplica:
    """One peer's copy. An inner step moves every value by an amount of the peer's own."""

    def __init__(self, plan: Plan, me: str) -> None:
        self._codec = plan.codec
        self._bounds = [bounds_of(values) for values in plan.part_values]
        sizes = [sum(values) for values in plan.part_values]
        self.global_params: list[Values] = [np.linspace(-1, 1, n, dtype=np.float32) for n in sizes]
        self.momentum: list[Values] = [np.zeros(n, dtype=np.float32) for n in sizes]
        self.local_params = [values.copy() for values in self.global_params]
        # Numbers that no sum is exact with: a difference in order or rounding would show.
        own = np.random.default_rng(int(digest(me.encode())[:8], 16))
        self._drift = [own.normal(0, 0.01, n).astype(np.float32) for n in sizes]

    def train_step(self) -> None:
        for local, drift in zip(self.local_params, self._drift, strict=True):
            local += drift

    def encode(self, fragment_id: int, local: Values) -> tuple[bytes, ...]:
        gradient = outer.pseudo_gradient(self.global_params[fragment_id], local)
        return tuple(self._codec.encode(gradient[a:b]) for a, b in self._bounds[fragment_id])

    def average(self, contributions: Sequence[bytes], tokens: Sequence[int], values: int) -> bytes:
        decoded = [self._codec.decode(data, values) for data in contributions]
        return self._codec.encode(outer.weighted_mean(decoded, outer.weights_of(tokens)))

    def apply(self, entry: Entry, parts: Sequence[bytes | None], me: str) -> None:
        """Take the outer step, then merge or rebase, part by part."""
        f = entry.fragment_id
        contributed = entry.contributed_parts(me)
        for (a, b), data, mine in zip(self._bounds[f], parts, contributed, strict=True):
            if data is None:
                continue
            old = self.global_params[f][a:b].copy()
            new, self.momentum[f][a:b] = outer.outer_step(
                old,
                self.momentum[f][a:b],
                self._codec.decode(data, b - a),
                learning_rate=0.6,
                momentum_decay=0.9,
            )
            local = self.local_params[f][a:b]
            self.local_params[f][a:b] = (
                outer.merge(local, new, MERGE_ALPHA) if mine else outer.rebase(local, old, new)
            )
            self.global_params[f][a:b] = new

    def state_digest(self) -> str:
        """Of everything that must be equal on all peers."""
        return digest(b"".join(v.tobytes() for v in (*self.global_params, *self.momentum)))
