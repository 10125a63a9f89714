"""Two accepts of one voter for two entries are evidence against it, whatever their ballots are.

In a higher ballot a voter may accept another entry: that is how Paxos goes on. I4: what honest
acceptors do is never shown to others as a vote given twice.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.accepts import Vote
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(5,),
    storm_s=30.0,
    lockstep=0.0,
    losses=(0.3,),
    most_disasters=30,
    disasters=("deaf link", "freeze", "partition that carries one way", "clogged link"),
)


def apply() -> AbstractContextManager[object]:
    def in_one_instance(one: Vote, other: Vote) -> bool:
        same = (one.round, one.parent) == (other.round, other.parent)
        return same and one.entry_digest != other.entry_digest

    return patch("protocol.evidence._is_at_odds", in_one_instance)
