"""Accepts and decisions, signed by simulated keys."""

from collections.abc import Sequence

from protocol.accepts import SignedAccept, Vote
from protocol.ballots import NO_BALLOT
from protocol.log import Entry
from protocol.messages import Accepted, Decided
from tests.protocol.makers import RUN
from tests.protocol.members import empty_entry
from tests.sim.keys import SimKey


def accept(
    vote: Vote, voter: str, *, signer: str = "", incarnation: str = "", run_id: str = RUN
) -> SignedAccept:
    """Signed by `signer`, if that is not the voter itself."""
    incarnation = incarnation or f"{voter}-0"
    return SignedAccept.of(vote, run_id, voter, incarnation, SimKey(signer or voter))


def accepted(entry: Entry, voter: str, *, ballot: int = 0, run_id: str = RUN) -> Accepted:
    signed = accept(Vote.on(entry, ballot), voter, run_id=run_id)
    return Accepted(round=entry.round, ballot=ballot, entry_digest=entry.digest, accept=signed)


def decided(
    entry: Entry,
    by: Sequence[str] = ("a", "c"),
    *,
    ballot: int = 0,
    run_id: str = RUN,
) -> Decided:
    vote = Vote.on(entry, ballot)
    accepts = tuple(accept(vote, voter, run_id=run_id) for voter in by)
    return Decided(round=entry.round, entry=entry, ballot=ballot, accepts=accepts)


def forced_by(peer_id: str, **changed) -> Decided:
    """A forced term after genesis."""
    entry = empty_entry(**{"term": 1, "tie_breaker": peer_id} | changed)
    return decided(entry, (peer_id,), ballot=NO_BALLOT)
