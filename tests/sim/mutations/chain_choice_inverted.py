"""When two chains meet, the worse one wins: a forced one over one whose quorums are unbroken.

What a quorum has decided is given up for what a cut-off peer went on with. I4: nobody leaves an
unbroken chain.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.chain import Verdict, compare
from protocol.messages import Step
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3,),
    storm_s=10.0,
    longest_s=16.0,
    most_disasters=4,
    lockstep=0.0,
    total_steps=(400,),
    disasters=("partition",),
)
OPPOSITE = {Verdict.OURS: Verdict.THEIRS, Verdict.THEIRS: Verdict.OURS}


def inverted(ours: Sequence[Step], theirs: Sequence[Step]) -> Verdict:
    verdict = compare(ours, theirs)
    return OPPOSITE.get(verdict, verdict)


def apply() -> AbstractContextManager[object]:
    return patch("protocol.catching_up.compare", inverted)
