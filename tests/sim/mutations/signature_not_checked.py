"""Whatever stands under an accept is taken for its voter's signature.

Anybody can then make up a decision. I4: an entry is decided by a quorum of the voters before it,
and nobody takes another one for decided.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol.tally import Tally

INVARIANT = "I4"


def apply() -> AbstractContextManager[object]:
    return patch.object(Tally, "is_signed", lambda *_: True)
