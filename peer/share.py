"""What this peer trains for a round and brings into it: inner steps, their tokens, and a snapshot.

A step counts once the event loop has heard of it; the trainer may be further.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from peer.replica import Replica
from peer.trainer import Trainer
from protocol.codec import Values
from protocol.events import ShareTrained
from protocol.ledger import Ledger
from protocol.manifest import Manifest
from protocol.schedule import is_due, pace_ratio, schedule_position, steps_share

ROSTER_S = 0.2
"""About what it takes until the roster is there, when everybody is ready. Peers train meanwhile, so
with shorter steps than this readiness is told one step early."""


@dataclass
class Share:
    """How far one peer has trained, as its rounds see it."""

    manifest: Manifest
    replica: Replica
    trainer: Trainer
    ledger: Ledger
    links: Callable[[], tuple[float, float]]
    """Bytes per second of payload that this peer can send and receive."""
    is_new: bool
    """Whether this peer comes to a run that has begun, without anything of its own."""

    def __post_init__(self) -> None:
        self._schedule = self.manifest.schedule
        self._loop = asyncio.get_running_loop()
        first_step = self.trainer.progress.step
        self.last_step = first_step
        self._began_at = self._at_entry = first_step
        """At the snapshot of the last applied entry: the schedule position counts from there."""
        self._began_at_s: float | None = None
        """When the share began; None until there is a step."""
        self.snapshot_step = 0
        """At the last snapshot."""
        probation_steps = self.manifest.sync.sync_every if self.is_new else 0
        self._probation_until = first_step + probation_steps
        """Before this step a newcomer's movement does not count."""

    def position(self, step: int, applied_round: int) -> int:
        """Schedule position at which inner step `step` (from 1) trains, on top of this entry."""
        if self.manifest.mode == "lockstep":
            return min(step - 1, self.manifest.total_steps)
        return schedule_position(self._schedule, applied_round, step - 1 - self._at_entry)

    def on_step(self, step: int) -> bool:
        """An inner step is done; returns whether that is news."""
        new_steps = step - self.last_step
        if new_steps <= 0:
            return False
        self.last_step = step
        if self._began_at_s is None:
            self._began_at_s = self._loop.time()
        self.ledger.trained(new_steps * self.manifest.tokens_per_step)
        return True

    @property
    def is_on_probation(self) -> bool:
        return self.last_step < self._probation_until

    def is_trained(self, round_: int, group_paces: Collection[float]) -> bool:
        """Whether what this peer trains for this round is as good as trained."""
        planned, pace = self._schedule.planned_steps(round_), self.pace_steps_per_s
        share = steps_share(planned, pace, group_paces)
        early = share > 2 and pace * ROSTER_S > 1
        return self.last_step - self._began_at >= share - early

    def is_due(self, round_: int, ready_paces: Collection[float], others: int) -> bool:
        """Whether the others, so many of them, would wait for this peer, whatever it has trained.

        Args:
            ready_paces: of those of them that are ready.
        """
        if self._began_at_s is None:
            return False
        waited_s = self._loop.time() - self._began_at_s
        return is_due(self._schedule.planned_steps(round_), waited_s, ready_paces, others)

    @property
    def pace_steps_per_s(self) -> float:
        """Inner steps per second, without what comes between them; 0 before the first."""
        return self.trainer.progress.pace_steps_per_s

    def in_numbers(
        self, round_: int, state: str, overhead_s: float, group_paces: Collection[float]
    ) -> ShareTrained:
        """What the others hear of it."""
        up, down = self.links()
        ratio = pace_ratio(self.pace_steps_per_s, group_paces)
        weight = self.ledger.claim(self._schedule.fragment_of(round_), ratio)
        tokens = 0 if self.is_on_probation else weight
        if not tokens:
            # Nobody may have any, and there is no snapshot then: empty rounds must not follow each
            # other without a share between them.
            self._begin_share()
        return ShareTrained(
            round=round_,
            state=state,
            tokens=tokens,
            pace_steps_per_s=self.pace_steps_per_s,
            up_bytes_per_s=up,
            down_bytes_per_s=down,
            overhead_s=overhead_s,
        )

    async def snapshot(self, fragment_id: int) -> Values:
        """Local parameters after the last step; while one is under way they are as before it."""
        step, local = await self.trainer.unchanged(
            lambda: (self.trainer.updated_step, self.replica.local_params(fragment_id))
        )
        self.snapshot_step = step
        self._begin_share(step)
        return local

    def tokens_after(self, step: int) -> int:
        """Trained since that step, as far as the event loop has heard."""
        return (self.last_step - step) * self.manifest.tokens_per_step

    def entry_applied(self) -> None:
        """The schedule goes on from the last snapshot."""
        self._at_entry = self._began_at

    def begin_here(self) -> None:
        """Another state is in force: what was trained before belongs to no share."""
        self._begin_share()
        self._at_entry = self._began_at

    def _begin_share(self, step: int | None = None) -> None:
        """What is trained from that step on, or from now, belongs to the next round."""
        self._began_at = self.last_step if step is None else step
        self._began_at_s = self._loop.time()
