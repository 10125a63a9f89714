"""Where a peer stands in the log beside the others, and how it gets back to them.

    behind        they have entries after mine -> Ask, and replay; a snapshot if that is fewer
                  bytes, or if the entries are gone
    on another    their entries are not mine -> Trails are compared (protocol/chain.py); the loser
    log           rewinds to the common entry and follows the other log
    in another    the same entries gave me another state than most -> a snapshot; if that happens
    state         again, this peer computes otherwise than the others: it says 'forked', trains on,
                  and contributes no more

Nothing here decides an entry: that is protocol/attempt.py's.
"""

from collections.abc import Sequence
from typing import Literal

from protocol.chain import Verdict, compare, newest_common, with_history
from protocol.events import Effect, GetSnapshot, Note, Restored, Rewind, Send, ServeEntries
from protocol.following import FETCH_AHEAD, Following
from protocol.liveness import Liveness
from protocol.log import Entry, Head
from protocol.lonely import Loneliness
from protocol.messages import Ask, Decided, Gone, Heartbeat, Step, Trail

SNAPSHOT_AGAIN_S = 5.0
"""After a snapshot that could not be had."""

Standing = Literal["in step", "restoring", "forked", "done"]


class CatchingUp:
    """One peer's place among the others' logs."""

    def __init__(
        self,
        log: Following,
        others: Liveness,
        lonely: Loneliness,
        *,
        is_done: bool,
        now_s: float,
    ) -> None:
        self.standing: Standing = "done" if is_done else "in step"
        self.entries_behind = 0
        """How many entries the furthest of the others has more."""
        self.forked_because = ""
        self._log = log
        self._others = others
        self._lonely = lonely
        self._snapshot_after_s = now_s
        self._doubts_own_state = False
        self._was_restored_in_doubt = False
        self._winners: frozenset[str] = frozenset()
        """Entries of the last chain that was chosen over this peer's own, forced ones included."""
        self._given_up: frozenset[str] = frozenset()
        """Entries that this peer had then, and the winner has not."""
        self._told: tuple[Step, ...] = ()
        """The trail that the last snapshot was sought by."""

    # --- behind ----------------------------------------------------------------------------------

    def on_heartbeat(
        self, sender: str, beat: Heartbeat, waiting: Sequence[Decided], now_s: float
    ) -> list[Effect]:
        """Where another peer stands.

        Args:
            waiting: entries after the head whose bytes are not here yet, the oldest first.
        """
        effects: list[Effect] = []
        if self._others.beat(sender, beat):
            effects.append(Note(f"{sender[:8]} is lost: it does not hear this peer"))
        head = self._log.head
        if self._log.contradicts(beat.round, beat.head):
            return effects + self.show_trail(sender, beat.head, now_s)
        if beat.round <= head.round and self._log.elsewhere.get(sender) != head.digest:
            self._log.elsewhere.pop(sender, None)
        rounds = [b.round for b in self._others.heartbeats.values()]
        self.entries_behind = max(0, max(rounds) - head.round)
        if beat.round <= head.round or self.standing != "in step":
            return effects
        if self._log.is_worth_a_snapshot(beat.round) and now_s >= self._snapshot_after_s:
            return effects + self._compare_logs(sender, now_s)
        return effects + self.ask_for_entries(waiting, now_s)

    def ask_for_entries(self, waiting: Sequence[Decided], now_s: float) -> list[Effect]:
        """Ask one peer that has more, unless enough is waiting for its bytes already."""
        end = Head.of_entry(waiting[-1].entry) if waiting else self._log.head
        if len(waiting) > FETCH_AHEAD or self.standing != "in step":
            return []
        peer = self._log.whom_to_ask(self._ahead(end.round), now_s)
        return [] if peer is None else [Send(peer, Ask(round=end.round, head=end.digest))]

    def _ahead(self, round_: int) -> list[str]:
        """Live peers that have entries after this round."""
        beats = self._others.heartbeats
        return [p for p in self._others.live if p in beats and beats[p].round > round_]

    def on_gone(
        self, sender: str, gone: Gone, waiting: Sequence[Decided], now_s: float
    ) -> list[Effect]:
        """A peer that was asked no longer has what comes next."""
        head = self._log.head
        if gone.round <= head.round + 1 + len(waiting) or self.standing != "in step":
            return []
        if not self._log.is_gone_from(sender, self._ahead(head.round)):
            return self.ask_for_entries(waiting, now_s)
        self._log.is_gone = True
        return self._compare_logs(sender, now_s)

    def on_ask(self, sender: str, ask: Ask, now_s: float) -> list[Effect]:
        """Serve what comes after that entry, or show that it is of another log."""
        if self._log.contradicts(ask.round, ask.head):
            return self.show_trail(sender, ask.head, now_s)
        return [ServeEntries(sender, ask.round)] if ask.round < self._log.head.round else []

    def serve(self, peer_id: str, round_: int, now_s: float) -> list[Effect]:
        """What a peer has missed, once per heartbeat: after a pause its questions come in heaps."""
        may = self._log.may_serve(peer_id, now_s)
        return [ServeEntries(peer_id, round_)] if may else []

    # --- on another log --------------------------------------------------------------------------

    def set_apart(self, peer_id: str, their_head: str) -> None:
        """This peer is on another log, or in another state: it takes no part in our rounds."""
        self._log.elsewhere[peer_id] = their_head

    def show_trail(self, peer_id: str, their_head: str, now_s: float) -> list[Effect]:
        """Set a peer apart, and let it see whether it has to come over."""
        self.set_apart(peer_id, their_head)
        may = self._log.may_trail(peer_id, now_s) and self.standing != "forked"
        return [Send(peer_id, self._log.trail)] if may else []

    def _compare_logs(self, peer_id: str, now_s: float) -> list[Effect]:
        """Show one's own trail to be shown another's, before a snapshot is taken.

        A log that is far ahead may be of another chain, and one that would lose against ours.
        """
        may = self._log.may_trail("", now_s)
        return [Send(peer_id, self._log.trail)] if may else []

    def may_follow(self, entry: Entry, now_s: float) -> bool:
        """Whether to take a decided entry.

        One of a forced term only without a quorum of one's own: while there is one, it may still
        decide otherwise, and would win. One of a log that has lost never again: else two losers
        would lead each other back in turn.
        """
        if entry.digest in self._given_up:
            return False
        is_forced = entry.term > self._log.head.term
        return not is_forced or entry.digest in self._winners or self._lonely.is_over(now_s)

    def on_trail(self, sender: str, trail: Trail, now_s: float) -> list[Effect]:
        """Another peer's log is not this one's: the chain choice says who follows whom."""
        if self.standing in ("restoring", "forked"):
            return []
        ours = self._log.trail.steps
        verdict = compare(ours, trail.steps)
        match verdict:
            case Verdict.OURS:
                return self.show_trail(sender, trail.steps[0].digest, now_s)
            case Verdict.THEIRS:
                common = newest_common(ours, trail.steps)
                assert common is not None
                self.standing, self._told = "restoring", trail.steps
                self._winners = frozenset(step.digest for step in trail.steps)
                self._given_up = frozenset(s.digest for s in ours if s.round > common.round)
                why = f"the log of {sender[:8]} goes on from round {common.round}, and wins"
                alone = self._lonely.is_over(now_s)
                return [Note(why), Rewind(common.round, common.digest, why, self._winners, alone)]
            case Verdict.STRANGERS:
                return [Note(f"the log of {sender[:8]} has no entry that is in this one")]
            case Verdict.SAME | Verdict.FORCED:
                return self._on_same_chain(sender, trail, verdict, now_s)

    def _on_same_chain(
        self, sender: str, trail: Trail, verdict: Verdict, now_s: float
    ) -> list[Effect]:
        """One of the two logs is the beginning of the other."""
        last, head = trail.steps[0], self._log.head
        if last.round < head.round:
            may = self._log.may_trail(sender, now_s)
            return [Send(sender, self._log.trail)] if may else []
        newer = frozenset(s.digest for s in trail.steps if s.round > head.round)
        may_be_forced = bool(newer & self._winners) or self._lonely.is_over(now_s)
        if verdict is Verdict.FORCED and not may_be_forced:
            # It votes there and no more here: if too few are left, this peer is lonely in time.
            self.set_apart(sender, last.digest)
            return []
        self._log.elsewhere.pop(sender, None)
        if not self._log.is_worth_a_snapshot(last.round):
            return []
        why = f"{last.round - head.round} entries behind"
        return self._get_snapshot(why, trail.steps, newer, self._lonely.is_over(now_s))

    # --- in another state ------------------------------------------------------------------------

    def doubt_own_state(self) -> list[Effect]:
        """Most of the voters are in another state after the same entries: this one is wrong."""
        head = self._log.head
        against = {p for p, theirs in self._log.elsewhere.items() if theirs == head.digest}
        if not self._log.is_quorum(against) or self.standing != "in step":
            return []
        why = f"most peers have another state after round {head.round}"
        if not self._was_restored_in_doubt:
            self._doubts_own_state = True
            own = self._log.trail.steps
            return self._get_snapshot(why, own, frozenset(s.digest for s in own), False)
        self.standing, self.forked_because = "forked", why
        return [Note(f"forked: {why}, again. This peer trains on and no longer contributes.")]

    # --- another state ---------------------------------------------------------------------------

    def _get_snapshot(
        self, why: str, told: tuple[Step, ...], after: frozenset[str], without_quorum: bool
    ) -> list[Effect]:
        self.standing, self._told = "restoring", told
        return [Note(f"taking a snapshot: {why}"), GetSnapshot(why, after, without_quorum)]

    def advanced(self, *, is_done: bool) -> None:
        """One more entry was applied."""
        self.entries_behind = max(0, self.entries_behind - 1)
        self._log.elsewhere = {}
        if is_done:
            self.standing = "done"

    def restored(self, event: Restored, *, is_done: bool) -> None:
        """Another state is in force."""
        self._was_restored_in_doubt |= self._doubts_own_state
        self._doubts_own_state = False
        self._log.restore(event.head, with_history(event.trail, self._told))
        self.standing = "done" if is_done else "in step"

    def restore_failed(self, now_s: float) -> None:
        """Meanwhile entries may still be replayed, one by one."""
        self.standing, self._snapshot_after_s = "in step", now_s + SNAPSHOT_AGAIN_S
        self._doubts_own_state = False
        self._log.ask_anew()
