"""What `python -m benchmarks.uneven` measures with, on a short run of two real peers."""

import json

import pytest

from benchmarks.uneven import CAP_MBIT, CASES, PEERS, STEP_S, Case, Run, row_of, train

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


def test_a_peer_at_a_tenth_of_the_pace_weighs_a_tenth():
    run = train(1, 60, [STEP_S, 10 * STEP_S], [CAP_MBIT] * 2, None)
    assert 0.02 < run.share_of_last < 0.25
    assert run.tokens > 0 and run.loss < 5.5 and run.tokens_per_s > 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_trains_as_many_tokens(case: Case):
    steps = case.total_steps(600)
    tokens_per_step = sum(STEP_S / step_s for step_s in case.steps_s)
    assert steps * tokens_per_step == pytest.approx(600 * PEERS, rel=0.01)


def test_a_row_is_the_mean_next_to_what_it_is_compared_with():
    def run(loss: float, tokens_per_s: float) -> Run:
        return Run(
            tokens_per_s=tokens_per_s,
            tokens=1e5,
            loss=loss,
            share_of_last=0.03,
            sync_every_in_effect=31.0,
        )

    by_itself = {STEP_S: 100.0, 10 * STEP_S: 10.0}
    slow = CASES[1]
    row = row_of(
        slow, [run(2.5, 300.0), run(2.6, 310.0)], [run(2.4, 1.0), run(2.7, 1.0)], by_itself
    )
    assert (row.tokens_per_s, row.sum_alone_tokens_per_s) == (305.0, 310.0)
    assert (row.loss, row.loss_even, row.loss_even_spread) == (2.55, 2.55, 0.3)
    assert json.dumps(row.seeds) == "2"
