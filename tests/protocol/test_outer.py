"""Mean, outer step, merge and rebase: docs/protocol.md, "Arithmetic"."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.outer import merge, outer_step, pseudo_gradient, rebase, weighted_mean, weights_of
from tests.protocol import exact
from tests.protocol.vectors import cases

# Small enough that no sum overflows; zero and subnormals are among them.
number = st.floats(-(2.0**60), 2.0**60, width=32)
decay = st.floats(0, 1, width=32)
tokens = st.integers(0, 2**40)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def as_fraction(value: float) -> Fraction:
    return Fraction(float(np.float32(value)))


@cases("weights")
def test_the_weight_vectors_hold(case):
    assert exact.bits_of(weights_of(case["tokens"])) == case["weights"]


@cases("mean")
def test_the_mean_vectors_hold(case):
    parts = [exact.values_of(part) for part in case["parts"]]
    mean = weighted_mean(parts, exact.values_of(case["weights"]))
    assert exact.bits_of(mean) == case["mean"]


@cases("outer_step")
def test_the_outer_step_vectors_hold(case):
    assert exact.bits_of(case["learning_rate"]) == [case["learning_rate_bits"]]
    assert exact.bits_of(case["momentum_decay"]) == [case["momentum_decay_bits"]]
    new_global, new_momentum = outer_step(
        exact.values_of(case["global_params"]),
        exact.values_of(case["momentum"]),
        exact.values_of(case["mean"]),
        learning_rate=case["learning_rate"],
        momentum_decay=case["momentum_decay"],
    )
    assert exact.bits_of(new_global) == case["new_global_params"]
    assert exact.bits_of(new_momentum) == case["new_momentum"]


@cases("merge")
def test_the_merge_vectors_hold(case):
    local, theta = exact.values_of(case["local_params"]), exact.values_of(case["global_params"])
    assert exact.bits_of(case["alpha"]) == [case["alpha_bits"]]
    assert exact.bits_of(merge(local, theta, case["alpha"])) == case["merged"]


@cases("rebase")
def test_the_rebase_vectors_hold(case):
    keys = ("local_params", "old_global", "new_global")
    assert exact.bits_of(rebase(*(exact.values_of(case[key]) for key in keys))) == case["rebased"]


@cases("outer_step")
def test_the_outer_step_vectors_are_what_exact_arithmetic_gives(case):
    eta = exact.fraction_of(case["learning_rate_bits"])
    mu = exact.fraction_of(case["momentum_decay_bits"])
    inputs = zip(case["global_params"], case["momentum"], case["mean"], strict=True)
    outputs = zip(case["new_global_params"], case["new_momentum"], strict=True)
    for before, after in zip(inputs, outputs, strict=True):
        expected = tuple(map(exact.fraction_of, after))
        assert exact.outer_step(*map(exact.fraction_of, before), eta, mu) == expected


class TestAgainstExactArithmetic:
    """Every operation rounded by itself, in the order of the document, and none of them fused."""

    @given(counts=st.lists(tokens, min_size=1, max_size=8).filter(any))
    def test_weights(self, counts):
        assert [as_fraction(w) for w in weights_of(counts)] == exact.weights(counts)

    @given(
        columns=st.lists(st.tuples(number, number, number), min_size=1, max_size=8),
        counts=st.tuples(tokens, tokens, tokens).filter(any),
    )
    def test_weighted_mean(self, columns, counts):
        parts = [array(*part) for part in zip(*columns, strict=True)]
        mean = weighted_mean(parts, weights_of(counts))
        expected = exact.weighted_mean(
            [[as_fraction(x) for x in part] for part in parts], exact.weights(counts)
        )
        assert [as_fraction(x) for x in mean] == expected

    @given(theta=number, momentum=number, mean=number, eta=decay, mu=decay)
    def test_outer_step(self, theta, momentum, mean, eta, mu):
        new_global, new_momentum = outer_step(
            array(theta), array(momentum), array(mean), learning_rate=eta, momentum_decay=mu
        )
        expected = exact.outer_step(*map(as_fraction, (theta, momentum, mean, eta, mu)))
        assert (as_fraction(new_global[0]), as_fraction(new_momentum[0])) == expected

    @given(local=number, theta=number, alpha=decay)
    def test_merge(self, local, theta, alpha):
        merged = merge(array(local), array(theta), alpha)[0]
        assert as_fraction(merged) == exact.merge(*map(as_fraction, (local, theta, alpha)))

    @given(local=number, old=number, new=number)
    def test_rebase(self, local, old, new):
        rebased = rebase(array(local), array(old), array(new))[0]
        assert as_fraction(rebased) == exact.rebase(*map(as_fraction, (local, old, new)))


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_pseudo_gradient_descends(direction):
    """The outer step moves global_params to where the replica went, not away from it."""
    start, local = array(3.0), array(3.0 + direction)
    moved, _ = outer_step(
        start, array(0.0), pseudo_gradient(start, local), learning_rate=0.5, momentum_decay=0.9
    )
    assert abs(moved[0] - local[0]) < abs(start[0] - local[0])


def test_two_peers_at_learning_rate_1_without_momentum_land_on_their_mean():
    start = array(10, -4, 0)
    replicas = [array(12, -4, 1), array(16, -8, -3)]
    mean = weighted_mean([pseudo_gradient(start, x) for x in replicas], weights_of([512, 512]))
    moved, _ = outer_step(start, np.zeros_like(start), mean, learning_rate=1, momentum_decay=0)
    assert moved.tolist() == [14, -6, -1]


def test_a_peer_with_three_times_the_tokens_counts_three_times():
    mean = weighted_mean([array(8.0), array(0.0)], weights_of([3, 1]))
    assert mean[0] == pytest.approx(6.0, rel=1e-6)


def test_weight_0_is_in_the_group_and_does_not_move_the_mean():
    assert weighted_mean([array(5.0), array(3.0)], weights_of([0, 77])).tolist() == [3.0]


def test_no_tokens_at_all_give_only_zero_weights():
    assert weights_of([0, 0, 0]).tolist() == [0, 0, 0]
    assert weights_of([]).size == 0


def test_the_arguments_are_left_as_they_were():
    arrays = [array(1.0, 2.0), array(3.0, 4.0), array(5.0, 6.0)]
    before = [a.copy() for a in arrays]
    outer_step(*arrays, learning_rate=0.6, momentum_decay=0.9)
    merge(arrays[0], arrays[1], 0.5)
    rebase(*arrays)
    weighted_mean(arrays, weights_of([1, 2, 3]))
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


@given(
    local=st.floats(-8, 8, width=32), old=st.floats(-8, 8, width=32), new=st.floats(-8, 8, width=32)
)
def test_a_rebase_leaves_the_pseudo_gradient_as_it_was_up_to_rounding(local, old, new):
    unsent = pseudo_gradient(array(old), array(local))
    after = pseudo_gradient(array(new), rebase(array(local), array(old), array(new)))
    # Four roundings of values below 32.
    assert abs(float(after[0]) - float(unsent[0])) <= 4 * 32 * 2.0**-24


def test_alpha_is_the_weight_of_the_local_value():
    local, theta = array(1.0), array(5.0)
    assert merge(local, theta, 1.0).tolist() == [1.0]
    assert merge(local, theta, 0.0).tolist() == [5.0]
    assert merge(local, theta, 0.25).tolist() == [4.0]
