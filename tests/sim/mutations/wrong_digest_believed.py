"""Bytes that were asked for by digest are believed, whatever their digest is.

One flipped bit on the way is then stepped with. I6: what does not fit its digest is not used.
"""

from contextlib import AbstractContextManager
from unittest.mock import ANY, patch

from tests.sim.climate import Climate

INVARIANT = "I6"
CLIMATE = Climate(
    peers=(3,),
    storm_s=12.0,
    lockstep=0.0,
    total_steps=(400,),
    corruptions=(0.05,),
    disasters=("partition", "crash and come back", "clogged link"),
)


def apply() -> AbstractContextManager[object]:
    return patch("tests.sim.swarm.digest", return_value=ANY)
