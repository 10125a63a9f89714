"""From the contributions to one part to its average, when some of them may be lies.

The manifest chooses the rule (`[aggregation]`). Whatever the rule, a contribution with values that
nothing can train with is refused, its weight is at most `max_weight` medians, and, where the
manifest says so, its norm at most `max_norm` medians of the norms: a liar is as loud as the others,
and a rule that resists a minority then has only a minority to resist.

All of it is a pure function of bytes and of the log, with the same bits on every machine, so that
anybody can do an owner's work again: elementwise operations in fp32, norms in fp64, and every sum
in an order that stands here. Contributors come in peer_id order; those of weight 0 count nowhere.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from protocol.codec import Codec, Values
from protocol.errors import CodecError
from protocol.outer import weighted_mean, weights_of

Rule = Literal["mean", "trimmed_mean", "median", "centered_clip"]

MAX_MAGNITUDE: Final = 2.0**60
"""Larger values are refused. Sums of 256 of them are far from overflow, and no movement of weights
comes near."""
LANES: Final = 4096
"""Sums of squares that run beside each other, few enough to stay in the processor's cache."""
CLIP_ITERATIONS: Final = 20
"""As in the code of arXiv 2106.11257; each costs about three passes over the contributions."""

Norms = npt.NDArray[np.float64]


def refuse_implausible(values: Values) -> None:
    """Raises CodecError for a decoded contribution that no training makes."""
    if values.size and float(np.abs(values).max()) > MAX_MAGNITUDE:
        raise CodecError("values that are too large to be a movement of parameters")


def decode_contribution(codec: Codec, data: bytes, values: int) -> Values:
    """Shape (values,); raises CodecError for bytes that no owner may average."""
    decoded = codec.decode(data, values)
    refuse_implausible(decoded)
    return decoded


def decode_mean(codec: Codec, data: bytes | None, values: int) -> Values | None:
    """What a decided part moves, shape (values,), or None.

    None also, and for everybody alike, where an owner had bytes decided that no encoder writes or
    no training makes: one of them must not end a run. The cost: what was contributed to that part
    counts as given.
    """
    try:
        return None if data is None else decode_contribution(codec, data, values)
    except CodecError:
        return None


def aggregate(
    parts: Sequence[Values],
    tokens: Sequence[int],
    *,
    rule: Rule,
    max_weight: float,
    max_norm: float,
    trim: float,
    mix: bool,
) -> Values:
    """The average of decoded contributions to one part, shape (part_values,).

    Args:
        parts: each of shape (part_values,), in peer_id order.
        tokens: what each contributor claims; at least one of them more than 0.
        rule: `mean`, weighted; `trimmed_mean` and `median` for each value by itself (Yin et al.,
            arXiv 1803.01498), weighted and not; `centered_clip` (arXiv 2012.10333, 2106.11257).
        max_weight: the most that one contribution weighs, in medians of the tokens.
        max_norm: the largest norm that a contribution keeps, in weighted medians of the norms; 0:
            none is scaled.
        trim: share of the contributors that may lie: `trimmed_mean` leaves out so many at either
            end, and mixing the furthest ones.
        mix: whether all rules but `mean` first put in place of each contribution the mean of those
            nearest to it (nearest-neighbour mixing, arXiv 2302.01772).
    """
    weights = weights_of(capped(tokens, max_weight))
    heard = np.flatnonzero(weights)
    weights = weights[heard]
    stack = np.stack([parts[int(i)] for i in heard])
    if max_norm:
        stack = limit_norms(stack, weights, max_norm)
    if rule == "mean":
        return weighted_mean(list(stack), weights)
    most = (len(stack) - 1) // 2
    liars = min(int(trim * len(stack)), most)
    if mix and liars:
        stack = mixed(stack, weights, liars)
    # -0 becomes 0: values that are equal have equal bits then, in whatever order they are sorted.
    stack = np.add(stack, np.float32(0))
    if rule == "trimmed_mean":
        return _trimmed_mean(stack, weights, liars)
    median = _trimmed_mean(stack, np.ones_like(weights), most)
    return median if rule == "median" else _centered_clip(stack, weights, median)


def capped(tokens: Sequence[int], max_weight: float) -> list[int]:
    """Tokens as they count: at most `max_weight` times the lower median of those that are not 0."""
    counting = sorted(count for count in tokens if count > 0)
    if not counting:
        return list(tokens)
    most = int(max_weight * counting[(len(counting) - 1) // 2])
    return [min(count, most) for count in tokens]


def limit_norms(stack: Values, weights: Values, max_norm: float) -> Values:
    """Scale down what is longer than `max_norm` times the weighted lower median of the norms.

    Those that moved nothing say nothing about how long a movement is.

    Args:
        stack: shape (contributors, part_values).
    """
    norms = norms_of(stack)
    moved = norms > 0
    if not moved.any():
        return stack
    return _scaled_to(stack, norms, max_norm * _weighted_median(norms[moved], weights[moved]))


def norms_of(stack: Values) -> Norms:
    """L2 norm of each row, in fp64.

    The square of value i goes into sum i mod `LANES`, in the order of i; then the upper half of the
    sums is added to the lower half, until one is left.
    """
    rows, size = stack.shape
    sums = np.zeros((rows, LANES))
    squares = np.empty_like(sums)
    for start in range(0, size, LANES):
        block = stack[:, start : start + LANES]
        width = block.shape[1]
        np.multiply(block, block, out=squares[:, :width], dtype=np.float64)
        sums[:, :width] += squares[:, :width]
    half = LANES
    while half > 1:
        half //= 2
        sums[:, :half] += sums[:, half : 2 * half]
    norms: Norms = np.sqrt(sums[:, 0])
    return norms


def _scaled_to(stack: Values, norms: Norms, limit: float) -> Values:
    """Rows whose norm is above the limit, at the limit; the others bit by bit as they are."""
    too_long = np.flatnonzero(norms > limit)
    scaled = stack.copy() if too_long.size else stack
    for row in too_long:
        scaled[row] = np.multiply(stack[row], np.float32(limit / norms[row]))
    return scaled


def _weighted_median(numbers: Norms, weights: Values) -> float:
    """The smallest number that half of the weight is not above."""
    order = np.argsort(numbers, kind="stable")
    total = np.cumsum(weights[order].astype(np.float64))
    return float(numbers[order][np.searchsorted(total, total[-1] / 2)])


def mixed(stack: Values, weights: Values, liars: int) -> Values:
    """In place of each row the weighted mean of the rows nearest to it, itself among them: of all
    but as many as may be lies.

    What the honest differ by is averaged away before a rule looks at it, and a lie that is further
    from them than they are from each other is in none of their means. Nearest first, equals in
    peer_id order; each mean is summed in peer_id order.
    """
    count = len(stack)
    distances = np.zeros((count, count))
    for row in range(count - 1):
        further = norms_of(np.subtract(stack[row + 1 :], stack[row]))
        distances[row, row + 1 :] = distances[row + 1 :, row] = further
    means = []
    for row in range(count):
        nearest = np.sort(np.argsort(distances[row], kind="stable")[: count - liars])
        means.append(weighted_mean(list(stack[nearest]), weights[nearest]))
    return np.stack(means)


def _trimmed_mean(stack: Values, weights: Values, cut: int) -> Values:
    """For each value the weighted mean of what is left without the `cut` smallest and largest.

    With as many cut as can be, one is left of an odd number of contributors and two of an even
    one: that is the median. The sum goes from the smallest to the largest; among equals in peer_id
    order.
    """
    kept = np.argsort(stack, axis=0, kind="stable")[cut : len(stack) - cut]
    values, shares = np.take_along_axis(stack, kept, axis=0), weights[kept]
    total, weight_sum = np.multiply(values[0], shares[0]), shares[0]
    for row, share in zip(values[1:], shares[1:], strict=True):
        total = np.add(total, np.multiply(row, share))
        weight_sum = np.add(weight_sum, share)
    mean: Values = np.divide(total, weight_sum)
    return mean


def _centered_clip(stack: Values, weights: Values, start: Values) -> Values:
    """Walk from the median: each step is the weighted mean of what lies around, no row of it longer
    than the radius.

    The radius is the weighted median of the distances at the start, so that it follows the size of
    the pseudo-gradients as they shrink (arXiv 2405.14432 on why a fixed one does not do).
    """
    center = start
    distances = norms_of(np.subtract(stack, center))
    radius = _weighted_median(distances, weights)
    if radius == 0:
        return center  # at least half of the weight is there
    for _ in range(CLIP_ITERATIONS):
        offsets = np.subtract(stack, center)
        clipped = _scaled_to(offsets, norms_of(offsets), radius)
        center = np.add(center, weighted_mean(list(clipped), weights))
    return center
