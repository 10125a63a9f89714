"""Deciding one entry: single-decree Paxos among the voters of the entry before (I4).

Lamport, "Paxos Made Simple" (2001), section 2. Ballot b belongs to the coordinator at place
b mod n of the round's order, so two proposers never share a ballot. The first coordinator may skip
phase 1 in ballot 0: no lower ballot exists, so nothing can have been accepted before it.

A voter accepts a full entry only while it holds all of the entry's bytes; what is decided can
therefore always be fetched from a quorum. Promises and accepts live in memory for now: a peer that
restarts does not vote again, because joining in mid-run is refused until its journal exists.
"""

from protocol.errors import RemoteError
from protocol.events import Send
from protocol.log import Entry, is_quorum
from protocol.messages import Accept, Accepted, Prepare, Promise

NO_BALLOT = -1


class Decision:
    """One peer's acceptor and proposer for one round."""

    def __init__(self, round_: int, order: tuple[str, ...], tie_breaker: str) -> None:
        """`order`: the voters, as `protocol.log.coordinators` orders them for this round."""
        self._round = round_
        self._order = order
        self._tie_breaker = tie_breaker
        self._promised = NO_BALLOT
        self._accepted_ballot = NO_BALLOT
        self._accepted: Entry | None = None
        self._ballot = NO_BALLOT
        self._proposal: Entry | None = None
        self._is_asking = False
        self._promises: dict[str, Promise] = {}
        self._accepts: set[str] = set()

    def next_ballot(self, peer_id: str) -> int:
        """The lowest ballot of `peer_id` above everything that this peer has seen."""
        place, count = self._order.index(peer_id), len(self._order)
        seen = max(self._promised, self._ballot)
        return place if seen < place else place + count * ((seen - place) // count + 1)

    # --- proposer -------------------------------------------------------------------------------

    def propose(self, ballot: int, entry: Entry) -> list[Send]:
        """Start a ballot for `entry`; phase 1 may replace it by one that was accepted before."""
        assert ballot > self._ballot
        self._ballot, self._proposal = ballot, entry
        self._promises, self._accepts = {}, set()
        if ballot == 0:
            return self._ask_to_accept(entry)
        self._is_asking = True
        return [Send(v, Prepare(round=self._round, ballot=ballot)) for v in self._order]

    def on_promise(self, sender: str, promise: Promise) -> list[Send]:
        if promise.ballot != self._ballot or not self._is_asking or sender not in self._order:
            return []
        self._promises[sender] = promise
        if not self._is_quorum(set(self._promises)):
            return []
        # Safety lies here: what a quorum may already have chosen is proposed again, unchanged.
        highest = max(self._promises.values(), key=lambda p: p.accepted_ballot)
        entry = highest.accepted or self._proposal
        assert entry is not None
        return self._ask_to_accept(entry)

    def on_accepted(self, sender: str, accepted: Accepted) -> tuple[Entry, tuple[str, ...]] | None:
        """The decided entry and who accepted it, once a quorum did."""
        entry = self._proposal
        if accepted.ballot != self._ballot or sender not in self._order or entry is None:
            return None
        if accepted.entry_digest != entry.digest:
            raise RemoteError(sender, "accepted an entry that was not proposed")
        self._accepts.add(sender)
        if self._is_quorum(self._accepts):
            return entry, tuple(sorted(self._accepts))
        return None

    def _ask_to_accept(self, entry: Entry) -> list[Send]:
        self._is_asking = False
        self._proposal = entry
        message = Accept(round=self._round, ballot=self._ballot, entry=entry)
        return [Send(voter, message) for voter in self._order]

    # --- acceptor -------------------------------------------------------------------------------

    def on_prepare(self, sender: str, prepare: Prepare) -> list[Send]:
        self._refuse_foreign_ballot(sender, prepare.ballot)
        if prepare.ballot <= self._promised:
            return []
        self._promised = prepare.ballot
        promise = Promise(
            round=self._round,
            ballot=prepare.ballot,
            accepted_ballot=self._accepted_ballot,
            accepted=self._accepted,
        )
        return [Send(sender, promise)]

    def on_accept(self, sender: str, accept: Accept) -> list[Send]:
        """Accept, unless a higher ballot was promised. The caller has checked the bytes."""
        self._refuse_foreign_ballot(sender, accept.ballot)
        if accept.ballot < self._promised:
            return []
        self._promised = self._accepted_ballot = accept.ballot
        self._accepted = accept.entry
        accepted = Accepted(
            round=self._round, ballot=accept.ballot, entry_digest=accept.entry.digest
        )
        return [Send(sender, accepted)]

    def _refuse_foreign_ballot(self, sender: str, ballot: int) -> None:
        if ballot < 0 or self._order[ballot % len(self._order)] != sender:
            raise RemoteError(sender, f"ballot {ballot} is not its own")

    def _is_quorum(self, peers: set[str]) -> bool:
        return is_quorum(peers, self._order, self._tie_breaker)
