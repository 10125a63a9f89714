"""Averages that bear lies: docs/protocol.md, "Averages that bear lies"."""

import math
import random
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import CodecError
from protocol.manifest import Aggregation
from protocol.outer import weighted_mean, weights_of
from protocol.robust import (
    CLIP_ITERATIONS,
    LANES,
    MAX_MAGNITUDE,
    Rule,
    capped,
    limit_norms,
    mixed,
    norms_of,
    refuse_implausible,
)
from tests.protocol import exact
from tests.protocol.vectors import cases

RULES = get_args(Rule)
ROBUST = [rule for rule in RULES if rule != "mean"]
number = st.floats(-(2.0**60), 2.0**60, width=32)
seeds = st.integers(0, 2**32)


@st.composite
def groups(draw, elements=number, least=1):
    """Contributions and what each claims; at least one claims something."""
    count, size = draw(st.integers(least, 9)), draw(st.integers(1, 12))
    row = st.lists(elements, min_size=size, max_size=size)
    parts = [np.array(draw(row), dtype=np.float32) for _ in range(count)]
    tokens = draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count))
    tokens[draw(st.integers(0, count - 1))] = draw(st.integers(1, 2**40))
    return parts, tokens


def honest_and_lying(seed: int, honest: int = 7, size: int = 40) -> tuple[list, list]:
    """Honest contributions around one truth, and three lies of any size."""
    chance = np.random.default_rng(seed)
    truth = chance.normal(size=size)
    told = [truth + 0.3 * chance.normal(size=size) for _ in range(honest)]
    loud = 10.0 ** chance.uniform(-1, 6)
    lie = chance.normal(size=size) if seed % 2 else -truth
    lies = [loud * (lie + 0.1 * chance.normal(size=size)) for _ in range(3)]
    return [x.astype(np.float32) for x in told], [x.astype(np.float32) for x in lies]


@cases("average")
def test_the_vectors_hold(case):
    parts = [exact.values_of(part) for part in case["parts"]]
    settings = {k: case[k] for k in ("rule", "max_weight", "max_norm", "trim", "mix") if k in case}
    average = Aggregation(**settings).average(parts, case["tokens"])
    assert exact.bits_of(average) == case["average"]


@given(groups())
def test_a_mean_in_which_nobody_is_loud_is_the_plain_one(group):
    parts, tokens = group
    heard = [i for i, count in enumerate(tokens) if count]
    average = Aggregation(max_weight=2.0**41).average(parts, tokens)
    weights = weights_of(tokens)[heard]
    assert exact.bits_of(average) == exact.bits_of(
        weighted_mean([parts[i] for i in heard], weights)
    )


@given(groups(), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.49]))
def test_the_trimmed_mean_is_what_the_document_says(group, trim):
    parts, tokens = group
    rule = Aggregation(rule="trimmed_mean", max_weight=2.0**41, trim=trim, mix=False)
    average = rule.average(parts, tokens)
    heard = [(part, count) for part, count in zip(parts, tokens, strict=True) if count]
    cut = min(int(trim * len(heard)), (len(heard) - 1) // 2)
    weights = exact.weights([count for _, count in heard])
    for place, value in enumerate(average):
        column = [
            (Fraction(float(part[place])), w) for (part, _), w in zip(heard, weights, strict=True)
        ]
        kept = sorted(column, key=lambda pair: pair[0])[cut : len(column) - cut]
        total, weight_sum = exact.fp32(kept[0][0] * kept[0][1]), kept[0][1]
        for x, w in kept[1:]:
            total, weight_sum = exact.fp32(total + exact.fp32(x * w)), exact.fp32(weight_sum + w)
        assert Fraction(float(value)) == exact.fp32(total / weight_sum)


@given(groups())
def test_the_median_is_the_median(group):
    parts, tokens = group
    heard = [part for part, count in zip(parts, tokens, strict=True) if count]
    average = Aggregation(rule="median", mix=False).average(parts, tokens)
    assert average == pytest.approx(np.median(heard, axis=0), rel=1e-6, abs=1e-37)


def plain_norm(values) -> float:
    """The document once more, value by value in Python's floats."""
    sums = [0.0] * LANES
    for i, x in enumerate(values):
        sums[i % LANES] += float(x) ** 2
    while (half := len(sums) // 2) > 0:
        sums = [low + high for low, high in zip(sums[:half], sums[half:], strict=True)]
    return math.sqrt(sums[0])


def plain_centered_clip(parts, tokens):
    """The document once more, without an array operation."""
    weights = weights_of(tokens)
    center = [
        np.divide(np.add(column[(len(column) - 1) // 2], column[len(column) // 2]), np.float32(2))
        if len(column) % 2 == 0
        else column[len(column) // 2]
        for column in (sorted(values) for values in zip(*parts, strict=True))
    ]
    around = [[np.subtract(x, c) for x, c in zip(part, center, strict=True)] for part in parts]
    distances = sorted((plain_norm(row), i) for i, row in enumerate(around))
    half, so_far = float(np.sum(weights, dtype=np.float64)) / 2, 0.0
    for radius, i in distances:  # noqa: B007 (used below)
        so_far += float(weights[i])
        if so_far >= half:
            break
    if radius == 0:
        return center
    for _ in range(CLIP_ITERATIONS):
        rows = []
        for part in parts:
            row = [np.subtract(x, c) for x, c in zip(part, center, strict=True)]
            length = plain_norm(row)
            factor = np.float32(radius / length) if length > radius else np.float32(1)
            rows.append(np.array([np.multiply(x, factor) for x in row], dtype=np.float32))
        step = weighted_mean(rows, weights)
        center = [np.add(c, s) for c, s in zip(center, step, strict=True)]
    return center


@settings(max_examples=15)
@given(seeds, st.integers(1, 9), st.integers(1, 20))
def test_centered_clip_is_what_the_document_says(seed, count, size):
    chance = np.random.default_rng(seed)
    parts = [chance.normal(size=size).astype(np.float32) for _ in range(count)]
    tokens = [int(n) for n in chance.integers(1, 1000, size=count)]
    rule = Aggregation(rule="centered_clip", max_weight=1e9, mix=False)
    average = rule.average(parts, tokens)
    assert exact.bits_of(average) == exact.bits_of(np.array(plain_centered_clip(parts, tokens)))


@given(
    st.lists(st.lists(st.integers(-99, 99), min_size=3, max_size=3), min_size=1, max_size=9),
    st.integers(0, 4),
    seeds,
)
def test_mixing_is_what_the_document_says(rows, liars, seed):
    liars = min(liars, (len(rows) - 1) // 2)
    stack = np.array(rows, dtype=np.float32)
    tokens = np.random.default_rng(seed).integers(1, 100, size=len(rows)).tolist()
    told = [[Fraction(x) for x in row] for row in rows]
    means = exact.mixed(told, exact.weights(tokens), liars)
    found = mixed(stack, weights_of(tokens), liars)
    assert [[Fraction(float(x)) for x in row] for row in found] == means


@pytest.mark.parametrize("rule", ROBUST)
@given(seed=seeds, far=st.floats(3, 1000))
def test_lies_that_are_further_than_the_honest_differ_leave_no_trace_in_a_mixture(rule, seed, far):
    """Without mixing they are clipped or trimmed, and pull all the same."""
    chance = np.random.default_rng(seed)
    told = [chance.normal(size=200).astype(np.float32) for _ in range(7)]
    lie = chance.normal(size=200)
    lies = [(far * lie).astype(np.float32)] * 3
    honest = np.mean(told, axis=0)
    tokens = [5] * 10

    def off(mix: bool) -> float:
        average = Aggregation(rule=rule, mix=mix).average([*told, *lies], tokens)
        return float(np.linalg.norm(average - honest) / np.linalg.norm(honest))

    assert off(True) < 1e-5 < 0.1 < off(False)


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
@given(seed=seeds)
def test_three_liars_of_ten_stay_within_what_the_honest_said(rule, seed):
    told, lies = honest_and_lying(seed)
    average = Aggregation(rule=rule).average([*lies, *told], [5] * 10)
    assert (average >= np.min(told, axis=0) - 1e-5).all()
    assert (average <= np.max(told, axis=0) + 1e-5).all()


@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("max_norm", [0.0, 3.0])
@pytest.mark.parametrize("rule", ROBUST)
@given(seed=seeds)
def test_three_liars_of_ten_move_the_average_no_further_than_the_honest_differ(
    rule, max_norm, mix, seed
):
    told, lies = honest_and_lying(seed)
    truth = np.mean(told, axis=0)
    spread = max(np.linalg.norm(x - truth) for x in told)
    average = Aggregation(rule=rule, max_norm=max_norm, mix=mix).average([*told, *lies], [5] * 10)
    assert np.linalg.norm(average - truth) <= 2 * spread


@given(seeds)
def test_the_mean_is_moved_by_a_liar_no_further_than_its_norm_may_be(seed):
    """It bears no lies; it only keeps one from being arbitrarily loud."""
    told, lies = honest_and_lying(seed)
    average = Aggregation(rule="mean", max_norm=3.0).average([*told, lies[0]], [5] * 8)
    longest = max(np.linalg.norm(x) for x in told)
    assert np.linalg.norm(8 * average - np.sum(told, axis=0)) <= 3 * longest * 1.001


@given(st.lists(st.integers(0, 2**40), max_size=20), st.floats(1, 100))
def test_claimed_tokens_weigh_at_most_so_many_medians(tokens, max_weight):
    counted = capped(tokens, max_weight)
    honest = sorted(count for count in tokens if count) or [0]
    for claimed, count in zip(tokens, counted, strict=True):
        assert count == min(claimed, int(max_weight * honest[(len(honest) - 1) // 2]))
        assert (count > 0) == (claimed > 0)


def test_who_claims_everything_does_not_get_everything():
    parts = [np.full(4, value, dtype=np.float32) for value in (1, 1, 1, -1)]
    rule = Aggregation(rule="mean", max_weight=2.0)
    average = rule.average(parts, [100, 100, 100, 10**15])
    assert average == pytest.approx((3 - 2) / 5)


@pytest.mark.parametrize("size", [1, 2, 3, 4095, 4096, 4097, 12_345])
def test_a_norm_is_what_the_document_says(size):
    stack = np.random.default_rng(size).normal(size=(3, size)).astype(np.float32)
    norms = norms_of(stack)
    assert norms.tolist() == [plain_norm(row) for row in stack]
    assert norms == pytest.approx(np.linalg.norm(stack.astype(np.float64), axis=1), rel=1e-12)


@given(seeds, st.integers(1, 300))
def test_a_norm_does_not_depend_on_how_the_values_lie_in_memory(seed, size):
    stack = np.random.default_rng(seed).normal(size=(3, size)).astype(np.float32)
    apart = np.zeros((3, 3 * size), dtype=np.float32)
    apart[:, ::3] = stack
    assert norms_of(apart[:, ::3]).tobytes() == norms_of(stack).tobytes()
    assert norms_of(np.asfortranarray(stack)).tobytes() == norms_of(stack).tobytes()


@given(groups(elements=st.floats(-100, 100, width=32)))
def test_who_is_not_too_long_is_left_as_it_is(group):
    parts, tokens = group
    heard = [i for i, count in enumerate(tokens) if count]
    stack, weights = np.stack([parts[i] for i in heard]), weights_of(tokens)[heard]
    limited = limit_norms(stack, weights, 3.0)
    norms = norms_of(stack)
    for before, after, norm in zip(stack, limited, norms, strict=True):
        if norm <= 3 * norms[norms > 0].min(initial=np.inf):
            assert before.tobytes() == after.tobytes()
        assert np.linalg.norm(after.astype(np.float64)) <= norm * 1.001


@pytest.mark.parametrize("rule", RULES)
@given(group=groups())
def test_nothing_overflows_that_was_let_in(rule, group):
    parts, tokens = group
    assert np.isfinite(Aggregation(rule=rule).average(parts, tokens)).all()


def test_what_no_training_makes_is_refused():
    refuse_implausible(np.array([0.0, MAX_MAGNITUDE, -MAX_MAGNITUDE], dtype=np.float32))
    refuse_implausible(np.array([], dtype=np.float32))
    with pytest.raises(CodecError, match="too large"):
        refuse_implausible(np.array([0.0, -(2.0**61)], dtype=np.float32))


@pytest.mark.parametrize("rule", RULES)
def test_who_weighs_nothing_counts_nowhere(rule):
    chance = random.Random(1)
    parts = [np.array([chance.gauss(0, 1) for _ in range(8)], dtype=np.float32) for _ in range(4)]
    silent = np.full(8, 1e9, dtype=np.float32)
    average = Aggregation(rule=rule).average
    with_it = average([silent, *parts, silent], [0, 3, 4, 5, 6, 0])
    assert with_it.tobytes() == average(parts, [3, 4, 5, 6]).tobytes()
