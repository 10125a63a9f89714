"""A voter accepts whatever it is asked to, also in a ballot below what it has promised.

A proposer that was passed over can then still win, beside its successor. I4: a promise binds.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.commit import Decision
from protocol.messages import Accept
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3,),
    storm_s=15.0,
    longest_s=4.0,
    most_disasters=16,
    lockstep=0.0,
    total_steps=(400,),
    disasters=("freeze", "deaf link", "partition that carries one way"),
    delays_s=((0.05, 0.8),),
    losses=(0.1,),
    duplications=(0.3,),
)


def would_accept(decision: Decision, sender: str, accept: Accept) -> bool:
    decision._refuse_foreign_ballot(sender, accept.ballot)
    return True


def apply() -> AbstractContextManager[object]:
    return patch.object(Decision, "would_accept", would_accept)
