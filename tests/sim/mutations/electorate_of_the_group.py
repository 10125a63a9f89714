"""The voters of the proposed entry decide it, in place of those of the entry before.

Two groups that were formed apart then decide the same round. I4 names the acceptors: a decision
without a majority of the voters of the entry before is seen at once.
"""

from contextlib import ExitStack
from unittest.mock import patch

from protocol.commit import Decision
from protocol.log import is_quorum

INVARIANT = "I4"


def of_the_proposal(decision: Decision, peers: set[str]) -> bool:
    entry = decision._proposal
    assert entry is not None
    return is_quorum(peers, entry.voters, entry.tie_breaker)


def apply() -> ExitStack:
    with ExitStack() as stack:
        stack.enter_context(patch.object(Decision, "_is_quorum", of_the_proposal))
        # Others believe it.
        stack.enter_context(patch("protocol.checks.is_quorum", lambda *_: True))
        return stack.pop_all()
