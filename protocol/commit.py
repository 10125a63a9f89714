"""Deciding one entry: single-decree Paxos among the voters of the entry before (I4).

Lamport, "Paxos Made Simple" (2001), section 2. Ballot b belongs to the coordinator at place
b mod n of the round's order, so two proposers never share a ballot. The first coordinator may skip
phase 1 in ballot 0: no lower ballot exists, so nothing can have been accepted before it.

Whatever a peer promises, accepts or proposes is on disk before anybody hears of it (`Record`). A
proposal is recorded as a promise of its own ballot: otherwise a proposer that is killed right after
it could propose something else in the same ballot.

A voter accepts a full entry only while it holds all of the entry's bytes on disk; what is decided
can therefore always be fetched from a quorum.

An accept is signed and verified, so that a decision can be shown to others (protocol/tally.py).
Within one ballot a voter signs for one entry only, whatever its owner asks for.
"""

from dataclasses import replace

from protocol.accepts import SignedAccept, Signer, Vote
from protocol.ballots import NO_BALLOT, Ballots
from protocol.errors import RemoteError
from protocol.events import Record, Send
from protocol.log import Entry, Head, coordinators
from protocol.messages import Accept, Accepted, Decided, Prepare, Promise
from protocol.tally import Tally

MAX_LEAP = 2**20
"""How far a ballot may be above all that was seen: a day of tries that this peer did not hear of.
Without it one member could use up all numbers of a round, and nobody could propose any more."""


class Decision:
    """One peer's acceptor and proposer for one round."""

    def __init__(self, me: str, tally: Tally, head: Head, ballots: Ballots, signer: Signer) -> None:
        """Args:
        head: the entry before, whose voters decide.
        ballots: what this peer promised and accepted in this round before it was restarted.
        signer: this peer's key.
        """
        self._me = me
        self._tally = tally
        self._head = head
        self._order = coordinators(tally.run_id, head.round + 1, head.voters)
        self._ballots = ballots
        self._signer = signer
        self._ballot = NO_BALLOT
        self._proposal: Entry | None = None
        self._is_asking = False
        self._promises: dict[str, Promise] = {}
        self._accepts: dict[str, SignedAccept] = {}

    @property
    def accepted(self) -> Entry | None:
        """What this peer's acceptor has accepted last."""
        return self._ballots.accepted

    def next_ballot(self) -> int:
        """The lowest ballot of this peer above everything that it has seen."""
        place, count = self._order.index(self._me), len(self._order)
        seen = max(self._ballots.promised, self._ballot)
        return place if seen < place else place + count * ((seen - place) // count + 1)

    # --- proposer -------------------------------------------------------------------------------

    def propose(self, ballot: int, entry: Entry) -> list[Record]:
        """Start a ballot for `entry`; phase 1 may replace it by one that was accepted before."""
        assert ballot > max(self._ballot, self._ballots.promised)
        self._ballot, self._proposal = ballot, entry
        self._promises, self._accepts = {}, {}
        self._ballots = replace(self._ballots, promised=ballot)
        if ballot == 0:
            sends = self._ask_to_accept(entry)
        else:
            self._is_asking = True
            prepare = Prepare(round=self._ballots.round, parent=self._ballots.parent, ballot=ballot)
            sends = [Send(voter, prepare) for voter in self._order if voter != self._me]
            sends.append(Send(self._me, self._promise()))
        return [Record(ballots=self._ballots, parts=None, then=tuple(sends))]

    def on_promise(self, sender: str, promise: Promise) -> list[Send]:
        if promise.parent != self._ballots.parent or sender not in self._order:
            return []
        if promise.ballot != self._ballot or not self._is_asking:
            return []
        self._promises[sender] = promise
        if not self._is_quorum(set(self._promises)):
            return []
        # Safety lies here: what a quorum may already have chosen is proposed again, unchanged.
        highest = max(self._promises.values(), key=lambda p: p.accepted_ballot)
        entry = highest.accepted or self._proposal
        assert entry is not None
        return self._ask_to_accept(entry)

    def on_accepted(self, sender: str, accepted: Accepted) -> Decided | None:
        """The decision, once a quorum has accepted in this ballot."""
        entry, accept = self._proposal, accepted.accept
        if accepted.ballot != self._ballot or sender not in self._order or entry is None:
            return None
        if accept.voter != sender:
            raise RemoteError(sender, f"sent an accept of {accept.voter[:8]} as its own")
        if accepted.entry_digest != entry.digest:
            raise RemoteError(sender, "accepted an entry that was not proposed")
        self._tally.check_accept(sender, Vote.on(entry, self._ballot), accept, self._head)
        self._accepts[sender] = accept
        if not self._is_quorum(set(self._accepts)):
            return None
        return Decided(
            round=entry.round,
            entry=entry,
            ballot=self._ballot,
            accepts=tuple(self._accepts[voter] for voter in sorted(self._accepts)),
        )

    def _ask_to_accept(self, entry: Entry) -> list[Send]:
        self._is_asking = False
        self._proposal = entry
        message = Accept(round=self._ballots.round, ballot=self._ballot, entry=entry)
        return [Send(voter, message) for voter in self._order]

    # --- acceptor -------------------------------------------------------------------------------

    def on_prepare(self, sender: str, prepare: Prepare) -> list[Record]:
        if prepare.parent != self._ballots.parent:
            return []
        self._refuse_foreign_ballot(sender, prepare.ballot)
        if prepare.ballot <= self._ballots.promised:
            return []
        self._ballots = replace(self._ballots, promised=prepare.ballot)
        answer = Send(sender, self._promise())
        return [Record(ballots=self._ballots, parts=None, then=(answer,))]

    def _promise(self) -> Promise:
        return Promise(
            round=self._ballots.round,
            parent=self._ballots.parent,
            ballot=self._ballots.promised,
            accepted_ballot=self._ballots.accepted_ballot,
            accepted=self._ballots.accepted,
        )

    def would_accept(self, sender: str, accept: Accept) -> bool:
        """Whether no higher ballot was promised.

        Raises:
            RemoteError: the ballot is not its own, or it has asked for another entry in it.
        """
        self._refuse_foreign_ballot(sender, accept.ballot)
        mine = self._ballots
        if mine.accepted_ballot == accept.ballot and mine.accepted != accept.entry:
            raise RemoteError(sender, f"proposes two entries in ballot {accept.ballot}")
        return accept.ballot >= mine.promised

    def on_accept(
        self, sender: str, accept: Accept, parts: tuple[bytes | None, ...]
    ) -> list[Record]:
        """Accept, unless a higher ballot was promised. `parts`: all of the entry's bytes."""
        if not self.would_accept(sender, accept):
            return []
        self._ballots = replace(
            self._ballots,
            promised=accept.ballot,
            accepted_ballot=accept.ballot,
            accepted=accept.entry,
        )
        vote = Vote.on(accept.entry, accept.ballot)
        journal = self._head.incarnation_of(self._me)
        accepted = Accepted(
            round=self._ballots.round,
            ballot=accept.ballot,
            entry_digest=vote.entry_digest,
            accept=SignedAccept.of(vote, self._tally.run_id, self._me, journal, self._signer),
        )
        return [Record(ballots=self._ballots, parts=parts, then=(Send(sender, accepted),))]

    def _refuse_foreign_ballot(self, sender: str, ballot: int) -> None:
        if ballot < 0 or self._order[ballot % len(self._order)] != sender:
            raise RemoteError(sender, f"ballot {ballot} is not its own")
        if ballot > max(self._ballots.promised, self._ballot, 0) + MAX_LEAP:
            raise RemoteError(sender, f"ballot {ballot} is out of reach")

    def _is_quorum(self, peers: set[str]) -> bool:
        return self._tally.is_quorum(peers, self._head)
