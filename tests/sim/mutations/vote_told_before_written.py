"""A voter answers first and writes its journal afterwards.

A power cut in between makes it forget what others count on. I4: promises and accepts are on disk
before they are answered.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from protocol.commit import Decision
from protocol.events import Effect, Record

INVARIANT = "I4"


def answering_first(vote: Callable[..., list[Record]]) -> Callable[..., list[Effect]]:
    def answer(*args: Any) -> list[Effect]:
        effects: list[Effect] = []
        for record in vote(*args):
            effects += [*record.then, replace(record, then=())]
        return effects

    return answer


def apply() -> ExitStack:
    with ExitStack() as stack:
        for name in ("on_prepare", "on_accept"):
            mutated = answering_first(getattr(Decision, name))
            stack.enter_context(patch.object(Decision, name, mutated))
        return stack.pop_all()
