"""A peer that sees no quorum forces a new term at once, in place of after `lonely_after_s`.

Every hiccup of a link breaks the log in two. I4 gives the time that has to pass.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.lonely import Loneliness

INVARIANT = "I4"


def at_once(lonely: Loneliness, now_s: float) -> bool:
    return lonely._since_s is not None


def apply() -> AbstractContextManager[object]:
    return patch.object(Loneliness, "is_over", at_once)
