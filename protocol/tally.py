"""How votes are counted in a run, and when a decision is believed; no other code says so (I4).

A decision is believed with the signed accepts of a quorum of the voters of the entry before, all of
one ballot. Accepts of several ballots do not add up: what two voters accepted in two ballots may
have been overtaken in between (Lamport 2001, section 2.2).

A forced term has no ballot and no quorum; who forces it, its tie-breaker, signs for it alone.
"""

from dataclasses import dataclass

from protocol.accepts import IsSignedBy, SignedAccept, Vote
from protocol.ballots import NO_BALLOT
from protocol.errors import RemoteError
from protocol.log import Head, QuorumRule, is_quorum
from protocol.messages import Decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The same on every peer of the run."""

    run_id: str
    quorum: QuorumRule
    is_signed_by: IsSignedBy

    def is_quorum(self, peers: set[str], head: Head) -> bool:
        """Whether these peers are enough of an entry's voters, in any phase."""
        return is_quorum(peers, head.voters, head.tie_breaker, self.quorum)

    def is_signed(self, vote: Vote, accept: SignedAccept) -> bool:
        """Whether the voter signed just that, in this run and with that journal."""
        message = vote.message(self.run_id, accept.incarnation)
        return self.is_signed_by(accept.voter, accept.public_key, accept.signature, message)

    def check_accept(self, sender: str, vote: Vote, accept: SignedAccept, voters: Head) -> None:
        """Raises RemoteError unless a voter of this entry, with the journal listed, signed it."""
        if not voters.may_vote(accept.voter, accept.incarnation):
            raise RemoteError(sender, f"an accept of {accept.voter[:8]}, which has no vote there")
        if not self.is_signed(vote, accept):
            raise RemoteError(sender, f"an accept of {accept.voter[:8]} that it did not sign")

    def check(self, sender: str, decided: Decided, before: Head | None) -> None:
        """Raises RemoteError unless the decision is to be believed.

        Args:
            before: the entry that it continues. None where that is not known, as to a newcomer that
                is offered a state: then only that each accept is its voter's.
        """
        entry, is_forced = decided.entry, decided.ballot == NO_BALLOT
        by = decided.accepted_by
        # Before any signature is verified: what is refused anyway must cost nothing.
        if not by or by != tuple(sorted(set(by))):
            raise RemoteError(sender, f"round {decided.round} with accepts missing or twice")
        if before is not None and is_forced != (entry.term > before.term):
            raise RemoteError(sender, f"round {decided.round} with accepts of another term")
        if is_forced and by != (entry.tie_breaker,):
            raise RemoteError(sender, f"round {decided.round} was not forced by its tie-breaker")
        if before is not None and not is_forced and not self.is_quorum(set(by), before):
            raise RemoteError(sender, f"round {decided.round} was accepted by no quorum")
        voters = Head.of_entry(entry) if is_forced else before
        for accept in decided.accepts:
            if voters is not None:
                self.check_accept(sender, decided.vote, accept, voters)
            elif not self.is_signed(decided.vote, accept):
                raise RemoteError(sender, f"an accept of {accept.voter[:8]} that it did not sign")
