"""Rounds, steps and learning rate: docs/protocol.md, "Schedule"."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ManifestError
from protocol.schedule import Schedule, learning_rate_factor, schedule_position, steps_share
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
    schedule = Schedule(**{key: case[key] for key in keys})
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


@given(schedule=schedules())
def test_a_round_is_applied_before_the_next_one_starts(schedule):
    steps = [step for step, _ in all_rounds(schedule)[: schedule.training_rounds]]
    for step, following in itertools.pairwise(steps):
        assert step + schedule.sync_delay_steps < following


@given(schedule=schedules())
def test_at_the_end_every_fragment_drains_once(schedule):
    draining = all_rounds(schedule)[schedule.training_rounds :]
    assert {step for step, _ in draining} == {schedule.total_steps}
    assert sorted(p for _, p in draining) == list(range(schedule.num_fragments))


@given(schedule=schedules())
def test_the_planned_steps_sum_to_total_steps(schedule):
    planned = [schedule.planned_steps(r) for r in range(schedule.total_rounds)]
    assert min(planned) >= 0
    assert sum(planned) == schedule.total_steps
    assert planned[0] == schedule.sync_every
    assert not any(planned[schedule.training_rounds + 1 :])
    for round_ in range(schedule.total_rounds):
        assert schedule.position_after(round_) == sum(planned[: round_ + 1])
    assert schedule.position_after(-1) == 0


@given(schedule=schedules(), data=st.data())
def test_the_position_never_moves_past_one_rounds_share(schedule, data):
    round_ = data.draw(st.integers(-1, schedule.total_rounds - 1))
    own_steps = data.draw(st.integers(0, 3 * schedule.sync_every))
    reached = schedule.position_after(round_)
    share = schedule.planned_steps(round_ + 1)
    position = schedule_position(schedule, round_, own_steps)
    assert position == min(reached + min(own_steps, share), schedule.total_steps)
    assert reached <= position <= schedule.position_after(round_ + 1)


@given(schedule=schedules())
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


@cases("learning_rate")
def test_the_learning_rate_vectors_hold(case):
    factor = learning_rate_factor(
        case["position"],
        total_steps=case["total_steps"],
        warmup_steps=case["warmup_steps"],
        final_ratio=case["final_ratio"],
    )
    assert case["learning_rate"] * factor == pytest.approx(case["expected"], rel=1e-14)


@given(
    total=st.integers(1, 10_000),
    warmup=st.integers(0, 12_000),
    final_ratio=st.floats(0, 1),
    data=st.data(),
)
def test_the_learning_rate_warms_up_and_then_falls_to_its_last_value(
    total, warmup, final_ratio, data
):
    def factor(position: int) -> float:
        return learning_rate_factor(
            position, total_steps=total, warmup_steps=warmup, final_ratio=final_ratio
        )

    position = data.draw(st.integers(0, total))
    assert 0 <= factor(position) <= 1
    if warmup < total:
        assert factor(warmup) == 1
        expected = exact.learning_rate(position, total, warmup, 1.0, final_ratio)
        assert factor(position) == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert factor(total) == factor(total + 5) == pytest.approx(final_ratio, abs=1e-15)
    if position < warmup:
        assert factor(position) < factor(position + 1)


@pytest.mark.parametrize(
    ("own_pace", "group_paces", "steps"),
    [
        (2.0, [1.0, 2.0, 4.0], 25),
        (4.0, [1.0, 2.0, 4.0], 50),
        (1.0, [1.0, 2.0, 4.0], 12),
        (0.001, [1.0, 2.0, 4.0], 1),
        (0.0, [1.0, 2.0], 25),
        (3.0, [], 25),
        (3.0, [0.0, 3.0, 0.0], 25),
    ],
)
def test_a_faster_peer_trains_more_steps_in_the_same_time(own_pace, group_paces, steps):
    assert steps_share(25, own_pace, group_paces) == steps


def test_a_round_that_drains_asks_for_no_steps():
    assert steps_share(0, 5.0, [1.0, 5.0]) == 0
