"""One member of the swarm: the state machine that a peer drives, round after round.

    ready      share trained -> Ready to all voters
    group      the coordinator forms the group -> Roster
    exchange   protocol/round.py
    decide     all Held -> the full entry, a loss or the deadline -> an empty one (commit.py)
    apply      the decided entry, however late; then the next round

Policies, and what they cost:
- Readiness is told to every voter, not to the coordinator alone: M small messages a round, and any
  voter can take over at once.
- A round that loses a member before everybody holds everything is committed empty. Its movement
  stays in the replicas and goes into the next round of the same fragment, so it costs one round's
  delay, not the work. (Partial credit will keep what has arrived.)
- A coordinator that is not heard from is passed over; ballots keep two of them apart.
- A peer whose log is not the group's stops contributing and says 'forked'; it trains on.
- In lockstep nobody may be missing: a lost peer stops the run, and every peer says so.
"""

from collections import deque
from typing import Literal

from protocol.attempt import Attempt
from protocol.checks import check_entry, check_roster
from protocol.errors import RemoteError
from protocol.events import (
    ApplyEntry,
    Effect,
    Event,
    Leg,
    MessageReceived,
    Note,
    PartAveraged,
    PartReceived,
    PeerUnreachable,
    Send,
    ShareTrained,
    SnapshotTaken,
    StartRound,
    StepDone,
    TakeSnapshot,
)
from protocol.liveness import HEARTBEAT_S, Liveness
from protocol.log import Entry, Head, is_quorum
from protocol.messages import (
    Accept,
    Accepted,
    Ask,
    Decided,
    Heartbeat,
    Held,
    Leave,
    Message,
    Prepare,
    Promise,
    Ready,
    Roster,
)
from protocol.round import Exchange
from protocol.terms import Terms

TICK_S = 0.1
KEPT_ENTRIES = 512
ENTRIES_PER_ASK = 16

Standing = Literal["in step", "forked", "done"]


class Member:
    """Events and `now_s` in, effects out. Drive it by `handle` and by `tick` at `wakes_at_s`."""

    def __init__(self, *, me: str, terms: Terms, head: Head, now_s: float) -> None:
        self.me = me
        self.head = head
        self.standing: Standing = "in step"
        self._forked_because = ""
        self._terms = terms
        self._others = Liveness((peer for peer in head.voters if peer != me), now_s)
        self._answered_s: dict[str, float] = {}
        self._disagreeing: dict[str, str] = {}
        # Entries from which the head is reached through empty ones, that is, without any bytes.
        self._close_heads: deque[str] = deque([head.digest], maxlen=KEPT_ENTRIES)
        self._early: dict[tuple[str, type], tuple[str, Message]] = {}
        self._decided: deque[Decided] = deque(maxlen=KEPT_ENTRIES)
        self._step = 0
        self._next_heartbeat_s = now_s
        self._woken_s = now_s
        self._round = Attempt(self.me, self._terms, self.head)

    # --- what the shell asks ---------------------------------------------------------------------

    @property
    def round(self) -> int:
        """The round that is being attempted: the one after the head."""
        return self.head.round + 1

    @property
    def is_finished(self) -> bool:
        return self.head.round >= self._terms.schedule.total_rounds - 1

    @property
    def roster(self) -> Roster | None:
        return self._round.exchange.roster if self._round.exchange else None

    @property
    def others(self) -> tuple[str, ...]:
        """Everybody that messages for all go to."""
        return self._others.reachable

    @property
    def waiting_for(self) -> str:
        """Why no round is under way, in words."""
        return self._forked_because or self._round.waiting_for

    @property
    def lacks_quorum(self) -> bool:
        """Whether too many voters are lost for any round to be decided: the log stands still."""
        live = {peer for peer in self.head.voters if peer not in self._others.lost}
        return not is_quorum(live, self.head.voters, self.head.tie_breaker)

    def peer_states(self) -> dict[str, str]:
        """For the live view: 'live', or why a peer counts as lost."""
        return self._others.states()

    def all_others_finished(self) -> bool:
        """Whether everybody who is still alive has the last entry too."""
        live = [peer for peer in self.others if peer not in self._others.lost]
        beats = self._others.heartbeats
        return all(peer in beats and beats[peer].step < 0 for peer in live)

    def wakes_at_s(self) -> float:
        return self._woken_s + TICK_S

    def expected_bytes(self, sender: str, roster: str, leg: Leg, part_index: int) -> int | None:
        """Size of an incoming part; None while its roster has not arrived.

        Raises:
            RemoteError: this sender has no business with that part.
        """
        exchange = self._round.exchange
        if exchange is None or exchange.roster_digest != roster:
            return None
        return exchange.expected_bytes(sender, leg, part_index)

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
            case ShareTrained():
                effects = self._on_share_trained(event)
            case PeerUnreachable(peer_id, why):
                believed = self._others.fell_silent(peer_id, now_s)
                effects = self._lose(peer_id, why) if believed else []
            case StepDone(step):
                self._step = step
                effects = []
        return self._settle(effects, now_s)

    def tick(self, now_s: float) -> list[Effect]:
        """Time passed: heartbeats, suspicions, grace and deadlines."""
        slept_s, self._woken_s = now_s - self._woken_s, now_s
        if slept_s > HEARTBEAT_S:
            self._others.slept(slept_s, now_s)
        effects: list[Effect] = []
        if now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + HEARTBEAT_S
            effects += self._to_all(self._heartbeat())
            own_ready = self._round.readies.get(self.me)
            if own_ready and self._round.exchange is None and self.standing == "in step":
                # The first one may be lost, and without a quorum of them no round starts.
                effects += self._to_all(own_ready)
            silent = self._others.silent(self._terms.limits.suspect_after_s, now_s)
            for peer, why in silent.items():
                effects += self._lose(peer, why)
        return self._settle(effects, now_s)

    @property
    def is_needed(self) -> bool:
        """Whether the others could decide nothing more if this peer were gone."""
        voters, tie_breaker = self.head.voters, self.head.tie_breaker
        heirs = self._heirs()
        return (
            self.standing == "in step"
            and self.me in voters
            and bool(heirs)
            and not self._terms.lockstep
            and not is_quorum(set(heirs), voters, tie_breaker)
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
        """Say goodbye, so that nobody waits."""
        return self._to_all(Leave(round=self.head.round))

    def _settle(self, effects: list[Effect], now_s: float) -> list[Effect]:
        """Let the coordinator's rules act, and deliver what this peer sends to itself."""
        effects = effects + self._coordinate(now_s)
        outward: list[Effect] = []
        queue = deque(effects)
        while queue:
            effect = queue.popleft()
            if isinstance(effect, Send) and effect.to == self.me:
                queue.extend(self._on_message(self.me, effect.message, now_s))
                queue.extend(self._coordinate(now_s))
            else:
                outward.append(effect)
        return outward

    # --- messages --------------------------------------------------------------------------------

    def _on_message(self, sender: str, message: Message, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        if sender != self.me:
            if sender not in self._others.known:
                raise RemoteError(sender, "is not a member of this run")
            if self._others.hear(sender, now_s):
                effects.append(Note(f"{sender[:8]} is back"))
        match message:
            case Heartbeat():
                return effects + self._on_heartbeat(sender, message)
            case Ask():
                return effects + self._entries_after(message.round, sender, now_s)
            case Leave():
                self._round.readies.pop(sender, None)
                return [Note(f"{sender[:8]} left")] if self._others.leave(sender) else []
            case Decided() if message.round <= self.round:
                return effects + self._on_decided(sender, message, now_s)
        if message.round > self.round:
            # One peer can be a decision ahead of another; its newest message of each kind waits
            # here. Ready and Roster are the only ones that such a peer sends before we catch up.
            self._early[sender, type(message)] = (sender, message)
            return effects
        if message.round < self.round:
            # Whoever still readies or proposes an old round has missed its decision.
            if isinstance(message, Ready | Prepare | Accept):
                effects += self._entries_after(message.round - 1, sender, now_s)
            return effects
        return effects + self._on_round_message(sender, message, now_s)

    def _on_round_message(self, sender: str, message: Message, now_s: float) -> list[Effect]:
        decision = self._round.decision
        match message:
            case Ready():
                return self._on_ready(sender, message)
            case Roster():
                return self._on_roster(sender, message, now_s)
            case Held():
                exchange = self._round.exchange
                if exchange and exchange.roster_digest == message.roster:
                    self._round.held[sender] = message.parts_digest
                return []
            case Prepare():
                self._refuse_without_vote(sender)
                return list(decision.on_prepare(sender, message))
            case Promise():
                if message.accepted is not None:
                    self._refuse_misplaced(sender, message.accepted)
                return list(decision.on_promise(sender, message))
            case Accept():
                return self._on_accept(sender, message)
            case Accepted():
                decided = decision.on_accepted(sender, message)
                if decided is None:
                    return []
                entry, accepted_by = decided
                announcement = Decided(round=entry.round, entry=entry, accepted_by=accepted_by)
                return [*self._to_all(announcement), Send(self.me, announcement)]
            case _:
                raise AssertionError(f"unhandled {message}")

    def _refuse_without_vote(self, sender: str) -> None:
        if self.me not in self.head.voters:
            raise RemoteError(sender, "asked a peer without a vote to vote")

    def _on_heartbeat(self, sender: str, heartbeat: Heartbeat) -> list[Effect]:
        self._others.heartbeats[sender] = heartbeat
        if heartbeat.round == self.head.round and heartbeat.head != self.head.digest:
            return self._disagree(sender, heartbeat.head)
        behind = heartbeat.round > self.head.round and self.standing == "in step"
        if behind and sender not in self._disagreeing:
            return [Send(sender, Ask(round=self.head.round))]
        return []

    def _disagree(self, sender: str, their_head: str) -> list[Effect]:
        """One peer is on another log; most of the voters mean that this one is."""
        self._disagreeing[sender] = their_head
        against = is_quorum(set(self._disagreeing), self.head.voters, self.head.tie_breaker)
        if against and self.standing == "in step":
            return self._fork(f"most peers have another state after round {self.head.round}")
        return []

    def _entries_after(self, round_: int, peer_id: str, now_s: float) -> list[Effect]:
        """What a peer has missed, once per heartbeat: after a pause its questions come in heaps."""
        newer = [decided for decided in self._decided if decided.round > round_]
        answered_s = self._answered_s.get(peer_id, float("-inf"))
        if peer_id == self.me or not newer or now_s < answered_s + HEARTBEAT_S:
            return []
        self._answered_s[peer_id] = now_s
        return [Send(peer_id, decided) for decided in newer[:ENTRIES_PER_ASK]]

    def _on_decided(self, sender: str, decided: Decided, now_s: float) -> list[Effect]:
        entry = decided.entry
        if decided.round < self.round or self.standing != "in step":
            return []
        if entry.round != decided.round:
            raise RemoteError(sender, f"round {decided.round} with the entry of {entry.round}")
        if entry.parent != self.head.digest:
            return self._disagree(sender, entry.parent)
        if not is_quorum(set(decided.accepted_by), self.head.voters, self.head.tie_breaker):
            raise RemoteError(sender, f"round {decided.round} was accepted by no quorum")
        check_entry(sender, entry, self._terms)
        parts = self._round.bytes_of(entry)
        if parts is None:
            return self._fork(
                f"the bytes of round {entry.round} did not arrive here; catching up needs a later"
                " version"
            )
        self._decided.append(decided)
        self.head = Head.of_entry(entry)
        if not entry.is_empty:
            self._close_heads.clear()
        self._close_heads.append(entry.digest)
        self._disagreeing = {}
        self._round = Attempt(self.me, self._terms, self.head)
        effects: list[Effect] = [ApplyEntry(entry, parts)]
        if self.is_finished:
            self.standing = "done"
            return effects + self._to_all(self._heartbeat())
        early, self._early = self._early, {}
        for peer, message in early.values():
            try:
                effects += self._on_message(peer, message, now_s)
            except RemoteError as error:
                # Refusing it must not take back the entry that has just been decided.
                effects.append(Note(f"refused: {error}"))
        return effects

    def _refuse_misplaced(self, sender: str, entry: Entry) -> None:
        if entry.round != self.round or entry.parent != self.head.digest:
            raise RemoteError(sender, f"an entry that does not continue round {self.head.round}")
        check_entry(sender, entry, self._terms)

    # --- ready, roster, exchange -----------------------------------------------------------------

    def _on_share_trained(self, event: ShareTrained) -> list[Effect]:
        if event.round != self.round or self.standing != "in step":
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
        effects: list[Effect] = [Send(peer, ready) for peer in self.others]
        others, self._round.readies = self._round.readies, {self.me: ready}
        for peer, message in others.items():
            effects += self._on_ready(peer, message)
        return effects

    def _on_ready(self, sender: str, ready: Ready) -> list[Effect]:
        own = self._round.readies.get(self.me)
        if own and ready.parent == own.parent and ready.state != own.state:
            # The same entries and another result: one of us computes wrongly. It is not averaged.
            return self._disagree(sender, ready.state)
        self._round.readies[sender] = ready
        return []

    def _on_roster(self, sender: str, roster: Roster, now_s: float) -> list[Effect]:
        state = self._round
        if roster.parent != self.head.digest:
            raise RemoteError(sender, f"roster of round {roster.round} continues another log")
        if not state.owns_ballot(sender, roster.ballot):
            raise RemoteError(sender, f"ballot {roster.ballot} is not its own")
        if roster.ballot <= state.roster_ballot or self.standing != "in step":
            return []
        for other in roster.members:
            if other.tokens > 0 and other.peer_id in self._disagreeing:
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
        effects = exchange.receive(event.sender, event.leg, event.part_index, event.data)
        return effects if was_complete else effects + self._report_held()

    def _on_averaged(self, event: PartAveraged) -> list[Effect]:
        exchange = self._round.exchange
        if exchange is None or exchange.roster_digest != event.roster:
            return []
        return exchange.averaged(event.part_index, event.data) + self._report_held()

    def _report_held(self) -> list[Effect]:
        exchange = self._round.exchange
        if exchange is None or not exchange.is_complete:
            return []
        held = Held(
            round=self.round, roster=exchange.roster_digest, parts_digest=exchange.parts_digest
        )
        return [Send(self._round.coordinator, held)]

    def _on_accept(self, sender: str, accept: Accept) -> list[Effect]:
        self._refuse_without_vote(sender)
        self._refuse_misplaced(sender, accept.entry)
        if self._round.bytes_of(accept.entry) is None:
            return []
        return list(self._round.decision.on_accept(sender, accept))

    # --- who takes part --------------------------------------------------------------------------

    def _coordinate(self, now_s: float) -> list[Effect]:
        if self.standing != "in step" or self.me not in self.head.voters:
            return []
        absent = {peer: self._why_absent(peer) for peer in (*self._others.known, self.me)}
        return self._round.coordinate(now_s, absent, self._others.lost)

    def _why_absent(self, peer_id: str) -> str:
        """Why a round cannot wait for this peer; empty if it can."""
        if peer_id in self._others.lost:
            return self._others.lost[peer_id]
        if peer_id in self._disagreeing:
            return "on another log"
        if peer_id in self.head.voters:
            return ""
        # A voter has what it needs to follow. Another peer may lack an entry that was decided
        # without it, and would only hold the group up.
        heartbeat = self._others.heartbeats.get(peer_id)
        can_follow = heartbeat is not None and heartbeat.head in self._close_heads
        return "" if can_follow else "behind"

    # --- small things ----------------------------------------------------------------------------

    def _lose(self, peer_id: str, why: str) -> list[Effect]:
        return [Note(f"{peer_id[:8]} is lost: {why}")] if self._others.lose(peer_id, why) else []

    def _fork(self, why: str) -> list[Effect]:
        self.standing = "forked"
        self._forked_because = why
        return [Note(f"forked: {why}. This peer trains on and no longer contributes.")]

    def _heartbeat(self) -> Heartbeat:
        step = -1 if self.is_finished else self._step
        return Heartbeat(round=self.head.round, head=self.head.digest, step=step)

    def _to_all(self, message: Message) -> list[Effect]:
        return [Send(peer, message) for peer in self.others]
