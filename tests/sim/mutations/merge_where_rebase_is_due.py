"""A replica merges every entry, also those that it did not contribute to.

Half of what it trained and never sent is thrown away. I3: what was not contributed survives.
"""

from contextlib import AbstractContextManager
from unittest.mock import patch

from protocol import outer
from protocol.codec import Values
from tests.sim.replica import MERGE_ALPHA

INVARIANT = "I3"


def merged(local_params: Values, old_global: Values, new_global: Values) -> Values:
    return outer.merge(local_params, new_global, MERGE_ALPHA)


def apply() -> AbstractContextManager[object]:
    return patch.object(outer, "rebase", merged)
