"""One member of the swarm: the state machine that a peer drives, round after round.

    ready      share trained -> Ready to all
    group      the coordinator forms the group -> Roster (protocol/leading.py)
    exchange   protocol/attempt.py, protocol/round.py
    decide     protocol/leading.py says what is proposed, protocol/commit.py how it is decided
    apply      the decided entry, however late; then the next round
    follow     whoever is behind, or on another log, gets back (protocol/catching_up.py); whoever
               has no quorum goes on without one in the end (protocol/lonely.py)

Policies, and what they cost:
- Readiness is told to everybody, not to the coordinator alone: M small messages a round, and any
  voter can take over at once.
- A coordinator that is not heard from is passed over; ballots keep two of them apart.
- In lockstep nobody may be missing: a lost peer stops the run, and every peer says so.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from protocol.accepts import SignedAccept, Signer, Vote
from protocol.attempt import Attempt
from protocol.ballots import NO_BALLOT, Ballots
from protocol.catching_up import CatchingUp, Standing
from protocol.checks import check_decided, check_entry
from protocol.coordinator import forced_entry
from protocol.court import Court
from protocol.digest import digest as digest_of
from protocol.errors import RemoteError
from protocol.events import (
    ApplyEntry,
    ContributionRefused,
    DiskFailed,
    DiskWorks,
    Effect,
    Event,
    FetchFailed,
    FetchParts,
    FoundFalse,
    Judged,
    KeepProof,
    Leg,
    MeanDoubted,
    MessageReceived,
    Note,
    PartAveraged,
    PartFetched,
    PartReceived,
    PeerMet,
    PeerUnreachable,
    Restored,
    RestoreFailed,
    Send,
    ShareTrained,
    SnapshotTaken,
    StepDone,
    Verdict,
)
from protocol.evidence import Witness
from protocol.fetching import Fetching
from protocol.following import Following
from protocol.leading import Leading
from protocol.liveness import HEARTBEAT_S, Liveness
from protocol.log import Entry, Head
from protocol.lonely import Loneliness
from protocol.messages import (
    Accept,
    Accepted,
    Accuse,
    Amend,
    Ask,
    Decided,
    Gone,
    Heartbeat,
    Held,
    Leave,
    Message,
    Prepare,
    Promise,
    Ready,
    Roster,
    Step,
    Trail,
)
from protocol.presence import Presence
from protocol.provenance import Provenance
from protocol.terms import Terms

TICK_S = 0.1
FETCHES_OF_AN_ENTRY = 9
"""Failed ones, each part counted, after which its bytes are thought to be nowhere."""
_NOTHING: Mapping[str, bytes] = MappingProxyType({})


class Member:
    """Events and `now_s` in, effects out. Drive it by `handle` and by `tick` at `wakes_at_s`."""

    def __init__(
        self,
        *,
        me: str,
        terms: Terms,
        head: Head,
        now_s: float,
        signer: Signer,
        incarnation: str = "",
        ballots: Ballots | None = None,
        accepted_parts: Sequence[bytes | None] = (),
        trail: Iterable[Step] = (),
        verdicts: Iterable[Verdict] = (),
        trains: bool = True,
    ) -> None:
        """Args:
        signer: this peer's key: its accepts are signed.
        incarnation: of the journal; empty: this peer cannot vote.
        ballots: what the journal holds, after a restart.
        accepted_parts: bytes of the entry that it says was accepted.
        trail: the entries up to the head, newest first, after a restart.
        verdicts: who was proven to lie, in an earlier life of this peer.
        trains: False for a peer that only follows the log (an archive).
        """
        self.me = me
        self.incarnation = incarnation
        self.trains = trains
        self._terms = terms
        self._log = Following(terms, head, trail)
        self._others = Liveness(me, (p for p in head.voters if p != me), now_s)
        self._court = Court(me, terms, signer, verdicts)
        self._presence = Presence(me, self._log, self._others, self._court)
        self._lonely = Loneliness(me, terms, self._log, self._others, self._presence)
        is_done = _is_last(terms, head)
        self._place = CatchingUp(
            self._log, self._others, self._lonely, is_done=is_done, now_s=now_s
        )
        self._fetching = Fetching(me, terms, self._log, self._others)
        self._signer = signer
        self._provenance = Provenance(me, terms, signer)
        self._witness = Witness(terms.tally)
        self._ballots = ballots
        self._early: dict[tuple[str, type], tuple[str, Message]] = {}
        self._resent_bytes = 0
        self._step = 0
        self._next_heartbeat_s = now_s
        self._woken_s = now_s
        self._accepted_parts = {digest_of(d): d for d in accepted_parts if d is not None}
        self._begin_round()

    # --- what the shell asks ---------------------------------------------------------------------

    @property
    def head(self) -> Head:
        return self._log.head

    @property
    def trail(self) -> tuple[Step, ...]:
        """The entries up to the head, newest first, as far as they are known."""
        return self._log.trail.steps

    @property
    def standing(self) -> Standing:
        return self._place.standing

    @property
    def entries_behind(self) -> int:
        """How many entries the furthest of the others has more."""
        return self._place.entries_behind

    @property
    def round(self) -> int:
        """The round that is being attempted: the one after the head."""
        return self.head.round + 1

    @property
    def is_finished(self) -> bool:
        return _is_last(self._terms, self.head)

    @property
    def roster(self) -> Roster | None:
        return self._round.exchange.roster if self._round.exchange else None

    @property
    def resent_bytes(self) -> int:
        """Contributions that had to be sent a second time, to a part's next owner, so far."""
        return self._resent_bytes + (
            self._round.exchange.resent_bytes if self._round.exchange else 0
        )

    @property
    def others(self) -> tuple[str, ...]:
        """Everybody that messages for all go to."""
        return self._others.reachable(self.head.voters)

    @property
    def expected(self) -> tuple[str, ...]:
        """The others that the round waits for, as far as this peer can tell."""
        known = self._presence.known
        return tuple(p for p in known if p != self.me and not self._presence.why_absent(p))

    @property
    def ready_paces(self) -> tuple[float, ...]:
        """Inner steps per second of those of them that are ready."""
        ready = self._round.readies
        return tuple(
            ready[peer].pace_steps_per_s
            for peer in self.expected
            if peer in ready and ready[peer].parent == self.head.digest
        )

    @property
    def waiting_for(self) -> str:
        """Why no round is under way, in words."""
        return self._place.forked_because or self._leading.waiting_for

    @property
    def votes(self) -> bool:
        """Whether this peer decides on the next entry."""
        return self.head.may_vote(self.me, self._voice) and self.standing == "in step"

    @property
    def _voice(self) -> str:
        """The incarnation that this peer votes with here; empty where it must not."""
        forgot = self._ballots is not None and not self._ballots.allow(self.head)
        return "" if forgot else self.incarnation

    @property
    def lacks_quorum(self) -> bool:
        """Whether too few voters are there for any round to be decided: the log stands still."""
        return not self._log.is_quorum(self._able())

    @property
    def live(self) -> tuple[str, ...]:
        """All others that are not lost."""
        return self._others.live

    @property
    def has_arrived(self) -> bool:
        """Whether this peer has heard all others and holds what they hold, or all but the last."""
        beats = self._others.heartbeats
        return (
            bool(beats)
            and all(peer in beats for peer in self.live)
            and self.standing in ("in step", "done")
            and self.entries_behind <= 1
        )

    @property
    def is_alone(self) -> bool:
        return not self.live

    def peer_states(self) -> dict[str, str]:
        """For people: 'live', 'following', 'behind', or why nobody counts on that peer."""
        beats = self._others.heartbeats
        states = self._others.states()
        for peer in self.live:
            if peer in beats and not beats[peer].trains:
                states[peer] = "following"
            else:
                states[peer] = self._presence.why_absent(peer) or "live"
        return states

    def all_others_finished(self) -> bool:
        """Whether everybody who is still alive has the last entry too."""
        beats = self._others.heartbeats
        return all(peer in beats and beats[peer].step < 0 for peer in self.live)

    def wakes_at_s(self) -> float:
        return self._woken_s + TICK_S

    def expected_bytes(self, sender: str, roster: str, leg: Leg, part_index: int) -> int | None:
        """Size of an incoming part; None while its roster or amendment has not arrived.

        Raises:
            RemoteError: this sender has no business with that part.
        """
        exchange = self._round.exchange
        if exchange is None or exchange.roster_digest != roster:
            return None
        return exchange.expected_bytes(sender, leg, part_index)

    def bytes_of(self, digest: str) -> bytes | None:
        """A part of the round under way by content address, for others that lack it."""
        return self._round.part(digest)

    def _able(self) -> set[str]:
        """Voters that can be reached, stand here, and have the journal that they vote with."""
        # A liar need not vote for its own ban: who waits for that waits for ever.
        able = set(filter(self._presence.can_vote, self.head.voters)) - {*self._presence.liars}
        if self.head.may_vote(self.me, self._voice):
            able.add(self.me)
        return able

    # --- events ----------------------------------------------------------------------------------

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take one event.

        Raises:
            RemoteError: a peer's message breaks the protocol; nothing changed.
        """
        match event:
            case MessageReceived(sender, message):
                effects = self._on_message(sender, message, now_s)
            case PartReceived():
                effects = self._round.on_part(event)
            case SnapshotTaken():
                effects = self._round.on_snapshot(event)
            case PartAveraged():
                effects = self._round.on_averaged(event)
            case ContributionRefused():
                effects = self._round.on_refused(event)
            case PartFetched(digest, data):
                self._fetching.ended(digest)
                self._round.fetched[digest] = data
                effects = self._go_on(now_s)
            case FetchFailed(digest):
                self._fetching.failed(digest)
                effects = self._on_fetch_failed()
            case ShareTrained():
                effects = self._on_share_trained(event)
            case PeerUnreachable(peer_id, why, began_s):
                heard = self._others.was_heard_since(peer_id, began_s)
                effects = [] if heard else self._lose(peer_id, why)
            case PeerMet(peer_id):
                effects = self._meet(peer_id, now_s)
            case Restored():
                effects = self._on_restored(event)
            case RestoreFailed(why):
                self._place.restore_failed(now_s)
                effects = [Note(f"cannot catch up yet: {why}")]
            case DiskFailed(why):
                effects = self._on_disk_failed(why)
            case DiskWorks():
                effects = self._on_disk_works(event)
            case MeanDoubted():
                effects = self._round.on_doubted(event)
            case FoundFalse(claim):
                effects = self._court.found_false(claim)
            case Judged():
                effects = self._court.judged(event)
            case StepDone(step):
                self._step = step
                return []
        if isinstance(event, MessageReceived) and isinstance(event.message, Heartbeat):
            # Most messages are heartbeats; what follows from them can wait for the next tick.
            return effects
        return self._settle(effects, now_s)

    def tick(self, now_s: float) -> list[Effect]:
        """Time passed: heartbeats, suspicions, grace and deadlines."""
        slept_s, self._woken_s = now_s - self._woken_s, now_s
        if slept_s > HEARTBEAT_S:
            self._others.slept(slept_s, now_s)
            self._round.slept(now_s)
            self._lonely.slept(slept_s)
        effects: list[Effect] = []
        if self.standing == "in step":
            effects += self._round.close_if_due(now_s)
        if now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + HEARTBEAT_S
            effects += self._to_all(self._heartbeat())
            self._fetching.ask_again()
            effects += self._repeat()
            beats = self._others.heartbeats
            effects += self._court.to_tell(self.head, self._others.live, beats, now_s)
            silent = self._others.silent(self._terms.limits.suspect_after_s, now_s)
            for peer, why in silent.items():
                effects += self._lose(peer, why)
            effects += self._force_if_lonely(now_s)
        return self._settle(effects, now_s)

    def _repeat(self) -> list[Effect]:
        """What may have been lost and nobody else would notice."""
        if self.standing != "in step":
            return []
        own_ready = self._round.readies.get(self.me)
        told = self._round.report_held()
        if own_ready and self._round.exchange is None:
            told = self._to_all(own_ready)
        return told + self._fetching.awaited(self._round)

    def _settle(self, effects: list[Effect], now_s: float) -> list[Effect]:
        """Let the leader's rules act, and deliver what this peer sends to itself."""
        queue = deque(effects + self._coordinate(now_s))
        outward: list[Effect] = []
        while queue:
            effect = queue.popleft()
            if isinstance(effect, Send) and effect.to == self.me:
                queue.extend(self._on_message(self.me, effect.message, now_s))
                queue.extend(self._coordinate(now_s))
            elif isinstance(effect, FetchParts):
                outward += self._fetching.unasked(effect)
            else:
                outward.append(effect)
        return outward

    # --- leaving ---------------------------------------------------------------------------------

    @property
    def is_needed(self) -> bool:
        """Whether the others could decide nothing more if this peer were gone."""
        heirs = self._heirs()
        return (
            self.votes
            and bool(heirs)
            and not self._terms.lockstep
            and not self._log.is_quorum(set(heirs))
        )

    def _heirs(self) -> tuple[str, ...]:
        return tuple(p for p in self.head.voters if p != self.me and p not in self._others.lost)

    def hand_over(self, now_s: float) -> list[Effect]:
        """Before a peer that is needed leaves: propose that the others decide without it.

        Costs an empty round. Once it is decided, this peer is needed no longer.
        """
        if not self.is_needed:
            return []
        return self._settle(self._leading.hand_over(self._heirs(), now_s), now_s)

    def leave(self) -> list[Effect]:
        """Say goodbye, so that nobody waits. This peer still votes, until it is gone."""
        return self._to_all(Leave(round=self.head.round))

    # --- messages --------------------------------------------------------------------------------

    def _on_message(self, sender: str, message: Message, now_s: float) -> list[Effect]:
        if sender == self.me:
            return self._take(sender, message, now_s)
        if sender not in self._others.known:
            raise RemoteError(sender, "is not known here: say hello first")
        why_lost = self._others.hear(sender, now_s)
        try:
            effects = self._take(sender, message, now_s)
        except RemoteError:
            # Whoever was lost, and now says what makes no sense, is of no use to a round yet.
            if why_lost:
                self._others.lose(sender, why_lost)
            raise
        return [Note(f"{sender[:8]} is back"), *effects] if why_lost else effects

    def _take(self, sender: str, message: Message, now_s: float) -> list[Effect]:
        match message:
            case Heartbeat():
                return self._place.on_heartbeat(sender, message, self._waiting(), now_s)
            case Ask():
                return self._place.on_ask(sender, message, now_s)
            case Gone():
                return self._place.on_gone(sender, message, self._waiting(), now_s)
            case Trail():
                return self._place.on_trail(sender, message, now_s)
            case Accuse():
                return self._court.accused(sender, message.accusation)
            case Leave():
                return [Note(f"{sender[:8]} left")] if self._others.leave(sender) else []
        if proofs := self._witness.hear(message, self.head):
            # What else the message is good for, it is when it comes again.
            return list(map(KeepProof, proofs))
        if self.standing in ("restoring", "forked"):
            return []
        if isinstance(message, Decided) and message.round > self.round:
            self._log.keep_for_later(sender, message)
            return self._fetching.ahead(self._round)
        if message.round > self.round:
            # One peer can be a decision ahead of another; its newest message of each kind waits
            # here. Ready and Roster are the only ones that such a peer sends before we catch up.
            self._early[sender, type(message)] = (sender, message)
            return []
        if message.round < self.round:
            # Whoever still readies or proposes an old round has missed its decision.
            is_late = isinstance(message, Ready | Prepare | Accept) and sender != self.me
            return self._place.serve(sender, message.round - 1, now_s) if is_late else []
        return self._on_round_message(sender, message, now_s)

    def _on_round_message(self, sender: str, message: Message, now_s: float) -> list[Effect]:
        decision = self._round.decision
        match message:
            case Ready():
                return self._on_ready(sender, message)
            case Roster():
                return self._round.on_roster(sender, message, now_s)
            case Amend():
                return self._round.on_amend(sender, message, now_s)
            case Held():
                return self._round.on_held(sender, message)
            case Prepare():
                self._refuse_without_vote(sender)
                return list(decision.on_prepare(sender, message)) if self.votes else []
            case Promise():
                if message.accepted is not None:
                    self._check_votable(sender, message.accepted)
                return list(decision.on_promise(sender, message))
            case Accept():
                return self._on_accept(sender, message, now_s)
            case Accepted():
                decided = decision.on_accepted(sender, message)
                return [] if decided is None else self._announce(decided)
            case Decided():
                return self._on_decided(sender, message, now_s)
            case _:
                raise AssertionError(f"unhandled {message}")

    def _refuse_without_vote(self, sender: str) -> None:
        if self.me not in self.head.voters:
            raise RemoteError(sender, "asked a peer without a vote to vote")

    def _check_votable(self, sender: str, entry: Entry) -> None:
        check_entry(sender, entry, self._terms, self.head)
        if entry.term != self.head.term:
            raise RemoteError(sender, "votes on a new term, which nobody does")

    def _on_accept(self, sender: str, accept: Accept, now_s: float) -> list[Effect]:
        self._refuse_without_vote(sender)
        self._check_votable(sender, accept.entry)
        if not self._court.agrees(accept.entry, self.head):
            return []  # until it was proven to this peer too
        waits_for_decided = isinstance((self._round.awaiting or ("", None))[1], Decided)
        if not self.votes or waits_for_decided:
            return []
        if not self._round.decision.would_accept(sender, accept):
            return []
        self._round.awaiting = (sender, accept)
        return self._go_on(now_s)

    def _waiting(self) -> list[Decided]:
        """Decided entries after the head whose bytes are not here yet, the oldest first."""
        return [decided for _, decided in self._fetching.waiting(self._round)]

    def _on_restored(self, event: Restored) -> list[Effect]:
        self._place.restored(event, is_done=_is_last(self._terms, event.head))
        self.incarnation, self._ballots, self._accepted_parts = event.incarnation, None, {}
        self._early = {}
        self._fetching.forget()
        self._lonely.end()
        self._begin_round()
        # Until they hear so, the others do not count on this peer.
        return [Note(f"restored to round {event.head.round}"), *self._to_all(self._heartbeat())]

    def _on_disk_failed(self, why: str) -> list[Effect]:
        self.incarnation = ""
        return [Note(f"this peer does not vote until that works again: {why}")]

    def _on_disk_works(self, event: DiskWorks) -> list[Effect]:
        self.incarnation, self._ballots = event.incarnation, event.ballots
        self._round.vote_from(event.ballots)
        self._leading = Leading(self.me, self._terms, self._round, self._presence)
        return [Note("the disk can be written again: this peer votes")]

    def _on_decided(self, sender: str, decided: Decided, now_s: float) -> list[Effect]:
        entry = decided.entry
        if self.standing == "done":
            return []
        if entry.round != decided.round:
            raise RemoteError(sender, f"round {decided.round} with the entry of {entry.round}")
        if entry.parent != self.head.digest:
            return self._place.show_trail(sender, entry.parent, now_s)
        check_decided(sender, decided, self._terms, self.head)
        if not self._place.may_follow(entry, now_s):
            self._place.set_apart(sender, entry.parent)
            return []
        self._round.awaiting = (sender, decided)
        return self._go_on(now_s)

    def _go_on(self, now_s: float) -> list[Effect]:
        """Vote on, or apply, what was waiting for bytes, if they are all here now."""
        if self._round.awaiting is None or self.standing != "in step":
            # While another state is on its way, an entry that continues this one is not applied.
            return []
        sender, message = self._round.awaiting
        parts = self._round.bytes_of(message.entry)
        if parts is None:
            return self._fetching.awaited(self._round)
        self._round.awaiting = None
        if isinstance(message, Accept):
            decision = self._round.decision
            return list(decision.on_accept(sender, message, parts)) if self.votes else []
        return self._apply(message, parts, now_s)

    def _on_fetch_failed(self) -> list[Effect]:
        """After some tries, what nobody gives is gone: then only a later state helps."""
        self._round.fetches_failed += 1
        awaits = self._round.awaiting is not None and isinstance(self._round.awaiting[1], Decided)
        if awaits and self._round.fetches_failed >= FETCHES_OF_AN_ENTRY:
            self._log.is_gone = True
        return []

    def _apply(
        self, decided: Decided, parts: tuple[bytes | None, ...], now_s: float
    ) -> list[Effect]:
        entry = decided.entry
        self._resent_bytes = self.resent_bytes
        effects: list[Effect] = [ApplyEntry(decided, parts, self._round.claims_of(entry))]
        self._log.advance(entry)
        was_behind = self.entries_behind > 0
        self._place.advanced(is_done=self.is_finished)
        self._lonely.end()
        self._begin_round(self._round.fetched)
        if self.is_finished:
            return effects + self._to_all(self._heartbeat())
        if was_behind and not self.entries_behind:
            effects += self._to_all(self._heartbeat())
        early, self._early = self._early, {}
        waiting: list[tuple[str, Message]] = list(early.values())
        if (later := self._log.next_in_backlog()) is not None:
            waiting.append(later)
        for peer, message in waiting:
            try:
                effects += self._on_message(peer, message, now_s)
            except RemoteError as error:
                # Refusing it must not take back the entry that has just been decided.
                effects.append(Note(f"refused: {error}"))
        return effects + self._place.ask_for_entries(self._waiting(), now_s)

    def _begin_round(self, fetched: Mapping[str, bytes] = _NOTHING) -> None:
        """The round after the head, with what this peer's journal knows of it.

        A log that has lost its end is behind the journal, and comes to that instance once more.

        Args:
            fetched: what came by content address before; of it stays what waiting entries name.
        """
        self._round = Attempt(
            self.me,
            self._terms,
            self.head,
            self._presence,
            self._signer,
            self._provenance,
            self._ballots,
        )
        waiting = (decided.entry for _, decided in self._log.backlog.values())
        named = {part.digest for entry in waiting for part in entry.parts if part is not None}
        ahead = {digest: data for digest, data in fetched.items() if digest in named}
        self._round.fetched = self._accepted_parts | ahead
        self._leading = Leading(self.me, self._terms, self._round, self._presence)

    # --- ready -----------------------------------------------------------------------------------

    def _on_share_trained(self, event: ShareTrained) -> list[Effect]:
        if event.round != self.round or self.standing != "in step" or self._waiting():
            return []
        if self.head.is_banned(self.me):
            return [Note("this peer is banned from the run: it was proven to lie")]
        ready = Ready(
            round=event.round,
            parent=self.head.digest,
            state=event.state,
            tokens=event.tokens,
            pace_steps_per_s=event.pace_steps_per_s,
            up_bytes_per_s=event.up_bytes_per_s,
            down_bytes_per_s=event.down_bytes_per_s,
            overhead_s=event.overhead_s,
        )
        effects = self._to_all(ready)
        others, self._round.readies = self._round.readies, {self.me: ready}
        for peer, message in others.items():
            effects += self._on_ready(peer, message)
        return effects

    def _on_ready(self, sender: str, ready: Ready) -> list[Effect]:
        if self.head.is_banned(sender):
            raise RemoteError(sender, "is banned from this run: it was proven to lie")
        own = self._round.readies.get(self.me)
        if own and ready.parent == own.parent:
            if ready.state != own.state:
                # The same entries and another result: one of us computes wrongly; never averaged.
                self._place.set_apart(sender, self.head.digest)
                return self._place.doubt_own_state()
            self._log.elsewhere.pop(sender, None)
        if sender not in self._log.elsewhere:
            self._round.readies[sender] = ready
        return []

    # --- leading ---------------------------------------------------------------------------------

    def _coordinate(self, now_s: float) -> list[Effect]:
        return self._leading.coordinate(now_s) if self.votes else []

    def _force_if_lonely(self, now_s: float) -> list[Effect]:
        """Go on without a quorum, in a new term, if this peer is the one that is to do it (I4)."""
        self._lonely.watch(self._able(), now_s)
        if self.standing != "in step":
            return []
        voters = self._lonely.new_voters(self.incarnation if self.trains else "", now_s)
        if voters is None:
            return []
        entry = forced_entry(self._terms, self.head, me=self.me, voters=voters)
        vote = Vote.on(entry, NO_BALLOT)
        own = SignedAccept.of(vote, self._terms.run_id, self.me, self.incarnation, self._signer)
        decided = Decided(round=entry.round, entry=entry, ballot=NO_BALLOT, accepts=(own,))
        note = f"{entry.reason}: with {len(voters)} of {len(self.head.voters)} voters"
        return [Note(note), *self._announce(decided)]

    # --- small things ----------------------------------------------------------------------------

    def _meet(self, peer_id: str, now_s: float) -> list[Effect]:
        if peer_id == self.me:
            return []
        known = self._others.known
        if peer_id not in known and len(known) >= 2 * self._terms.limits.max_peers:
            gone = [p for p in self._others.lost if p not in self.head.voters]
            if not gone:
                return []
            self._others.forget(gone[0])
        self._others.meet(peer_id, now_s)
        return [Send(peer_id, self._heartbeat())]

    def _lose(self, peer_id: str, why: str) -> list[Effect]:
        return [Note(f"{peer_id[:8]} is lost: {why}")] if self._others.lose(peer_id, why) else []

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            round=self.head.round,
            head=self.head.digest,
            incarnation=self._voice,
            step=-1 if self.is_finished else self._step,
            trains=self.trains,
            deaf_to=self._others.unheard,
            convicts=self._court.told_by(self.head),
        )

    def _announce(self, decided: Decided) -> list[Effect]:
        return [*self._to_all(decided), Send(self.me, decided)]

    def _to_all(self, message: Message) -> list[Effect]:
        return [Send(peer, message) for peer in self.others]


def _is_last(terms: Terms, head: Head) -> bool:
    return head.round >= terms.schedule.total_rounds - 1
