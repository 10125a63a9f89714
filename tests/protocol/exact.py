"""docs/protocol.md ("Codecs", "Arithmetic") in rational numbers, rounded once per operation.

It shares no line with protocol/ and computes in no floating point: the second opinion that the
test vectors come from. Far too slow for anything else.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np


def bits_of(values: Any) -> list[str]:
    """fp32 bit patterns, as test vectors write them."""
    return [f"{bits:08x}" for bits in np.atleast_1d(np.asarray(values, np.float32)).view(np.uint32)]


def values_of(patterns: Sequence[str]) -> Any:
    return np.array([int(bits, 16) for bits in patterns], dtype=np.uint32).view(np.float32)


def fraction_of(pattern: str) -> Fraction:
    return Fraction(struct.unpack(">f", bytes.fromhex(pattern))[0])


def power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def floor_log2(x: Fraction) -> int:
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if power(guess) <= x else guess - 1


def fp32(x: Fraction) -> Fraction:
    """The fp32 value nearest to x, ties to even; subnormals are values like any others."""
    if x == 0:
        return x
    unit = power(max(floor_log2(abs(x)), -126) - 23)
    rounded = round(x / unit) * unit  # Python rounds a Fraction's ties to even
    assert abs(rounded) < power(128), "an example must not overflow"
    return rounded


def weights(tokens: Sequence[int]) -> list[Fraction]:
    largest = max(tokens)
    # Through float64, which Python's integer division rounds to correctly.
    return [fp32(Fraction(count / largest)) for count in tokens]


def weighted_mean(parts: Sequence[Sequence[Fraction]], of: Sequence[Fraction]) -> list[Fraction]:
    weight_sum = Fraction(0)
    for weight in of:
        weight_sum = fp32(weight_sum + weight)
    means = []
    for column in zip(*parts, strict=True):
        total = Fraction(0)
        for value, weight in zip(column, of, strict=True):
            total = fp32(total + fp32(value * weight))
        means.append(fp32(total / weight_sum))
    return means


def mixed(
    parts: Sequence[Sequence[Fraction]], of: Sequence[Fraction], liars: int
) -> list[list[Fraction]]:
    """Each part replaced by the mean of those nearest to it, all but `liars` of them."""

    def distance(one: Sequence[Fraction], other: Sequence[Fraction]) -> Fraction:
        return sum((fp32(x - y) ** 2 for x, y in zip(one, other, strict=True)), Fraction(0))

    means = []
    for part in parts:
        order = sorted(range(len(parts)), key=lambda i: (distance(part, parts[i]), i))
        nearest = sorted(order[: len(parts) - liars])
        means.append(weighted_mean([parts[i] for i in nearest], [of[i] for i in nearest]))
    return means


def outer_step(
    theta: Fraction, momentum: Fraction, mean: Fraction, eta: Fraction, mu: Fraction
) -> tuple[Fraction, Fraction]:
    new_momentum = fp32(fp32(mu * momentum) + mean)
    direction = fp32(mean + fp32(mu * new_momentum))
    return fp32(theta - fp32(eta * direction)), new_momentum


def merge(local: Fraction, theta: Fraction, alpha: Fraction) -> Fraction:
    return fp32(fp32(alpha * local) + fp32(fp32(1 - alpha) * theta))


def rebase(local: Fraction, old: Fraction, new: Fraction) -> Fraction:
    return fp32(local + fp32(new - old))


def e3m0_scale(values: Sequence[Fraction]) -> int:
    """The scale byte: the biased exponent of the power of two nearest to the largest magnitude."""
    largest = max((abs(x) for x in values), default=Fraction(0))
    if largest < power(-126):
        return 0
    below = floor_log2(largest)
    nearest = below + 1 if largest >= power(below) * 3 / 2 else below
    return min(max(nearest + 127, 8), 254)


def e3m0_codes(values: Sequence[Fraction]) -> tuple[int, list[int]]:
    """The scale byte and the sign-and-code nibbles of a part, by looking for the nearest."""
    scale = e3m0_scale(values)
    if scale == 0:
        return 0, [0] * len(values)
    grid = [Fraction(0), *(power(scale - 127 - 7 + code) for code in range(1, 8))]
    nibbles = []
    for x in values:
        # Of two equally near the larger one: ties away from zero.
        code = min(range(8), key=lambda code: (abs(abs(x) - grid[code]), -code))
        nibbles.append(code | 8 if code and x < 0 else code)
    return scale, nibbles


def e3m0_bytes(values: Sequence[Fraction]) -> bytes:
    scale, nibbles = e3m0_codes(values)
    padded = [*nibbles, 0][: len(nibbles) + len(nibbles) % 2]
    return bytes(
        [scale, *(low | high << 4 for low, high in zip(padded[::2], padded[1::2], strict=True))]
    )


def half_turn(x: Fraction) -> Fraction:
    """(1 + cos(pi x)) / 2 for x from 0 to 1, to more than 40 digits."""
    pi = Fraction("3.14159265358979323846264338327950288419716939937510582097494459")
    angle, term, cosine = pi * x, Fraction(1), Fraction(1)
    for k in range(1, 31):
        term = -term * angle * angle / ((2 * k - 1) * (2 * k))
        term = round(term * power(160)) * power(-160)
        cosine += term
    return (1 + cosine) / 2


def learning_rate(
    position: int, total: int, warmup: int, peak: Fraction, final_ratio: Fraction
) -> Fraction:
    """Warm-up, then cosine; position counts from 0."""
    if position < warmup:
        return peak * Fraction(position + 1, warmup + 1)
    turn = min(Fraction(1), Fraction(position - warmup, max(1, total - warmup)))
    return peak * (final_ratio + (1 - final_ratio) * half_turn(turn))


def grown(alpha: Fraction, rate: Fraction, least: int, most: int) -> set[int]:
    """H at a learning rate; where a rounding decides, both that it may be."""
    square = (alpha / rate) ** 2 if rate else Fraction(most)
    nearly = (square * (1 - Fraction(1, 10**12)), square * (1 + Fraction(1, 10**12)))
    return {max(least, min(int(each), most)) for each in nearly}
