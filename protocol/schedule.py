"""When each fragment is synchronized, and the learning rate at each step: pure functions.

Streaming DiLoCo, arXiv 2501.18512, Algorithm 2 and section 2.2: fragment p is sent every H steps
at an offset of its own, and every fragment trains H steps before its first round.
"""

import math
from dataclasses import dataclass

from protocol.errors import ManifestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Rounds, fragments and steps of a run. Rounds count from 0, inner steps from 1."""

    sync_every: int
    """H: inner steps between two rounds of the same fragment."""
    num_fragments: int
    """P, all fragments counted."""
    sync_delay_steps: int
    """tau: steps between sending a fragment and applying it (lockstep mode)."""
    total_steps: int
    """Inner steps of the run; P last rounds then drain what is pending."""

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
        if self.total_steps < self.sync_every:
            raise ManifestError(
                f"total_steps = {self.total_steps} is less than sync.sync_every ="
                f" {self.sync_every}: no fragment would ever be synchronized"
            )

    @property
    def gap_steps(self) -> int:
        """Steps between two rounds: floor(H / P)."""
        return self.sync_every // self.num_fragments

    def fragment_of(self, round_: int) -> int:
        return round_ % self.num_fragments

    def step_of(self, round_: int) -> int:
        """The inner step at whose end round `round_` starts; after the last one, total_steps."""
        cycle, fragment_id = divmod(round_, self.num_fragments)
        step = self.sync_every * (1 + cycle) + fragment_id * self.gap_steps
        return min(step, self.total_steps)

    def planned_steps(self, round_: int) -> int:
        """Steps that round `round_` moves the schedule on by; their sum over a run is total_steps.

        The first round that drains takes the steps after the last training round; 0 for the others.
        """
        previous = self.step_of(round_ - 1) if round_ > 0 else 0
        return self.step_of(round_) - previous

    @property
    def training_rounds(self) -> int:
        """Rounds that start at or before total_steps."""
        cycles, rest = divmod(self.total_steps, self.sync_every)
        return (cycles - 1) * self.num_fragments + min(
            rest // self.gap_steps + 1, self.num_fragments
        )

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


def learning_rate_factor(
    position: int, *, total_steps: int, warmup_steps: int, final_ratio: float
) -> float:
    """Linear warm-up, then cosine to `final_ratio`; 1.0 at the peak. Position counts from 0."""
    if position < warmup_steps:
        return (position + 1) / (warmup_steps + 1)
    progress = (position - warmup_steps) / max(1, total_steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return final_ratio + (1 - final_ratio) * cosine


MAX_PACE_RATIO = 16.0
"""A peer never trains more than so many times the planned steps in a round: paces are claims."""


def steps_share(planned_steps: int, own_pace: float, group_paces: list[float]) -> int:
    """Steps that a peer trains in one round so that all are ready together (DyLU, FedCompass).

    Args:
        planned_steps: the round's length for a peer of median pace.
        own_pace: measured inner steps per second of this peer; 0 while unknown.
        group_paces: those of the last group, this peer included; zeros are ignored.
    """
    known = sorted(pace for pace in group_paces if pace > 0)
    if planned_steps == 0 or own_pace <= 0 or not known:
        return planned_steps
    ratio = own_pace / known[len(known) // 2]
    return max(1, round(planned_steps * min(ratio, MAX_PACE_RATIO)))
