"""A peer that comes without a state takes the newest snapshot that any donor offers.

One donor that stands elsewhere, or is wrong, then decides what the newcomer trains from. I4: a
majority of the voters of a snapshot's entry must have been in that state.
"""

from contextlib import ExitStack
from unittest.mock import patch

from tests.sim.climate import Climate
from tests.sim.scenario import LIMITS

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3, 4),
    storm_s=15.0,
    longest_s=3.0,
    most_disasters=16,
    lockstep=0.0,
    steps_s=(0.1,),
    total_steps=(400,),
    log_bytes=(2_000,),
    disasters=("crash and come back without a disk", "join", "partition"),
    delays_s=((0.05, 0.8),),
    damage=0.0,
)


def apply() -> ExitStack:
    # The newest checkpoint is at first on one disk only: more often, if there are more of them.
    every_round = LIMITS.model_copy(update={"checkpoint_rounds": 1})
    with ExitStack() as stack:
        stack.enter_context(patch("tests.sim.scenario.LIMITS", every_round))
        stack.enter_context(patch("tests.sim.swarm.is_quorum", lambda *_: True))
        return stack.pop_all()
