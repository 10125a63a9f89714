"""One attempt to do a round, as one peer sees it: who is ready, the roster, what was proposed.

The rules of the coordinator stand here, and of those that take over from it. Each voter applies
them to what it knows; ballots (protocol/commit.py) keep two of them apart.
"""

from collections.abc import Mapping
from dataclasses import replace

from protocol.commit import Decision
from protocol.coordinator import full_parts, next_entry, plan_roster
from protocol.events import Effect, Send
from protocol.group import form_group
from protocol.log import Entry, Head, coordinators, is_quorum
from protocol.messages import Ready
from protocol.round import Exchange
from protocol.terms import Terms


class Attempt:
    """The state of the round after `head`; a new one begins with every decided entry."""

    def __init__(self, me: str, terms: Terms, head: Head) -> None:
        self.readies: dict[str, Ready] = {}
        self.exchange: Exchange | None = None
        """Under the roster that is in force."""
        self.superseded: Exchange | None = None
        """A complete one under a lower ballot: its entry may be accepted, so its bytes stay."""
        self.roster_ballot = -1
        self.rostered_at_s = 0.0
        self.coordinator = ""
        self.snapshot: tuple[bytes, ...] | None = None
        self.snapshot_asked = False
        self.held: dict[str, str] = {}
        """What each member reported to hold: the digest over its means."""
        self.waiting_for = ""
        """Why no roster has come yet, in words."""
        self._me = me
        self._terms = terms
        self._head = head
        self._order = coordinators(terms.run_id, head.round + 1, head.voters)
        self.decision = Decision(head.round + 1, self._order, head.tie_breaker)
        self._quorum_ready_since_s: float | None = None
        self._group_since_s: float | None = None
        self._proposed_at_s: float | None = None
        self._absent: Mapping[str, str] = {}
        self._lost: Mapping[str, str] = {}

    def owns_ballot(self, peer_id: str, ballot: int) -> bool:
        """Ballot b belongs to the coordinator at place b mod n."""
        return ballot >= 0 and self._order[ballot % len(self._order)] == peer_id

    def bytes_of(self, entry: Entry) -> tuple[bytes | None, ...] | None:
        """The bytes of every part that an entry names; None if one of them is not here."""
        if entry.is_empty:
            return (None,) * len(entry.parts)
        named = tuple(part.digest for part in entry.parts if part is not None)
        for exchange in (self.exchange, self.superseded):
            if exchange is not None and exchange.is_complete and named == exchange.mean_digests:
                return exchange.means
        return None

    def follow(self, exchange: Exchange, coordinator: str, now_s: float) -> None:
        """A roster with a higher ballot is in force."""
        if self.exchange is not None and self.exchange.is_complete:
            self.superseded = self.exchange
        self.exchange, self.roster_ballot = exchange, exchange.roster.ballot
        self.coordinator, self.rostered_at_s, self.held = coordinator, now_s, {}

    def coordinate(
        self, now_s: float, absent: Mapping[str, str], lost: Mapping[str, str]
    ) -> list[Effect]:
        """Do what is due, as the coordinator or instead of it.

        Args:
            absent: for every peer known, this one included, why a round cannot wait for it (it is
                lost, or on another log); empty for those that it can wait for.
            lost: why each lost peer counts as lost.
        """
        self._absent, self._lost = absent, lost
        if self._proposed_at_s is not None:
            return self._insist(now_s)
        if self.exchange is None:
            return self._lead(now_s)
        if self.coordinator == self._me:
            return self._conclude(now_s)
        return self._take_over(now_s)

    def hand_over(self, heirs: tuple[str, ...], now_s: float) -> list[Effect]:
        """Propose that only `heirs` decide from now on, unless something is proposed already."""
        if self._proposed_at_s is not None:
            return []
        entry = next_entry(
            self._terms,
            self._head,
            members=self._head.voters,
            lost={},
            parts=None,
            missing=((self._me, "leaves"),),
            reason=f"{self._me[:8]} leaves",
        )
        tie_breaker = coordinators(self._terms.run_id, entry.round + 1, heirs)[0]
        return self._propose(replace(entry, voters=heirs, tie_breaker=tie_breaker), now_s)

    def _live_before_me(self) -> int:
        """How many coordinators come first; one that is lost or on another log does not lead."""
        return sum(not self._absent[peer] for peer in self._order[: self._order.index(self._me)])

    def _lead(self, now_s: float) -> list[Effect]:
        """Start the round if the group is there and it is this peer's turn."""
        ready = {p for p, m in self.readies.items() if m.parent == self._head.digest}
        if not is_quorum(ready, self._head.voters, self._head.tie_breaker):
            self._quorum_ready_since_s = None
        elif self._quorum_ready_since_s is None:
            self._quorum_ready_since_s = now_s
        since_s = self._quorum_ready_since_s
        waited_s = 0.0 if since_s is None else now_s - since_s
        group, self.waiting_for = form_group(
            self._head,
            self.readies,
            self._absent,
            waited_s=waited_s,
            grace_s=self._terms.limits.grace_s,
            exact=self._terms.lockstep,
        )
        if group is None:
            self._group_since_s = None
            return []
        if self._group_since_s is None:
            self._group_since_s = now_s
        ahead = self._live_before_me()
        patience_s = (
            self._terms.limits.grace_s + self._terms.limits.takeover_s * ahead if ahead else 0.0
        )
        if now_s - self._group_since_s < patience_s:
            return []
        if not group.contributors:
            # At the end of a run a fragment can come up again before anybody trained a step.
            return self._propose(self._empty_entry("nobody has trained since"), now_s)
        ballot = self.decision.next_ballot(self._me)
        roster = plan_roster(self._terms, self._head, group, self.readies, ballot)
        return [Send(peer, roster) for peer in roster.peer_ids]

    def _conclude(self, now_s: float) -> list[Effect]:
        """As the coordinator of the roster: propose what the group achieved."""
        exchange = self.exchange
        assert exchange is not None
        roster = exchange.roster
        digests = {self.held.get(peer) for peer in roster.peer_ids}
        if None not in digests:
            if len(digests) == 1:
                return self._propose(self._full_entry(exchange), now_s)
            return self._propose(self._empty_entry("members hold different means"), now_s)
        lost = [peer for peer in roster.peer_ids if peer in self._lost and peer not in self.held]
        if lost:
            names = ", ".join(f"{peer[:8]} ({self._lost[peer]})" for peer in lost)
            return self._propose(self._empty_entry(f"lost {names}"), now_s)
        if now_s - self.rostered_at_s > roster.deadline_s:
            late = ", ".join(p[:8] for p in roster.peer_ids if p not in self.held)
            return self._propose(self._empty_entry(f"deadline passed without {late}"), now_s)
        return []

    def _take_over(self, now_s: float) -> list[Effect]:
        """As another voter: end the round if its coordinator does not."""
        assert self.exchange is not None
        turns = 1 + self._live_before_me()
        if self.coordinator in self._lost:
            due_s = self.rostered_at_s
            if turns > 1:
                due_s += self.exchange.roster.deadline_s + self._terms.limits.takeover_s * turns
        else:
            due_s = self.rostered_at_s + self.exchange.roster.deadline_s
            due_s += self._terms.limits.takeover_s * turns
        if now_s < due_s:
            return []
        why = self._lost.get(self.coordinator, "silent past the deadline")
        reason = f"the coordinator {self.coordinator[:8]} is gone ({why})"
        return self._propose(self._empty_entry(reason), now_s)

    def _insist(self, now_s: float) -> list[Effect]:
        """A proposal found no quorum in time: try again in a higher ballot, with the same value."""
        assert self._proposed_at_s is not None
        patience_s = self._terms.limits.takeover_s * (1 + self._live_before_me())
        if now_s - self._proposed_at_s < patience_s:
            return []
        return self._propose(self._empty_entry("no quorum answered in time"), now_s)

    def _propose(self, entry: Entry, now_s: float) -> list[Effect]:
        # The roster's own ballot serves its first proposal; every further one needs a higher.
        ballot = self.decision.next_ballot(self._me)
        self._proposed_at_s = now_s
        return list(self.decision.propose(ballot, entry))

    def _full_entry(self, exchange: Exchange) -> Entry:
        return next_entry(
            self._terms,
            self._head,
            members=exchange.roster.peer_ids,
            lost=self._lost,
            parts=full_parts(exchange.roster, exchange.mean_digests),
            missing=exchange.roster.missing,
        )

    def _empty_entry(self, reason: str) -> Entry:
        exchange = self.exchange
        ready = (p for p, m in self.readies.items() if m.parent == self._head.digest)
        members = exchange.roster.peer_ids if exchange else tuple(sorted(ready))
        return next_entry(
            self._terms,
            self._head,
            members=members,
            lost=self._lost,
            parts=None,
            missing=tuple((p, why) for p in members if (why := self._absent[p])),
            reason=reason,
        )
