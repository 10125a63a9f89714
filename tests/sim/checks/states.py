"""What entries make of states: I1 (same bits), I2 (all or nothing), I3 (no local work is lost)."""

from collections import defaultdict
from collections.abc import Sequence, Set

import numpy as np

from protocol.codec import Codec, Values
from protocol.digest import digest
from protocol.errors import CodecError
from protocol.events import ApplyEntry
from protocol.log import Entry
from tests.sim.checks.chains import Chains, Report
from tests.sim.plan import Plan
from tests.sim.replica import LEARNING_RATE, MERGE_ALPHA, MOMENTUM, bounds_of
from tests.sim.saw import InForce

ROUNDING = 1e-4
"""Local movements are sums of values around 1: fp32 loses some 1e-7 of them in every step."""


class States:
    """Follows the state of every peer, and does every outer step once more."""

    def __init__(self, plan: Plan, astray: Set[str], chains: Chains, report: Report) -> None:
        self._plan = plan
        self._astray = astray
        self._chains = chains
        self._report = report
        self._bounds = [bounds_of(values) for values in plan.part_values]
        self._digests: dict[str, str] = {}
        """Of the state after each entry."""
        self._last: dict[str, InForce] = {}
        self._parts: dict[str, tuple[bytes | None, ...]] = {}
        """Bytes of each entry that somebody applied."""
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        """Who was in the state after each entry."""

    def takes(self, peer_id: str, apply: ApplyEntry) -> None:
        """A state machine wants an entry applied."""
        entry = apply.entry
        if entry.parent != self._chains.position(peer_id):
            self._report(f"I2: {peer_id} applied round {entry.round} out of order")
        named = [part and part.digest for part in entry.parts]
        if named != [None if data is None else digest(data) for data in apply.parts]:
            self._report(f"I2: {peer_id} applied bytes that round {entry.round} does not name")
        self._parts[entry.digest] = apply.parts

    def in_force(self, peer_id: str, state: InForce) -> None:
        last, self._last[peer_id] = self._last.get(peer_id), state
        if peer_id in self._astray:
            return
        head = state.head
        data = b"".join(values.tobytes() for pair in state.states for values in pair)
        if self._digests.setdefault(head.digest, digest(data)) != digest(data):
            self._report(f"I1: {peer_id} is in another state after round {head.round}")
        holders = self._holders[head.digest]
        if state.how == "snapshot" and not self._chains.can_decide(holders, head):
            self._report(f"I4: {peer_id} took a snapshot of round {head.round} from a minority")
        holders.add(peer_id)
        if state.how == "started" or last is None:
            return
        entry = self._chains.entries.get(head.digest)
        if state.how == "applied" and entry is not None:
            self._check_order(peer_id, entry, last)
            self._check_step(peer_id, entry, last, state)
        self._check_movement(peer_id, entry if state.how == "applied" else None, last, state)

    def _check_order(self, peer_id: str, entry: Entry, last: InForce) -> None:
        if entry.parent != last.head.digest:
            self._report(f"I2: {peer_id} stepped with round {entry.round} out of order")

    def _check_step(self, peer_id: str, entry: Entry, last: InForce, state: InForce) -> None:
        """Present parts step as docs/protocol.md says; everything else stays, bit for bit."""
        parts = self._moving(entry)
        for f, (old, new) in enumerate(zip(last.states, state.states, strict=True)):
            for index, (a, b) in enumerate(self._bounds[f]):
                data = parts[index] if f == entry.fragment_id else None
                was, now = [v[a:b] for v in old], [v[a:b] for v in new]
                if data is None and not _same(was, now):
                    self._report(
                        f"I2: {peer_id} changed part {index} of fragment {f}, which is not in"
                        f" round {entry.round}"
                    )
                elif data is not None and not _same(self._stepped(was, data), now):
                    self._report(
                        f"I1: {peer_id} stepped part {index} in round {entry.round} with other"
                        " bits than the entry's"
                    )

    def _moving(self, entry: Entry) -> list[bytes | None]:
        """The bytes of each part that is there and that somebody can decode."""
        parts = self._parts.get(entry.digest, (None,) * len(entry.parts))
        sizes = [b - a for a, b in self._bounds[entry.fragment_id]]
        return [
            data if data is not None and _decodes(self._plan.codec, data, size) else None
            for data, size in zip(parts, sizes, strict=True)
        ]

    def _stepped(self, state: Sequence[Values], data: bytes) -> tuple[Values, Values]:
        """`B' = mu*B + g; global' = global - eta*(g + mu*B')`, written down a second time."""
        eta, mu = np.float32(LEARNING_RATE), np.float32(MOMENTUM)
        global_params, momentum = state
        mean = self._plan.codec.decode(data, global_params.size)
        momentum = momentum * mu + mean
        return global_params - (mean + momentum * mu) * eta, momentum

    def _check_movement(
        self, peer_id: str, entry: Entry | None, last: InForce, state: InForce
    ) -> None:
        """What a replica trained and has not contributed stays; what it contributed is merged."""
        for f, bounds in enumerate(self._bounds):
            for index, (a, b) in enumerate(bounds):
                before = state.local_before[f][a:b] - last.states[f][0][a:b]
                after = state.local_params[f][a:b] - state.states[f][0][a:b]
                share = self._kept_share(peer_id, entry, f, index)
                if share != 1.0:
                    # alpha*local + (1-alpha)*global' - global' = alpha*(local - global')
                    before = share * (state.local_before[f][a:b] - state.states[f][0][a:b])
                if np.abs(after - before).max(initial=0.0) > ROUNDING:
                    self._report(
                        f"I3: {peer_id} lost local work in fragment {f} when it came to round"
                        f" {state.head.round}"
                    )

    def _kept_share(self, peer_id: str, entry: Entry | None, fragment_id: int, index: int) -> float:
        if entry is None or entry.fragment_id != fragment_id or peer_id not in entry.members:
            return 1.0
        part = entry.parts[index]
        is_in_it = part is not None and part.tokens[entry.members.index(peer_id)] > 0
        is_in_it &= self._moving(entry)[index] is not None
        return MERGE_ALPHA if is_in_it else 1.0


def _same(first: Sequence[Values], second: Sequence[Values]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def _decodes(codec: Codec, data: bytes, values: int) -> bool:
    try:
        codec.decode(data, values)
    except CodecError:
        return False
    return True
