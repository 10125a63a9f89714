"""A simulated peer: the real state machine, with a shell that carries its effects out.

It does what peer/rounds.py does, on the virtual clock: work that takes time is done one thing after
another, and local parameters are read and written at step boundaries only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from protocol.codec import Values
from protocol.errors import RemoteError
from protocol.events import (
    ApplyEntry,
    AveragePart,
    Effect,
    Event,
    PartAveraged,
    Send,
    SendPart,
    ShareTrained,
    SnapshotTaken,
    StartRound,
    StepDone,
    TakeSnapshot,
)
from protocol.log import Head
from protocol.member import Member
from protocol.terms import Terms
from tests.sim.plan import TOKENS_PER_STEP, Plan
from tests.sim.replica import TinyReplica
from tests.sim.saw import Applied, Refused

if TYPE_CHECKING:
    from tests.sim.swarm import Swarm

AVERAGE_S = 0.005
OVERHEAD_S = 0.2
LINK_BYTES_PER_S = 2000.0


class SimPeer:
    """One peer. `Swarm` delivers to it through `run`, which knows about death and frost."""

    def __init__(self, swarm: Swarm, me: str, plan: Plan, step_s: float, head: Head) -> None:
        self.me = me
        self.member = Member(
            me=me,
            terms=Terms(
                run_id=plan.run_id,
                schedule=plan.schedule,
                part_values=plan.part_values,
                codec=plan.codec,
                limits=plan.limits,
                lockstep=plan.lockstep,
            ),
            head=head,
            now_s=swarm.clock.now_s,
        )
        self.replica = TinyReplica(plan, me)
        self.steps = 0
        self.is_dead = False
        self.is_frozen = False
        self.frozen_s = 0.0
        self.is_training = True
        self.step_s = step_s
        self._swarm = swarm
        self._clock = swarm.clock
        self._plan = plan
        self._schedule = plan.schedule
        self._backlog: list[Callable[[], None]] = []
        self._work: deque[Effect] = deque()
        self._working = False
        self._at_boundary: list[Callable[[], None]] = []
        self._pending_tokens = [0] * len(plan.part_values)
        self._snapshot_tokens = 0
        self._steps_at_snapshot = 0
        self._told_round = -1
        self._applied_round = -1
        self._hold_at: int | None = None
        self._held_snapshot: Values | None = None
        self._lockstep = self._lockstep_script()
        self._lockstep_waits: Callable[[], bool] = lambda: True

    def start(self) -> None:
        self._tick()
        self._clock.after(self.step_s, lambda: self.run(self._step))
        self._tell_if_ready()

    # --- life and death --------------------------------------------------------------------------

    def run(self, call: Callable[[], None]) -> None:
        """Do something in this peer's process: never when it is dead, later when it is frozen."""
        if self.is_frozen and not self.is_dead:
            self._backlog.append(call)
        elif not self.is_dead:
            call()

    def thaw(self) -> None:
        self.is_frozen = False
        backlog, self._backlog = self._backlog, []
        for call in backlog:
            self.run(call)

    # --- events in, effects out ------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """An event of its own: whatever this raises is a bug."""
        self._swarm.saw(self, event)
        self._do(self.member.handle(event, self._clock.now_s))

    def receive(self, sender: str, event: Event) -> None:
        """Something from another peer, which may be refused."""
        try:
            effects = self.member.handle(event, self._clock.now_s)
        except RemoteError as error:
            self._swarm.saw(self, Refused(sender, event, error.why))
            return
        self._do(effects)

    def leave(self) -> None:
        self._do(self.member.leave())
        self.is_dead = True

    def _tick(self) -> None:
        self._do(self.member.tick(self._clock.now_s))
        self._tell_if_ready()
        wakes_at_s = max(self._clock.now_s, self.member.wakes_at_s())
        self._clock.at(wakes_at_s, lambda: self.run(self._tick))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._swarm.saw(self, effect)
            match effect:
                case Send(to, message):
                    self._swarm.tell(self.me, to, message)
                case SendPart():
                    self._swarm.push(self.me, effect)
                case StartRound(roster):
                    self._swarm.start_round(self.me, roster.digest)
                case TakeSnapshot() | AveragePart() | ApplyEntry():
                    self._work.append(effect)
        self._work_on()

    # --- training --------------------------------------------------------------------------------

    def _step(self) -> None:
        if self.is_training and (self._hold_at is None or self.steps < self._hold_at):
            self.steps += 1
            self.replica.train_step()
            self._pending_tokens = [tokens + TOKENS_PER_STEP for tokens in self._pending_tokens]
            self.handle(StepDone(self.steps))
        waiting, self._at_boundary = self._at_boundary, []
        for call in waiting:
            call()
        self._tell_if_ready()
        self._clock.after(self.step_s, lambda: self.run(self._step))

    def _tell_if_ready(self) -> None:
        """Say, once, that this round's share is trained."""
        if self._plan.lockstep:
            while self._lockstep_waits():
                self._lockstep_waits = next(self._lockstep)
            return
        round_ = self.member.round
        if self._told_round == round_ or self._applied_round != round_ - 1:
            return
        if self.member.is_finished:
            return
        if round_ <= self._schedule.training_rounds:
            share = self._schedule.planned_steps(round_)
            if self.steps - self._steps_at_snapshot < share:
                return
            self.is_training = round_ < self._schedule.training_rounds
        self._tell_share(round_)

    def _tell_share(self, round_: int) -> None:
        self._told_round = round_
        self.handle(
            ShareTrained(
                round=round_,
                state=self.replica.state_digest(),
                tokens=self._pending_tokens[self._schedule.fragment_of(round_)],
                pace_steps_per_s=1 / self.step_s,
                up_bytes_per_s=LINK_BYTES_PER_S,
                down_bytes_per_s=LINK_BYTES_PER_S,
                overhead_s=OVERHEAD_S,
            )
        )

    def _lockstep_script(self) -> Iterator[Callable[[], bool]]:
        """arXiv 2501.18512, Algorithm 2: yields what to wait for before going on."""
        schedule = self._schedule
        for round_ in range(schedule.total_rounds):
            send_step = schedule.step_of(round_)
            yield self._trained(send_step)
            self._held_snapshot = self._snapshot(schedule.fragment_of(round_))
            self._tell_share(round_)
            draining = round_ >= schedule.training_rounds
            delay_steps = 0 if draining else schedule.sync_delay_steps
            yield self._trained(min(send_step + delay_steps, schedule.total_steps))
            yield lambda until=round_: self._applied_round >= until  # type: ignore[misc]
        self._hold_at = self.steps
        yield lambda: False

    def _trained(self, step: int) -> Callable[[], bool]:
        self._hold_at = step
        return lambda: self.steps >= step

    # --- work that takes time, one thing after another -------------------------------------------

    def _work_on(self) -> None:
        if self._working or not self._work:
            return
        self._working = True
        work = self._work.popleft()
        match work:
            case TakeSnapshot(round_, fragment_id):
                self._boundary(lambda: self._take_snapshot(round_, fragment_id))
            case AveragePart():
                self._clock.after(AVERAGE_S, lambda: self.run(lambda: self._average(work)))
            case ApplyEntry():
                self._boundary(lambda: self._apply(work))

    def _boundary(self, call: Callable[[], None]) -> None:
        """At the trainer's next step boundary; at once while it stands still."""
        if self.is_training and not self._plan.lockstep:
            self._at_boundary.append(call)
        else:
            self._clock.after(0.0, lambda: self.run(call))

    def _done(self) -> None:
        self._working = False
        self._work_on()

    def _take_snapshot(self, round_: int, fragment_id: int) -> None:
        local = self._held_snapshot
        if local is None:
            local = self._snapshot(fragment_id)
        self.handle(SnapshotTaken(round=round_, parts=self.replica.encode(fragment_id, local)))
        self._done()

    def _snapshot(self, fragment_id: int) -> Values:
        self._steps_at_snapshot = self.steps
        self._snapshot_tokens = self._pending_tokens[fragment_id]
        return self.replica.local_params[fragment_id].copy()

    def _average(self, part: AveragePart) -> None:
        data = self.replica.average(part.contributions, part.tokens, part.values)
        self.handle(PartAveraged(roster=part.roster, part_index=part.part_index, data=data))
        self._done()

    def _apply(self, effect: ApplyEntry) -> None:
        entry = effect.entry
        self.replica.apply(entry, effect.parts, self.me)
        if any(entry.contributed_parts(self.me)):
            self._pending_tokens[entry.fragment_id] -= self._snapshot_tokens
        self._applied_round = entry.round
        self._held_snapshot = None
        self._swarm.saw(self, Applied(entry.round, self.replica.state_digest()))
        self._tell_if_ready()
        self._done()
