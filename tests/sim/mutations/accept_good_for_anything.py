"""A voter signs that it accepts, and not what.

An accept of an earlier round can then be shown as one of a made-up entry. I4: an entry is decided
by a quorum of the voters before it, and nobody takes another one for decided.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.accepts import Vote

INVARIANT = "I4"


def apply() -> AbstractContextManager[object]:
    def of_nothing(vote: Vote, run_id: str, incarnation: str) -> bytes:
        return f"{run_id} {incarnation}".encode()

    return patch.object(Vote, "message", of_nothing)
