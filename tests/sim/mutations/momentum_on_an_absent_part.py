"""A part that is absent steps with a mean of zeros, in an empty entry every part.

Its momentum goes on by itself then. I2: an absent part leaves its slice of global_params and
momentum untouched, bit for bit.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import numpy as np

from protocol import outer
from protocol.codec import Values
from tests.sim.climate import Climate

INVARIANT = "I2"
CLIMATE = Climate(
    peers=(3,),
    storm_s=12.0,
    longest_s=4.0,
    lockstep=0.0,
    total_steps=(400,),
    disasters=("crash and come back", "freeze", "clogged link", "leave"),
)


def apply() -> AbstractContextManager[object]:
    apply_parts = outer.apply_parts

    def to_all_parts(
        global_params: Values,
        momentum: Values,
        parts: Sequence[Values | None],
        bounds: Sequence[tuple[int, int]],
        **factors: Any,
    ) -> tuple[Values, Values]:
        means = [
            np.zeros(stop - start, dtype=np.float32) if mean is None else mean
            for (start, stop), mean in zip(bounds, parts, strict=True)
        ]
        return apply_parts(global_params, momentum, means, bounds, **factors)

    return patch.object(outer, "apply_parts", to_all_parts)
