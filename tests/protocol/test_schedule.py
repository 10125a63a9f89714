"""Rounds, steps and learning rate: docs/protocol.md, "Schedule"."""

import itertools
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ManifestError
from protocol.schedule import (
    MAX_LATE,
    MAX_PACE_RATIO,
    Growth,
    LearningRate,
    Schedule,
    is_due,
    median_pace,
    schedule_position,
    steps_share,
)
from tests.protocol import exact
from tests.protocol.vectors import cases


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    num_fragments = draw(st.integers(1, 8))
    sync_every = draw(st.integers(num_fragments, 40))  # seldom a multiple of num_fragments
    return Schedule(
        sync_every=sync_every,
        num_fragments=num_fragments,
        sync_delay_steps=draw(st.integers(0, sync_every // num_fragments - 1)),
        total_steps=draw(st.integers(sync_every, 6 * sync_every)),
    )


RATE = LearningRate(peak=3e-3, warmup_steps=20, total_steps=600, final_ratio=0.1)


@st.composite
def growing_schedules(draw: st.DrawFn) -> Schedule:
    """Schedules whose H grows by the Quadratic Synchronization Rule."""
    num_fragments = draw(st.integers(1, 5))
    sync_every = draw(st.integers(num_fragments, 40))
    total_steps = draw(st.integers(60, 900))
    growth = Growth(
        alpha=draw(st.floats(1e-3, 0.018)),  # to at most H = 36 before the rate falls
        max_sync_every=draw(st.integers(sync_every, 300)),
        learning_rate=replace(RATE, total_steps=total_steps, final_ratio=draw(st.floats(0, 1))),
    )
    return Schedule(
        sync_every=sync_every,
        num_fragments=num_fragments,
        sync_delay_steps=draw(st.integers(0, sync_every // num_fragments - 1)),
        total_steps=total_steps,
        growth=growth,
    )


any_schedules = st.one_of(schedules(), growing_schedules())


def sends_of_algorithm_2(schedule: Schedule) -> list[tuple[int, int]]:
    """(step, fragment_id) of every send: Algorithm 2 of arXiv 2501.18512, read word by word."""
    sends = []
    for t in range(1, schedule.total_steps + 1):
        for p in range(schedule.num_fragments):
            t_p = p * (schedule.sync_every // schedule.num_fragments)
            # "if exists p: (t - t_p) mod H == 0"; the first, partial period is skipped.
            if t - t_p >= schedule.sync_every and (t - t_p) % schedule.sync_every == 0:
                sends.append((t, p))
    return sends


def all_rounds(schedule: Schedule) -> list[tuple[int, int]]:
    rounds = range(schedule.total_rounds)
    return [(schedule.step_of(r), schedule.fragment_of(r)) for r in rounds]


@cases("schedule")
def test_the_vectors_hold(case):
    keys = ("sync_every", "num_fragments", "sync_delay_steps", "total_steps")
    growth = None
    if "qsr" in case:
        rate = LearningRate(total_steps=case["total_steps"], **case["qsr"]["learning_rate"])
        alpha, most = case["qsr"]["alpha"], case["qsr"]["max_sync_every"]
        growth = Growth(alpha=alpha, max_sync_every=most, learning_rate=rate)
    schedule = Schedule(growth=growth, **{key: case[key] for key in keys})
    rounds = range(schedule.total_rounds)
    assert schedule.training_rounds == case["training_rounds"]
    assert [schedule.step_of(r) for r in rounds] == case["steps"]
    assert [schedule.fragment_of(r) for r in rounds] == case["fragment_ids"]
    assert [schedule.planned_steps(r) for r in rounds] == case["planned_steps"]


@given(schedule=schedules())
def test_the_training_rounds_are_the_sends_of_algorithm_2(schedule):
    assert all_rounds(schedule)[: schedule.training_rounds] == sends_of_algorithm_2(schedule)


@given(schedule=schedules())
def test_every_fragment_trains_h_steps_before_its_first_round(schedule):
    first = dict(reversed(all_rounds(schedule)[: schedule.training_rounds]))
    steps = {fragment_id: step for step, fragment_id in first.items()}
    for fragment_id, step in steps.items():
        assert step == schedule.sync_every + fragment_id * schedule.gap_steps


@given(schedule=schedules())
def test_every_fragment_is_sent_once_in_any_h_steps(schedule):
    sends = all_rounds(schedule)[: schedule.training_rounds]
    for fragment_id in range(schedule.num_fragments):
        steps = [step for step, sent in sends if sent == fragment_id]
        assert all(b - a == schedule.sync_every for a, b in itertools.pairwise(steps))


@given(schedule=any_schedules)
def test_a_round_is_applied_before_the_next_one_starts(schedule):
    steps = [step for step, _ in all_rounds(schedule)[: schedule.training_rounds]]
    for step, following in itertools.pairwise(steps):
        assert step + schedule.sync_delay_steps < following


@given(schedule=any_schedules)
def test_at_the_end_every_fragment_drains_once(schedule):
    draining = all_rounds(schedule)[schedule.training_rounds :]
    assert {step for step, _ in draining} == {schedule.total_steps}
    assert sorted(p for _, p in draining) == list(range(schedule.num_fragments))


@given(schedule=any_schedules)
def test_the_planned_steps_sum_to_total_steps(schedule):
    planned = [schedule.planned_steps(r) for r in range(schedule.total_rounds)]
    assert min(planned) >= 0
    assert sum(planned) == schedule.total_steps
    assert planned[0] == schedule.sync_every_from(0)
    assert not any(planned[schedule.training_rounds + 1 :])
    for round_ in range(schedule.total_rounds):
        assert schedule.position_after(round_) == sum(planned[: round_ + 1])
    assert schedule.position_after(-1) == 0


@given(schedule=any_schedules, data=st.data())
def test_the_position_never_moves_past_one_rounds_share(schedule, data):
    round_ = data.draw(st.integers(-1, schedule.total_rounds - 1))
    own_steps = data.draw(st.integers(0, 3 * schedule.sync_every))
    reached = schedule.position_after(round_)
    share = schedule.planned_steps(round_ + 1)
    position = schedule_position(schedule, round_, own_steps)
    assert position == min(reached + min(own_steps, share), schedule.total_steps)
    assert reached <= position <= schedule.position_after(round_ + 1)


@given(schedule=any_schedules)
def test_a_peer_that_keeps_up_passes_every_position_once(schedule):
    positions = []
    for round_ in range(-1, schedule.total_rounds - 1):
        for own_steps in range(schedule.planned_steps(round_ + 1)):
            positions.append(schedule_position(schedule, round_, own_steps))
    assert positions == list(range(schedule.total_steps))


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"num_fragments": 11}, "num_fragments"),
        ({"sync_delay_steps": 5}, "sync_delay_steps"),  # the gap is 5 steps: tau is at most 4
        ({"sync_delay_steps": -1}, "sync_delay_steps"),
        ({"total_steps": 9}, "total_steps"),
    ],
)
def test_an_impossible_plan_is_refused_with_the_key_that_makes_it_so(changed, key):
    plan = {"sync_every": 10, "num_fragments": 2, "sync_delay_steps": 4, "total_steps": 10}
    Schedule(**plan)
    with pytest.raises(ManifestError, match=key):
        Schedule(**(plan | changed))


def all_cycles(schedule: Schedule) -> list[int]:
    """H of every cycle that has a training round."""
    return [
        schedule.sync_every_of(round_)
        for round_ in range(0, schedule.training_rounds, schedule.num_fragments)
    ]


@given(schedule=growing_schedules())
def test_h_grows_as_the_learning_rate_falls_and_within_its_bounds(schedule):
    lengths = all_cycles(schedule)
    assert lengths == sorted(lengths)
    assert lengths[0] >= schedule.sync_every
    assert lengths[-1] <= schedule.growth.max_sync_every


@given(schedule=growing_schedules())
def test_h_changes_between_cycles_only(schedule):
    """Within one, rounds are as far apart as they would be if H had always been this one."""
    steps = [step for step, _ in all_rounds(schedule)[: schedule.training_rounds]]
    for first in range(0, len(steps), schedule.num_fragments):
        length = schedule.sync_every_of(first)
        gap_steps = length // schedule.num_fragments
        for place, step in enumerate(steps[first : first + schedule.num_fragments]):
            assert step == steps[first] + place * gap_steps
            assert schedule.sync_every_of(first + place) == length
        if first + schedule.num_fragments < len(steps):
            assert steps[first + schedule.num_fragments] == steps[first] + length


@given(schedule=growing_schedules(), data=st.data())
def test_h_is_what_the_rule_says_in_rational_numbers(schedule, data):
    growth, rate = schedule.growth, schedule.growth.learning_rate
    first = data.draw(st.integers(0, schedule.training_rounds - 1))
    first -= first % schedule.num_fragments
    exact_rate = exact.learning_rate(
        max(schedule.step_of(first), rate.warmup_steps),
        rate.total_steps,
        rate.warmup_steps,
        Fraction(rate.peak),
        Fraction(rate.final_ratio),
    )
    least, most = schedule.sync_every, growth.max_sync_every
    assert schedule.sync_every_of(first) in exact.grown(
        Fraction(growth.alpha), exact_rate, least, most
    )


def test_without_growth_h_stays_as_it_is():
    schedule = Schedule(sync_every=10, num_fragments=2, sync_delay_steps=0, total_steps=100)
    assert set(all_cycles(schedule)) == {10}


def test_a_small_alpha_leaves_h_as_it_is():
    growth = Growth(alpha=1e-6, max_sync_every=500, learning_rate=RATE)
    plain = Schedule(sync_every=10, num_fragments=2, sync_delay_steps=0, total_steps=600)
    assert all_rounds(replace(plain, growth=growth)) == all_rounds(plain)


def test_h_is_taken_at_the_peak_while_the_rate_warms_up():
    growth = Growth(alpha=0.0151, max_sync_every=500, learning_rate=RATE)
    assert [growth.sync_every_at(position, 10) for position in (0, 5, 20)] == [25, 25, 25]


def test_a_run_of_more_cycles_than_can_be_counted_is_refused():
    growth = Growth(alpha=0.01, max_sync_every=500, learning_rate=RATE)
    with pytest.raises(ManifestError, match="qsr_alpha"):
        Schedule(
            sync_every=1, num_fragments=1, sync_delay_steps=0, total_steps=2**30, growth=growth
        )


def test_a_run_that_ends_within_the_first_h_is_refused():
    growth = Growth(alpha=0.06, max_sync_every=500, learning_rate=RATE)  # (0.06 / 0.003)^2 = 400
    plan = {"sync_every": 10, "num_fragments": 2, "sync_delay_steps": 0, "growth": growth}
    Schedule(total_steps=400, **plan)
    with pytest.raises(ManifestError, match="399"):
        Schedule(total_steps=399, **plan)


@cases("learning_rate")
def test_the_learning_rate_vectors_hold(case):
    rate = LearningRate(
        peak=case["learning_rate"],
        total_steps=case["total_steps"],
        warmup_steps=case["warmup_steps"],
        final_ratio=case["final_ratio"],
    )
    assert rate.at(case["position"]) == pytest.approx(case["expected"], rel=1e-14)


@given(
    total=st.integers(1, 10_000),
    warmup=st.integers(0, 12_000),
    final_ratio=st.floats(0, 1),
    data=st.data(),
)
def test_the_learning_rate_warms_up_and_then_falls_to_its_last_value(
    total, warmup, final_ratio, data
):
    rate = LearningRate(peak=1.0, total_steps=total, warmup_steps=warmup, final_ratio=final_ratio)
    position = data.draw(st.integers(0, total))
    assert 0 <= rate.at(position) <= 1
    if warmup < total:
        assert rate.at(warmup) == 1
        ratio = Fraction(final_ratio)
        expected = exact.learning_rate(position, total, warmup, Fraction(1), ratio)
        assert rate.at(position) == pytest.approx(float(expected), rel=1e-12, abs=1e-15)
        assert rate.at(total) == rate.at(total + 5) == pytest.approx(final_ratio, abs=1e-15)
    if position < warmup:
        assert rate.at(position) < rate.at(position + 1)


@given(
    warmup=st.integers(0, 50),
    length=st.integers(2, 5000),
    final_ratio=st.floats(0, 1),
    data=st.data(),
)
def test_after_the_warm_up_the_learning_rate_never_rises(warmup, length, final_ratio, data):
    """H depends on it: were it to rise by a rounding, H could shrink again."""
    rate = LearningRate(
        peak=1.0, total_steps=warmup + length, warmup_steps=warmup, final_ratio=final_ratio
    )
    position = data.draw(st.integers(warmup, warmup + length))
    assert rate.at(position + 1) <= rate.at(position)


@pytest.mark.parametrize(
    ("own_pace", "group_paces", "steps"),
    [
        (2.0, [1.0, 2.0, 4.0], 25),
        (4.0, [1.0, 2.0, 4.0], 50),
        (1.0, [1.0, 2.0, 4.0], 12),
        (0.001, [1.0, 2.0, 4.0], 0),
        (0.2, [1.0, 2.0, 4.0], 2),  # two and a half: with three the others would wait
        (1.99, [1.0, 2.0, 4.0], 25),  # a jitter of its pace costs no step
        (0.0, [1.0, 2.0], 25),
        (3.0, [], 25),
        (3.0, [0.0, 3.0, 0.0], 25),
        (1e6, [1.0, 2.0, 4.0], 25 * MAX_PACE_RATIO),
    ],
)
def test_a_faster_peer_trains_more_steps_in_the_same_time(own_pace, group_paces, steps):
    assert steps_share(25, own_pace, group_paces) == steps


paces = st.floats(0.01, 100.0)


@given(planned=st.integers(1, 500), own=paces, others=st.lists(paces, max_size=8))
def test_nobody_trains_so_much_that_the_others_wait(planned, own, others):
    group = [own, *others]
    length_s = planned / median_pace(group)
    share = steps_share(planned, own, group)
    assert share / own <= MAX_LATE * length_s
    # Nor so little that a whole step more would have fitted.
    assert share + 1 > min(own * length_s, MAX_PACE_RATIO * planned)


@given(planned=st.integers(1, 500), group=st.lists(paces, min_size=1, max_size=9))
def test_half_of_a_group_trains_at_most_the_planned_steps(planned, group):
    shares = [steps_share(planned, pace, group) for pace in group]
    assert 2 * sum(share <= planned for share in shares) >= len(group)
    assert planned in shares


@pytest.mark.parametrize(
    ("waited_s", "ready_paces", "others", "due"),
    [
        (10.0, [2.5, 2.5], 3, True),
        (9.9, [2.5, 2.5], 3, False),  # the time is not over
        (10.0, [2.5], 3, False),  # one of three: it may be the one that is wrong
        (10.0, [2.5], 2, True),
        (10.0, [2.5], 1, True),
        (100.0, [], 1, False),
        (100.0, [0.0, 0.0], 2, False),  # nobody knows how long a round is
        (100.0, [], 0, False),  # alone
    ],
)
def test_a_late_peer_goes_along_once_half_of_the_others_wait(waited_s, ready_paces, others, due):
    assert is_due(25, waited_s, ready_paces, others) is due


def test_a_round_that_drains_asks_for_no_steps():
    assert steps_share(0, 5.0, [1.0, 5.0]) == 0
