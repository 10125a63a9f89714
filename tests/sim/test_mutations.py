"""The checker of the simulation can fail: its invariants catch every mutation of the code."""

import inspect

import pytest

from tests.sim import mutating


def test_there_are_enough_mutations():
    assert len(mutating.names()) >= 12


@pytest.mark.parametrize("name", mutating.names())
def test_a_mutation_names_an_invariant_and_says_why(name):
    mutation = mutating.load(name)
    assert mutation.INVARIANT in mutating.INVARIANTS
    assert mutation.INVARIANT in (inspect.getdoc(mutation) or "")


@pytest.mark.parametrize("name", mutating.names())
def test_a_mutation_is_caught_by_its_invariant(name):
    outcome = mutating.try_out(name)
    assert outcome.is_caught, str(outcome)


def test_code_that_is_not_mutated_is_not_caught():
    mutation = mutating.load("promise_ignored")
    assert not mutating.violations_of(mutation, 0, mutated=False)
