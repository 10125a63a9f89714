"""When each fragment is synchronized, and the learning rate at each step: pure functions.

Streaming DiLoCo, arXiv 2501.18512, Algorithm 2 and section 2.2: fragment p is sent every H steps
at an offset of its own, and every fragment trains H steps before its first round. H may grow as the
learning rate falls: the Quadratic Synchronization Rule, arXiv 2310.14423.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from protocol.errors import ManifestError

MAX_GROWING_CYCLES = 1_000_000
"""Cycles of a run whose H grows: they are counted out, and a manifest comes from anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """Of the inner optimizer: linear warm-up, then cosine; a pure function of the position.

    Only operations that IEEE 754 rounds in one way, so that all machines have the same bits: the
    cosine of a libm has not.
    """

    peak: float
    warmup_steps: int
    total_steps: int
    final_ratio: float
    """Of the peak, at the end."""

    def at(self, position: int) -> float:
        """At a position of the schedule, counted from 0."""
        if position < self.warmup_steps:
            return self.peak * ((position + 1) / (self.warmup_steps + 1))
        progress = (position - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        half = _cosine_of_quarters(min(1.0, progress))
        return self.peak * (self.final_ratio + (1 - self.final_ratio) * (half * half))


def _cosine_of_quarters(quarters: float) -> float:
    """cos(pi / 2 * quarters) for 0 to 1: its Taylor polynomial of degree 22, from the inside."""
    square = (math.pi / 2 * quarters) * (math.pi / 2 * quarters)
    cosine = 1.0
    for degree in range(22, 0, -2):
        cosine = 1.0 - square / (degree * (degree - 1)) * cosine
    return cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The Quadratic Synchronization Rule: H = max(H_base, floor((alpha / learning rate)^2)).

    arXiv 2310.14423, section 2. During warm-up the rate is taken at its end, as there.
    """

    alpha: float
    max_sync_every: int
    learning_rate: LearningRate

    def sync_every_at(self, position: int, sync_every: int) -> int:
        """H of a cycle that begins at this position; `sync_every` is the least."""
        rate = self.learning_rate.at(max(position, self.learning_rate.warmup_steps))
        if not rate:
            return self.max_sync_every
        ratio = self.alpha / rate
        return max(sync_every, math.floor(min(ratio * ratio, float(self.max_sync_every))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Rounds, fragments and steps of a run. Rounds count from 0, inner steps from 1."""

    sync_every: int
    """H: inner steps between two rounds of the same fragment; the least where H grows."""
    num_fragments: int
    """P, all fragments counted."""
    sync_delay_steps: int
    """tau: steps between sending a fragment and applying it (lockstep mode)."""
    total_steps: int
    """Inner steps of the run; P last rounds then drain what is pending."""
    growth: Growth | None = None
    """None: H stays as it is."""

    def __post_init__(self) -> None:
        if self.num_fragments > self.sync_every:
            raise ManifestError(
                f"sync.num_fragments = {self.num_fragments} is more than"
                f" sync.sync_every = {self.sync_every}: two rounds would start at the same step"
            )
        if not 0 <= self.sync_delay_steps <= self.gap_steps - 1:
            raise ManifestError(
                f"sync.sync_delay_steps = {self.sync_delay_steps} must be at most"
                f" sync_every / num_fragments - 1 = {self.gap_steps - 1}: a round has to be"
                " applied before the next one starts"
            )
        cycles = self.total_steps // self.sync_every
        if self.growth is not None and cycles > MAX_GROWING_CYCLES:
            raise ManifestError(
                f"sync.qsr_alpha: total_steps / sync.sync_every = {cycles} cycles are more than"
                f" {MAX_GROWING_CYCLES}"
            )
        if self.total_steps < self.sync_every_from(0):
            raise ManifestError(
                f"total_steps = {self.total_steps} is less than sync.sync_every ="
                f" {self.sync_every_from(0)}: no fragment would ever be synchronized"
            )

    @property
    def gap_steps(self) -> int:
        """Steps between two rounds: floor(H / P); the fewest where H grows."""
        return self.sync_every // self.num_fragments

    @property
    def longest_sync_every(self) -> int:
        """The most that H can become."""
        return self.growth.max_sync_every if self.growth else self.sync_every

    def sync_every_from(self, position: int) -> int:
        """H of a cycle that begins at this position."""
        if self.growth is None:
            return self.sync_every
        return self.growth.sync_every_at(position, self.sync_every)

    def sync_every_of(self, round_: int) -> int:
        """H of the cycle that a round belongs to."""
        return self.sync_every_from(self._cycle_start(round_ // self.num_fragments))

    def fragment_of(self, round_: int) -> int:
        return round_ % self.num_fragments

    def step_of(self, round_: int) -> int:
        """The inner step at whose end round `round_` starts; after the last one, total_steps."""
        cycle, fragment_id = divmod(round_, self.num_fragments)
        start = self._cycle_start(cycle)
        gap_steps = self.sync_every_from(start) // self.num_fragments
        return min(start + fragment_id * gap_steps, self.total_steps)

    def planned_steps(self, round_: int) -> int:
        """Steps that round `round_` moves the schedule on by; their sum over a run is total_steps.

        The first round that drains takes the steps after the last training round; 0 for the others.
        """
        previous = self.step_of(round_ - 1) if round_ > 0 else 0
        return self.step_of(round_) - previous

    def _cycle_start(self, cycle: int) -> int:
        """The step of a cycle's first round, or one after total_steps where there is none.

        The first cycle begins when every fragment could have trained H steps.
        """
        if self.growth is None:
            return self.sync_every * (1 + cycle)
        starts = _cycle_starts(self)
        return starts[cycle] if cycle < len(starts) else self.total_steps + 1

    @property
    def training_rounds(self) -> int:
        """Rounds that start at or before total_steps."""
        if self.growth is None:
            last = self.total_steps // self.sync_every - 1
        else:
            last = len(_cycle_starts(self)) - 1
        start = self._cycle_start(last)
        gap_steps = self.sync_every_from(start) // self.num_fragments
        rest = (self.total_steps - start) // gap_steps
        return last * self.num_fragments + min(rest + 1, self.num_fragments)

    @property
    def total_rounds(self) -> int:
        """All rounds of the run, the P that drain it at the end included."""
        return self.training_rounds + self.num_fragments

    def position_after(self, round_: int) -> int:
        """Schedule position once the entry of `round_` is committed; 0 for genesis (-1)."""
        return self.step_of(round_) if round_ >= 0 else 0


def schedule_position(schedule: Schedule, round_: int, own_steps: int) -> int:
    """Position of a replica that holds the entry of `round_` and trained `own_steps` since.

    The log moves the position, a peer's own steps only fill the way to the next round: at most
    one round's share, so that a peer without a quorum does not decay its learning rate alone.
    """
    reached = schedule.position_after(round_)
    return min(reached + min(own_steps, schedule.planned_steps(round_ + 1)), schedule.total_steps)


@lru_cache(maxsize=16)
def _cycle_starts(schedule: Schedule) -> tuple[int, ...]:
    """Steps of the first rounds of all cycles that begin by the end."""
    starts, step = [], schedule.sync_every_from(0)
    while step <= schedule.total_steps:
        starts.append(step)
        step += schedule.sync_every_from(step)
    return tuple(starts)


MAX_PACE_RATIO = 16.0
"""A peer never trains more than so many times the planned steps in a round: paces are claims."""


MAX_LATE = 1.1
"""A share is trained at most so many times later than the round is due."""


def median_pace(group_paces: Iterable[float]) -> float:
    """Inner steps per second that a round is planned with; 0 while nobody's is known.

    Of two in the middle the faster one's, so that half of the peers or more train at most the
    planned steps.

    Args:
        group_paces: what the last group published; zeros are unknown.
    """
    known = sorted(pace for pace in group_paces if pace > 0)
    return known[len(known) // 2] if known else 0.0


def pace_ratio(own_pace: float, group_paces: Iterable[float]) -> float:
    """How many times the planned steps a peer trains, at most MAX_PACE_RATIO; 1 while unknown."""
    median = median_pace(group_paces)
    return min(own_pace / median, MAX_PACE_RATIO) if own_pace > 0 and median > 0 else 1.0


def steps_share(planned_steps: int, own_pace: float, group_paces: Iterable[float]) -> int:
    """Steps that a peer trains in one round so that all are ready together (DyLU, FedCompass).

    The nearest whole number, or the one below where the others would wait for more than a tenth of
    the round. It can be 0: such a peer goes on with its step, says that it is ready meanwhile, and
    contributes to the rounds after which it has ended one.

    Args:
        planned_steps: the round's length for a peer of median pace.
        own_pace: measured inner steps per second of this peer; 0 while unknown.
        group_paces: those of the last group, this peer included; zeros are ignored.
    """
    fitting = planned_steps * pace_ratio(own_pace, group_paces)
    nearest = round(fitting)
    return nearest if nearest <= MAX_LATE * fitting else math.floor(fitting)


def is_due(
    planned_steps: int, waited_s: float, ready_paces: Collection[float], others: int
) -> bool:
    """Whether a peer says that it is ready with less than its share, since the round is due.

    Its pace has fallen, or was not known. The others would wait for it: half of them are ready or
    more, and the time that the round takes at their pace is over.

    Args:
        waited_s: since this peer's last snapshot.
        ready_paces: of the others that are ready.
        others: how many the round expects.
    """
    half_are_ready = 0 < others <= 2 * len(ready_paces)
    return half_are_ready and waited_s * median_pace(ready_paces) >= planned_steps
