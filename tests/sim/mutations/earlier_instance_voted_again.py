"""A peer whose log has lost its end votes again in rounds that its journal is past.

A journal holds one instance: how the peer voted in those before is forgotten, and what it says now
can contradict it. I4: what an acceptor has said binds it, whatever became of its log.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.ballots import Ballots
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(2, 3),
    storm_s=15.0,
    longest_s=5.0,
    most_disasters=16,
    lockstep=0.0,
    total_steps=(400,),
    losses=(0.05,),
    damage=0.5,
    disasters=("crash in the middle of something", "crash of all", "partition"),
)


def apply() -> AbstractContextManager[object]:
    return patch.object(Ballots, "allow", return_value=True)
