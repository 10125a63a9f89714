"""Which of two logs wins, and that both sides agree about it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.chain import Verdict, compare, newest_common, step_of, with_history
from protocol.messages import Step
from tests.protocol.makers import chain, head, step

GENESIS = step("genesis", round_=-1)
COMMON = (step("common"), GENESIS)


def after_common(name: str, *, term: int = 0, committed: int = 0) -> tuple[Step, ...]:
    return (step(name, round_=1, term=term, committed=committed), *COMMON)


def test_a_step_says_where_a_head_is():
    last = chain(2, term=1)[0]
    assert step_of(last) == Step(round=1, digest=last.digest, term=1, committed=0)
    assert step_of(head()).round == -1


def test_the_newest_common_entry_is_found():
    assert newest_common(after_common("x"), after_common("y")) == COMMON[0]
    assert newest_common(COMMON, (GENESIS,)) == GENESIS
    assert newest_common((GENESIS,), (step("another genesis", round_=-1),)) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (COMMON, COMMON, Verdict.SAME),
        (COMMON, after_common("x"), Verdict.SAME),
        (after_common("x"), COMMON, Verdict.SAME),
        (COMMON, after_common("forced", term=1), Verdict.FORCED),
        (after_common("forced", term=1), COMMON, Verdict.SAME),
        (COMMON, (step("another", round_=-1),), Verdict.STRANGERS),
    ],
)
def test_who_has_not_left_the_other_is_at_most_behind(ours, theirs, verdict):
    assert compare(ours, theirs) is verdict


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (after_common("x"), after_common("y", term=1)),
        (after_common("x"), after_common("y", term=1, committed=10**9)),
        (after_common("x", term=2, committed=6), after_common("y", term=1, committed=5)),
        (after_common("x", term=1), after_common("y", term=1)),
        (after_common("x", committed=6), after_common("y", committed=5)),
    ],
    ids=[
        "unbroken before forced",
        "unbroken, however many tokens the other committed",
        "both forced: more tokens, however many terms",
        "both forced, as many tokens: the smaller digest",
        "both unbroken (impossible without a lost journal): more tokens",
    ],
)
def test_both_sides_agree_who_wins(better, worse):
    assert compare(better, worse) is Verdict.OURS
    assert compare(worse, better) is Verdict.THEIRS


def test_a_term_forced_before_the_fork_counts_for_neither():
    forced = (step("forced", round_=0, term=1), GENESIS)
    ours = (step("x", round_=1, term=1), *forced)
    theirs = (step("y", round_=1, term=2, committed=7), *forced)
    assert compare(ours, theirs) is Verdict.OURS


def test_a_longer_log_is_not_a_better_one():
    short = after_common("x", committed=8)
    long = (step("z", round_=2, committed=7), *after_common("y", committed=7))
    assert compare(short, long) is Verdict.OURS


def test_a_snapshot_s_trail_is_continued_by_the_one_it_was_sought_by():
    """Else a third log, left long before the snapshot, would seem to be continued by force."""
    told = (step("z", round_=3, term=1), step("y", round_=2, term=1), *after_common("x", term=1))
    known = with_history((told[1],), told)
    assert known == told[1:]
    unbroken = after_common("w")
    assert compare(unbroken, (told[1],)) is Verdict.FORCED
    assert compare(unbroken, known) is Verdict.OURS
    other = (step("of another log", round_=2),)
    assert with_history(other, told) == other


forks = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), max_size=4)


def grown(trunk: tuple[Step, ...], name: str, growth: list[tuple[int, int]]) -> tuple[Step, ...]:
    """More entries on top; each raises the term, or commits something, or neither."""
    log = trunk
    for place, (terms, tokens) in enumerate(growth):
        last = log[0]
        log = (
            step(
                f"{name}{place}",
                round_=last.round + 1,
                term=last.term + terms,
                committed=last.committed + tokens,
            ),
            *log,
        )
    return log


@given(forks, forks, forks, st.integers(1, 9), st.integers(1, 9))
def test_never_do_both_win_nor_both_lose(trunk, mine, other, my_memory, other_memory):
    """Also where each remembers only the end of its log."""
    common = grown((GENESIS,), "trunk", trunk)
    ours = grown(common, "ours", mine)[:my_memory]
    theirs = grown(common, "theirs", other)[:other_memory]
    here, there = compare(ours, theirs), compare(theirs, ours)
    opposite = {Verdict.OURS: Verdict.THEIRS, Verdict.THEIRS: Verdict.OURS}
    assert there is opposite.get(here, there) and here is opposite.get(there, here)
    assert (here is Verdict.STRANGERS) == (there is Verdict.STRANGERS)
    if here is Verdict.FORCED:
        assert there is Verdict.SAME


@given(st.lists(forks, min_size=3, max_size=3), forks)
def test_of_three_logs_one_beats_all_that_left_it_at_the_same_entry(branches, trunk):
    """No circle, so wherever they meet, the swarm ends on one of them."""
    common = grown((GENESIS,), "trunk", trunk)
    logs = [grown(common, name, growth) for name, growth in zip("xyz", branches, strict=True)]
    left = [log for log in logs if log != common]
    best = [log for log in left if all(compare(log, o) is not Verdict.THEIRS for o in left)]
    assert len(best) == min(1, len(left))
    ranked = sorted(left, key=lambda log: sum(compare(log, o) is Verdict.OURS for o in left))
    assert all(compare(low, high) is Verdict.THEIRS for low, high in pairwise(ranked))
