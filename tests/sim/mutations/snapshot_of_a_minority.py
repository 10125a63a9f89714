"""A peer that comes without a state takes the newest snapshot that any donor offers.

One donor that stands elsewhere, or is wrong, then decides what the newcomer trains from. I4: a
majority of the voters of a snapshot's entry must have been in that state.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3, 4),
    storm_s=15.0,
    lockstep=0.0,
    total_steps=(400,),
    log_bytes=(20_000,),
    disasters=("partition", "crash and come back without a disk", "join"),
    delays_s=((0.05, 0.8),),
)


def apply() -> AbstractContextManager[object]:
    return patch("tests.sim.swarm.is_quorum", lambda *_: True)
