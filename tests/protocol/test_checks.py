"""What a roster or an entry must satisfy before anything of it is used (I6)."""

from dataclasses import replace

import pytest

from protocol.checks import check_entry, check_roster
from protocol.errors import RemoteError
from protocol.log import Head, Part
from tests.protocol.makers import ABC, DIGEST, head, roster, terms
from tests.protocol.members import empty_entry, next_entry

TERMS = terms()
LATER = replace(head(), round=4, term=2, committed=100)


def check(entry, at: Head = LATER) -> None:
    check_entry("x", entry, TERMS, at)


@pytest.mark.parametrize("at", [head(), LATER])
def test_an_entry_that_continues_the_head_is_fine(at):
    check(empty_entry(at), at)
    check(next_entry(), head())


def test_a_forced_term_is_the_next_one_and_empty():
    forced = empty_entry(LATER, term=3)
    check(forced)
    full = next_entry(
        round=5,
        fragment_id=1,
        planned_steps=2,
        parent=LATER.digest,
        term=3,
        committed=LATER.committed + 18,
    )
    check(replace(full, term=2))
    for wrong in (full, replace(forced, term=4), replace(forced, term=1)):
        with pytest.raises(RemoteError, match="malformed"):
            check(wrong)


@pytest.mark.parametrize(
    ("tokens", "committed"),
    [((1, 1, 1), 18), ((5, 0, 0), 30), ((0, 0, 0), 0)],
)
def test_an_entry_counts_what_it_averages_in_tokens_times_values(tokens, committed):
    fine = next_entry(tokens)
    assert fine.committed == committed
    check(fine, head())
    for wrong in (committed - 1, committed + 1, committed + 18):
        with pytest.raises(RemoteError):
            check(replace(fine, committed=wrong), head())


def test_an_absent_part_counts_nothing():
    part = Part(DIGEST, (1, 1, 1))
    check(next_entry(parts=(part, None, None), committed=6), head())


@pytest.mark.parametrize(
    "changed",
    [
        {"round": 6},
        {"round": 4},
        {"parent": "another"},
        {"fragment_id": 0},
        {"planned_steps": 4},
        {"parts": (None,) * 2},
        {"members": ("b", "a")},
        {"members": ("a", "a")},
        {"voters": (), "incarnations": ()},
        {"voters": tuple(f"{i:03}" for i in range(65))},
        {"voters": ("b", "a")},
        {"tie_breaker": "d"},
        {"committed": 101},
    ],
    ids=str,
)
def test_an_entry_that_contradicts_the_run_its_parent_or_itself_is_refused(changed):
    with pytest.raises(RemoteError):
        check(empty_entry(LATER, **changed))


def test_a_roster_that_can_be_followed_is_fine():
    check_roster("x", roster(), TERMS, "b", my_tokens=1)
    check_roster("x", roster(tokens=(1, 0, 1)), TERMS, "b", my_tokens=1)


@pytest.mark.parametrize(
    "changed",
    [
        {"owners": (0, 1)},
        {"owners": (0, 1, 3)},
        {"owners": (0, 1, -1)},
        {"tokens": (1, 7, 1)},
        {"tokens": (0, 0, 0)},
        {"tokens": (5, 1, -1)},
        {"transfer_s": 1e7},
        {"close_s": 0.0},
        {"close_s": 11.0},
        {"deadline_s": 21.0},
        {"members": ()},
        {"members": tuple(reversed(roster().members))},
        {"members": roster().members[::2]},
        {"members": (*roster().members, roster().members[2])},
    ],
    ids=str,
)
def test_a_roster_that_cannot_be_followed_is_refused(changed):
    with pytest.raises(RemoteError):
        check_roster("x", roster(**changed), TERMS, "b", my_tokens=1)


def test_who_did_not_say_that_it_contributes_is_not_counted_on():
    with pytest.raises(RemoteError):
        check_roster("x", roster(), TERMS, "b", my_tokens=0)
    assert roster().peer_ids == ABC
