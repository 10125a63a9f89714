"""Entries and genesis: every field counts in the digest, and JSON brings back the same value."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import canonical
from protocol.log import Entry, Genesis, Head, Part, coordinators, tokens_times_values
from tests.protocol.arbitrary import entries, texts
from tests.protocol.makers import ABC, DIGEST, entry, genesis

OTHER_ENTRY = {
    "round": 7,
    "term": 1,
    "fragment_id": 1,
    "parent": "other",
    "planned_steps": 5,
    "members": ("a", "b"),
    "voters": ("a", "b"),
    "incarnations": ("a-0", "b-0", "c-1"),
    "tie_breaker": "b",
    "parts": (Part(DIGEST, (1, 2, 1)), None),
    "committed": 1,
    "missing": (("d", "late"),),
    "banned": (("d", DIGEST),),
    "reason": "because",
}
OTHER_GENESIS = {
    "run_id": "other",
    "founder": "b",
    "voters": ("a",),
    "incarnations": ("a-0", "b-0", "c-1"),
    "tie_breaker": "b",
    "state_digest": "other",
}


@pytest.mark.parametrize("field", [field.name for field in fields(Entry)])
def test_every_field_of_an_entry_changes_its_digest(field):
    changed = replace(entry(), **{field: OTHER_ENTRY[field]})
    assert changed.digest != entry().digest


@pytest.mark.parametrize("field", [field.name for field in fields(Genesis)])
def test_every_field_of_the_genesis_changes_its_digest(field):
    changed = replace(genesis(), **{field: OTHER_GENESIS[field]})
    assert changed.digest != genesis().digest


@given(entries())
def test_an_entry_comes_back_from_json(value):
    back = Entry.from_json(json.loads(canonical(value.to_json())))
    assert back == value and back.digest == value.digest


def test_a_genesis_comes_back_from_json():
    assert Genesis.from_json(json.loads(genesis().to_bytes())) == genesis()


@given(entries(), entries())
def test_entries_with_one_digest_are_equal(one, other):
    assert (one.digest == other.digest) == (one == other)


@pytest.mark.parametrize("field", [field.name for field in fields(Entry)])
@pytest.mark.parametrize("value", [None, 1.5, "text", True, {}, [[]], [0], 2**120, "x" * 600])
def test_a_malformed_field_is_refused_or_does_not_come_back_the_same(field, value):
    raw = entry().to_json() | {field: value}
    try:
        back = Entry.from_json(raw)
    except (KeyError, TypeError, ValueError):
        return
    assert back.to_json() != raw or value == "text"


@pytest.mark.parametrize("part", [0, False, "", [], {}, {"digest": DIGEST}, {"tokens": [1]}])
def test_only_null_stands_for_an_absent_part(part):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Entry.from_json(entry().to_json() | {"parts": [part]})


@pytest.mark.parametrize(
    "changed",
    [
        {"incarnations": ["a-0", "b-0"]},
        {"voters": ["a"]},
        {"members": ["a", "b"]},
        {"parts": [{"digest": DIGEST, "tokens": [1, 2]}]},
        {"parts": [{"digest": DIGEST, "tokens": [1, 2, -1]}]},
        {"round": -2},
        {"term": -1},
        {"committed": -1},
        {"committed": 2**120},
    ],
    ids=str,
)
def test_an_entry_whose_tables_do_not_fit_each_other_or_that_counts_wrongly_is_none(changed):
    with pytest.raises((TypeError, ValueError)):
        Entry.from_json(entry().to_json() | changed)


def test_a_genesis_names_the_journal_of_each_voter():
    with pytest.raises(ValueError, match="incarnation"):
        Genesis.from_json(genesis().to_json() | {"incarnations": ["a-0"]})


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(ValueError, match="surrogates"):
        Entry.from_json(entry().to_json() | {"reason": "\ud800"})


def test_a_head_expects_who_contributed():
    assert Head.of_entry(entry()).contributors == ("a", "b")
    assert Head.of_entry(entry(parts=(None, None))).contributors == ()


@pytest.mark.parametrize("of", [Head.of_entry(entry()), Head.of_genesis(genesis())])
def test_a_vote_needs_the_journal_that_the_entry_lists(of):
    assert of.may_vote("b", "b-0") and of.incarnation_of("b") == "b-0"
    assert not of.may_vote("b", "b-1") and not of.may_vote("b", "")
    assert not of.may_vote("d", "d-0") and of.incarnation_of("d") == ""


def test_nobody_votes_under_an_unknown_incarnation():
    """An entry can list a voter without one; that one is in nobody's quorum."""
    assert not Head.of_entry(entry(incarnations=("a-0", "", "c-0"))).may_vote("b", "")


def test_a_head_knows_its_term_and_what_the_log_has_averaged():
    head = Head.of_entry(entry(term=2, committed=2**100))
    assert (head.term, head.committed) == (2, 2**100)
    assert (Head.of_genesis(genesis()).term, Head.of_genesis(genesis()).committed) == (0, 0)


def test_what_is_averaged_is_counted_in_tokens_times_values():
    parts = (Part(DIGEST, (1, 2, 0)), None, Part(DIGEST, (0, 0, 5)))
    assert tokens_times_values(parts, (10, 100, 3)) == 3 * 10 + 5 * 3


def test_contributed_parts_say_where_to_merge():
    assert entry().contributed_parts("b") == (True, False)
    assert entry().contributed_parts("c") == (False, False)
    assert entry().contributed_parts("stranger") == (False, False)


def test_an_entry_without_any_part_is_empty():
    assert entry(parts=(None, None)).is_empty
    assert not entry().is_empty


@given(st.sets(texts, min_size=1, max_size=6), st.integers(0, 1000))
def test_all_peers_see_the_coordinators_in_one_order(voters, round_):
    ordered = coordinators("run", round_, tuple(sorted(voters)))
    assert ordered == coordinators("run", round_, tuple(sorted(voters, reverse=True)))
    assert set(ordered) == voters


def test_coordination_rotates():
    firsts = [coordinators("run", round_, ABC)[0] for round_ in range(300)]
    assert all(70 < firsts.count(peer) < 130 for peer in ABC)
