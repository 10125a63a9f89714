"""One member of the swarm: the state machine that a peer drives, round after round.

    ready      share trained -> Ready to all
    group      the coordinator forms the group -> Roster
    exchange   protocol/round.py
    decide     protocol/attempt.py says what is proposed, protocol/commit.py how it is decided
    apply      the decided entry, however late; then the next round
    follow     whoever is behind, or on another log, gets back (protocol/following.py)

Policies, and what they cost:
- Readiness is told to everybody, not to the coordinator alone: M small messages a round, and any
  voter can take over at once.
- A coordinator that is not heard from is passed over; ballots keep two of them apart.
- What an entry names is fetched by digest by whoever lacks it, before it accepts and before it
  applies. Cost: those bytes twice, on somebody's uplink.
- A peer in a state that equal entries cannot give takes a snapshot; if it is so again, it computes
  otherwise than the others: it says 'forked', trains on, and contributes no more.
- In lockstep nobody may be missing: a lost peer stops the run, and every peer says so.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

from protocol.attempt import Attempt
from protocol.ballots import Ballots
from protocol.chain import Verdict, compare, newest_common, with_history
from protocol.checks import check_entry, check_roster
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
    GetSnapshot,
    Leg,
    MessageReceived,
    Note,
    PartAveraged,
    PartFetched,
    PartReceived,
    PeerMet,
    PeerUnreachable,
    Restored,
    RestoreFailed,
    Rewind,
    Send,
    ServeEntries,
    ShareTrained,
    SnapshotTaken,
    StartRound,
    StepDone,
    TakeSnapshot,
)
from protocol.following import FETCH_AHEAD, Following
from protocol.liveness import HEARTBEAT_S, Liveness
from protocol.log import Head, is_quorum
from protocol.messages import (
    Accept,
    Accepted,
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
from protocol.round import Exchange
from protocol.terms import Terms

TICK_S = 0.1
FETCHES_OF_AN_ENTRY = 9
"""Failed ones, each part counted, after which its bytes are thought to be nowhere."""
SNAPSHOT_AGAIN_S = 5.0
"""After a snapshot that could not be had."""
_NOTHING: Mapping[str, bytes] = MappingProxyType({})

Standing = Literal["in step", "restoring", "forked", "done"]


class Member:
    """Events and `now_s` in, effects out. Drive it by `handle` and by `tick` at `wakes_at_s`."""

    def __init__(
        self,
        *,
        me: str,
        terms: Terms,
        head: Head,
        now_s: float,
        incarnation: str = "",
        ballots: Ballots | None = None,
        accepted_parts: Sequence[bytes | None] = (),
        trail: Iterable[Step] = (),
        trains: bool = True,
    ) -> None:
        """Args:
        incarnation: of the journal; empty: this peer cannot vote.
        ballots: what the journal holds, after a restart.
        accepted_parts: bytes of the entry that it says was accepted.
        trail: the entries up to the head, newest first, after a restart.
        trains: False for a peer that only follows the log (an archive).
        """
        self.me = me
        self.standing: Standing = "done" if _is_last(terms, head) else "in step"
        self.incarnation = incarnation
        self.entries_behind = 0
        """How many entries the furthest of the others has more."""
        self.trains = trains
        self._terms = terms
        self._log = Following(terms, head, trail)
        self._others = Liveness(me, (p for p in head.voters if p != me), now_s)
        self._presence = Presence(me, self._log, self._others)
        self._ballots = ballots
        self._early: dict[tuple[str, type], tuple[str, Message]] = {}
        self._fetching: set[str] = set()
        self._doubts_own_state = False
        self._was_restored_in_doubt = False
        self._snapshot_after_s = now_s
        self._resent_bytes = 0
        self._forked_because = ""
        self._lonely_since_s: float | None = None
        self._winners: frozenset[str] = frozenset()
        """Entries of the last chain that was chosen over this peer's own, forced ones included."""
        self._told: tuple[Step, ...] = ()
        """The trail that the last snapshot was sought by."""
        self._step = 0
        self._next_heartbeat_s = now_s
        self._woken_s = now_s
        self._accepted_parts = {digest_of(d): d for d in accepted_parts if d is not None}
        self._round = self._attempt()

    # --- what the shell asks ---------------------------------------------------------------------

    @property
    def head(self) -> Head:
        return self._log.head

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
    def waiting_for(self) -> str:
        """Why no round is under way, in words."""
        return self._forked_because or self._round.waiting_for

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
        return tuple(peer for peer in self.others if peer not in self._others.lost)

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
        able = set(filter(self._presence.can_vote, self.head.voters))
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
                effects = self._on_part(event)
            case SnapshotTaken():
                effects = self._on_snapshot(event)
            case PartAveraged():
                effects = self._on_averaged(event)
            case ContributionRefused():
                effects = self._on_contribution_refused(event)
            case PartFetched(digest, data):
                self._fetching.discard(digest)
                self._round.fetched[digest] = data
                effects = self._go_on(now_s)
            case FetchFailed(digest):
                self._fetching.discard(digest)
                effects = self._on_fetch_failed()
            case ShareTrained():
                effects = self._on_share_trained(event)
            case PeerUnreachable(peer_id, why, began_s):
                heard = self._others.was_heard_since(peer_id, began_s)
                effects = [] if heard else self._lose(peer_id, why)
            case PeerMet(peer_id):
                effects = self._meet(peer_id, now_s)
            case Restored():
                effects = self._on_restored(event, now_s)
            case RestoreFailed(why):
                # Meanwhile entries may still be replayed, one by one.
                self.standing, self._snapshot_after_s = "in step", now_s + SNAPSHOT_AGAIN_S
                self._doubts_own_state = False
                self._log.ask_anew()
                effects = [Note(f"cannot catch up yet: {why}")]
            case DiskFailed(why):
                effects = self._on_disk_failed(why)
            case DiskWorks():
                effects = self._on_disk_works(event)
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
            if self._lonely_since_s is not None:
                self._lonely_since_s += slept_s
        effects: list[Effect] = []
        if self.standing == "in step":
            effects += self._round.close_if_due(now_s)
        if now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + HEARTBEAT_S
            effects += self._to_all(self._heartbeat())
            effects += self._repeat()
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
        told = self._report_held()
        if own_ready and self._round.exchange is None:
            told = self._to_all(own_ready)
        return told + self._fetch_awaited()

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
                outward += self._unasked(effect)
            else:
                outward.append(effect)
        return outward

    def _unasked(self, fetch: FetchParts) -> list[Effect]:
        wanted = tuple(pair for pair in fetch.wanted if pair[0] not in self._fetching)
        if not wanted or not fetch.sources:
            return []
        self._fetching.update(digest for digest, _ in wanted)
        return [FetchParts(wanted, fetch.sources, fetch.holders)]

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
        return self._settle(self._round.hand_over(self._heirs(), now_s), now_s)

    def leave(self) -> list[Effect]:
        """Say goodbye, so that nobody waits. This peer still votes, until it is gone."""
        return self._to_all(Leave(round=self.head.round))

    # --- messages --------------------------------------------------------------------------------

    def _on_message(self, sender: str, message: Message, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        if sender != self.me:
            if sender not in self._others.known:
                raise RemoteError(sender, "is not known here: say hello first")
            if self._others.hear(sender, now_s):
                effects.append(Note(f"{sender[:8]} is back"))
        match message:
            case Heartbeat():
                return effects + self._on_heartbeat(sender, message, now_s)
            case Ask():
                return effects + self._on_ask(sender, message, now_s)
            case Gone():
                return effects + self._on_gone(sender, message, now_s)
            case Trail():
                return effects + self._on_trail(sender, message, now_s)
            case Leave():
                return [Note(f"{sender[:8]} left")] if self._others.leave(sender) else []
        if self.standing in ("restoring", "forked"):
            return effects
        if isinstance(message, Decided) and message.round > self.round:
            self._log.keep_for_later(sender, message)
            return effects + self._fetch_ahead()
        if message.round > self.round:
            # One peer can be a decision ahead of another; its newest message of each kind waits
            # here. Ready and Roster are the only ones that such a peer sends before we catch up.
            self._early[sender, type(message)] = (sender, message)
            return effects
        if message.round < self.round:
            # Whoever still readies or proposes an old round has missed its decision.
            if isinstance(message, Ready | Prepare | Accept) and sender != self.me:
                effects += self._serve(sender, message.round - 1, now_s)
            return effects
        return effects + self._on_round_message(sender, message, now_s)

    def _on_round_message(self, sender: str, message: Message, now_s: float) -> list[Effect]:
        decision = self._round.decision
        match message:
            case Ready():
                return self._on_ready(sender, message)
            case Roster():
                return self._on_roster(sender, message, now_s)
            case Amend():
                return self._on_amend(sender, message, now_s)
            case Held():
                return self._on_held(sender, message)
            case Prepare():
                self._refuse_without_vote(sender)
                return list(decision.on_prepare(sender, message)) if self.votes else []
            case Promise():
                if message.accepted is not None:
                    check_entry(sender, message.accepted, self._terms, self.head)
                return list(decision.on_promise(sender, message))
            case Accept():
                return self._on_accept(sender, message, now_s)
            case Accepted():
                decided = decision.on_accepted(sender, message)
                if decided is None:
                    return []
                entry, accepted_by = decided
                announcement = Decided(round=entry.round, entry=entry, accepted_by=accepted_by)
                return [*self._to_all(announcement), Send(self.me, announcement)]
            case Decided():
                return self._on_decided(sender, message, now_s)
            case _:
                raise AssertionError(f"unhandled {message}")

    def _refuse_without_vote(self, sender: str) -> None:
        if self.me not in self.head.voters:
            raise RemoteError(sender, "asked a peer without a vote to vote")

    # --- following the log -----------------------------------------------------------------------

    def _on_heartbeat(self, sender: str, beat: Heartbeat, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        if self._others.beat(sender, beat):
            effects.append(Note(f"{sender[:8]} is lost: it does not hear this peer"))
        if self._log.contradicts(beat.round, beat.head):
            return effects + self._show_trail(sender, beat.head, now_s)
        if beat.round <= self.head.round and self._log.elsewhere.get(sender) != self.head.digest:
            self._log.elsewhere.pop(sender, None)
        rounds = [b.round for b in self._others.heartbeats.values()]
        self.entries_behind = max(0, max(rounds) - self.head.round)
        if beat.round <= self.head.round or self.standing != "in step":
            return effects
        if self._log.is_worth_a_snapshot(beat.round) and now_s >= self._snapshot_after_s:
            return effects + self._compare_logs(sender, now_s)
        return effects + self._ask_for_entries(now_s)

    def _waiting(self) -> list[tuple[str, Decided]]:
        """Decided entries whose bytes are not here yet, one after another; who sent them."""
        if self._round.awaiting is None:
            return []
        sender, message = self._round.awaiting
        if not isinstance(message, Decided):
            return []
        return [(sender, message), *self._log.after(message.entry)]

    def _ahead(self, round_: int) -> list[str]:
        """Live peers that have entries after this round."""
        beats = self._others.heartbeats
        return [p for p in self.live if p in beats and beats[p].round > round_]

    def _ask_for_entries(self, now_s: float) -> list[Effect]:
        """Ask one peer that has more, unless enough is waiting for its bytes already."""
        waiting = self._waiting()
        end = Head.of_entry(waiting[-1][1].entry) if waiting else self.head
        if len(waiting) > FETCH_AHEAD or self.standing != "in step":
            return []
        peer = self._log.whom_to_ask(self._ahead(end.round), now_s)
        return [] if peer is None else [Send(peer, Ask(round=end.round, head=end.digest))]

    def _on_gone(self, sender: str, gone: Gone, now_s: float) -> list[Effect]:
        if gone.round <= self.round + len(self._waiting()) or self.standing != "in step":
            return []
        if not self._log.is_gone_from(sender, self._ahead(self.head.round)):
            return self._ask_for_entries(now_s)
        self._log.is_gone = True
        return self._compare_logs(sender, now_s)

    def _on_ask(self, sender: str, ask: Ask, now_s: float) -> list[Effect]:
        if self._log.contradicts(ask.round, ask.head):
            return self._show_trail(sender, ask.head, now_s)
        return [ServeEntries(sender, ask.round)] if ask.round < self.head.round else []

    def _serve(self, peer_id: str, round_: int, now_s: float) -> list[Effect]:
        """What a peer has missed, once per heartbeat: after a pause its questions come in heaps."""
        may = self._log.may_serve(peer_id, now_s)
        return [ServeEntries(peer_id, round_)] if may else []

    def _set_apart(self, peer_id: str, their_head: str) -> None:
        """This peer is on another log, or in another state: it takes no part in our rounds."""
        self._log.elsewhere[peer_id] = their_head

    def _show_trail(self, peer_id: str, their_head: str, now_s: float) -> list[Effect]:
        self._set_apart(peer_id, their_head)
        may = self._log.may_trail(peer_id, now_s) and self.standing != "forked"
        return [Send(peer_id, self._log.trail)] if may else []

    def _compare_logs(self, peer_id: str, now_s: float) -> list[Effect]:
        """Show one's own trail to be shown another's, before a snapshot is taken.

        A log that is far ahead may be of another chain, and one that would lose against ours.
        """
        may = self._log.may_trail("", now_s)
        return [Send(peer_id, self._log.trail)] if may else []

    def _on_trail(self, sender: str, trail: Trail, now_s: float) -> list[Effect]:
        """Another peer's log is not this one's: the chain choice says who follows whom."""
        if self.standing in ("restoring", "forked"):
            return []
        ours = self._log.trail.steps
        verdict = compare(ours, trail.steps)
        match verdict:
            case Verdict.OURS:
                return self._show_trail(sender, trail.steps[0].digest, now_s)
            case Verdict.THEIRS:
                common = newest_common(ours, trail.steps)
                assert common is not None
                self.standing = "restoring"
                self._winners = frozenset(step.digest for step in trail.steps)
                self._told = trail.steps
                why = f"the log of {sender[:8]} goes on from round {common.round}, and wins"
                return [Note(why), Rewind(common.round, common.digest, why, self._winners)]
            case Verdict.STRANGERS:
                return [Note(f"the log of {sender[:8]} has no entry that is in this one")]
            case Verdict.SAME | Verdict.FORCED:
                return self._on_same_chain(sender, trail, verdict, now_s)

    def _on_same_chain(
        self, sender: str, trail: Trail, verdict: Verdict, now_s: float
    ) -> list[Effect]:
        """One of the two logs is the beginning of the other."""
        last = trail.steps[0]
        if last.round < self.head.round:
            may = self._log.may_trail(sender, now_s)
            return [Send(sender, self._log.trail)] if may else []
        newer = frozenset(s.digest for s in trail.steps if s.round > self.head.round)
        may_be_forced = bool(newer & self._winners) or self._is_lonely(now_s)
        if verdict is Verdict.FORCED and not may_be_forced:
            # It votes there and no more here: if too few are left, this peer is lonely in time.
            self._set_apart(sender, last.digest)
            return []
        self._log.elsewhere.pop(sender, None)
        if not self._log.is_worth_a_snapshot(last.round):
            return []
        self._told = trail.steps
        return self._get_snapshot(f"{last.round - self.head.round} entries behind", newer)

    def _get_snapshot(self, why: str, after: frozenset[str]) -> list[Effect]:
        self.standing = "restoring"
        return [Note(f"taking a snapshot: {why}"), GetSnapshot(why, after)]

    def _on_restored(self, event: Restored, now_s: float) -> list[Effect]:
        self._was_restored_in_doubt |= self._doubts_own_state
        self._doubts_own_state = False
        trail = with_history(event.trail, self._told)
        self._log = Following(self._terms, event.head, trail, self._log.genesis)
        self._presence = Presence(self.me, self._log, self._others)
        self.incarnation, self._ballots, self._accepted_parts = event.incarnation, None, {}
        self._round = self._attempt()
        self._early, self._fetching, self._lonely_since_s = {}, set(), None
        self.standing = "done" if self.is_finished else "in step"
        return [Note(f"restored to round {event.head.round}")]

    def _on_disk_failed(self, why: str) -> list[Effect]:
        self.incarnation = ""
        return [Note(f"this peer does not vote until that works again: {why}")]

    def _on_disk_works(self, event: DiskWorks) -> list[Effect]:
        self.incarnation, self._ballots = event.incarnation, event.ballots
        self._round.vote_from(event.ballots)
        return [Note("the disk can be written again: this peer votes")]

    def _on_decided(self, sender: str, decided: Decided, now_s: float) -> list[Effect]:
        entry = decided.entry
        if self.standing == "done":
            return []
        if entry.round != decided.round:
            raise RemoteError(sender, f"round {decided.round} with the entry of {entry.round}")
        if entry.parent != self.head.digest:
            return self._show_trail(sender, entry.parent, now_s)
        self._check_decided(sender, decided, self.head)
        may_be_forced = entry.digest in self._winners or self._is_lonely(now_s)
        if entry.term > self.head.term and not may_be_forced:
            # A quorum of the voters may still decide otherwise, and would win.
            self._set_apart(sender, entry.parent)
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
            return self._fetch_awaited()
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

    def _fetch_awaited(self) -> list[Effect]:
        if self._round.awaiting is None:
            return []
        sender, message = self._round.awaiting
        sources = self._round.sources(sender)
        if isinstance(message, Accept):
            return [FetchParts(self._round.missing_of(message.entry), sources)]
        return [self._fetch_decided(message, sources), *self._fetch_ahead()]

    def _fetch_decided(self, decided: Decided, sources: Sequence[str]) -> FetchParts:
        # Whoever accepted it holds the bytes on disk.
        holders = [p for p in decided.accepted_by if p not in (self.me, *self._others.lost)]
        return FetchParts(
            self._round.missing_of(decided.entry),
            tuple(dict.fromkeys([*holders, *sources])),
            holders=max(1, len(holders)),
        )

    def _fetch_ahead(self) -> list[Effect]:
        """Bytes of entries whose turn comes soon: one round trip for each would take too long."""
        effects: list[Effect] = []
        waiting = self._waiting()[: 1 + FETCH_AHEAD]
        for (_, before), (sender, decided) in pairwise(waiting):
            try:
                self._check_decided(sender, decided, Head.of_entry(before.entry))
            except RemoteError as error:
                del self._log.backlog[decided.round]
                return [*effects, Note(f"refused: {error}")]
            effects.append(self._fetch_decided(decided, self._round.sources(sender)))
        return effects

    def _check_decided(self, sender: str, decided: Decided, head: Head) -> None:
        """Raises RemoteError when it is not what the voters of the entry before decided."""
        check_entry(sender, decided.entry, self._terms, head)
        by_quorum = is_quorum(set(decided.accepted_by), head.voters, head.tie_breaker)
        if decided.entry.term == head.term and not by_quorum:
            raise RemoteError(sender, f"round {decided.round} was accepted by no quorum")

    def _apply(
        self, decided: Decided, parts: tuple[bytes | None, ...], now_s: float
    ) -> list[Effect]:
        entry = decided.entry
        self._resent_bytes = self.resent_bytes
        self._log.advance(entry)
        self.entries_behind = max(0, self.entries_behind - 1)
        self._log.elsewhere = {}
        self._lonely_since_s = None
        self._round = self._attempt(self._round.fetched)
        effects: list[Effect] = [ApplyEntry(decided, parts)]
        if self.is_finished:
            self.standing = "done"
            return effects + self._to_all(self._heartbeat())
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
        return effects + self._ask_for_entries(now_s)

    def _attempt(self, fetched: Mapping[str, bytes] = _NOTHING) -> Attempt:
        """The round after the head, with what this peer's journal knows of it.

        A log that has lost its end is behind the journal, and comes to that instance once more.

        Args:
            fetched: what came by content address before; of it stays what waiting entries name.
        """
        attempt = Attempt(self.me, self._terms, self.head, self._presence, self._ballots)
        waiting = (decided.entry for _, decided in self._log.backlog.values())
        named = {part.digest for entry in waiting for part in entry.parts if part is not None}
        ahead = {digest: data for digest, data in fetched.items() if digest in named}
        attempt.fetched = self._accepted_parts | ahead
        return attempt

    # --- without a quorum ------------------------------------------------------------------------

    def _is_lonely(self, now_s: float) -> bool:
        since_s = self._lonely_since_s
        return since_s is not None and now_s - since_s >= self._terms.limits.lonely_after_s

    def _force_if_lonely(self, now_s: float) -> list[Effect]:
        """I4: who was without a quorum for `lonely_after_s` may go on in a new term.

        Of those with the same log one does it, a voter if there is one. Whoever hears of more
        entries gets them first: going on without them would throw them away.
        """
        has_quorum = self._log.is_quorum(set(filter(self._is_here, self._able())))
        if self.standing != "in step" or self._terms.lockstep or has_quorum:
            self._lonely_since_s = None
            return []
        if self._lonely_since_s is None:
            self._lonely_since_s = now_s
        voters = {
            peer: beat.incarnation
            for peer, beat in self._others.heartbeats.items()
            if beat.head == self.head.digest
            and beat.trains
            and beat.incarnation
            and not self._presence.why_absent(peer)
        }
        if self.trains and self.incarnation:
            voters[self.me] = self.incarnation
        first = min(voters, key=lambda peer: (peer not in self.head.voters, peer), default="")
        if not self._is_lonely(now_s) or first != self.me or self._is_somebody_ahead():
            return []
        decided = self._round.force(dict(sorted(voters.items())))
        note = f"{decided.entry.reason}: with {len(voters)} of {len(self.head.voters)} voters"
        return [Note(note), *self._to_all(decided), Send(self.me, decided)]

    def _is_here(self, peer_id: str) -> bool:
        """Whether it stands at this head, or was not heard since.

        Voters that are behind and find nobody to catch up with would be waited for in vain.
        """
        beat = self._others.heartbeats.get(peer_id)
        return beat is None or beat.round >= self.head.round

    def _is_somebody_ahead(self) -> bool:
        beats = self._others.heartbeats
        return any(
            beats[peer].round > self.head.round
            and beats[peer].trains
            and peer not in self._log.elsewhere
            for peer in self.live
            if peer in beats
        )

    # --- ready, roster, exchange -----------------------------------------------------------------

    def _on_share_trained(self, event: ShareTrained) -> list[Effect]:
        if event.round != self.round or self.standing != "in step" or self._waiting():
            return []
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
        own = self._round.readies.get(self.me)
        if own and ready.parent == own.parent:
            if ready.state != own.state:
                # The same entries and another result: one of us computes wrongly; never averaged.
                self._set_apart(sender, self.head.digest)
                return self._doubt_own_state()
            self._log.elsewhere.pop(sender, None)
        if sender not in self._log.elsewhere:
            self._round.readies[sender] = ready
        return []

    def _doubt_own_state(self) -> list[Effect]:
        """Most of the voters are in another state after the same entries: this one is wrong."""
        against = {p for p, head in self._log.elsewhere.items() if head == self.head.digest}
        if not self._log.is_quorum(against) or self.standing != "in step":
            return []
        why = f"most peers have another state after round {self.head.round}"
        if not self._was_restored_in_doubt:
            self._doubts_own_state = True
            self._told = self._log.trail.steps
            return self._get_snapshot(why, frozenset(step.digest for step in self._told))
        self.standing, self._forked_because = "forked", why
        return [Note(f"forked: {why}, again. This peer trains on and no longer contributes.")]

    def _on_roster(self, sender: str, roster: Roster, now_s: float) -> list[Effect]:
        state = self._round
        if roster.parent != self.head.digest:
            raise RemoteError(sender, f"roster of round {roster.round} continues another log")
        if not state.owns_ballot(sender, roster.ballot):
            raise RemoteError(sender, f"ballot {roster.ballot} is not its own")
        if roster.ballot <= state.roster_ballot:
            return []
        for other in roster.members:
            if other.tokens > 0 and other.peer_id in self._log.elsewhere:
                # A coordinator that was not ready itself has no state to compare.
                raise RemoteError(sender, f"averages {other.peer_id[:8]}, which is elsewhere")
        own = state.readies.get(self.me)
        check_roster(sender, roster, self._terms, self.me, own.tokens if own else 0)
        fragment_id = self._terms.schedule.fragment_of(roster.round)
        parts = self._terms.parts_of(roster.round)
        exchange = Exchange(self.me, roster, self._terms.codec, parts)
        state.follow(exchange, sender, now_s)
        effects: list[Effect] = [StartRound(roster, fragment_id)]
        if not exchange.contributes:
            return effects
        if state.snapshot is not None:
            return effects + exchange.contribute(state.snapshot) + self._report_held()
        if not state.snapshot_asked:
            state.snapshot_asked = True
            effects.append(TakeSnapshot(roster.round, fragment_id))
        return effects

    def _on_amend(self, sender: str, amend: Amend, now_s: float) -> list[Effect]:
        exchange = self._round.exchange
        if not self._round.owns_ballot(sender, amend.number):
            raise RemoteError(sender, f"amendment {amend.number} is not its own")
        if exchange is None or exchange.roster_digest != amend.roster:
            return []
        if amend.number <= exchange.number or self.me not in exchange.roster.peer_ids:
            return []
        effects = self._round.amended(amend, sender, now_s)
        return [*effects, self._held_by_me(exchange)]

    def _on_held(self, sender: str, held: Held) -> list[Effect]:
        exchange = self._round.exchange
        if exchange and exchange.roster_digest == held.roster:
            if not all(map(exchange.is_plausible, held.means)):
                raise RemoteError(sender, "holds what the round does not have")
            self._round.held[sender] = held
        return []

    def _on_snapshot(self, event: SnapshotTaken) -> list[Effect]:
        if event.round != self.round or self._round.exchange is None:
            return []
        self._round.snapshot = event.parts
        if not self._round.exchange.contributes:
            # A newer roster, whose coordinator never got this peer's Ready, has come in between.
            return []
        return self._round.exchange.contribute(event.parts) + self._report_held()

    def _on_part(self, event: PartReceived) -> list[Effect]:
        exchange = self._round.exchange
        if exchange is None or exchange.roster_digest != event.roster:
            return []
        was_complete = exchange.is_complete
        effects = exchange.receive(
            event.sender, event.leg, event.part_index, event.data, event.without
        )
        return effects if was_complete else effects + self._report_held()

    def _on_averaged(self, event: PartAveraged) -> list[Effect]:
        exchange = self._round.exchange
        if exchange is None or exchange.roster_digest != event.roster:
            return []
        return exchange.averaged(event.part_index, event.data) + self._report_held()

    def _on_contribution_refused(self, event: ContributionRefused) -> list[Effect]:
        exchange = self._round.exchange
        if exchange is None or exchange.roster_digest != event.roster:
            return []
        note = Note(f"a contribution of {event.sender[:8]} cannot be decoded and is left out")
        return [note, *exchange.refused(event.part_index, event.sender)]

    def _report_held(self) -> list[Effect]:
        exchange = self._round.exchange
        if exchange is None or not exchange.is_complete:
            return []
        return [self._held_by_me(exchange)]

    def _held_by_me(self, exchange: Exchange) -> Send:
        held = Held(
            round=self.round,
            roster=exchange.roster_digest,
            number=exchange.number,
            means=exchange.means,
        )
        return Send(self._round.leader, held)

    def _on_accept(self, sender: str, accept: Accept, now_s: float) -> list[Effect]:
        self._refuse_without_vote(sender)
        check_entry(sender, accept.entry, self._terms, self.head)
        if accept.entry.term != self.head.term:
            raise RemoteError(sender, "asked to accept a new term, which nobody votes on")
        waits_for_decided = isinstance((self._round.awaiting or ("", None))[1], Decided)
        if not self.votes or waits_for_decided:
            return []
        if not self._round.decision.would_accept(sender, accept):
            return []
        self._round.awaiting = (sender, accept)
        return self._go_on(now_s)

    # --- who takes part --------------------------------------------------------------------------

    def _coordinate(self, now_s: float) -> list[Effect]:
        return self._round.coordinate(now_s) if self.votes else []

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
        )

    def _to_all(self, message: Message) -> list[Effect]:
        return [Send(peer, message) for peer in self.others]


def _is_last(terms: Terms, head: Head) -> bool:
    return head.round >= terms.schedule.total_rounds - 1
