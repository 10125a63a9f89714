"""Entries and genesis: every field counts in the digest, and JSON brings back the same value."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import canonical
from protocol.log import Entry, Genesis, Head, Part, coordinators
from tests.protocol.makers import DIGEST, entry, genesis

OTHER_ENTRY = {
    "round": 7,
    "fragment_id": 1,
    "parent": "other",
    "planned_steps": 5,
    "members": ("a", "b"),
    "voters": ("a", "b"),
    "tie_breaker": "b",
    "parts": (Part(DIGEST, (1, 2, 1)), None),
    "missing": (("d", "late"),),
    "reason": "because",
}
OTHER_GENESIS = {
    "run_id": "other",
    "founder": "b",
    "voters": ("a",),
    "tie_breaker": "b",
    "state_digest": "other",
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, 2**40)
parts = st.one_of(st.none(), st.builds(Part, texts, st.lists(counts, max_size=4).map(tuple)))
entries = st.builds(
    Entry,
    round=st.integers(-1, 2**31 - 1),
    fragment_id=counts,
    parent=texts,
    planned_steps=counts,
    members=st.lists(texts, max_size=4).map(tuple),
    voters=st.lists(texts, max_size=4).map(tuple),
    tie_breaker=texts,
    parts=st.lists(parts, max_size=4).map(tuple),
    missing=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    reason=texts,
)


@pytest.mark.parametrize("field", [field.name for field in fields(Entry)])
def test_every_field_of_an_entry_changes_its_digest(field):
    changed = replace(entry(), **{field: OTHER_ENTRY[field]})
    assert changed.digest != entry().digest


@pytest.mark.parametrize("field", [field.name for field in fields(Genesis)])
def test_every_field_of_the_genesis_changes_its_digest(field):
    changed = replace(genesis(), **{field: OTHER_GENESIS[field]})
    assert changed.digest != genesis().digest


@given(entries)
def test_an_entry_comes_back_from_json(value):
    back = Entry.from_json(json.loads(canonical(value.to_json())))
    assert back == value and back.digest == value.digest


def test_a_genesis_comes_back_from_json():
    assert Genesis.from_json(json.loads(genesis().to_bytes())) == genesis()


@given(entries, entries)
def test_entries_with_one_digest_are_equal(one, other):
    assert (one.digest == other.digest) == (one == other)


@pytest.mark.parametrize("field", [field.name for field in fields(Entry)])
@pytest.mark.parametrize("value", [None, 1.5, "text", True, {}, [[]], [0], 2**70, "x" * 600])
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


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(ValueError, match="surrogates"):
        Entry.from_json(entry().to_json() | {"reason": "\ud800"})


def test_a_head_expects_who_contributed():
    assert Head.of_entry(entry()).contributors == ("a", "b")
    assert Head.of_entry(entry(parts=(None, None))).contributors == ()


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
    firsts = [coordinators("run", round_, ("a", "b", "c"))[0] for round_ in range(300)]
    assert all(70 < firsts.count(peer) < 130 for peer in "abc")
