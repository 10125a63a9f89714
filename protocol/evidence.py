"""Two votes of one voter in one ballot, for two entries: no honest voter gives them.

A ballot has one entry, and what a voter accepted in it is in its journal before it is signed for
(protocol/commit.py). Who signs for another one in the same ballot, with the same journal, has
lied, or has put an old copy of its journal back. Both signatures together prove it to anybody.

In two ballots a voter may well accept two entries, and on two chains too: that is no evidence.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Final, Self

from protocol.accepts import SignedAccept, Vote
from protocol.ballots import NO_BALLOT
from protocol.log import Head, json_int, json_text
from protocol.messages import Accepted, Decided, Message
from protocol.tally import Tally

VOTES_KEPT: Final = 32
"""Of each voter, the last ones: a round has few ballots, and forks are met within minutes."""
VOTERS_KEPT: Final = 512
"""Twice as many as a run can have at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleVote:
    """What a voter signed twice; a proof once `is_proven` says so."""

    first: Vote
    second: Vote
    accepts: tuple[SignedAccept, SignedAccept]

    @property
    def voter(self) -> str:
        return self.accepts[0].voter

    def is_proven(self, tally: Tally) -> bool:
        """Whether one journal of one voter signed for two entries in one ballot of this run."""
        one, two = self.accepts
        return (
            _is_at_odds(self.first, self.second)
            and (one.voter, one.incarnation) == (two.voter, two.incarnation)
            and tally.is_signed(self.first, one)
            and tally.is_signed(self.second, two)
        )

    def to_json(self) -> dict[str, Any]:
        vote = self.first
        return {
            "round": vote.round,
            "parent": vote.parent,
            "ballot": vote.ballot,
            "entries": [vote.entry_digest, self.second.entry_digest],
            "accepts": [accept.to_json() for accept in self.accepts],
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Build from decoded JSON; raises KeyError, TypeError or ValueError when malformed."""
        first, second = (
            Vote(
                round=json_int(raw["round"]),
                parent=json_text(raw["parent"]),
                ballot=json_int(raw["ballot"]),
                entry_digest=json_text(entry),
            )
            for entry in raw["entries"]
        )
        one, two = map(SignedAccept.from_json, raw["accepts"])
        return cls(first=first, second=second, accepts=(one, two))


def _is_at_odds(one: Vote, other: Vote) -> bool:
    same_ballot = (one.round, one.parent, one.ballot) == (other.round, other.parent, other.ballot)
    return same_ballot and one.ballot != NO_BALLOT and one.entry_digest != other.entry_digest


class Witness:
    """Remembers the last signed accepts of each voter, and notices one that is at odds with them.

    Each voter and journal is shown up once.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._seen: OrderedDict[str, deque[tuple[Vote, SignedAccept]]] = OrderedDict()
        self._shown: OrderedDict[tuple[str, str], None] = OrderedDict()

    def hear(self, message: Message, head: Head) -> list[DoubleVote]:
        """What a message proves of its voters. Those of the entry after `head` are remembered."""
        accepts: tuple[SignedAccept, ...]
        match message:
            case Accepted():
                # It names no instance: a signature for another one than ours does not fit.
                vote, accepts = message.vote(head.digest), (message.accept,)
            case Decided():
                vote, accepts = message.vote, message.accepts
            case _:
                return []
        proofs = [self._compare(vote, accept) for accept in accepts]
        if (vote.round, vote.parent) == (head.round + 1, head.digest):
            for accept in {accept.voter: accept for accept in accepts}.values():
                if head.may_vote(accept.voter, accept.incarnation):
                    self._remember(vote, accept)
        return [proof for proof in proofs if proof is not None]

    def _remember(self, vote: Vote, accept: SignedAccept) -> None:
        votes = self._seen.setdefault(accept.voter, deque(maxlen=VOTES_KEPT))
        if (vote, accept) not in votes and self._tally.is_signed(vote, accept):
            votes.append((vote, accept))
        _keep_newest(self._seen, accept.voter)

    def _compare(self, vote: Vote, accept: SignedAccept) -> DoubleVote | None:
        """The proof, if it is at odds with one that is remembered. Anybody may be named in it."""
        if (accept.voter, accept.incarnation) in self._shown:
            return None
        for earlier, given in self._seen.get(accept.voter, ()):
            proof = DoubleVote(first=earlier, second=vote, accepts=(given, accept))
            if _is_at_odds(earlier, vote) and proof.is_proven(self._tally):
                self._shown[accept.voter, accept.incarnation] = None
                _keep_newest(self._shown, (accept.voter, accept.incarnation))
                return proof
        return None


def _keep_newest(table: "OrderedDict[Any, Any]", key: Any) -> None:
    table.move_to_end(key)
    if len(table) > VOTERS_KEPT:
        table.popitem(last=False)
