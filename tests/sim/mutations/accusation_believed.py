"""Whoever is accused is convicted, and nobody does its work again.

One false accuser among three then has honest peers banned. I6: nobody is found out but liars.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.audit import Accusation
from protocol.court import Court
from protocol.events import Effect
from tests.sim.climate import Climate

INVARIANT = "I6"
CLIMATE = Climate(
    peers=(3,),
    storm_s=12.0,
    lockstep=0.0,
    total_steps=(400,),
    liars=("accuses",),
)


def apply() -> AbstractContextManager[object]:
    def believed(court: Court, sender: str, accusation: Accusation) -> list[Effect]:
        return court._convict(accusation.claim.owner, accusation)

    return patch.object(Court, "accused", believed)
