"""What a link can carry: rates, times and utilization of a run before it has begun. Arithmetic.

All peers are taken to be alike: as fast, and behind the same link. Where they differ, the slowest
link sets the pace, so plan with that one. Sources: arXiv 2501.18512 for the schedule, DESIGN.md
section 4 for the rounds; the shares and overheads are the ones that the peers themselves use.

Counted: the encoded parts of both legs with their scales, headers of TCP/IP, HTTP/2 and gRPC for
each chunk, heartbeats, rosters and entries. Not counted: the DHT (p2pd), what newcomers catch up
with, what is sent again after a loss, and the processor's time for encoding and averaging.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from protocol.codec import codec_named
from protocol.coordinator import FLAT_SHARE, MIN_TRANSFER_S
from protocol.fragments import Fragment, TensorSpec
from protocol.liveness import HEARTBEAT_S
from protocol.manifest import Manifest
from protocol.pacing import MESSAGE_OVERHEAD_BYTES, OVERHEAD, chunk_bytes
from protocol.round import RATE_HEADROOM

LINK_SHARE = 0.80
"""Of a cap that parts are planned with: refill, headers and the headroom of a link come off it."""
TARGET = 0.95
"""Utilization below which a link is said not to carry a run."""
CLOSE_SHARE = 0.75
"""Of limits.round_deadline_s: owners average by then what they have (protocol/coordinator)."""
TRIPS_TO_START = 1
"""Round trips from Ready over Roster to the snapshot."""
TRIPS_TO_END = 3
"""Contributions and means; Held and Accept; Accepted and Decided."""

_HEARTBEAT_BYTES = 250
_MEMBER_BYTES = 300
_PART_BYTES = 100
"""Of control messages: a heartbeat, a member in a roster or an entry, a part in an entry."""
_BF16_BYTES = 2

Limit = Literal["training", "uplink", "downlink", "link", "round trips", "round_deadline_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """Who trains, and over which links."""

    peers: int
    """M, this one included."""
    step_s: float
    """Of an inner step."""
    up_bytes_per_s: float
    """Cap on everything that leaves a peer, headers included."""
    down_bytes_per_s: float
    rtt_s: float
    """Round trip between two peers."""

    @property
    def planned_bytes_per_s(self) -> float:
        """Payload rate of the narrower direction; at equal links both carry the same."""
        return planned_bytes_per_s(min(self.up_bytes_per_s, self.down_bytes_per_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a manifest says about rounds."""

    sync_every: int
    """H; that of the first cycles where it grows, when rounds are closest together."""
    longest_sync_every: int = 0
    """The most that it grows to; 0: it does not."""
    sync_delay_steps: int
    """tau; of no effect in elastic mode."""
    codec: str
    fragments: tuple[Fragment, ...]
    """P of them."""
    round_deadline_s: float
    lockstep: bool = False

    @classmethod
    def of(cls, manifest: Manifest, fragments: Sequence[Fragment]) -> "Setting":
        return cls(
            sync_every=manifest.schedule.sync_every_from(0),
            longest_sync_every=manifest.sync.max_sync_every if manifest.sync.qsr_alpha else 0,
            sync_delay_steps=manifest.sync.sync_delay_steps,
            codec=manifest.sync.codec,
            fragments=tuple(fragments),
            round_deadline_s=manifest.limits.round_deadline_s,
            lockstep=manifest.mode == "lockstep",
        )

    @property
    def num_fragments(self) -> int:
        return len(self.fragments)

    @property
    def gap_steps(self) -> int:
        """Steps between two rounds (protocol/schedule)."""
        return self.sync_every // self.num_fragments

    @property
    def parameters(self) -> int:
        return sum(fragment.values for fragment in self.fragments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What comes of a setting in a swarm. Bytes and rates are those of one peer, each way.

    Where `limited_by` is round_deadline_s, everything is as if rounds were not cut off.
    """

    utilization: float
    """Share of the time that peers would train if they kept to H. Lockstep peers wait for the
    rest; elastic ones train on, and H grows to `sync_every_in_effect` instead."""
    sync_every_in_effect: float
    round_s: float
    """From one round to the next, the mean of all fragments."""
    transfer_s: float
    """That the longest exchange is planned to take; in elastic mode it fills the time there is."""
    sent_bytes: float
    """In a round, on the wire, the mean of all fragments."""
    flat_bytes_per_s: float
    """Mean over a cycle of all fragments, control included."""
    peak_bytes_per_s: float
    """Planned for the busiest second."""
    times_fewer_bytes: float
    """Than a ring in bf16 in every step, whose overhead is not counted; infinite when alone."""
    limited_by: Limit
    deadline_s: float
    """The least limits.round_deadline_s that lets the longest exchange finish."""

    @property
    def meets_deadline(self) -> bool:
        return self.limited_by != "round_deadline_s"

    def reaches(self, target: float) -> bool:
        """Whether the link carries the run at this utilization."""
        return self.meets_deadline and self.utilization >= target


def planned_bytes_per_s(cap_bytes_per_s: float) -> float:
    """Payload per second that rounds are planned with, under a cap on all bytes."""
    return cap_bytes_per_s * LINK_SHARE / OVERHEAD / RATE_HEADROOM


def exchanged_bytes(encoded_bytes: float, peers: int) -> float:
    """2 V (M - 1) / M: what each of M peers with equal links sends of a fragment of V encoded
    bytes, and receives. (protocol/partition: V (1 + (M - 2) w) at a share w = 1 / M.)"""
    return 2 * encoded_bytes * (peers - 1) / peers


def outlook(setting: Setting, swarm: Swarm) -> Outlook:
    """What to expect of a setting."""
    gaps = _gaps_steps(setting)
    rounds = [
        _Round(setting, swarm, fragment, gap_steps)
        for fragment, gap_steps in zip(setting.fragments, gaps, strict=True)
    ]
    cycle_s = sum(r.round_s for r in rounds)
    utilization = min(1.0, setting.sync_every * swarm.step_s / cycle_s)
    in_effect = setting.sync_every / utilization
    trained_steps = setting.sync_every if setting.lockstep else in_effect
    heartbeats = _heartbeat_bytes_per_s(swarm.peers)
    sent_bytes = sum(r.wire_bytes for r in rounds) + heartbeats * cycle_s
    ring_bytes = trained_steps * exchanged_bytes(_BF16_BYTES * setting.parameters, swarm.peers)
    transfer_s = max(r.transfer_s for r in rounds)
    cap = min(swarm.up_bytes_per_s, swarm.down_bytes_per_s)
    peak = heartbeats + max(r.peak_bytes_per_s for r in rounds)
    return Outlook(
        utilization=utilization,
        sync_every_in_effect=setting.sync_every if setting.lockstep else in_effect,
        round_s=cycle_s / len(rounds),
        transfer_s=transfer_s,
        sent_bytes=sent_bytes / len(rounds),
        flat_bytes_per_s=sent_bytes / cycle_s,
        peak_bytes_per_s=min(peak, cap),
        times_fewer_bytes=ring_bytes / sent_bytes if sent_bytes else math.inf,
        limited_by=_limit(setting, swarm, rounds, utilization),
        deadline_s=max(r.least_transfer_s for r in rounds) / CLOSE_SHARE,
    )


def needed_bytes_per_s(setting: Setting, swarm: Swarm, target: float) -> float | None:
    """The least cap, up and down alike, at which the target is reached; None if none is enough."""

    def is_enough(cap_bytes_per_s: float) -> bool:
        return outlook(setting, with_cap(swarm, cap_bytes_per_s)).reaches(target)

    low, high = 1.0, 1e15
    if not is_enough(high):
        return None
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def with_cap(swarm: Swarm, cap_bytes_per_s: float) -> Swarm:
    """The same swarm behind other links."""
    return replace(swarm, up_bytes_per_s=cap_bytes_per_s, down_bytes_per_s=cap_bytes_per_s)


def even_fragments(
    parameters: int, num_fragments: int, *, part_values: int, peers: int
) -> tuple[Fragment, ...]:
    """Fragments of a model of which only the size is known: equal ones, cut as protocol/fragments
    cuts them."""
    fragments = []
    for place in range(num_fragments):
        values = parameters * (place + 1) // num_fragments - parameters * place // num_fragments
        fragments.append(
            Fragment(
                place,
                (TensorSpec(f"fragment {place}", values, block=place),),
                part_values=max(1, min(part_values, values // (4 * peers))),
            )
        )
    return tuple(fragments)


class _Round:
    """The round of one fragment."""

    def __init__(self, setting: Setting, swarm: Swarm, fragment: Fragment, gap_steps: int) -> None:
        peers, gap_s = swarm.peers, gap_steps * swarm.step_s
        sizes = _part_sizes(setting.codec, fragment)
        payload_bytes = exchanged_bytes(sum(size * n for size, n in sizes), peers)
        alone = peers == 1
        rtt_s = 0.0 if alone else swarm.rtt_s
        self.trips_s = (TRIPS_TO_START + TRIPS_TO_END) * rtt_s
        self.least_transfer_s = (
            0.0 if alone else max(payload_bytes / swarm.planned_bytes_per_s, MIN_TRANSFER_S)
        )
        if setting.lockstep:
            self.transfer_s = self.least_transfer_s
            delay_s = setting.sync_delay_steps * swarm.step_s
            self.slack_s = delay_s - self.trips_s - self.transfer_s
            self.round_s = gap_s + max(0.0, -self.slack_s)
        else:
            # The exchange is planned to fill what is left until the next round is due; the
            # readiness for that one is told once this one is applied.
            after_s = TRIPS_TO_END * rtt_s
            fill_s = max(FLAT_SHARE * gap_s, gap_s - after_s)
            wanted_s = 0.0 if alone else min(fill_s, setting.round_deadline_s)
            self.transfer_s = max(self.least_transfer_s, wanted_s)
            self.slack_s = gap_s - after_s - self.least_transfer_s
            self.round_s = max(gap_s, after_s + self.transfer_s) + TRIPS_TO_START * rtt_s
        chunk = chunk_bytes(
            RATE_HEADROOM * payload_bytes / max(1, peers - 1) / (self.transfer_s or 1.0)
        )
        chunks = exchanged_bytes(sum(-(-size // chunk) * n for size, n in sizes), peers)
        bulk_bytes = payload_bytes * OVERHEAD + chunks * MESSAGE_OVERHEAD_BYTES
        parts = sum(n for _, n in sizes)
        self.wire_bytes = bulk_bytes + _control_bytes(peers, parts)
        self.peak_bytes_per_s = RATE_HEADROOM * bulk_bytes / (self.transfer_s or 1.0)


def _gaps_steps(setting: Setting) -> list[int]:
    """From each round of a cycle to the next one; together H steps."""
    last = setting.sync_every - setting.gap_steps * (setting.num_fragments - 1)
    return [setting.gap_steps] * (setting.num_fragments - 1) + [last]


def _part_sizes(codec: str, fragment: Fragment) -> list[tuple[int, int]]:
    """(encoded bytes, how many parts of that size); without a list of a large model's parts."""
    whole, rest = divmod(fragment.values, fragment.part_values)
    encoded = codec_named(codec).encoded_bytes
    sizes = [(encoded(fragment.part_values), whole)]
    return [*sizes, (encoded(rest), 1)] if rest else sizes


def _heartbeat_bytes_per_s(peers: int) -> float:
    return (peers - 1) * _HEARTBEAT_BYTES / HEARTBEAT_S


def _control_bytes(peers: int, parts: int) -> float:
    """Of one round and peer, an estimate: Ready and Held from each; Roster, Accept and Decided
    from one in turn."""
    others = peers - 1
    own = _MEMBER_BYTES * others + (MESSAGE_OVERHEAD_BYTES + parts * _PART_BYTES) * others / peers
    entry = peers * _MEMBER_BYTES + parts * _PART_BYTES
    return own + 3 * entry * others / peers


def _limit(setting: Setting, swarm: Swarm, rounds: list[_Round], utilization: float) -> Limit:
    """What would have to be better for the run to go faster; training, when nothing else."""
    longest_s = max(r.least_transfer_s for r in rounds)
    if longest_s > CLOSE_SHARE * setting.round_deadline_s:
        return "round_deadline_s"
    tightest = min(rounds, key=lambda r: r.slack_s)
    if tightest.slack_s >= 0 and utilization >= TARGET:
        return "training"
    if tightest.slack_s >= 0 or tightest.trips_s > tightest.least_transfer_s:
        return "round trips"
    up, down = swarm.up_bytes_per_s, swarm.down_bytes_per_s
    return "link" if up == down else "uplink" if up < down else "downlink"
