"""The voters of the proposed entry decide it, in place of those of the entry before.

Two groups that were formed apart then decide the same round. I4 names the acceptors: a decision
without a majority of the voters of the entry before is seen at once.
"""

from contextlib import AbstractContextManager, ExitStack
from unittest.mock import patch

from protocol.commit import Decision
from protocol.log import Head
from protocol.messages import Decided
from protocol.tally import Tally

INVARIANT = "I4"


def of_the_proposal(decision: Decision, peers: set[str]) -> bool:
    entry = decision._proposal
    assert entry is not None
    return decision._tally.is_quorum(peers, Head.of_entry(entry))


def any_signed_accepts_are_believed() -> AbstractContextManager[object]:
    """Also by those that have not counted them: whoever signed, and however few."""
    check = Tally.check

    def only_signatures(tally: Tally, sender: str, decided: Decided, before: Head | None) -> None:
        check(tally, sender, decided, None)

    return patch.object(Tally, "check", only_signatures)


def apply() -> ExitStack:
    with ExitStack() as stack:
        stack.enter_context(patch.object(Decision, "_is_quorum", of_the_proposal))
        stack.enter_context(any_signed_accepts_are_believed())
        return stack.pop_all()
