"""An owner sums contributions in the order in which they came.

fp32 sums depend on their order: two owners of one part compute two means. I1 fixes peer_id order.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from protocol.events import AveragePart, Effect
from protocol.round import Exchange
from tests.sim.climate import Climate

INVARIANT = "I1"
CLIMATE = Climate(peers=(4,), storm_s=5.0, lockstep=0.0, codecs=("fp32",))


def apply() -> AbstractContextManager[object]:
    close = Exchange._close

    def as_they_came(exchange: Exchange, part_index: int) -> list[Effect]:
        effects = close(exchange, part_index)
        inbox = exchange._inbox[part_index]
        return [
            replace(
                effect,
                senders=tuple(inbox),
                contributions=tuple(inbox.values()),
                tokens=tuple(exchange._tokens[peer] for peer in inbox),
            )
            if isinstance(effect, AveragePart)
            else effect
            for effect in effects
        ]

    return patch.object(Exchange, "_close", as_they_came)
