"""Three classes share one uplink: control, rounds, and what others catch up with."""

import asyncio
import itertools

import pytest

from benchmarks.virtual.loop import run_virtually
from peer.pacer import Lanes
from protocol.pacing import (
    CHUNK_S,
    LENDING_MEMORY_S,
    LENDING_SHARE,
    MAX_CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    Pace,
    chunk_bytes,
    wire_bytes,
)
from protocol.plan import planned_bytes_per_s

CAPS = [250_000.0, 2_500_000.0, 12_500_000.0]


def on_the_wire(payload_bytes: int, chunk: int) -> int:
    return payload_bytes // chunk * wire_bytes(chunk)


async def give_forever(lanes: Lanes) -> None:
    while True:
        await lanes.spare_turn(lanes.spare_chunk_bytes)


async def exchange(lanes: Lanes, rate: float, for_s: float) -> float:
    """Send like a round does: paced at its planned rate. Returns the longest wait for the cap."""
    loop = asyncio.get_running_loop()
    size, pace, longest_s = chunk_bytes(rate), Pace(loop.time()), 0.0
    while loop.time() < for_s:
        await asyncio.sleep(pace.delay_s(size, rate, loop.time()))
        began_s = loop.time()
        await lanes.bulk_turn(size)
        longest_s = max(longest_s, loop.time() - began_s)
    return longest_s


@pytest.mark.parametrize("cap", CAPS)
def test_an_idle_uplink_is_used_up_to_what_bulk_may_have(cap):
    async def work() -> int:
        lanes = Lanes(cap)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await give_forever(lanes)
        assert lanes.sent_bytes["bulk"] == lanes.sent_bytes["control"] == 0
        return on_the_wire(lanes.sent_bytes["catch-up"], lanes.spare_chunk_bytes)

    assert run_virtually(work()) == pytest.approx(0.85 * cap * 10, rel=0.02)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.78])
@pytest.mark.parametrize("cap", CAPS)
def test_a_round_loses_nothing_to_those_who_catch_up(cap, share):
    """The same bytes leave in the same time, and no chunk waits longer than one spare one takes."""

    size = chunk_bytes(share * cap)

    async def work(*, with_others: bool) -> tuple[int, int, float]:
        lanes = Lanes(cap)
        others = [asyncio.create_task(give_forever(lanes)) for _ in range(3 * with_others)]
        longest_s = await exchange(lanes, share * cap, 10.0)
        for task in others:
            task.cancel()
        caught_up = on_the_wire(lanes.sent_bytes["catch-up"], lanes.spare_chunk_bytes)
        return lanes.sent_bytes["bulk"], caught_up, longest_s

    alone, _, alone_longest_s = run_virtually(work(with_others=False))
    shared, caught_up, longest_s = run_virtually(work(with_others=True))
    assert shared >= alone - 2 * size
    assert longest_s <= alone_longest_s + CHUNK_S + 0.001
    left = 0.85 * cap * 10 - on_the_wire(shared, size)
    assert caught_up == pytest.approx(left, rel=0.05, abs=0.02 * cap * 10)


@pytest.mark.parametrize("cap", CAPS)
def test_a_spare_chunk_holds_nobody_up_for_more_than_20_ms_of_the_cap(cap):
    async def work() -> int:
        return Lanes(cap).spare_chunk_bytes

    assert wire_bytes(run_virtually(work())) <= CHUNK_S * cap


def test_nothing_spare_leaves_while_rounds_fill_the_uplink():
    async def work() -> dict[str, int]:
        lanes = Lanes(250_000.0)
        spare = asyncio.create_task(give_forever(lanes))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.gather(*(flood(lanes) for _ in range(2)))
        spare.cancel()
        return lanes.sent_bytes

    async def flood(lanes: Lanes) -> None:
        for _ in itertools.count():
            await lanes.bulk_turn(MIN_CHUNK_BYTES)

    sent = run_virtually(work())
    assert sent["catch-up"] <= MIN_CHUNK_BYTES
    assert sent["bulk"] > 0.9 * 0.85 * 250_000 * 10


def test_rounds_that_fill_the_link_leave_a_share_while_it_is_asked_for():
    """Otherwise whoever catches up gets nothing, or less than the entries that come meanwhile."""
    cap = 250_000.0

    async def work() -> tuple[float, float]:
        lanes = Lanes(cap)
        assert lanes.share_for_rounds == 1
        borrower = asyncio.create_task(give_forever(lanes))
        await asyncio.sleep(0)
        rate = planned_bytes_per_s(cap) * lanes.share_for_rounds
        await exchange(lanes, rate, 20.0)
        borrower.cancel()
        lent = lanes.sent_bytes["catch-up"] / (lanes.sent_bytes["bulk"] + 1)
        await asyncio.sleep(LENDING_MEMORY_S)
        return lent, lanes.share_for_rounds

    lent, share_afterwards = run_virtually(work())
    assert lent >= LENDING_SHARE / (1 - LENDING_SHARE)
    assert share_afterwards == 1


def test_without_a_cap_nobody_waits():
    async def work() -> float:
        lanes = Lanes(None)
        assert lanes.spare_chunk_bytes == MAX_CHUNK_BYTES
        for _ in range(100):
            await lanes.spare_turn(MAX_CHUNK_BYTES)
        return asyncio.get_running_loop().time()

    assert run_virtually(work()) < 0.01


def test_who_gives_up_waiting_stands_in_nobodys_way():
    async def work() -> None:
        lanes = Lanes(250_000.0)
        await lanes.bulk_turn(100_000)
        for turn in (lanes.bulk_turn, lanes.spare_turn):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await turn(4096)
        async with asyncio.timeout(1.0):
            await lanes.spare_turn(4096)

    run_virtually(work())
