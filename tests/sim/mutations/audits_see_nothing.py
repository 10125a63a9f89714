"""An audit finds every mean true, whatever came of it.

A liar then averages falsely for as long as it likes. I6: who does so is found out.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from tests.sim.climate import Climate

INVARIANT = "I6"
CLIMATE = Climate(
    peers=(3,),
    storm_s=12.0,
    lockstep=0.0,
    total_steps=(400,),
    liars=("averages",),
    disasters=("freeze",),
)


def apply() -> AbstractContextManager[object]:
    return patch("tests.sim.audits.is_true", return_value=True)
