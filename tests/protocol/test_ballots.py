"""What an acceptor remembers, and where that lets it vote."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ballots import Ballots
from protocol.digest import canonical
from protocol.log import Head
from tests.protocol.makers import entry, head

HEAD = replace(head(), round=6, term=1, digest="parent")
BALLOTS = Ballots(
    round=7, parent="parent", term=1, promised=4, accepted_ballot=2, accepted=entry(round=7)
)


@pytest.mark.parametrize("ballots", [BALLOTS, Ballots(round=0, parent="p")])
def test_ballots_come_back_from_json(ballots):
    assert Ballots.from_json(json.loads(canonical(ballots.to_json()))) == ballots


@pytest.mark.parametrize("field", ["round", "parent", "term", "promised", "accepted_ballot"])
def test_ballots_without_a_field_are_none(field):
    raw = BALLOTS.to_json()
    del raw[field]
    with pytest.raises((KeyError, TypeError, ValueError)):
        Ballots.from_json(raw)


def test_a_voter_goes_on_in_the_instance_that_it_remembers():
    assert BALLOTS.allow(HEAD)


def test_in_another_instance_of_that_round_it_may_have_voted_otherwise():
    assert not BALLOTS.allow(replace(HEAD, digest="another"))


@pytest.mark.parametrize(("term", "round_"), [(1, 7), (1, 90), (2, 6), (2, 0)])
def test_it_votes_on_whatever_comes_later(term, round_):
    assert BALLOTS.allow(replace(HEAD, term=term, round=round_, digest="another"))


@pytest.mark.parametrize(("term", "round_"), [(1, 5), (1, -1), (0, 6), (0, 90)])
def test_it_does_not_vote_on_what_it_may_have_forgotten(term, round_):
    """Its log has lost its end, or another chain's: it catches up first."""
    assert not BALLOTS.allow(replace(HEAD, term=term, round=round_))


heads = st.builds(
    Head,
    round=st.integers(-1, 3),
    term=st.integers(0, 2),
    digest=st.sampled_from("xy"),
    voters=st.just(("a",)),
    incarnations=st.just(("a-0",)),
    tie_breaker=st.just("a"),
    contributors=st.just(()),
    committed=st.just(0),
)


@given(heads, heads)
def test_of_two_instances_at_most_one_is_open_to_who_voted_in_the_other(one, other):
    """Otherwise it could vote here, then there, and then here again without remembering."""

    def voted_in(last: Head) -> Ballots:
        return Ballots(round=last.round + 1, parent=last.digest, term=last.term)

    if (one.term, one.round, one.digest) != (other.term, other.round, other.digest):
        assert not (voted_in(one).allow(other) and voted_in(other).allow(one))
