"""The cap: in any second at most so many bytes leave, and control never waits behind bulk."""

import random
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.pacing import (
    CHUNK_S,
    CONTROL_SHARE,
    MAX_CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    Pace,
    Pacer,
    chunk_bytes,
    wire_bytes,
)

# From the smallest cap whose reserves hold a chunk of 4 KiB (0.7 Mbit/s) to 10 Gbit/s.
caps = st.floats(90e3, 1.25e9)
seeds = st.integers(0, 2**32)


@dataclass(frozen=True)
class Sent:
    at_s: float
    wire_bytes: int
    is_bulk: bool


def schedule(cap: float, seed: int, *, for_s: float = 4.0) -> list[Sent]:
    """What a greedy sender of bulk sends that also says something now and then.

    Bulk waits as it is told, and sometimes longer. Control waits as it is told, never more, and no
    message is larger than what is left of the cap beside refill, burst and reserve.
    """
    chance = random.Random(seed)
    pacer = Pacer(cap)
    size = wire_bytes(chunk_bytes(cap * chance.uniform(0.01, 1.0)))
    largest_message = max(1, int(0.05 * cap) - 1)
    talks = chance.choice((0.0, 0.02, 0.5))
    now_s, sent = 0.0, list[Sent]()
    while now_s < for_s:
        is_bulk = chance.random() >= talks
        if is_bulk:
            now_s += pacer.bulk_delay_s(now_s)
            wire = size
        else:
            now_s += pacer.control_delay_s(now_s)
            wire = chance.randint(1, min(largest_message, 20_000))
        pacer.sent(wire, now_s)
        sent.append(Sent(now_s, wire, is_bulk))
        if chance.random() < 0.01:
            now_s += chance.uniform(0, 1.0)
        if len(sent) > 2000:
            break
    return sent


def most_in_one_second(sent: list[Sent]) -> int:
    most, total, oldest = 0, 0, 0
    for message in sent:
        total += message.wire_bytes
        while sent[oldest].at_s <= message.at_s - 1.0:
            total -= sent[oldest].wire_bytes
            oldest += 1
        most = max(most, total)
    return most


@given(caps, seeds)
def test_in_no_second_more_than_the_cap_leaves(cap, seed):
    assert most_in_one_second(schedule(cap, seed)) <= cap


@given(st.floats(125e3, 1.25e9), seeds)
def test_on_a_link_of_the_cap_control_waits_at_most_100_ms_for_chunks(cap, seed):
    """From 1 mbit on. The link sends in order, so what counts is the bulk still queued there."""
    ends_s, queue = 0.0, deque[tuple[float, Sent]]()
    for message in schedule(cap, seed):
        while queue and queue[0][0] <= message.at_s:
            queue.popleft()
        if not message.is_bulk:
            ahead = sum(sent.wire_bytes for _, sent in queue if sent.is_bulk)
            assert ahead / cap <= 0.1
        ends_s = max(ends_s, message.at_s) + message.wire_bytes / cap
        queue.append((ends_s, message))


@given(caps)
def test_bulk_alone_comes_close_to_its_share(cap):
    pacer, now_s, total = Pacer(cap), 0.0, 0
    wire = wire_bytes(chunk_bytes(cap))
    for _ in range(200):
        now_s += pacer.bulk_delay_s(now_s)
        pacer.sent(wire, now_s)
        total += wire
    assert total - wire == pytest.approx(0.85 * cap * now_s, rel=1e-6)


@given(caps, seeds)
def test_control_never_waits_behind_bulk(cap, seed):
    chance = random.Random(seed)
    pacer, now_s = Pacer(cap), 0.0
    for _ in range(50):
        now_s += pacer.bulk_delay_s(now_s)
        pacer.sent(wire_bytes(chunk_bytes(cap)), now_s)
        assert pacer.control_delay_s(now_s) == 0.0
        now_s += chance.uniform(0, 0.01)


@given(caps)
def test_control_waits_for_control_once_its_reserve_is_used_up(cap):
    pacer = Pacer(cap)
    pacer.sent(int(2 * CONTROL_SHARE * cap), 10.0)
    wait_s = pacer.control_delay_s(10.0)
    assert 0 < wait_s < pacer.bulk_delay_s(10.0)
    assert pacer.control_delay_s(10.0 + wait_s) == pytest.approx(0, abs=1e-9)


def test_bulk_makes_room_for_control_afterwards():
    pacer = Pacer(100_000.0)
    pacer.sent(8500, 0.0)
    assert pacer.bulk_delay_s(0.0) == pytest.approx(0.1)


def test_without_a_cap_nothing_waits():
    pacer = Pacer(None)
    pacer.sent(10**12, 0.0)
    assert pacer.bulk_delay_s(0.0) == pacer.control_delay_s(0.0) == 0.0
    assert pacer.bulk_bytes_per_s is None


def test_a_clock_that_goes_back_pays_nothing_off_twice():
    pacer = Pacer(100_000.0)
    pacer.sent(85_000, 10.0)
    assert pacer.bulk_delay_s(9.0) == pytest.approx(1.0)
    assert pacer.bulk_delay_s(10.5) == pytest.approx(0.5)
    assert pacer.bulk_delay_s(10.2) == pytest.approx(0.5)
    assert pacer.bulk_delay_s(11.0) == 0.0


@given(st.floats(0, 1e12))
def test_a_chunk_is_20_ms_of_its_rate_within_its_bounds(rate):
    size = chunk_bytes(rate)
    assert MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES
    if MIN_CHUNK_BYTES < size < MAX_CHUNK_BYTES:
        assert size == pytest.approx(0.02 * rate, abs=1)


RATES = st.floats(10_000.0, 20e6)


@given(RATES, st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200))
def test_a_stream_is_never_ahead_of_its_plan_by_more_than_a_chunk(rate, late_s):
    """However late each of its chunks leaves: in every window it sends no more than two above."""
    pace, size, now_s = Pace(100.0), chunk_bytes(rate), 100.0
    left_s = []
    for held_up_s in late_s:
        now_s += pace.delay_s(size, rate, now_s) + held_up_s
        left_s.append(now_s)
    for i, begin_s in enumerate(left_s):
        for j, end_s in enumerate(left_s[i:], start=1):
            assert j * size <= rate * (end_s - begin_s + CHUNK_S) + 2 * size + 1e-6 * j


@given(RATES)
def test_a_stream_that_nobody_holds_up_keeps_to_its_plan_from_the_first_chunk_on(rate):
    pace, size, now_s = Pace(100.0), chunk_bytes(rate), 100.0
    for sent in range(1, 50):
        now_s += pace.delay_s(size, rate, now_s)
        assert sent * size == pytest.approx(rate * (now_s - 100.0), rel=1e-6, abs=1.0)
