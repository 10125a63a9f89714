"""A voter that is suspected to be lost is no longer counted: the live ones are enough.

A suspicion is not shared: each side of a partition loses the other and decides. I4: nothing outside
the log changes who votes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest.mock import patch

from protocol.attempt import Attempt
from protocol.commit import Decision
from protocol.log import is_quorum
from protocol.presence import Presence
from tests.sim.mutations.electorate_of_the_group import any_signed_accepts_are_believed

INVARIANT = "I4"


def counting_only(counts: Callable[[Presence, str], bool]) -> ExitStack:
    """Quorums are those of the voters that count in the eyes of whoever asks."""
    begin = Attempt.__init__
    presences: dict[int, Presence] = {}

    def remembering(attempt: Attempt, *args: Any, **named: Any) -> None:
        begin(attempt, *args, **named)
        presences[id(attempt.decision)] = attempt._presence

    def of_those(decision: Decision, peers: set[str]) -> bool:
        presence = presences[id(decision)]
        voters = tuple(voter for voter in decision._order if counts(presence, voter))
        return is_quorum(peers, voters, decision._head.tie_breaker, decision._tally.quorum)

    with ExitStack() as stack:
        stack.enter_context(patch.object(Attempt, "__init__", remembering))
        stack.enter_context(patch.object(Decision, "_is_quorum", of_those))
        stack.enter_context(any_signed_accepts_are_believed())
        return stack.pop_all()


def apply() -> AbstractContextManager[object]:
    return counting_only(lambda presence, peer_id: peer_id not in presence.lost)
