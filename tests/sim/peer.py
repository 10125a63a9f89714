"""A simulated peer: the real state machine and the real store, with a shell on a virtual clock.

It does what peer/rounds.py does: work that takes time is done one thing after another, whatever
goes to disk is done in order, and local parameters change at step boundaries only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peer.store import Recovered, Store
from protocol.codec import Values
from protocol.errors import RemoteError
from protocol.events import (
    ApplyEntry,
    Audit,
    AveragePart,
    CompareMean,
    DiskFailed,
    Effect,
    Event,
    FetchParts,
    GetSnapshot,
    Judge,
    KeepProof,
    KeepVerdict,
    MessageReceived,
    PartAveraged,
    Record,
    Restored,
    RestoreFailed,
    Rewind,
    Send,
    SendPart,
    ServeEntries,
    ShareTrained,
    SnapshotTaken,
    StartRound,
    StepDone,
    TakeSnapshot,
)
from protocol.ledger import PENDING_CAP_CYCLES, Ledger
from protocol.log import Entry, Head
from protocol.member import Member
from protocol.messages import Decided
from protocol.schedule import is_due, pace_ratio, steps_share
from tests.sim.audits import Audits
from tests.sim.climate import Lie
from tests.sim.disk import Crash
from tests.sim.joining import Joining
from tests.sim.keys import SimKey
from tests.sim.plan import TOKENS_PER_STEP, Plan
from tests.sim.replica import TinyReplica, initial_states
from tests.sim.saw import Fate, How, InForce, Refused

if TYPE_CHECKING:
    from tests.sim.disk import SimDisk
    from tests.sim.swarm import Swarm

AVERAGE_S = 0.005
DISK_S = 0.004
OVERHEAD_S = 0.2
RESTORE_AGAIN_S = 0.5
LINK_BYTES_PER_S = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What one peer is like."""

    step_s: float = 0.25
    clock_rate: float = 1.0
    """Seconds that its clock counts in a second."""
    clock_offset_s: float = 0.0
    trains: bool = True
    joins_late: bool = False
    """Weight 0 until it has trained one cycle."""
    link_bytes_per_s: float = LINK_BYTES_PER_S
    snapshot_s: float = 0.0
    """That it takes to copy and encode a fragment."""
    lies: Lie = ""
    """What it does falsely, now and then."""


class SimPeer:
    """One life of a peer, from its start to its crash. `Swarm` delivers to it through `run`."""

    def __init__(
        self,
        swarm: Swarm,
        me: str,
        plan: Plan,
        habits: Habits,
        disk: SimDisk,
        head: Head | None = None,
    ) -> None:
        """`head`: where it stands, if not where its disk and the genesis say."""
        self.me = me
        self.habits = habits
        self.disk = disk
        self.replica = TinyReplica(plan, me)
        self.audits = Audits(swarm, self, plan)
        self.store = Store(
            disk,
            plan.tally,
            new_incarnation=swarm.new_incarnation(me),
            log_bytes=plan.log_bytes,
            checkpoint_rounds=plan.limits.checkpoint_rounds,
        )
        self.steps = 0
        self.is_dead = False
        self.is_frozen = False
        self.is_training = habits.trains
        self.born_s = swarm.clock.now_s
        self.idle_s = 0.0
        """How long it was frozen, or through with its training."""
        self._through_since_s: float | None = None
        self.ledger = Ledger(
            part_values=plan.part_values,
            cap_tokens=PENDING_CAP_CYCLES * plan.schedule.sync_every * TOKENS_PER_STEP,
        )
        self.versions = [-1] * len(plan.part_values)
        self._swarm = swarm
        self._clock = swarm.clock
        self._plan = plan
        self._schedule = plan.schedule
        self._backlog: list[Callable[[], None]] = []
        self._work: deque[Effect] = deque()
        self._working = False
        self._to_disk: deque[Record | ApplyEntry] = deque()
        self._writing = False
        self._at_boundary: list[Callable[[], None]] = []
        self._steps_at_snapshot = 0
        self._snapshot_s = self.born_s
        self._group_paces: list[float] = []
        self._last_step_s = 0.0
        self._probation_steps = self._schedule.sync_every if habits.joins_late else 0
        self._told_round = -2
        self._applied_round = -1
        self._hold_at: int | None = None
        self._held_snapshot: Values | None = None
        self._lockstep = self._lockstep_script()
        self._lockstep_waits: Callable[[], bool] = lambda: True
        recovered = None if head else self._recover()
        self.member = Member(
            me=me,
            terms=plan.terms,
            head=head or (recovered.head if recovered else plan.genesis_head()),
            now_s=self.now_s,
            signer=SimKey(me),
            incarnation=self.store.incarnation,
            ballots=self.store.ballots,
            accepted_parts=self.store.accepted_parts,
            trail=recovered.trail if recovered else (),
            verdicts=self.store.verdicts.known,
            trains=habits.trains,
        )
        has_books = recovered is not None and recovered.private is not None
        self._in_force("started", self.member.head, self._local(), has_books)

    def _recover(self) -> Recovered | None:
        recovered = self._recovered(None)
        if recovered is None or recovered.head.round < 0:
            return None
        self._probation_steps = 0 if recovered.private else self._probation_steps
        self.replica.states = list(recovered.states)
        for f, (global_params, _) in enumerate(recovered.states):
            mine = (recovered.private or {}).get(f"local_{f}")
            self.replica.local_params[f] = (global_params if mine is None else mine).copy()
        if recovered.private is not None:
            # Local parameters of the checkpoint follow what the own log has applied since.
            self._follow_replayed(recovered)
            self.ledger.restore(recovered.facts["ledger"])
            self.steps = self._steps_at_snapshot = int(recovered.facts["steps"])
        for entry, _ in recovered.replayed:
            self.ledger.decided(entry, self.me)
        self.versions = list(recovered.versions)
        self._applied_round = recovered.head.round
        self._swarm.saw(self, Fate(f"{self.me} goes on from round {recovered.head.round}"))
        return recovered

    def _in_force(
        self, how: How, head: Head, local_before: list[Values], has_books: bool = True
    ) -> None:
        """Show the state that the replica is in."""
        states, local = list(self.replica.states), self._local()
        state = InForce(how, head, states, local_before, local, self.ledger, has_books)
        self._swarm.saw(self, state)

    def _local(self) -> list[Values]:
        return [self.replica.local(f) for f in range(len(self.versions))]

    def _follow_replayed(self, recovered: Recovered) -> None:
        """Where the local parameters of a checkpoint are, after the entries replayed on top."""
        replica = TinyReplica(self._plan, self.me)
        replica.states = list(recovered.begun_at)
        replica.local_params = self.replica.local_params
        for entry, parts in recovered.replayed:
            replica.apply(entry, parts, self.me)
        replica.fold_in()

    def _recovered(self, upto: int | None, at: str = "") -> Recovered | None:
        return self.store.recover(
            self._plan.genesis, initial_states(self._plan), self.replica.outer_step, upto, at
        )

    @property
    def fragment_values(self) -> list[int]:
        return [sum(values) for values in self._plan.part_values]

    @property
    def now_s(self) -> float:
        """As this peer's own clock counts."""
        return self._clock.now_s * self.habits.clock_rate + self.habits.clock_offset_s

    def start(self) -> None:
        self._tick()
        if self.habits.trains:
            self._begin_step()
        self._tell_if_ready()

    # --- life and death --------------------------------------------------------------------------

    def run(self, call: Callable[[], None]) -> None:
        """Do something in this peer's process: never when it is dead, later when it is frozen."""
        if self.is_frozen and not self.is_dead:
            self._backlog.append(call)
        elif not self.is_dead:
            try:
                call()
            except Crash:
                self._swarm.crash(self.me)

    def thaw(self) -> None:
        self.is_frozen = False
        backlog, self._backlog = self._backlog, []
        for call in backlog:
            self.run(call)

    # --- events in, effects out ------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """An event of its own: whatever this raises is a bug."""
        self._swarm.saw(self, event)
        self._do(self.member.handle(event, self.now_s))

    def receive(self, sender: str, event: Event) -> None:
        """Something from another peer, which may be refused."""
        try:
            effects = self.member.handle(event, self.now_s)
        except RemoteError as error:
            self._swarm.saw(self, Refused(sender, event, error.why))
            return
        self._do(effects)

    def part(self, digest: str) -> bytes | None:
        """What it gives to others by content address."""
        return (
            self.member.bytes_of(digest)
            or self.store.book.part(digest)
            or self.audits.inputs.get(digest)
        )

    def hand_over(self) -> None:
        self._do(self.member.hand_over(self.now_s))

    def say_goodbye(self) -> None:
        self._do(self.member.leave())

    def _tick(self) -> None:
        self._do(self.member.tick(self.now_s))
        self._tell_if_ready()
        delay_s = max(0.0, self.member.wakes_at_s() - self.now_s) / self.habits.clock_rate
        self._clock.after(delay_s, lambda: self.run(self._tick))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._swarm.saw(self, effect)
            match effect:
                case Send(to, message) if to == self.me:
                    self._do(self.member.handle(MessageReceived(to, message), self.now_s))
                case Send(to, message):
                    self._swarm.tell(self.me, to, message)
                case SendPart():
                    self._swarm.push(self.me, effect)
                case StartRound(roster):
                    self._group_paces = [m.pace_steps_per_s for m in roster.members]
                    self._swarm.start_round(self.me, roster.digest)
                case FetchParts(wanted, sources):
                    self._swarm.fetch(self, wanted, sources)
                case ServeEntries(to, round_):
                    for message in self.store.entries_after(round_):
                        self._do([Send(to, message)])
                case KeepProof(double_vote):
                    self.store.evidence.keep(double_vote)
                case CompareMean():
                    self.audits.compare(effect)
                case Audit(claim):
                    self.audits.look_into(claim)
                case Judge(accusation):
                    self.audits.judge(accusation)
                case KeepVerdict(verdict):
                    self.store.verdicts.keep(verdict)
                case Record():
                    self._to_disk.append(effect)
                case ApplyEntry():
                    self._to_disk.append(effect)
                    self._work.append(effect)
                    self.audits.audit(effect.claims)
                case TakeSnapshot() | AveragePart() | Rewind() | GetSnapshot():
                    self._work.append(effect)
        self._write_on()
        self._work_on()

    # --- what goes to disk, in order -------------------------------------------------------------

    def _write_on(self) -> None:
        if not self._writing and self._to_disk:
            self._writing = True
            self._clock.after(DISK_S, lambda: self.run(self._write))

    def _write(self) -> None:
        self._writing = False
        if not self._to_disk:
            return
        effect = self._to_disk.popleft()
        try:
            if isinstance(effect, Record):
                self.store.record(effect)
            else:
                self.store.append(effect.decided, effect.parts)
        except OSError as error:
            self.handle(DiskFailed(str(error)))
        else:
            if isinstance(effect, Record) and self.member.incarnation:
                self._do(list(effect.then))
        self._write_on()

    # --- training --------------------------------------------------------------------------------

    def _begin_step(self) -> None:
        step_s = self.habits.step_s
        self._clock.after(step_s, lambda: self.run(lambda: self._step(step_s)))

    def _step(self, took_s: float) -> None:
        if self.may_step():
            self.steps += 1
            self._last_step_s = took_s
            self._probation_steps = max(0, self._probation_steps - 1)
            self.replica.train_step()
            self.ledger.trained(TOKENS_PER_STEP)
            self.handle(StepDone(self.steps))
        waiting, self._at_boundary = self._at_boundary, []
        for call in waiting:
            call()
        self._tell_if_ready()
        self._begin_step()

    def may_step(self) -> bool:
        """Always while it trains; in lockstep not before the round is through."""
        return self.is_training and (self._hold_at is None or self.steps < self._hold_at)

    def _tell_if_ready(self) -> None:
        """Say, once, that this round's share is trained."""
        if self._plan.lockstep:
            while self._lockstep_waits():
                self._lockstep_waits = next(self._lockstep)
            return
        round_ = self.member.round
        if self._told_round == round_ or self._applied_round != round_ - 1:
            return
        if self.member.is_finished or not self.habits.trains or self.member.standing != "in step":
            return
        if round_ <= self._schedule.training_rounds and not self._is_trained(round_):
            return
        if round_ >= self._schedule.training_rounds and self.is_training:
            self.is_training, self._through_since_s = False, self._clock.now_s
        self._tell_share(round_)

    def _is_trained(self, round_: int) -> bool:
        planned, member = self._schedule.planned_steps(round_), self.member
        share = steps_share(planned, self.pace, self._group_paces)
        if self.steps - self._steps_at_snapshot >= share:
            return True
        waited_s = self._clock.now_s - self._snapshot_s
        return is_due(planned, waited_s, member.ready_paces, len(member.expected))

    @property
    def pace(self) -> float:
        """Inner steps per second of the last one that it has ended; 0 before the first."""
        return 1 / self._last_step_s if self._last_step_s else 0.0

    def _tell_share(self, round_: int) -> None:
        self._told_round = round_
        ratio = pace_ratio(self.pace, self._group_paces)
        weight = self.ledger.claim(self._schedule.fragment_of(round_), ratio)
        tokens = 0 if self._probation_steps else weight
        if not tokens:
            self._steps_at_snapshot, self._snapshot_s = self.steps, self._clock.now_s
        self.handle(
            ShareTrained(
                round=round_,
                state=self.replica.state_digest(),
                tokens=tokens,
                pace_steps_per_s=self.pace,
                up_bytes_per_s=self.habits.link_bytes_per_s,
                down_bytes_per_s=self.habits.link_bytes_per_s,
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
                self._after(
                    self.habits.snapshot_s, lambda: self._take_snapshot(round_, fragment_id)
                )
            case AveragePart():
                self._after(AVERAGE_S, lambda: self._average(work))
            case ApplyEntry():
                self._after(0.0, lambda: self._apply(work))
            case Rewind():
                self._boundary(lambda: self._rewind(work))
            case GetSnapshot():
                Joining(self._swarm, self, work).start()

    def _boundary(self, call: Callable[[], None]) -> None:
        """At the trainer's next step boundary; at once while it stands still."""
        if self.is_training and not self._plan.lockstep:
            self._at_boundary.append(call)
        else:
            self._after(0.0, call)

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        """In this peer's process; a step may be under way."""
        self._clock.after(delay_s, lambda: self.run(call))

    def _done(self) -> None:
        self._working = False
        self._work_on()

    def _take_snapshot(self, round_: int, fragment_id: int) -> None:
        local = self._held_snapshot
        if local is None:
            local = self._snapshot(fragment_id)
        parts = self.replica.encode(fragment_id, local)
        self.audits.keep(round_, parts)
        self.handle(SnapshotTaken(round=round_, parts=parts))
        self._done()

    def _snapshot(self, fragment_id: int) -> Values:
        self._steps_at_snapshot, self._snapshot_s = self.steps, self._clock.now_s
        return self.replica.local(fragment_id)

    def _average(self, part: AveragePart) -> None:
        self.audits.keep(self.member.round, part.contributions)
        mean = self.replica.average(part.contributions, part.tokens, part.values)
        data = self.audits.mean(part, mean)
        self.handle(PartAveraged(roster=part.roster, part_index=part.part_index, data=data))
        self._done()

    def _apply(self, effect: ApplyEntry) -> None:
        entry, before = effect.entry, self._local()
        self.replica.apply(entry, effect.parts, self.me)
        self.ledger.decided(entry, self.me)
        if not entry.is_empty:
            self.versions[entry.fragment_id] = entry.round
        self._applied_round = entry.round
        self._held_snapshot = None
        self._in_force("applied", Head.of_entry(entry), before)
        self._boundary(self.replica.fold_in)
        if (entry.round + 1) % self._plan.limits.checkpoint_rounds == 0:
            self._checkpoint(effect.decided)
        self._tell_if_ready()
        self._done()

    # --- checkpoints, and other states -----------------------------------------------------------

    def _checkpoint(self, decided: Decided) -> None:
        private = {f"local_{f}": local for f, local in enumerate(self._local())}
        facts = {"ledger": self.ledger.to_json(), "steps": self.steps}
        states = self.replica.states
        try:
            self.store.checkpoints.save(
                decided.round, decided, states, self.versions, private, facts, self.member.trail
            )
        except OSError as error:
            self._swarm.saw(self, Fate(f"{self.me} writes no checkpoint: {error}"))

    def _rewind(self, effect: Rewind) -> None:
        recovered = self._recovered(effect.round, effect.head)
        if recovered is None:
            self._working = False
            why = "the entry is no longer here"
            self._work.appendleft(GetSnapshot(why, effect.after, effect.without_quorum))
            self._work_on()
            return
        self._adopt(recovered, keep_after=effect.round)
        self._done()

    def joined(self, state: Recovered | None, why: str) -> None:
        """A snapshot is here, or none could be had."""
        if state is None:
            failed = RestoreFailed(why)
            self._clock.after(RESTORE_AGAIN_S, lambda: self.run(lambda: self._not_restored(failed)))
            return
        self._adopt(state, keep_after=None)
        self._done()

    def _not_restored(self, failed: RestoreFailed) -> None:
        self.handle(failed)
        self._done()

    def _adopt(self, state: Recovered, keep_after: int | None) -> None:
        """Another shared state is in force."""
        while self._to_disk:
            self._write()  # the disk does one thing after another, and these came first
        forgotten: list[Entry] = []
        try:
            if keep_after is None:
                self.store.begin_anew()
            else:
                forgotten = self.store.rewind(keep_after)
            incarnation = self.store.incarnation
        except OSError:
            incarnation = ""
        for entry in forgotten:
            self.ledger.given_up(entry, self.me)
        given_up = self._applied_round - state.head.round
        before = self._local()
        self.replica.adopt(state.states)
        self.versions = list(state.versions)
        self._applied_round = state.head.round
        self._told_round = -2
        if self._through_since_s is not None:
            # Another log leads back from the end.
            self.idle_s += self._clock.now_s - self._through_since_s
            self.is_training, self._through_since_s = True, None
        if keep_after is None:
            self._in_force("snapshot", state.head, before)
        else:
            # What the log no longer keeps, nobody can take back.
            self._in_force("rewound", state.head, before, has_books=len(forgotten) == given_up)
        self.handle(Restored(head=state.head, trail=state.trail, incarnation=incarnation))
