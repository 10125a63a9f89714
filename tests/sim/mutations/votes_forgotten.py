"""After a crash a peer comes back under its old incarnation, without the votes it gave.

It then promises a lower ballot, or says that it has accepted nothing, and a round that was decided
can be decided otherwise. I4: what an acceptor has said before binds it in its next life too.
"""

from contextlib import ExitStack
from unittest.mock import PropertyMock, patch

from peer.store import Store
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(2, 3),
    storm_s=15.0,
    longest_s=3.0,
    most_disasters=16,
    lockstep=0.0,
    total_steps=(400,),
    disasters=("crash in the middle of something", "crash of all", "crash of many"),
    losses=(0.05,),
    damage=0.0,
)


def apply() -> ExitStack:
    with ExitStack() as stack:
        stack.enter_context(patch.object(Store, "ballots", PropertyMock(return_value=None)))
        return stack.pop_all()
