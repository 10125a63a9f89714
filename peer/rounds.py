"""Drives `protocol.member.Member`: events into it, its effects out to trainer, replica and network.

Two ways to hand steps to rounds, as the manifest says:

- elastic: the trainer never stops. When its share of the round is nearly trained, the peer says so;
  the snapshot is taken at the step boundary after the roster came, and the outer step is folded in
  at the boundary after it was decided.
- lockstep: the trainer is held at the step where the schedule sends, and again, tau steps later,
  where it applies (arXiv 2501.18512, Algorithm 2).
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from peer.catchup import Catchup
from peer.replica import Replica
from peer.round_record import RoundRecord
from peer.scribe import Scribe
from peer.store import Recovered
from peer.trainer import Trainer
from peer.transport import Transport
from protocol.codec import Values
from protocol.errors import CodecError, DilocoError, RemoteError, UnavailableError
from protocol.events import (
    ApplyEntry,
    AveragePart,
    ContributionRefused,
    DiskFailed,
    DiskWorks,
    Effect,
    Event,
    FetchFailed,
    FetchParts,
    GetSnapshot,
    Leg,
    MessageReceived,
    Note,
    PartAveraged,
    PartFetched,
    PartReceived,
    PeerMet,
    PeerUnreachable,
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
from protocol.ledger import Ledger
from protocol.log import Entry, Genesis, coordinators
from protocol.manifest import Manifest
from protocol.member import Member
from protocol.messages import Message, Roster
from protocol.schedule import schedule_position, steps_share

EARLY_STEPS = 1
"""Readiness is told this many steps before the share is trained: the roster takes a moment, and
the snapshot waits for the next step boundary anyway."""
POLL_S = 0.05
MAX_UNAPPLIED = 8
"""More entries than this, replayed faster than they are applied, do not wait in memory."""


AfterRound: TypeAlias = "Callable[[RoundDriver, int], Coroutine[Any, Any, None] | None]"


@dataclass
class RoundDriver:
    """One peer's rounds, from where its member stands to the last entry."""

    manifest: Manifest
    member: Member
    genesis: Genesis
    initial: list[Any]
    """The shared state at genesis."""
    replica: Replica
    trainer: Trainer
    transport: Transport
    scribe: Scribe
    catchup: Catchup
    ledger: Ledger
    record: RoundRecord
    links: Callable[[], tuple[float, float]]
    """Bytes per second of payload that this peer can send and receive."""
    note: Callable[[str], None]
    versions: list[int] = field(default_factory=list)
    """For each fragment the round of the last entry that averaged it."""
    is_new: bool = False
    """Whether this peer comes to a run that has begun, without anything of its own."""

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._last_applied: ApplyEntry | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._unstarted: list[Coroutine[Any, Any, None]] = []
        """What messages ask for that come before `run`."""
        self._schedule = self.manifest.schedule
        self._math = ThreadPoolExecutor(1, thread_name_prefix="math")
        # At most a snapshot, an entry, and an average for each part that this peer owns.
        self._work: asyncio.Queue[Any] = asyncio.Queue()
        first_step = self.trainer.progress.step
        self._steps_at_snapshot = self._steps_at_entry = self._last_step = first_step
        """At the snapshot of the last applied entry: the schedule position counts from there."""
        probation_steps = self.manifest.sync.sync_every if self.is_new else 0
        self._probation_until = first_step + probation_steps
        """Before this step a newcomer's movement does not count."""
        if self.is_new:
            self.catchup.leave(self.member.head.round)
        self._awaited_step = 0
        self._reached = asyncio.Event()
        self._told_round = -1
        self._applied_round = self.member.head.round
        self._state = ""
        """Digest of the fragment that the last entry averaged; the genesis vouches for the rest."""
        if self._applied_round >= 0:
            fragment_id = self._schedule.fragment_of(self._applied_round)
            self._state = self.replica.fragment_digest(fragment_id)
        self._held_snapshot: Values | None = None
        """Lockstep: taken at the schedule's step, before the roster asks for it."""
        self._decided: asyncio.Queue[ApplyEntry] = asyncio.Queue()
        """Lockstep: decided entries, until the trainer is at the step where they apply."""
        self.record.begin_at(self.member.head)
        self.finished = asyncio.Event()
        if self.member.is_finished:
            self.finished.set()
        self.last_group: dict[str, float] = {}
        """Pace of each member of the last roster, in steps per second."""
        self.after_round: AfterRound = lambda driver, round_: None
        """Called when an entry was applied; what it returns is awaited beside the rounds."""

    # --- the trainer's questions and news --------------------------------------------------------

    def position(self, step: int) -> int:
        """Schedule position at which inner step `step` (from 1) trains."""
        if self.manifest.mode == "lockstep":
            return min(step - 1, self.manifest.total_steps)
        own_steps = step - 1 - self._steps_at_entry
        return schedule_position(self._schedule, self._applied_round, own_steps)

    def on_step(self, step: int) -> None:
        """An inner step is done (called in the event loop)."""
        new_steps = step - self._last_step
        if new_steps <= 0:
            return
        self._last_step = step
        if step >= self._awaited_step:
            self._reached.set()
        self.ledger.trained(new_steps * self.manifest.tokens_per_step)
        self._handle(StepDone(step))
        self._tell_if_ready()

    # --- the network's news (Inbox) --------------------------------------------------------------

    def on_message(self, sender: str, message: Message) -> None:
        self._do(self.member.handle(MessageReceived(sender, message), self._loop.time()))

    def on_part(
        self,
        sender: str,
        roster: str,
        leg: Leg,
        part_index: int,
        data: bytes,
        without: tuple[int, ...] = (),
    ) -> None:
        part = PartReceived(
            sender=sender,
            roster=roster,
            leg=leg,
            part_index=part_index,
            data=data,
            without=without,
        )
        self._do(self.member.handle(part, self._loop.time()))

    def expected_bytes(self, sender: str, roster: str, leg: Leg, part_index: int) -> int | None:
        return self.member.expected_bytes(sender, roster, leg, part_index)

    def on_unreachable(self, peer_id: str, why: str, began_s: float) -> None:
        self._handle(PeerUnreachable(peer_id, why, began_s))

    def on_met(self, peer_id: str) -> None:
        """A peer of the run can be dialled, for the first time or at a new address."""
        self._handle(PeerMet(peer_id))

    def on_disk_failure(self, why: str) -> None:
        self._handle(DiskFailed(why))

    def on_disk_repair(self) -> None:
        store = self.scribe.store
        self._handle(DiskWorks(store.incarnation, store.ballots))
        if self._last_applied is not None:
            # Entries are missing in the log: whoever restarts begins after them.
            self._spawn(self._save_checkpoint(self._last_applied))

    # --- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive rounds until the last entry is applied."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for work in self._unstarted:
                tasks.create_task(work)
            ticker = tasks.create_task(self._tick())
            worker = tasks.create_task(self._do_work())
            if self.manifest.mode == "lockstep":
                tasks.create_task(self._lockstep())
            elif self.is_new and self.member.trains:
                tasks.create_task(self._arrive())
            await self.finished.wait()
            worker.cancel()
            await self.scribe.finish()
            await self._wait_for_others()
            ticker.cancel()

    async def _arrive(self) -> None:
        """A newcomer trains from where the swarm is, and not from where the run began."""
        while self.catchup.is_away:
            await asyncio.sleep(POLL_S)
        states = self.replica.states
        await self.trainer.at_boundary(lambda: self.replica.begin_at(states, None))
        self.trainer.go_on()

    def _watch_the_way(self) -> None:
        """Notice that the group is further than this peer, and that it has come there."""
        member = self.member
        if not self.catchup.is_away:
            if member.standing == "restoring" or member.entries_behind > 1:
                self.catchup.leave(self._applied_round)
        elif member.has_arrived and self._applied_round == member.head.round:
            arrival = self.catchup.arrive()
            self.record.arrived(self._applied_round, arrival)
            self.note(f"arrived at round {self._applied_round} {arrival.in_words}")

    async def leave(self, hand_over_s: float, stay_s: float) -> None:
        """Tell the others that this peer is going; first, should they need it, to do without.

        It stays and votes until an entry whose voters omit it is decided, or for `stay_s`.
        """
        until_s = self._loop.time() + hand_over_s
        while self.member.is_needed and self._loop.time() < until_s:
            self._do(self.member.hand_over(self._loop.time()))
            await asyncio.sleep(POLL_S)
        self._do(self.member.leave())
        until_s = self._loop.time() + stay_s
        while self._is_waited_for() and self._loop.time() < until_s:
            await asyncio.sleep(POLL_S)
        await self.scribe.finish()
        if self._last_applied is not None:
            # What was trained since the last checkpoint must not be lost with a clean exit.
            await self._save_checkpoint(self._last_applied)
            await self.scribe.finish()

    def _is_waited_for(self) -> bool:
        member = self.member
        is_voter = member.me in member.head.voters and len(member.head.voters) > 1
        return is_voter and not member.is_finished and not member.is_alone

    def close(self) -> None:
        """Nothing that still comes in changes anything any more."""
        self._is_closed = True
        self._math.shutdown(wait=False, cancel_futures=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self.member.wakes_at_s() - self._loop.time()))
            self._do(self.member.tick(self._loop.time()))
            self._watch_the_way()
            if self.manifest.mode == "elastic":
                self._tell_if_ready()

    async def _wait_for_others(self, patience_s: float = 10.0) -> None:
        """Stay until the others have the last entry too: they may still ask for it."""
        deadline_s = self._loop.time() + patience_s
        while not self.member.all_others_finished() and self._loop.time() < deadline_s:
            await asyncio.sleep(0.1)

    def _tell_if_ready(self) -> None:
        """Elastic mode: say that this round's share is trained, once."""
        round_ = self.member.round
        if (
            self.manifest.mode != "elastic"
            or self._told_round == round_
            or self._applied_round != round_ - 1
            or self.member.is_finished
            or self.member.standing != "in step"
            or not self.member.trains
        ):
            return
        if round_ >= self._schedule.training_rounds + 1:
            self._tell_share(round_)
            return
        if not self._has_trained_its_share(round_):
            return
        if round_ == self._schedule.training_rounds:
            self.trainer.finish()
        self._tell_share(round_)

    def _has_trained_its_share(self, round_: int) -> bool:
        if self._is_on_probation:
            # Nobody has to wait for what does not count yet.
            return not self.catchup.is_away
        planned = self._schedule.planned_steps(round_)
        pace = self.trainer.progress.pace_steps_per_s
        share = steps_share(planned, pace, list(self.last_group.values()))
        early = EARLY_STEPS if share > 2 * EARLY_STEPS else 0
        return self._last_step - self._steps_at_snapshot >= share - early

    @property
    def _is_on_probation(self) -> bool:
        return self._last_step < self._probation_until

    def _tell_share(self, round_: int) -> None:
        self._told_round = round_
        self.record.ready(self._loop.time())
        fragment_id = self._schedule.fragment_of(round_)
        up, down = self.links()
        share = ShareTrained(
            round=round_,
            state=self._state,
            tokens=0 if self._is_on_probation else self.ledger.claim(fragment_id),
            pace_steps_per_s=self.trainer.progress.pace_steps_per_s,
            up_bytes_per_s=up,
            down_bytes_per_s=down,
            overhead_s=self.record.overhead_s,
        )
        self._handle(share)

    # --- lockstep --------------------------------------------------------------------------------

    async def _lockstep(self) -> None:
        schedule, tau = self._schedule, self._schedule.sync_delay_steps
        for round_ in range(schedule.total_rounds):
            send_step = schedule.step_of(round_)
            await self._train_until(send_step)
            draining = round_ >= schedule.training_rounds
            if draining:
                self.trainer.finish()
            self._held_snapshot = await self._snapshot(schedule.fragment_of(round_))
            self._tell_share(round_)
            apply_step = send_step if draining else min(send_step + tau, schedule.total_steps)
            await self._train_until(apply_step)
            await self._apply(await self._decided.get())

    async def _train_until(self, step: int) -> None:
        self._awaited_step = step
        self._reached.clear()
        self.trainer.hold_at(step)
        if self._last_step < step:
            await self._reached.wait()

    # --- events in, effects out ------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        """An event of our own: whatever it raises is our own bug."""
        self._do(self.member.handle(event, self._loop.time()))

    def _do(self, effects: list[Effect]) -> None:
        if self._is_closed:
            return
        for effect in effects:
            match effect:
                case Send(to, message) if to == self.member.me:
                    self._handle(MessageReceived(to, message))
                case Send(to, message):
                    self.transport.tell(to, message)
                case SendPart():
                    self.transport.push(effect)
                case Note(text):
                    self.note(text)
                case StartRound(roster):
                    self._on_roster(roster)
                case Record():
                    self.scribe.record(effect, self._then(effect))
                case FetchParts():
                    self._spawn(self._fetch(effect))
                case ServeEntries():
                    self._spawn(self._serve(effect))
                case ApplyEntry():
                    self.scribe.append(effect)
                    self._work.put_nowait(effect)
                case TakeSnapshot() | AveragePart() | Rewind() | GetSnapshot():
                    self._work.put_nowait(effect)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:
            self._unstarted.append(work)
        else:
            self._tasks.create_task(work)

    def _then(self, record: Record) -> Callable[[], None]:
        return lambda: self._do(list(record.then))

    async def _fetch(self, fetch: FetchParts) -> None:
        while self._work.qsize() > MAX_UNAPPLIED:
            await asyncio.sleep(POLL_S)
        missing = dict.fromkeys(digest for digest, _ in fetch.wanted)

        def take(digest: str, data: bytes) -> None:
            missing.pop(digest, None)
            self._handle(PartFetched(digest, data))

        await self.catchup.fetch(fetch, take)
        for digest in missing:
            self._handle(FetchFailed(digest))

    async def _serve(self, effect: ServeEntries) -> None:
        store = self.scribe.store
        for message in await self.scribe.ask(lambda: store.entries_after(effect.round)):
            self.transport.tell(effect.to, message)

    def _on_roster(self, roster: Roster) -> None:
        order = coordinators(self.manifest.run_id, roster.round, self.member.head.voters)
        coordinator = order[roster.ballot % len(order)]
        self.record.rostered(roster, coordinator, self._loop.time())
        self.last_group = {m.peer_id: m.pace_steps_per_s for m in roster.members}
        self.transport.start_round(roster.digest)

    async def _do_work(self) -> None:
        """Carry out what takes time, one thing after another, off the event loop."""
        while True:
            effect = await self._work.get()
            match effect:
                case TakeSnapshot(round_, fragment_id):
                    await self._take_snapshot(round_, fragment_id)
                case AveragePart():
                    await self._average(effect)
                case ApplyEntry() if self.manifest.mode == "lockstep":
                    self._decided.put_nowait(effect)
                case ApplyEntry():
                    await self._apply(effect)
                case Rewind() | GetSnapshot():
                    await self._restore(effect)

    async def _take_snapshot(self, round_: int, fragment_id: int) -> None:
        local = self._held_snapshot
        if local is None:
            local = await self._snapshot(fragment_id)
        try:
            parts = await self._calculate(self.replica.encode, fragment_id, local)
        except CodecError as error:
            raise DilocoError(
                f"the local parameters of fragment {fragment_id} are broken ({error}): the inner"
                " optimizer diverged; lower inner_optimizer.learning_rate"
            ) from error
        self._handle(SnapshotTaken(round=round_, parts=parts))

    async def _snapshot(self, fragment_id: int) -> Values:
        """Local parameters at the next step boundary."""
        step, local = await self.trainer.at_boundary(
            lambda: (self.trainer.progress.step, self.replica.local_params(fragment_id))
        )
        self._steps_at_snapshot = self.record.snapshot_step = step
        return local

    def _newer_tokens(self, step: int) -> int:
        """Trained since that step, as far as the event loop has heard."""
        return (self._last_step - step) * self.manifest.tokens_per_step

    async def _average(self, part: AveragePart) -> None:
        try:
            mean = await self._calculate(
                self.replica.average, part.contributions, part.tokens, part.values
            )
        except CodecError:
            for sender, data in zip(part.senders, part.contributions, strict=True):
                if not await self._calculate(self.replica.is_decodable, data, part.values):
                    self._handle(
                        ContributionRefused(
                            roster=part.roster, part_index=part.part_index, sender=sender
                        )
                    )
                    return
            raise
        self._handle(PartAveraged(roster=part.roster, part_index=part.part_index, data=mean))

    async def _apply(self, effect: ApplyEntry) -> None:
        entry = effect.entry
        self.record.decided(self._loop.time())
        contributed = entry.contributed_parts(self.member.me)
        staleness = 0
        if not entry.is_empty:
            step = await self._calculate(self.replica.outer_step, entry, effect.parts, contributed)
            staleness = await self.trainer.at_boundary(lambda: self._fold_in(step))
            self.versions[entry.fragment_id] = entry.round
        self._state = await self._calculate(self.replica.fragment_digest, entry.fragment_id)
        self.ledger.decided(entry, self.member.me)
        self.record.applied(
            entry,
            self._loop.time(),
            resent_bytes=self.member.resent_bytes,
            staleness=staleness,
            state=self._state,
            fetched_bytes=self.catchup.snapshot_bytes + self.catchup.replay_bytes,
        )
        self._applied_round, self._last_applied = entry.round, effect
        self._steps_at_entry = self._steps_at_snapshot
        self._held_snapshot = None
        is_last = entry.round >= self._schedule.total_rounds - 1
        if is_last:
            await self.scribe.finish()
        if (entry.round + 1) % self.manifest.limits.checkpoint_rounds == 0 or is_last:
            await self._save_checkpoint(effect)
        if (work := self.after_round(self, entry.round)) is not None:
            self._spawn(work)
        if is_last:
            self.finished.set()
        else:
            self._tell_if_ready()

    async def _save_checkpoint(self, effect: ApplyEntry) -> None:
        """Keep the state after this entry, the last one applied, and what is this peer's own."""
        if self.scribe.is_saving:
            return
        step, private = await self.trainer.at_boundary(
            lambda: (
                self.trainer.progress.step,
                {**self.replica.save_local(), **self.trainer.save()},
            )
        )
        facts = {"step": step, "ledger": self.ledger.to_json(self._newer_tokens(step))}
        states, versions = self.replica.states, list(self.versions)
        trail = self.member.trail
        checkpoints = self.scribe.store.checkpoints
        self.scribe.save(
            lambda: checkpoints.save(
                effect.decided.round, effect.decided, states, versions, private, facts, trail
            )
        )

    # --- another state ---------------------------------------------------------------------------

    async def _restore(self, effect: Rewind | GetSnapshot) -> None:
        """Put the state in force that the group goes on from; training goes on meanwhile."""
        state: Recovered | None = None
        if isinstance(effect, Rewind):
            state = await self.scribe.ask(lambda: self._recover(effect.round, effect.head))
        rewound = state is not None
        if state is None:
            try:
                state = await self.catchup.take_snapshot(lambda: self.member.live, effect.after)
            except (UnavailableError, RemoteError, OSError) as error:
                self._handle(RestoreFailed(str(error)))
                return
        store, incarnation, forgotten = self.scribe.store, "", list[Entry]()
        try:
            if rewound:
                forgotten = await self.scribe.ask(lambda: store.rewind(state.head.round))
            else:
                await self.scribe.ask(store.begin_anew)
            incarnation = store.incarnation
        except OSError as error:
            self.note(f"votes cannot be forgotten ({error.strerror}), so this peer has none")
        for entry in forgotten:
            self.ledger.given_up(entry, self.member.me)
        states = state.states
        await self.trainer.at_boundary(lambda: self.replica.adopt(states))
        self.versions = list(state.versions)
        self._applied_round, self._told_round = state.head.round, -1
        self._last_applied = None
        self._steps_at_snapshot = self._steps_at_entry = self._last_step
        if state.head.round >= 0:
            fragment_id = self._schedule.fragment_of(state.head.round)
            self._state = await self._calculate(self.replica.fragment_digest, fragment_id)
        else:
            self._state = ""
        self._handle(Restored(head=state.head, trail=state.trail, incarnation=incarnation))
        if self.member.is_finished:
            self.finished.set()

    def _recover(self, round_: int, head: str) -> Recovered | None:
        store = self.scribe.store
        return store.recover(self.genesis, self.initial, self.replica.apply, round_, head)

    def _fold_in(self, step: Any) -> int:
        """(trainer thread) Returns the staleness in steps."""
        self.replica.fold_in(step)
        return self.trainer.progress.step - self.record.snapshot_step

    async def _calculate(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._math, function, *args)
