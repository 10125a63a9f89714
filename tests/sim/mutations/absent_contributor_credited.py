"""An owner says of every mean that all contributors are in it, also when it closed without some.

Their movement is merged away and never averaged, and the log counts tokens that nobody used. I7: a
mean is that of exactly those that it credits.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from protocol.messages import Mean
from protocol.round import Exchange
from tests.sim.climate import Climate

INVARIANT = "I7"
CLIMATE = Climate(
    peers=(3,), storm_s=12.0, lockstep=0.0, disasters=("clogged link",), total_steps=(400,)
)


def apply() -> AbstractContextManager[object]:
    keep = Exchange._keep

    def of_all(exchange: Exchange, mean: Mean, data: bytes) -> None:
        keep(exchange, replace(mean, without=()), data)

    return patch.object(Exchange, "_keep", of_all)
