"""A voter applies an entry as soon as it has accepted it, whatever the others do.

If the proposal does not find its quorum, another entry is decided, and this peer has stepped alone.
I4: what a peer takes for decided was accepted by a quorum before.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.accepts import SignedAccept, Vote
from protocol.events import Effect
from protocol.log import Head
from protocol.member import Member
from protocol.messages import Accept, Decided
from tests.sim.keys import SimKey

INVARIANT = "I4"


def as_if_by_all(head: Head, accept: Accept, run_id: str) -> Decided:
    vote = Vote.on(accept.entry, accept.ballot)
    accepts = tuple(
        SignedAccept.of(vote, run_id, voter, journal, SimKey(voter))
        for voter, journal in zip(head.voters, head.incarnations, strict=True)
    )
    return Decided(round=vote.round, entry=accept.entry, ballot=vote.ballot, accepts=accepts)


def apply() -> AbstractContextManager[object]:
    go_on = Member._go_on

    def and_apply(member: Member, now_s: float) -> list[Effect]:
        awaiting = member._round.awaiting
        effects = go_on(member, now_s)
        if awaiting is None or not isinstance(awaiting[1], Accept) or not effects:
            return effects
        sender, accept = awaiting
        parts = member._round.bytes_of(accept.entry)
        if parts is None or sender == member.me:
            return effects
        decided = as_if_by_all(member.head, accept, member._terms.run_id)
        return effects + member._apply(decided, parts, now_s)

    return patch.object(Member, "_go_on", and_apply)
