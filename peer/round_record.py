"""What rounds took and what they came to: for the record, the views, and the next plan."""

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from peer.catchup import Arrival
from peer.in_effect import InEffect, RoundTimes
from peer.metrics import Metrics
from peer.replica import Replica
from protocol.log import Entry, Head
from protocol.messages import Roster
from protocol.schedule import Schedule, median_pace

FIRST_OVERHEAD_S, MAX_OVERHEAD_S = 0.5, 5.0
OVERHEAD_ROUNDS = 5
MAX_SEEN = 512


@dataclass
class Counts:
    """Rounds so far, as this peer has applied them since it was started, but for the tokens."""

    committed: int = 0
    empty: int = 0
    resent_bytes: int = 0
    """Contributions that had to be sent a second time, to a part's next owner."""
    committed_tokens: float = 0.0
    """Of the log: tokens times the share of the model's values that they moved (I7)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How long each phase of a round took, as this peer saw it."""

    ready_s: float
    exchange_s: float
    apply_s: float
    resent_bytes: int


@dataclass(slots=True)
class _Times:
    """Moments of the round under way, in event-loop seconds; 0 for what has not been."""

    ready_s: float = 0.0
    roster_s: float = 0.0
    transfer_s: float = 0.0
    """What the roster plans for the exchange."""
    pace_steps_per_s: float = 0.0
    """Of the group, the median."""
    decided_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass
class RoundRecord:
    """Told of each moment of a round by the driver; writes a line when it is applied."""

    replica: Replica
    metrics: Metrics
    traffic: Callable[[], tuple[int, int]]
    """Bytes sent and received so far."""
    schedule: Schedule
    is_elastic: bool
    """In lockstep peers wait, and the utilization says what `in_effect` says here."""
    note: Callable[[str], None]
    counts: Counts = field(default_factory=Counts)
    seen: dict[int, Seen] = field(default_factory=dict)
    """The last MAX_SEEN rounds."""
    _times: _Times = field(default_factory=_Times)
    _before: _Times = field(default_factory=_Times)
    """Of the round before."""
    _applied_s: float = 0.0
    """When that one was."""
    _overheads_s: deque[float] = field(
        default_factory=lambda: deque([FIRST_OVERHEAD_S], OVERHEAD_ROUNDS)
    )

    def __post_init__(self) -> None:
        self.in_effect = InEffect(self.schedule)

    @property
    def overhead_s(self) -> float:
        """What a round takes beyond its planned exchange; the planner leaves it aside.

        The median of the last ones: a round that was slow once, beside a checkpoint say, must not
        make bursts of those after it.
        """
        return median(self._overheads_s)

    def ready(self, now_s: float) -> None:
        """This peer's share is trained."""
        sent, received = self.traffic()
        self._times = _Times(ready_s=now_s, sent_bytes=sent, received_bytes=received)

    def rostered(self, roster: Roster, coordinator: str, now_s: float) -> None:
        """A roster is in force."""
        self._times.roster_s, self._times.transfer_s = now_s, roster.transfer_s
        self._times.pace_steps_per_s = median_pace(m.pace_steps_per_s for m in roster.members)
        self.metrics.write(
            "roster",
            round=roster.round,
            coordinator=coordinator,
            members=list(roster.peer_ids),
            contributors=[m.peer_id for m in roster.members if m.tokens > 0],
            owners=[roster.peer_ids[owner] for owner in roster.owners],
            transfer_s=roster.transfer_s,
        )

    def decided(self, now_s: float) -> None:
        self._times.decided_s = now_s

    def applied(
        self, entry: Entry, now_s: float, *, resent_bytes: int, staleness: int, **more: Any
    ) -> None:
        """Count the round, measure it, and write its line.

        Args:
            resent_bytes: of this peer, over all rounds so far.
            staleness: inner steps between the snapshot and the application.
            more: further fields of the line.
        """
        times, self._times = self._times, _Times()
        seen = Seen(
            ready_s=max(0.0, times.roster_s - times.ready_s) if times.ready_s else 0.0,
            exchange_s=times.decided_s - times.roster_s if times.roster_s else 0.0,
            apply_s=now_s - times.decided_s,
            resent_bytes=resent_bytes - self.counts.resent_bytes,
        )
        self.counts.resent_bytes = resent_bytes
        self.seen[entry.round] = seen
        self.seen.pop(entry.round - MAX_SEEN, None)
        self._count(entry)
        if times.transfer_s:
            beyond_s = now_s - times.roster_s - times.transfer_s
            measured_s = min(max(0.0, beyond_s), MAX_OVERHEAD_S)
            self._overheads_s.append(measured_s)
        self._judge(entry.round, seen, times, now_s)
        self._write(entry, seen, times, staleness, more)

    def _judge(self, round_: int, seen: Seen, times: _Times, now_s: float) -> None:
        """Compare the round with what was planned, if this peer was in it and in the one before."""
        before, applied_s = self._before, self._applied_s
        self._before, self._applied_s = times, now_s
        pace = times.pace_steps_per_s
        if not (self.is_elastic and pace and before.roster_s):
            self.in_effect.forget()
            return
        cause = self.in_effect.cause
        due_s = self.schedule.planned_steps(round_) / pace
        late_s = max(0.0, times.roster_s - before.roster_s - due_s)
        self.in_effect.add(
            round_,
            RoundTimes(
                due_s=due_s,
                next_due_s=self.schedule.planned_steps(round_ + 1) / pace,
                took_s=now_s - applied_s,
                transfer_s=times.transfer_s,
                exchange_s=seen.exchange_s,
                waited_s=min(seen.ready_s, late_s),
            ),
        )
        if self.in_effect.cause != cause:
            self.note(self.in_effect.in_words or "rounds are about as long as planned again")

    def begin_at(self, head: Head) -> None:
        """This entry is the last one that is applied."""
        self.counts.committed_tokens = head.committed / self.replica.parameter_count

    def arrived(self, round_: int, arrival: Arrival) -> None:
        """This peer has come to where the group is."""
        self.metrics.write("arrived", round=round_, **asdict(arrival))

    def _count(self, entry: Entry) -> None:
        self.counts.committed_tokens = entry.committed / self.replica.parameter_count
        if entry.is_empty:
            self.counts.empty += 1
        else:
            self.counts.committed += 1

    def _write(
        self, entry: Entry, seen: Seen, times: _Times, staleness: int, more: dict[str, Any]
    ) -> None:
        sent, received = self.traffic()
        tokens = next((part.tokens for part in entry.parts if part is not None), ())
        self.metrics.write(
            "round",
            round=entry.round,
            term=entry.term,
            fragment_id=entry.fragment_id,
            empty=entry.is_empty,
            reason=entry.reason,
            members=list(entry.members),
            voters=list(entry.voters),
            contributors=[p for p in entry.members if any(entry.contributed_parts(p))],
            missing=entry.missing_reasons(),
            digest=entry.digest,
            tokens=dict(zip(entry.members, tokens, strict=False)),
            ready_s=seen.ready_s,
            exchange_s=seen.exchange_s,
            apply_s=seen.apply_s,
            sent_bytes=sent - times.sent_bytes if times.ready_s else 0,
            received_bytes=received - times.received_bytes if times.ready_s else 0,
            resent_bytes=seen.resent_bytes,
            staleness_steps=staleness,
            sync_every_in_effect=self.in_effect.sync_every,
            limited_by=self.in_effect.cause,
            **more,
        )
