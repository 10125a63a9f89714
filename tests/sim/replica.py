"""A model of a few values: real codec, real mean, real outer step; only training is made up."""

from collections.abc import Sequence

import numpy as np

from protocol import outer
from protocol.codec import Values
from protocol.digest import digest
from protocol.log import Entry
from protocol.robust import decode_mean
from tests.sim.plan import Plan

MERGE_ALPHA = 0.5
LEARNING_RATE = 0.6
MOMENTUM = 0.9

State = tuple[Values, Values]


def bounds_of(part_values: Sequence[int]) -> list[tuple[int, int]]:
    stops = np.cumsum(part_values).tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))


def initial_states(plan: Plan) -> list[State]:
    sizes = [sum(values) for values in plan.part_values]
    return [(np.linspace(-1, 1, n, dtype=np.float32), np.zeros(n, dtype=np.float32)) for n in sizes]


class TinyReplica:
    """One peer's copy. An inner step moves every value by an amount of the peer's own."""

    def __init__(self, plan: Plan, me: str) -> None:
        self._codec = plan.codec
        self._aggregation = plan.aggregation
        self._bounds = [bounds_of(values) for values in plan.part_values]
        self.states = initial_states(plan)
        self.local_params = [global_params.copy() for global_params, _ in self.states]
        self._unfolded: list[list[tuple[Values, Values, Sequence[bool]]]] = [
            [] for _ in self.states
        ]
        # Numbers that no sum is exact with: a difference in order or rounding would show.
        own = np.random.default_rng(int(digest(me.encode())[:8], 16))
        self._drift = [
            own.normal(0, 0.01, local.size).astype(np.float32) for local in self.local_params
        ]

    def train_step(self) -> None:
        for local, drift in zip(self.local_params, self._drift, strict=True):
            local += drift

    def local(self, fragment_id: int) -> Values:
        """Local parameters, with what is in force and not folded in yet."""
        local = self.local_params[fragment_id].copy()
        for old, new, mine in self._unfolded[fragment_id]:
            self._follow(fragment_id, local, old, new, mine)
        return local

    def encode(self, fragment_id: int, local: Values) -> tuple[bytes, ...]:
        gradient = outer.pseudo_gradient(self.states[fragment_id][0], local)
        return tuple(self._codec.encode(gradient[a:b]) for a, b in self._bounds[fragment_id])

    def average(self, contributions: Sequence[bytes], tokens: Sequence[int], values: int) -> bytes:
        decoded = [self._codec.decode(data, values) for data in contributions]
        return self._codec.encode(self._aggregation.average(decoded, tokens))

    def outer_step(self, state: State, entry: Entry, parts: Sequence[bytes | None]) -> State:
        """What an entry makes of its fragment's state."""
        return outer.apply_parts(
            *state,
            self._movements(entry, parts),
            self._bounds[entry.fragment_id],
            learning_rate=LEARNING_RATE,
            momentum_decay=MOMENTUM,
        )

    def _movements(self, entry: Entry, parts: Sequence[bytes | None]) -> list[Values | None]:
        return [
            decode_mean(self._codec, data, b - a)
            for (a, b), data in zip(self._bounds[entry.fragment_id], parts, strict=True)
        ]

    def apply(self, entry: Entry, parts: Sequence[bytes | None], me: str) -> None:
        """Take the outer step; the local parameters follow with `fold_in`."""
        f = entry.fragment_id
        old = self.states[f][0]
        self.states[f] = self.outer_step(self.states[f], entry, parts)
        # A part that is absent, or moves nothing, is as it was: nothing follows.
        contributed = [
            given and movement is not None
            for given, movement in zip(
                entry.contributed_parts(me), self._movements(entry, parts), strict=True
            )
        ]
        self._unfolded[f].append((old, self.states[f][0], contributed))

    def fold_in(self) -> None:
        """Let the local parameters follow what is in force."""
        for f in range(len(self.local_params)):
            self.local_params[f] = self.local(f)
            self._unfolded[f].clear()

    def _follow(
        self, f: int, local: Values, old: Values, new: Values, contributed: Sequence[bool]
    ) -> None:
        """Merge or rebase, part by part, in place."""
        for (a, b), mine in zip(self._bounds[f], contributed, strict=True):
            local[a:b] = (
                outer.merge(local[a:b], new[a:b], MERGE_ALPHA)
                if mine
                else outer.rebase(local[a:b], old[a:b], new[a:b])
            )

    def adopt(self, states: Sequence[State]) -> None:
        """Another shared state is in force; what this replica trained and did not send stays."""
        self.fold_in()
        for f, (new_global, momentum) in enumerate(states):
            self.local_params[f] = outer.rebase(self.local_params[f], self.states[f][0], new_global)
            self.states[f] = (new_global, momentum)

    def state_digest(self) -> str:
        """Of everything that must be equal on all peers."""
        return digest(b"".join(v.tobytes() for state in self.states for v in state))
