"""Drives `protocol.member.Member`: events into it, its effects out to trainer, replica and network.

Two ways to hand steps to rounds, as the manifest says. Lockstep is the paper's (peer/lockstep.py).
In elastic mode the trainer never stops: when its share is nearly trained, the peer says so; the
snapshot is taken when the roster comes, and the outer step is in force when it is decided. Neither
waits for the end of an inner step; the model follows at the next one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from peer.auditing import Auditor
from peer.lockstep import Lockstep
from peer.round_record import RoundRecord
from peer.share import Share
from peer.shared_state import SharedState
from peer.transport import Transport
from protocol.claims import Claim
from protocol.errors import RemoteError
from protocol.events import (
    ApplyEntry,
    Audit,
    AveragePart,
    CompareMean,
    DiskFailed,
    DiskWorks,
    Effect,
    Event,
    FetchFailed,
    FetchParts,
    FoundFalse,
    GetSnapshot,
    Judge,
    KeepProof,
    KeepVerdict,
    Leg,
    MessageReceived,
    Note,
    PartFetched,
    PartReceived,
    PeerMet,
    PeerUnreachable,
    Record,
    Restored,
    Rewind,
    Send,
    SendPart,
    ServeEntries,
    SnapshotTaken,
    StartRound,
    StepDone,
    TakeSnapshot,
)
from protocol.log import coordinators
from protocol.member import Member
from protocol.messages import Message, Roster

POLL_S = 0.05
MAX_UNAPPLIED = 8
"""More entries than this, replayed faster than they are applied, do not wait in memory."""


AfterRound: TypeAlias = "Callable[[RoundDriver, int], Coroutine[Any, Any, None] | None]"


@dataclass
class RoundDriver:
    """One peer's rounds, from where its member stands to the last entry."""

    member: Member
    share: Share
    state: SharedState
    transport: Transport
    record: RoundRecord
    auditor: Auditor
    note: Callable[[str], None]

    def __post_init__(self) -> None:
        self.manifest, self.is_new = self.share.manifest, self.share.is_new
        self.replica, self.trainer = self.share.replica, self.share.trainer
        self.scribe, self.catchup = self.state.scribe, self.state.catchup
        self._arithmetic = self.state.arithmetic
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._tasks: asyncio.TaskGroup | None = None
        self._unstarted: list[Coroutine[Any, Any, None]] = []
        """What messages ask for that come before `run`."""
        self._schedule = self.manifest.schedule
        # At most a snapshot, an entry, and an average for each part that this peer owns.
        self._work: asyncio.Queue[Any] = asyncio.Queue()
        if self.is_new:
            self.catchup.leave(self.member.head.round)
        self._lockstep: Lockstep | None = None
        if self.manifest.mode == "lockstep":
            self._lockstep = Lockstep(self._schedule, self.trainer, self.share)
        self._told_round = -1
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
        return self.share.position(step, self.state.round)

    def on_step(self, step: int) -> None:
        """An inner step is done (called in the event loop)."""
        if not self.share.on_step(step):
            return
        if self._lockstep is not None:
            self._lockstep.on_step()
        self._handle(StepDone(step))
        self._tell_if_ready()

    # --- the network's news (Inbox) --------------------------------------------------------------

    def on_message(self, sender: str, message: Message) -> None:
        self._refuse_own_name(sender)
        self._do(self.member.handle(MessageReceived(sender, message), self._loop.time()))

    def on_part(self, part: PartReceived) -> None:
        self._do(self.member.handle(part, self._loop.time()))

    def expected_bytes(self, sender: str, roster: str, leg: Leg, part_index: int) -> int | None:
        self._refuse_own_name(sender)
        return self.member.expected_bytes(sender, roster, leg, part_index)

    def _refuse_own_name(self, sender: str) -> None:
        # What a member says to itself never travels.
        if sender == self.member.me:
            raise RemoteError(sender, "calls itself by this peer's name")

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
        # Entries are missing in the log: whoever restarts begins after them.
        self._spawn(self.state.save(self.member.trail))

    # --- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive rounds until the last entry is applied."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for work in self._unstarted:
                tasks.create_task(work)
            ticker = tasks.create_task(self._tick())
            worker = tasks.create_task(self._do_work())
            if self._lockstep is not None:
                tasks.create_task(self._lockstep.run(self._tell_share, self._apply))
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
        await self.state.begin_here()
        self.trainer.go_on()

    def _watch_the_way(self) -> None:
        """Notice that the group is further than this peer, and that it has come there."""
        member = self.member
        if not self.catchup.is_away:
            if member.standing == "restoring" or member.entries_behind > 1:
                self.catchup.leave(self.state.round)
        elif member.has_arrived and self.state.round == member.head.round:
            arrival = self.catchup.arrive()
            self.record.arrived(self.state.round, arrival)
            self.note(f"arrived at round {self.state.round} {arrival.in_words}")

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
        # What was trained since the last checkpoint must not be lost with a clean exit.
        await self.state.save(self.member.trail)
        await self.scribe.finish()

    def _is_waited_for(self) -> bool:
        member = self.member
        is_voter = member.me in member.head.voters and len(member.head.voters) > 1
        return is_voter and not member.is_finished and not member.is_alone

    def close(self) -> None:
        """Nothing that still comes in changes anything any more."""
        self._is_closed = True
        self._arithmetic.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self.member.wakes_at_s() - self._loop.time()))
            self._do(self.member.tick(self._loop.time()))
            self._watch_the_way()
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
            self._lockstep is not None
            or self._told_round == round_
            or self.state.round != round_ - 1
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
        member = self.member
        if self.share.is_trained(round_, self.last_group.values()):
            return True
        if self.share.is_on_probation:
            # Nobody has to wait for what does not count yet.
            return bool(member.ready_paces) and not self.catchup.is_away
        return self.share.is_due(round_, member.ready_paces, len(member.expected))

    def _tell_share(self, round_: int) -> None:
        self._told_round = round_
        self.record.ready(self._loop.time())
        self._handle(
            self.share.in_numbers(
                round_, self.state.digest, self.record.overhead_s, self.last_group.values()
            )
        )

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
                case KeepProof():
                    self._spawn(self._keep_proof(effect))
                case CompareMean():
                    self._spawn(self._compare(effect))
                case Audit(claim):
                    self._spawn(self._look_into(claim))
                case Judge():
                    self._spawn(self._judge(effect))
                case KeepVerdict():
                    self._spawn(self._keep_verdict(effect))
                case ApplyEntry():
                    self.scribe.append(effect)
                    self._work.put_nowait(effect)
                    if effect.claims:
                        self._spawn(self._audit(effect.claims))
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

    async def _keep_proof(self, effect: KeepProof) -> None:
        evidence = self.scribe.store.evidence
        self.note(await self.scribe.ask(lambda: evidence.keep(effect.double_vote)))

    async def _compare(self, mean: CompareMean) -> None:
        if (doubted := await self.auditor.compare(mean)) is not None:
            self._handle(doubted)

    async def _look_into(self, claim: Claim) -> None:
        if await self.auditor.is_false(claim):
            self._handle(FoundFalse(claim))

    async def _audit(self, claims: Sequence[Claim]) -> None:
        for claim in await self.auditor.find_false(claims):
            self._handle(FoundFalse(claim))

    async def _judge(self, effect: Judge) -> None:
        self._handle(await self.auditor.judge(effect.accusation, self.member.live))

    async def _keep_verdict(self, effect: KeepVerdict) -> None:
        verdicts = self.scribe.store.verdicts
        self.note(await self.scribe.ask(lambda: verdicts.keep(effect.verdict)))

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
                    self.auditor.keep(self.member.round, effect.contributions)
                    self._handle(await self._arithmetic.average(effect))
                case ApplyEntry() if self._lockstep is not None:
                    self._lockstep.on_decided(effect)
                case ApplyEntry():
                    await self._apply(effect)
                case Rewind() | GetSnapshot():
                    await self._restore(effect)

    async def _take_snapshot(self, round_: int, fragment_id: int) -> None:
        local = self._lockstep.snapshot if self._lockstep is not None else None
        if local is None:
            local = await self.share.snapshot(fragment_id)
        parts = await self._arithmetic.encode(fragment_id, local)
        await self.auditor.gave(round_, parts)
        self._handle(SnapshotTaken(round=round_, parts=parts))

    async def _apply(self, effect: ApplyEntry) -> None:
        entry = effect.entry
        self.record.decided(self._loop.time())
        staleness = self.trainer.next_boundary_step - self.share.snapshot_step
        await self.state.apply(effect)
        if self._lockstep is not None:
            await self.state.fold_in()
        else:
            self._spawn(self.state.fold_in())
        self.record.applied(
            entry,
            self._loop.time(),
            resent_bytes=self.member.resent_bytes,
            staleness=0 if entry.is_empty else staleness,
            state=self.state.digest,
            fetched_bytes=self.catchup.snapshot_bytes + self.catchup.replay_bytes,
        )
        is_last = entry.round >= self._schedule.total_rounds - 1
        if is_last:
            await self.scribe.finish()
        if (entry.round + 1) % self.manifest.limits.checkpoint_rounds == 0 or is_last:
            await self.state.save(self.member.trail)
        if (work := self.after_round(self, entry.round)) is not None:
            self._spawn(work)
        if is_last:
            self.finished.set()
        else:
            self._tell_if_ready()

    async def _restore(self, effect: Rewind | GetSnapshot) -> None:
        """Go on from another state; training goes on meanwhile."""
        event = await self.state.restore(effect, lambda: self.member.live)
        if isinstance(event, Restored):
            self._told_round = -1
            if self.member.trains:
                self.trainer.take_up()
        self._handle(event)
        if isinstance(event, Restored) and self.member.is_finished:
            self.trainer.finish()
            self.finished.set()
