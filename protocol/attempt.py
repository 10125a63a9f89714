"""One attempt to do a round, as one of its members: the roster in force, and what is held under it.

    roster     from a coordinator -> StartRound; whoever contributes takes a snapshot
    exchange   protocol/round.py; whoever holds everything tells the leader
    amend      a member is lost, or the deadline is over -> give up, resend, and say what is held

What the leader does stands in protocol/leading.py.
"""

import math
from collections import ChainMap
from collections.abc import Mapping

from protocol.accepts import Signer
from protocol.ballots import Ballots
from protocol.checks import check_roster
from protocol.claims import Claim
from protocol.commit import MAX_LEAP, Decision
from protocol.errors import RemoteError
from protocol.events import (
    Audit,
    ContributionRefused,
    Effect,
    MeanDoubted,
    Note,
    PartAveraged,
    PartReceived,
    Send,
    SnapshotTaken,
    StartRound,
    TakeSnapshot,
)
from protocol.log import Entry, Head, coordinators
from protocol.messages import Accept, Amend, Decided, Held, Mean, Ready, Roster
from protocol.presence import Presence
from protocol.provenance import Provenance
from protocol.round import Exchange
from protocol.terms import Terms


class Attempt:
    """The state of the round after `head`; a new one begins with every decided entry."""

    def __init__(
        self,
        me: str,
        terms: Terms,
        head: Head,
        presence: Presence,
        signer: Signer,
        provenance: Provenance,
        ballots: Ballots | None = None,
    ) -> None:
        """`ballots`: what this peer's journal holds, if it is of this round."""
        self.readies: dict[str, Ready] = {}
        self.exchange: Exchange | None = None
        """Under the roster that is in force."""
        self.roster_ballot = -1
        self.rostered_at_s = 0.0
        self.close_at_s = 0.0
        self.due_at_s = 0.0
        """When the entry is proposed with what is there."""
        self.leader = ""
        """Who concludes the round: the roster's coordinator, or who has amended it last."""
        self.led_since_s = 0.0
        """When it last said that it leads."""
        self.snapshot: tuple[bytes, ...] | None = None
        self.snapshot_asked = False
        self.held: dict[str, Held] = {}
        """What each member reported to hold."""
        self.fetched: dict[str, bytes] = {}
        """Bytes of parts by digest, from elsewhere than the exchange in force."""
        self.awaiting: tuple[str, Accept | Decided] | None = None
        """What can be answered or applied once its bytes are here, and who sent it."""
        self.doubted: set[tuple[int, str]] = set()
        """Part and digest of means that contradict what this peer gave."""
        self._looked_into: set[str] = set()
        """Owners of such means: one mean of each is enough, since it is the owner who is convicted;
        and of no more of them than audits are drawn."""
        self.fetches_failed = 0
        """How often nobody gave the bytes of a part."""
        self.head = head
        self._me = me
        self._terms = terms
        self._presence = presence
        self._signer = signer
        self._provenance = provenance
        self._claims: dict[tuple[int, str], Claim] = {}
        """Of means under rosters that were in force before, as `Exchange.claims`."""
        self.order = coordinators(terms.run_id, head.round + 1, head.voters)
        self.vote_from(ballots)

    def vote_from(self, ballots: Ballots | None) -> None:
        """Go on with what a journal holds of this round, if anything; nothing is proposed yet."""
        head = self.head
        if ballots is None or (ballots.round, ballots.parent) != (head.round + 1, head.digest):
            ballots = Ballots(round=head.round + 1, parent=head.digest, term=head.term)
        self.decision = Decision(self._me, self._terms.tally, head, ballots, self._signer)

    def owns_ballot(self, peer_id: str, ballot: int) -> bool:
        """Ballot b belongs to the coordinator at place b mod n; so does amendment b."""
        return ballot >= 0 and self.order[ballot % len(self.order)] == peer_id

    # --- bytes -----------------------------------------------------------------------------------

    def bytes_of(self, entry: Entry) -> tuple[bytes | None, ...] | None:
        """The bytes of every part that an entry names; None if one of them is not here."""
        if self.missing_of(entry):
            return None
        return tuple(None if part is None else self.part(part.digest) for part in entry.parts)

    def missing_of(self, entry: Entry) -> tuple[tuple[str, int], ...]:
        """(digest, size) of every part that an entry names and that is not here."""
        sizes = [self._terms.codec.encoded_bytes(v) for v in self._terms.parts_of(entry.round)]
        return tuple(
            (part.digest, size)
            for part, size in zip(entry.parts, sizes, strict=True)
            if part is not None and self.part(part.digest) is None
        )

    def part(self, digest: str) -> bytes | None:
        """A mean of this round, by content address."""
        data = self.fetched.get(digest)
        if data is None and self.exchange is not None:
            data = self.exchange.bytes_of(digest)
        return data

    def claims_of(self, entry: Entry) -> tuple[Claim, ...]:
        """What owners claimed of the means that an entry names, as far as they told this peer."""
        claims = self._told
        named = [(i, part.digest) for i, part in enumerate(entry.parts) if part is not None]
        return tuple(claims[mean] for mean in named if mean in claims)

    def is_believed(self, mean: Mean) -> bool:
        """Whether this peer may propose it: nobody who was proven to lie claims it, and it does not
        contradict what this peer gave."""
        named = (mean.part_index, mean.digest)
        claim = self._told.get(named)
        is_of_a_liar = claim is not None and claim.owner in self._presence.liars
        return not is_of_a_liar and named not in self.doubted

    def on_doubted(self, event: MeanDoubted) -> list[Effect]:
        """A mean contradicts what this peer gave, which is said to be in it: look into that."""
        named = (event.part_index, event.digest)
        claim = self._told.get(named)
        if claim is None:
            return []
        self.doubted.add(named)
        is_known = claim.owner in self._looked_into or claim.owner in self._presence.liars
        if is_known or len(self._looked_into) >= math.ceil(self._terms.audits):
            return []
        self._looked_into.add(claim.owner)
        return [Audit(claim)]

    @property
    def _told(self) -> Mapping[tuple[int, str], Claim]:
        """What owners claimed in this round, by part and digest of the mean."""
        # Asked for every mean that every member holds: nothing is copied.
        return ChainMap(self.exchange.claims if self.exchange else {}, self._claims)

    def sources(self, first: str) -> tuple[str, ...]:
        """Whom to ask for bytes of this round: `first`, then everybody who may hold them.

        Also voters that are not in the roster: one may have accepted an entry under another one.
        """
        members = self.exchange.roster.peer_ids if self.exchange else ()
        others = [p for p in dict.fromkeys((*members, *self.order)) if p not in self._presence.lost]
        return tuple(p for p in dict.fromkeys((first, *others)) if p != self._me)

    # --- the roster in force ---------------------------------------------------------------------

    def _follow(self, exchange: Exchange, coordinator: str, now_s: float) -> None:
        """A roster with a higher ballot is in force."""
        if self.exchange is not None:
            # An entry of the roster before may have been accepted: its bytes stay.
            for mean in self.exchange.means:
                data = self.exchange.bytes_of(mean.digest)
                assert data is not None
                self.fetched[mean.digest] = data
            self._claims |= self.exchange.claims
        roster = exchange.roster
        self.exchange, self.roster_ballot = exchange, roster.ballot
        self.leader, self.led_since_s, self.rostered_at_s = coordinator, now_s, now_s
        self.held = {}
        self.close_at_s = now_s + roster.close_s
        self.due_at_s = now_s + roster.deadline_s

    def _amended(self, amend: Amend, leader: str, now_s: float) -> list[Effect]:
        """Follow an amendment of the roster in force; RemoteError when it does not fit."""
        assert self.exchange is not None
        effects = self.exchange.amend(leader, amend)
        self.leader, self.led_since_s = leader, now_s
        if amend.resend_s:
            longest_s = self.rostered_at_s + 3 * self._terms.limits.round_deadline_s
            patience_s = 2 * amend.resend_s + self._terms.limits.grace_s
            self.close_at_s = max(self.close_at_s, now_s + patience_s)
            self.due_at_s = min(max(self.due_at_s, now_s + 2 * patience_s), longest_s)
        return effects

    def close_if_due(self, now_s: float) -> list[Effect]:
        """Owners average what they have when the time for contributions is over."""
        if self.exchange is None or now_s < self.close_at_s or self._terms.lockstep:
            return []
        return self.exchange.close()

    def slept(self, now_s: float) -> None:
        """This peer stood still: contributions that came meanwhile are still to be taken in."""
        self.close_at_s = max(self.close_at_s, now_s + self._terms.limits.grace_s / 2)

    # --- as a member -----------------------------------------------------------------------------

    def on_roster(self, sender: str, roster: Roster, now_s: float) -> list[Effect]:
        if roster.parent != self.head.digest:
            raise RemoteError(sender, f"roster of round {roster.round} continues another log")
        if not self.owns_ballot(sender, roster.ballot):
            raise RemoteError(sender, f"ballot {roster.ballot} is not its own")
        if roster.ballot <= self.roster_ballot:
            return []
        for other in roster.members:
            if other.tokens > 0 and other.peer_id in self._presence.elsewhere:
                # A coordinator that was not ready itself has no state to compare.
                raise RemoteError(sender, f"averages {other.peer_id[:8]}, which is elsewhere")
        own = self.readies.get(self._me)
        tokens = own.tokens if own else 0
        check_roster(sender, roster, self._terms, self._me, tokens, self.head.banned)
        fragment_id = self._terms.schedule.fragment_of(roster.round)
        parts = self._terms.parts_of(roster.round)
        exchange = Exchange(self._me, roster, self._terms.codec, parts, self._provenance)
        self._follow(exchange, sender, now_s)
        effects: list[Effect] = [StartRound(roster, fragment_id)]
        if not exchange.contributes:
            return effects
        if self.snapshot is not None:
            return effects + exchange.contribute(self.snapshot) + self.report_held()
        if not self.snapshot_asked:
            self.snapshot_asked = True
            effects.append(TakeSnapshot(roster.round, fragment_id))
        return effects

    def on_amend(self, sender: str, amend: Amend, now_s: float) -> list[Effect]:
        exchange = self.exchange
        if not self.owns_ballot(sender, amend.number):
            raise RemoteError(sender, f"amendment {amend.number} is not its own")
        if exchange is None or exchange.roster_digest != amend.roster:
            return []
        if amend.number > max(exchange.number, 0) + MAX_LEAP:
            raise RemoteError(sender, f"amendment {amend.number} is out of reach")
        if amend.number <= exchange.number or self._me not in exchange.roster.peer_ids:
            return []
        effects = self._amended(amend, sender, now_s)
        return [*effects, self._held_by_me(exchange)]

    def on_held(self, sender: str, held: Held) -> list[Effect]:
        exchange = self.exchange
        if exchange and exchange.roster_digest == held.roster:
            if not all(map(exchange.is_plausible, held.means)):
                raise RemoteError(sender, "holds what the round does not have")
            self.held[sender] = held
        return []

    def on_snapshot(self, event: SnapshotTaken) -> list[Effect]:
        if event.round != self.head.round + 1 or self.exchange is None:
            return []
        self.snapshot = event.parts
        if not self.exchange.contributes:
            # A newer roster, whose coordinator never got this peer's Ready, has come in between.
            return []
        return self.exchange.contribute(event.parts) + self.report_held()

    def on_part(self, event: PartReceived) -> list[Effect]:
        exchange = self.exchange
        if exchange is None or exchange.roster_digest != event.roster:
            return []
        was_complete = exchange.is_complete
        effects = exchange.receive(event)
        return effects if was_complete else effects + self.report_held()

    def on_averaged(self, event: PartAveraged) -> list[Effect]:
        exchange = self.exchange
        if exchange is None or exchange.roster_digest != event.roster:
            return []
        return exchange.averaged(event.part_index, event.data) + self.report_held()

    def on_refused(self, event: ContributionRefused) -> list[Effect]:
        exchange = self.exchange
        if exchange is None or exchange.roster_digest != event.roster:
            return []
        note = Note(f"a contribution of {event.sender[:8]} cannot be decoded and is left out")
        return [note, *exchange.refused(event.part_index, event.sender)]

    def report_held(self) -> list[Effect]:
        exchange = self.exchange
        if exchange is None or not exchange.is_complete:
            return []
        return [self._held_by_me(exchange)]

    def _held_by_me(self, exchange: Exchange) -> Send:
        held = Held(
            round=self.head.round + 1,
            roster=exchange.roster_digest,
            number=exchange.number,
            means=exchange.means,
        )
        return Send(self.leader, held)
