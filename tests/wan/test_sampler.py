"""Counters into rates: of what is known, and of the links of a lab."""

import numpy as np
import pytest

from benchmarks.wan.sampler import MBIT_BYTES, Sampler, Traffic, largest_mbit


def steady(mbit: float, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    times_s = np.arange(0.0, seconds + 0.05, 0.1)
    return times_s, times_s * mbit * MBIT_BYTES


def test_the_largest_window_of_steady_traffic_is_its_rate():
    times_s, totals = steady(8.0, 5.0)
    assert largest_mbit(times_s, totals, 1.0) == pytest.approx(8.0)
    assert largest_mbit(times_s, totals, 0.1) == pytest.approx(8.0)


def test_a_burst_is_seen_whole_in_a_window_that_no_second_of_the_clock_holds():
    times_s = np.arange(0.0, 5.0, 0.1)
    totals = np.where(times_s > 1.75, 125_000.0, 0.0)  # 1 mbit between 1.7 and 1.8
    totals += np.where(times_s > 2.45, 125_000.0, 0.0)  # and one between 2.4 and 2.5
    assert largest_mbit(times_s, totals, 1.0) == pytest.approx(2.0)
    assert largest_mbit(times_s, totals, 0.1) == pytest.approx(10.0)


def test_a_late_sample_does_not_look_like_a_burst():
    times_s, totals = steady(8.0, 5.0)
    late = np.delete(np.arange(len(times_s)), slice(20, 24))
    assert largest_mbit(times_s[late], totals[late], 0.1) == pytest.approx(8.0)


def test_fewer_samples_than_a_window_give_their_mean():
    times_s, totals = steady(8.0, 0.5)
    assert largest_mbit(times_s, totals, 1.0) == pytest.approx(8.0)
    assert largest_mbit(times_s[:1], totals[:1], 1.0) == 0.0


def test_a_chosen_part_has_its_own_mean_and_totals():
    times_s, eight = steady(8.0, 4.0)
    idle = np.zeros_like(times_s)
    early = np.minimum(times_s, 2.0) * 16.0 * MBIT_BYTES
    totals = np.stack([np.stack([eight, idle], axis=1), np.stack([early, eight], axis=1)], axis=1)
    traffic = Traffic(times_s, totals)
    assert traffic.mean_mbit() == pytest.approx(np.array([[8.0, 0.0], [8.0, 8.0]]))
    second = traffic.between(1.95, 3.05)
    assert second.mean_mbit() == pytest.approx(np.array([[8.0, 0.0], [0.0, 8.0]]), abs=1e-6)
    assert second.moved_bytes()[0, 0] == pytest.approx(1e6)
    assert second.rates_mbit().shape == (10, 2, 2)
    assert traffic.peak_mbit(1.0) == pytest.approx(np.array([[8.0, 0.0], [16.0, 8.0]]))


def test_nothing_sampled_is_nothing_sent():
    nothing = Traffic(np.zeros(0), np.zeros((0, 3, 2)))
    assert nothing.moved_bytes().shape == nothing.mean_mbit().shape == (3, 2)
    assert nothing.peak_mbit(1.0).max() == nothing.span_s == 0.0


def test_the_first_and_the_last_reading_are_in_it():
    readings = iter([[(0, 5)]] + [[(100, 50)]] * 1000)
    with Sampler(lambda: next(readings)) as sampler:
        pass
    assert sampler.traffic().moved_bytes().tolist() == [[100.0, 45.0]]
