"""A proposer asks for promises, and proposes its own entry whatever they say was accepted before.

What a quorum has chosen is then overruled. I4: beside it nothing else is ever proposed.
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from protocol.commit import Decision
from protocol.events import Send
from protocol.messages import Promise
from tests.sim.climate import Climate

INVARIANT = "I4"
CLIMATE = Climate(
    peers=(3,),
    storm_s=15.0,
    longest_s=4.0,
    most_disasters=16,
    lockstep=0.0,
    total_steps=(400,),
    disasters=(
        "crash in the middle of something",
        "freeze",
        "deaf link",
        "partition that carries one way",
    ),
    losses=(0.1,),
    damage=0.0,
)


def apply() -> AbstractContextManager[object]:
    on_promise = Decision.on_promise

    def believing_nothing(decision: Decision, sender: str, promise: Promise) -> list[Send]:
        return on_promise(decision, sender, replace(promise, accepted=None, accepted_ballot=-1))

    return patch.object(Decision, "on_promise", believing_nothing)
