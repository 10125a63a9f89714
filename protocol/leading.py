"""What the leader of a round does: the coordinator of its roster, and those that take over from it.

Each voter applies these rules to what it knows; ballots (protocol/commit.py) keep two of them
apart.

    lead        the group is there -> Roster
    conclude    all hold all means -> the entry; a member is lost -> Amend; the deadline is over ->
                the entry with the parts that somebody holds, be it none
    take over   the leader is lost or silent -> Amend, and conclude in its place
    insist      no quorum accepted in time -> the same entry in a higher ballot, then an empty one
"""

from dataclasses import replace

from protocol.attempt import Attempt
from protocol.coordinator import choose_means, heirs_of, next_entry, plan_roster, resend_time_s
from protocol.events import Effect, FetchParts, Send
from protocol.group import form_group
from protocol.log import Entry, coordinators
from protocol.messages import Amend, Mean, Ready
from protocol.presence import Presence
from protocol.terms import Terms

TRIES = 3
"""How often an entry is proposed before an empty one is."""


class Leading:
    """One voter as the leader of one round, or as the one that may have to become it."""

    def __init__(self, me: str, terms: Terms, attempt: Attempt, presence: Presence) -> None:
        self.waiting_for = ""
        """Why no roster has come yet, in words."""
        self._me = me
        self._terms = terms
        self._round = attempt
        self._presence = presence
        self._quorum_ready_since_s: float | None = None
        self._group_since_s: float | None = None
        self._counting_since_s: dict[str, float] = {}
        """When it was asked what is held, since the deadline was over; by roster."""
        self._fetch_since_s: float | None = None
        self._proposed_at_s: float | None = None
        self._proposed: Entry | None = None
        self._tries = 0

    def coordinate(self, now_s: float) -> list[Effect]:
        """Do what is due, as the leader or instead of it. Only for peers with a vote."""
        if self._proposed_at_s is not None:
            return self._insist(now_s)
        if self._round.exchange is None:
            return self._lead(now_s)
        if self._round.leader == self._me:
            return self._conclude(now_s)
        return self._take_over(now_s)

    def hand_over(self, heirs: tuple[str, ...], now_s: float) -> list[Effect]:
        """Propose that only `heirs` decide from now on, unless something is proposed already."""
        if self._proposed_at_s is not None:
            return []
        entry = next_entry(
            self._terms,
            self._round.head,
            members=dict(zip(self._round.head.voters, self._round.head.incarnations, strict=True)),
            lost={},
            parts=None,
            missing=((self._me, "leaves"),),
            reason=f"{self._me[:8]} leaves",
        )
        entry = replace(
            entry,
            voters=heirs,
            incarnations=tuple(self._round.head.incarnation_of(heir) for heir in heirs),
            tie_breaker=coordinators(self._terms.run_id, entry.round + 1, heirs)[0],
        )
        return self._propose(entry, now_s)

    def _live_before_me(self) -> int:
        """How many coordinators come first; one that is lost or on another log does not lead."""
        before = self._round.order[: self._round.order.index(self._me)]
        return sum(
            not self._presence.why_absent(peer) and self._presence.can_vote(peer) for peer in before
        )

    def _ready(self) -> dict[str, Ready]:
        """Who said that it is ready for this round, and can still be counted on."""
        astray = self._presence.astray
        here = self._round.head.digest
        return {
            p: m for p, m in self._round.readies.items() if m.parent == here and p not in astray
        }

    def _lead(self, now_s: float) -> list[Effect]:
        """Start the round if the group is there and it is this peer's turn."""
        ready = self._ready()
        if not self._terms.tally.is_quorum(set(ready), self._round.head):
            self._quorum_ready_since_s = None
        elif self._quorum_ready_since_s is None:
            self._quorum_ready_since_s = now_s
        since_s = self._quorum_ready_since_s
        waited_s = 0.0 if since_s is None else now_s - since_s
        group, self.waiting_for = form_group(
            self._terms.tally,
            self._round.head,
            ready,
            {peer: self._presence.why_absent(peer) for peer in self._presence.known},
            self._presence.liars,
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
        ballot = self._round.decision.next_ballot()
        journals = {peer: self._presence.journal_of(peer) for peer in group.members}
        roster = plan_roster(self._terms, self._round.head, group, ready, journals, ballot)
        return [Send(peer, roster) for peer in roster.peer_ids]

    def _conclude(self, now_s: float) -> list[Effect]:
        """As the leader: propose what the group achieved, or go on without whom it has lost."""
        exchange = self._round.exchange
        assert exchange is not None
        lost = {
            peer for peer in exchange.roster.peer_ids if peer in self._presence.lost
        } | exchange.lost
        live = [peer for peer in exchange.roster.peer_ids if peer not in lost]
        held = {peer: self._round.held[peer].means for peer in live if peer in self._round.held}
        here = {peer: {mean.part_index for mean in means} for peer, means in held.items()}
        every = set(range(len(exchange.owners)))
        # What others gave to a part that is left out stays to be given. Voters accept what another
        # leader believes: refused for good by some, an entry that few accepted would stop the run.
        believed = {p: tuple(filter(self._round.is_believed, ms)) for p, ms in held.items()}
        chosen = choose_means(believed, len(every))
        if all(here.get(peer) == every for peer in live):
            return self._propose_means(chosen, now_s)
        if lost > exchange.lost and not self._terms.lockstep:
            return self._amend(lost, exchange.owners, moved=[])
        answered = all(
            peer in self._round.held and self._round.held[peer].number == exchange.number
            for peer in live
        )
        if exchange.number >= 0 and answered:
            given_up = {p for p, owner in enumerate(exchange.owners) if owner in exchange.lost}
            orphaned = [part for part in sorted(given_up) if chosen[part] is None]
            if orphaned:
                return self._amend(exchange.lost, exchange.owners, moved=orphaned)
            if all(here[peer] | given_up == every for peer in live):
                # What a lost owner had sent to some only, the others fetch.
                return self._propose_means(chosen, now_s)
        if now_s < self._round.due_at_s:
            return []
        counting_since_s = self._counting_since_s.get(exchange.roster_digest)
        if counting_since_s is None:
            self._counting_since_s[exchange.roster_digest] = now_s
            return self._amend(exchange.lost, exchange.owners, moved=[])
        if answered or now_s - counting_since_s > self._terms.limits.takeover_s:
            return self._propose_means(chosen, now_s)
        return []

    def _amend(
        self, lost: set[str] | frozenset[str], owners: tuple[str, ...], moved: list[int]
    ) -> list[Effect]:
        """Tell the group whom to give up and who owns these parts now, and ask what it holds."""
        exchange = self._round.exchange
        assert exchange is not None
        peers = exchange.roster.peer_ids
        place, count = self._round.order.index(self._me), len(self._round.order)
        seen = exchange.number
        number = place if seen < place else place + count * ((seen - place) // count + 1)
        places = [peers.index(owner) for owner in owners]
        alive = [i for i, peer in enumerate(peers) if peer not in lost]
        amend = Amend(
            round=exchange.roster.round,
            roster=exchange.roster_digest,
            number=number,
            lost=tuple(sorted(lost)),
            owners=heirs_of(places, moved, alive) if alive else tuple(places),
            resend_s=resend_time_s(self._terms, exchange.roster, self._round.readies, moved),
        )
        return [Send(peer, amend) for peer in peers if peer not in self._presence.lost]

    def _propose_means(self, chosen: tuple[Mean | None, ...], now_s: float) -> list[Effect]:
        """Propose the entry that these means make, once all of their bytes are here."""
        exchange = self._round.exchange
        assert exchange is not None
        if self._fetch_since_s is None:
            self._fetch_since_s = now_s
        here = [mean for mean in chosen if mean and self._round.part(mean.digest) is not None]
        away = [mean for mean in chosen if mean and self._round.part(mean.digest) is None]
        if away and now_s - self._fetch_since_s < self._terms.limits.round_deadline_s:
            sizes = [
                self._terms.codec.encoded_bytes(v)
                for v in self._terms.parts_of(exchange.roster.round)
            ]
            wanted = tuple((mean.digest, sizes[mean.part_index]) for mean in away)
            holders = [p for p, held in self._round.held.items() if set(away) & set(held.means)]
            return [FetchParts(wanted, tuple(p for p in holders if p != self._me))]
        if not here:
            late = ", ".join(p[:8] for p in exchange.roster.peer_ids if p not in self._round.held)
            lost = ", ".join(
                f"{p[:8]} ({self._presence.lost[p]})"
                for p in exchange.lost
                if p in self._presence.lost
            )
            why = f"lost {lost}" if lost else f"the deadline passed without {late or 'any mean'}"
            return self._propose(self._empty_entry(why), now_s)
        parts = [exchange.part_of(mean) if mean in here else None for mean in chosen]
        entry = next_entry(
            self._terms,
            self._round.head,
            members={m.peer_id: m.incarnation for m in exchange.roster.members},
            lost=self._presence.astray,
            parts=[part for part in parts],
            missing=exchange.roster.missing,
            banned=self._presence.to_ban,
        )
        return self._propose(replace(entry, missing=self._missing(entry)), now_s)

    def _missing(self, entry: Entry) -> tuple[tuple[str, str], ...]:
        """Who is not in an entry, and why; also who promised a contribution and did not make it."""
        exchange = self._round.exchange
        assert exchange is not None
        missing = dict(exchange.roster.missing)
        for member in exchange.roster.members:
            if member.tokens > 0 and not any(entry.contributed_parts(member.peer_id)):
                missing[member.peer_id] = self._presence.lost.get(
                    member.peer_id, "its parts did not arrive in time"
                )
        return tuple(sorted(missing.items()))

    def _take_over(self, now_s: float) -> list[Effect]:
        """As another voter: lead the group if its leader does not."""
        exchange = self._round.exchange
        assert exchange is not None
        turns = self._live_before_me()
        # Whoever has only just begun to lead gets its time: two that see different peers as lost
        # would otherwise take the lead from each other for ever.
        due_s = max(self._round.due_at_s, self._round.led_since_s)
        if self._round.leader not in self._presence.lost:
            due_s += self._terms.limits.takeover_s
        elif turns == 0:
            due_s = self._round.rostered_at_s
        due_s += self._terms.limits.takeover_s * turns
        if now_s < due_s:
            return []
        if now_s >= self._round.due_at_s:
            self._counting_since_s[exchange.roster_digest] = now_s
        lost = {
            p
            for p in exchange.roster.peer_ids
            if p in self._presence.lost and not self._terms.lockstep
        }
        return self._amend(lost | exchange.lost, exchange.owners, moved=[])

    def _insist(self, now_s: float) -> list[Effect]:
        """A proposal found no quorum in time: try again in a higher ballot."""
        assert self._proposed_at_s is not None and self._proposed is not None
        limits = self._terms.limits
        patience_s = limits.takeover_s * (1 + self._live_before_me())
        if not self._proposed.is_empty and self._round.exchange is not None:
            # Voters may have to fetch some of its bytes first.
            patience_s += self._round.exchange.roster.transfer_s
        if now_s - self._proposed_at_s < patience_s:
            return []
        self._tries += 1
        if self._tries < TRIES:
            return self._propose(self._proposed, now_s)
        return self._propose(self._empty_entry("no quorum answered in time"), now_s)

    def _propose(self, entry: Entry, now_s: float) -> list[Effect]:
        # The roster's own ballot serves its first proposal; every further one needs a higher.
        self._proposed_at_s, self._proposed = now_s, entry
        return list(self._round.decision.propose(self._round.decision.next_ballot(), entry))

    def _empty_entry(self, reason: str) -> Entry:
        if self._round.exchange is not None:
            members = {m.peer_id: m.incarnation for m in self._round.exchange.roster.members}
        else:
            voting = filter(self._presence.can_vote, self._round.head.voters)
            present = sorted({*self._ready(), *voting} - {*self._presence.liars})
            members = {peer: self._presence.journal_of(peer) for peer in present}
        return next_entry(
            self._terms,
            self._round.head,
            members=members,
            lost=self._presence.astray,
            parts=None,
            missing=tuple((p, why) for p in members if (why := self._presence.why_absent(p))),
            banned=self._presence.to_ban,
            reason=reason,
        )
