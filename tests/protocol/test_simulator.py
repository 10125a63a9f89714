"""The paper's simulator: its table, and what must hold of any workload."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.table4 import cells
from protocol.simulator import (
    Reduction,
    Workload,
    data_parallel,
    diloco,
    first_that_reaches,
    streaming,
    utilization,
)


@st.composite
def workloads(draw) -> Workload:
    sync_every = draw(st.integers(2, 12))
    layers = draw(st.integers(1, 6))
    places = draw(st.lists(st.integers(0, sync_every - 1), unique=True, max_size=4))
    return Workload(
        layers=layers,
        step_s=draw(st.floats(0.01, 10)),
        sync_every=sync_every,
        delay_steps=draw(st.integers(0, 5)),
        latency_s=draw(st.floats(0, 5)),
        reductions=tuple(
            Reduction(
                place,
                tuple(draw(st.sets(st.integers(0, layers - 1), min_size=1))),
                draw(st.floats(0, 1e9)),
            )
            for place in places
        ),
    )


RATES = st.floats(1e3, 1e12)


def test_table_4_of_the_paper_comes_out():
    found = list(cells())
    assert len(found) == 75
    assert sum(cell.apart == 0 for cell in found) >= 69
    assert all(cell.apart <= 1 for cell in found)


@given(work=workloads(), rates=st.tuples(RATES, RATES))
def test_a_faster_link_never_makes_it_worse(work, rates):
    slow, fast = sorted(rates)
    assert 0 < utilization(work, slow) <= utilization(work, fast) + 1e-9 <= 1 + 2e-9


@given(work=workloads(), rate=RATES)
def test_nothing_to_reduce_means_that_nothing_is_waited_for(work, rate):
    idle = Workload(layers=work.layers, step_s=work.step_s, sync_every=5, reductions=())
    assert utilization(idle, rate) == pytest.approx(1)


@given(
    layers=st.integers(3, 12),
    model_bytes=st.floats(0, 1e10),
    rate=RATES,
    delay=st.integers(0, 4),
)
def test_a_longer_delay_never_makes_it_worse(layers, model_bytes, rate, delay):
    def with_delay(steps: int) -> float:
        work = streaming(
            layers=layers, step_s=1, model_bytes=model_bytes, sync_every=20, delay_steps=steps
        )
        return utilization(work, rate)

    assert with_delay(delay + 1) >= with_delay(delay) - 1e-9


def test_by_hand_one_layer_that_is_waited_for():
    # Three periods of two steps of 1 s; after each period the link takes 4 s, and all wait for it.
    work = diloco(layers=1, step_s=1, model_bytes=400, sync_every=2)
    assert utilization(work, 100) == pytest.approx(6 / (6 + 3 * 4))


def test_by_hand_a_delay_that_hides_the_link():
    # 1 s of link after step 2, and step 3 does not wait: only the last reduction is paid for.
    work = Workload(
        layers=1, step_s=1, sync_every=2, delay_steps=1, reductions=(Reduction(0, (0,), 100),)
    )
    assert utilization(work, 100) == pytest.approx(6 / 7)


def test_by_hand_reductions_begin_in_the_backward_pass():
    # Two layers are five nodes of 1 s. The second layer's backward is over at 4 s, the first
    # one's at 5 s; 1 s of link each. The next forward waits for the first layer, until 6 s.
    work = data_parallel(layers=2, step_s=5, model_bytes=200)
    assert utilization(work, 100) == pytest.approx(15 / (15 + 3 * 1))


def test_a_grid_that_is_too_slow_has_no_answer():
    work = data_parallel(layers=2, step_s=1, model_bytes=1e9)
    assert first_that_reaches(work, 0.99, [1.0, 2.0]) is None
    assert first_that_reaches(work, 0.5, [1.0, 1e9, 1e12]) == 1e9
