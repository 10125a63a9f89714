"""The rule of the manifest is forgotten: a majority decides where it takes more than two thirds.

I4: a decision without as many voters as the run asks for is seen at once.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.log import is_quorum
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3, 4),
    storm_s=12.0,
    lockstep=0.0,
    total_steps=(400,),
    quorums=("two_thirds",),
    disasters=("crash", "partition", "leave"),
)


def apply() -> AbstractContextManager[object]:
    def majority(peers: set[str], voters: tuple[str, ...], tie_breaker: str, rule: str) -> bool:
        return is_quorum(peers, voters, tie_breaker, "majority")

    return patch("protocol.tally.is_quorum", majority)
