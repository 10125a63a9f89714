"""What a coordinator puts together, and how it goes on when members are lost."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.checks import check_entry, check_roster
from protocol.coordinator import (
    FLAT_SHARE,
    MIN_TRANSFER_S,
    choose_means,
    forced_entry,
    heirs_of,
    next_entry,
    plan_roster,
    resend_time_s,
)
from protocol.group import Group
from protocol.log import Part
from protocol.messages import Mean
from tests.protocol.makers import ABC, DIGEST, head, incarnations_of, ready, roster, terms

TERMS = terms()
JOURNALS = dict(zip(ABC, incarnations_of(ABC), strict=True))
GROUP = Group(members=ABC, contributors=ABC, missing=())


def mean(part_index: int, name: str, without: tuple[int, ...] = ()) -> Mean:
    return Mean(part_index=part_index, digest=name, without=without)


# --- the roster -----------------------------------------------------------------------------------


def plan(group: Group = GROUP, journals: dict[str, str] = JOURNALS, **changed):
    readies = {peer: ready(**changed) for peer in group.contributors}
    return plan_roster(TERMS, head(), group, readies, journals, ballot=0)


def test_a_roster_says_with_which_journal_each_member_votes():
    assert [m.incarnation for m in plan().members] == list(incarnations_of(ABC))
    assert [m.incarnation for m in plan(journals={"a": "a-0"}).members] == ["a-0", "", ""]


def test_who_is_not_ready_owns_nothing_and_contributes_nothing():
    planned = plan(Group(members=ABC, contributors=("a", "b"), missing=(("c", "late"),)))
    assert [m.tokens for m in planned.members] == [32, 32, 0]
    assert 2 not in planned.owners and planned.missing == (("c", "late"),)


@given(
    st.floats(1e-9, 1e12),
    st.floats(1e-9, 1e12),
    st.floats(0, 1e3),
    st.floats(0, 1e3),
)
def test_whatever_peers_publish_the_roster_can_be_followed(up, down, pace, overhead_s):
    planned = plan(
        up_bytes_per_s=up, down_bytes_per_s=down, pace_steps_per_s=pace, overhead_s=overhead_s
    )
    check_roster("a", planned, TERMS, "b", my_tokens=32)
    assert planned.close_s < planned.deadline_s


def test_owners_close_before_the_deadline_and_after_the_planned_time():
    planned = plan()
    assert planned.transfer_s < planned.close_s < planned.deadline_s


@given(st.floats(0, 1e3))
def test_an_exchange_is_never_a_burst_however_long_deciding_takes(overhead_s):
    gap_s = TERMS.schedule.planned_steps(1) / 1.0
    planned = plan(pace_steps_per_s=1.0, overhead_s=overhead_s)
    assert planned.transfer_s >= min(FLAT_SHARE * gap_s, TERMS.limits.round_deadline_s)


def test_with_slow_steps_everything_is_later():
    assert plan(pace_steps_per_s=0.1).close_s > plan(pace_steps_per_s=1.0).close_s
    assert plan(pace_steps_per_s=0.1).deadline_s > plan(pace_steps_per_s=1.0).deadline_s


# --- members are lost -----------------------------------------------------------------------------


def test_nothing_that_moves_takes_no_time():
    assert resend_time_s(TERMS, roster(), {"a": ready()}, []) == 0.0


def test_moved_parts_take_twice_their_bytes_over_the_narrowest_link():
    readies = {"a": ready(up_bytes_per_s=4.0), "b": ready(down_bytes_per_s=8.0)}
    assert resend_time_s(TERMS, roster(), readies, [0, 2]) == 2 * 16 / 4.0 + MIN_TRANSFER_S


def test_a_leader_that_took_over_without_any_ready_still_plans_some_time():
    assert 0 < resend_time_s(TERMS, roster(), {}, [1]) < 1.0


def test_orphaned_parts_go_to_whoever_owns_the_fewest():
    # 0 owns three parts, 1 two, 2 one; 3 is lost.
    owners = [0, 1, 2, 3, 0, 1, 3, 0, 3]
    assert heirs_of(owners, [3, 6, 8], [0, 1, 2]) == (0, 1, 2, 2, 0, 1, 1, 0, 2)


@given(st.data())
def test_heirs_are_alive_and_nothing_else_moves(data):
    members = data.draw(st.integers(1, 6))
    owners = data.draw(st.lists(st.integers(0, members - 1), min_size=1, max_size=20))
    alive = sorted(data.draw(st.sets(st.integers(0, members - 1), min_size=1)))
    orphaned = [part for part, owner in enumerate(owners) if owner not in alive]
    heirs = heirs_of(owners, orphaned, alive)
    assert set(heirs) <= set(alive)
    assert all(heirs[p] == owners[p] for p in range(len(owners)) if p not in orphaned)
    given_ = [sum(heirs[p] == member for p in orphaned) for member in alive]
    kept = [sum(owner == member for owner in owners) for member in alive]
    got = [(kept + given_, given_) for kept, given_ in zip(kept, given_, strict=True)]
    # Nobody was given a part while somebody else owned two fewer.
    assert all(most <= least + 1 for most, given_ in got if given_ for least, _ in got)


# --- the entry ------------------------------------------------------------------------------------


def test_the_mean_with_the_most_contributions_is_chosen():
    held = {"a": [mean(0, "x", (1,))], "b": [mean(0, "x", (1,)), mean(0, "z")]}
    assert choose_means(held, 2) == (mean(0, "z"), None)


def test_then_the_one_that_most_hold_then_the_smaller_digest():
    held = {"a": [mean(0, "y"), mean(1, "q")], "b": [mean(0, "y")], "c": [mean(0, "x")]}
    assert choose_means(held, 2) == (mean(0, "y"), mean(1, "q"))
    tie = {"a": [mean(0, "y")], "b": [mean(0, "x")]}
    assert choose_means(tie, 1) == (mean(0, "x"),)


def test_without_any_mean_a_part_is_absent():
    assert choose_means({}, 2) == (None, None)


means = st.builds(
    mean, st.integers(0, 2), st.sampled_from("xyz"), st.sampled_from([(), (0,), (1,), (0, 1)])
)


@given(st.dictionaries(st.sampled_from(ABC), st.lists(means, max_size=4)), st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_reports(held, chance):
    chosen = choose_means(held, 3)
    peers = list(held)
    chance.shuffle(peers)
    assert choose_means({peer: held[peer] for peer in peers}, 3) == chosen
    for part_index, best in enumerate(chosen):
        here = [m for ms in held.values() for m in ms if m.part_index == part_index]
        assert (best is None) == (not here)
        assert best is None or len(best.without) == min(len(m.without) for m in here)


def entry_with(**changed):
    fields = {"members": JOURNALS, "lost": {}, "parts": None, "missing": ()}
    return next_entry(TERMS, head(), **fields | changed)


def test_the_next_voters_are_the_members_that_are_not_lost():
    made = entry_with(lost={"c": "silent"})
    assert made.voters == ("a", "b") and made.incarnations == ("a-0", "b-0")
    check_entry("a", made, TERMS, head())


def test_a_member_with_a_new_journal_votes_under_that_one():
    assert entry_with(members=JOURNALS | {"b": "b-7"}).incarnations == ("a-0", "b-7", "c-0")


def test_a_member_of_which_no_journal_is_known_gets_no_vote():
    assert entry_with(members=JOURNALS | {"c": ""}).voters == ("a", "b")


def test_who_sees_no_quorum_judges_nobody():
    assert entry_with(lost={"a": "silent", "b": "silent"}).voters == ABC


def test_a_newcomer_gets_a_vote():
    made = entry_with(members=JOURNALS | {"d": "d-0"})
    assert made.voters == ("a", "b", "c", "d") and made.members == made.voters


def test_in_lockstep_the_voters_never_change():
    made = next_entry(
        terms(lockstep=True),
        head(),
        members=JOURNALS,
        lost={"c": "silent"},
        parts=None,
        missing=(),
    )
    assert made.voters == ABC


def test_a_tie_breaker_that_is_gone_is_replaced():
    assert entry_with().tie_breaker == "a"
    without_a = entry_with(lost={"a": "silent"})
    assert without_a.voters == ("b", "c") and without_a.tie_breaker in "bc"


def test_an_entry_adds_what_it_averages():
    before = replace(head(), committed=1000)
    parts = (Part(DIGEST, (1, 2, 0)), None, Part(DIGEST, (4, 0, 0)))
    made = next_entry(TERMS, before, members=JOURNALS, lost={}, parts=parts, missing=())
    assert made.committed == 1000 + 3 * 2 + 4 * 2
    check_entry("a", made, TERMS, before)


@pytest.mark.parametrize("me", ["b", "c"])
def test_a_forced_entry_begins_a_term_with_who_is_there(me):
    before = replace(head(), term=4, committed=77)
    made = forced_entry(TERMS, before, me=me, voters={"b": "b-0", "c": "c-3"})
    assert made.term == 5 and made.is_empty and made.committed == 77
    assert made.voters == ("b", "c") and made.incarnations == ("b-0", "c-3")
    assert made.tie_breaker == me and made.missing == (("a", "cut off"),)
    assert "60 s" in made.reason
    check_entry(me, made, TERMS, before)
