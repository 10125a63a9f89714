"""The plan of a run: its arithmetic against the code that it speaks for, and its monotonies."""

from dataclasses import replace

import hypothesis
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.advice import (
    LEAST_SYNC_EVERY,
    MOST_SYNC_EVERY,
    least_rate_in_words,
    next_step,
    rate_in_words,
    recommend,
)
from protocol.codec import CODEC_NAMES, codec_named
from protocol.partition import Link, assign_parts, owner_shares, round_traffic
from protocol.plan import (
    TARGET,
    Setting,
    Swarm,
    even_fragments,
    exchanged_bytes,
    needed_bytes_per_s,
    outlook,
    with_cap,
)
from protocol.simulator import Reduction, Workload, utilization

MBIT = 125_000.0


def setting_of(
    parameters: int = 10**9, *, peers: int = 4, sync_every: int = 100, fragments: int = 10, **more
) -> Setting:
    return Setting(
        **{
            "sync_every": sync_every,
            "sync_delay_steps": min(5, sync_every // fragments - 1),
            "codec": "e3m0",
            "fragments": even_fragments(parameters, fragments, part_values=2**18, peers=peers),
            "round_deadline_s": 1e9,
            **more,
        }
    )


def swarm_of(mbit: float = 100, *, peers: int = 4, step_s: float = 1.0, rtt_s: float = 0.05):
    return Swarm(
        peers=peers,
        step_s=step_s,
        up_bytes_per_s=mbit * MBIT,
        down_bytes_per_s=mbit * MBIT,
        rtt_s=rtt_s,
    )


@st.composite
def settings(draw, peers: int = 4, lockstep: bool | None = None) -> Setting:
    fragments = draw(st.integers(1, 12))
    sync_every = draw(st.integers(fragments, 300))
    return setting_of(
        draw(st.integers(1000, 10**9)),
        peers=peers,
        sync_every=sync_every,
        fragments=fragments,
        sync_delay_steps=draw(st.integers(0, sync_every // fragments - 1)),
        codec=draw(st.sampled_from(CODEC_NAMES)),
        lockstep=draw(st.booleans()) if lockstep is None else lockstep,
    )


@st.composite
def swarms(draw, peers: int = 4) -> Swarm:
    return swarm_of(
        draw(st.floats(1, 10_000)),
        peers=peers,
        step_s=draw(st.floats(0.001, 60)),
        rtt_s=draw(st.floats(0, 1)),
    )


@given(peers=st.integers(2, 12), values=st.integers(1000, 500_000))
def test_the_bytes_are_those_that_the_partition_hands_out(peers, values):
    (fragment,) = even_fragments(values, 1, part_values=2**18, peers=peers)
    sizes = [
        codec_named("e3m0").encoded_bytes(stop - start) for start, stop in fragment.part_bounds
    ]
    owners = assign_parts(owner_shares([Link(1e6, 1e6)] * peers), len(sizes))
    traffic = round_traffic(owners, sizes, [True] * peers)
    planned = exchanged_bytes(sum(sizes), peers)
    # Ownership hands out whole parts: a member may have one more or less than its share.
    assert max(map(traffic.sent_bytes, range(peers))) <= planned + (peers - 1) * max(sizes)
    mean = sum(map(traffic.sent_bytes, range(peers))) / peers
    assert mean == pytest.approx(planned)


@given(setting=settings(), swarm=swarms(), factor=st.floats(1, 100))
def test_a_wider_link_never_makes_it_worse(setting, swarm, factor):
    wider = with_cap(swarm, swarm.up_bytes_per_s * factor)
    assert outlook(setting, wider).utilization >= outlook(setting, swarm).utilization - 1e-12


@given(setting=settings(), swarm=swarms(), longer_s=st.floats(0, 1))
def test_longer_round_trips_never_make_it_better(setting, swarm, longer_s):
    farther = replace(swarm, rtt_s=swarm.rtt_s + longer_s)
    assert outlook(setting, farther).utilization <= outlook(setting, swarm).utilization + 1e-12


@given(setting=settings(lockstep=False), swarm=swarms(), times=st.integers(1, 5))
def test_a_larger_h_never_makes_it_worse(setting, swarm, times):
    rarer = replace(setting, sync_every=setting.sync_every * times)
    assert outlook(rarer, swarm).utilization >= outlook(setting, swarm).utilization - 1e-9


@given(setting=settings(), swarm=swarms())
def test_nothing_exceeds_the_cap_or_a_whole(setting, swarm):
    seen = outlook(setting, swarm)
    assert 0 < seen.utilization <= 1
    assert seen.sync_every_in_effect >= setting.sync_every
    assert seen.peak_bytes_per_s <= swarm.up_bytes_per_s
    assert seen.round_s * setting.num_fragments >= 0.999 * setting.sync_every * swarm.step_s


@given(setting=settings(peers=1), swarm=swarms(peers=1))
def test_a_peer_alone_sends_nothing_and_waits_for_nobody(setting, swarm):
    seen = outlook(setting, swarm)
    assert seen.utilization == pytest.approx(1)
    assert seen.flat_bytes_per_s == seen.peak_bytes_per_s == seen.sent_bytes == 0
    assert seen.limited_by == "training"


@given(
    fragments=st.integers(1, 6),
    gap=st.integers(1, 9),
    delay=st.integers(0, 8),
    mbit=st.floats(1, 1000),
    rtt_s=st.floats(0, 2),
)
def test_lockstep_is_the_papers_simulator_with_a_single_layer(fragments, gap, delay, mbit, rtt_s):
    assume(delay < gap)
    setting = setting_of(
        10**7 * fragments,
        sync_every=gap * fragments,
        fragments=fragments,
        sync_delay_steps=delay,
        lockstep=True,
    )
    swarm = swarm_of(mbit, rtt_s=rtt_s)
    seen = outlook(setting, swarm)
    exchange_s = 4 * rtt_s + seen.transfer_s
    work = Workload(
        layers=1,
        step_s=swarm.step_s,
        sync_every=setting.sync_every,
        delay_steps=delay,
        reductions=tuple(Reduction(gap * place, (0,), 0.0) for place in range(fragments)),
        latency_s=exchange_s,
    )
    steps_s = 3 * setting.sync_every * swarm.step_s
    simulated_s = steps_s / utilization(work, 1e9)
    # The simulator ends with the last exchange, which no step of its waits for.
    waited_s = max(0.0, exchange_s - delay * swarm.step_s)
    planned_s = steps_s / seen.utilization - waited_s + exchange_s
    assert planned_s == pytest.approx(simulated_s)


def test_by_hand_a_link_that_is_too_narrow():
    # One fragment of 8 M values is 4 MB, and four peers send 6 MB each of it. 10 mbit are
    # 1.25 MB/s, of which 0.8 / 1.05 / 1.08 carry parts: 6.80 s. With three round trips that
    # is 6.95 s, and with one more before the next snapshot 7.0 s; 5 steps of 1 s were planned.
    setting = setting_of(8 * 10**6, sync_every=5, fragments=1)
    seen = outlook(setting, swarm_of(10, rtt_s=0.05))
    assert seen.transfer_s == pytest.approx(6.80, abs=0.01)
    assert seen.round_s == pytest.approx(7.0, abs=0.01)
    assert seen.utilization == pytest.approx(5 / 7.0, abs=0.001)
    assert seen.sync_every_in_effect == pytest.approx(7.0, abs=0.01)
    assert seen.limited_by == "link"


def test_bytes_against_data_parallel_at_the_papers_setting():
    # DESIGN.md section 8: at least 380 times fewer than bf16, all overhead counted.
    seen = outlook(setting_of(), swarm_of(1000))
    assert 380 <= seen.times_fewer_bytes < 400


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, "training"),
        ({"up_bytes_per_s": MBIT}, "uplink"),
        ({"down_bytes_per_s": MBIT}, "downlink"),
        ({"up_bytes_per_s": MBIT, "down_bytes_per_s": MBIT}, "link"),
        ({"rtt_s": 10.0}, "round trips"),
    ],
)
def test_it_says_what_limits(changes, limit):
    assert outlook(setting_of(), replace(swarm_of(1000), **changes)).limited_by == limit


def test_a_round_that_its_deadline_would_cut_off_does_not_count_as_carried():
    setting = replace(setting_of(), sync_every=100_000, round_deadline_s=120.0)
    seen = outlook(setting, swarm_of(1))
    assert seen.utilization > TARGET and not seen.reaches(TARGET)
    assert seen.limited_by == "round_deadline_s"
    assert outlook(replace(setting, round_deadline_s=seen.deadline_s), swarm_of(1)).reaches(TARGET)


@given(setting=settings(), swarm=swarms(), target=st.floats(0.5, 0.99))
def test_the_needed_cap_is_enough_and_hardly_more(setting, swarm, target):
    needed = needed_bytes_per_s(setting, swarm, target)
    if needed is None:
        assert not outlook(setting, with_cap(swarm, 1e15)).reaches(target)
        return
    assert outlook(setting, with_cap(swarm, needed)).reaches(target)
    assert needed < 2 or not outlook(setting, with_cap(swarm, needed * 0.998)).reaches(target)


# --- advice --------------------------------------------------------------------------------------


SEARCHES = hypothesis.settings(max_examples=30)


def cut(count: int):
    return even_fragments(10**9, count, part_values=2**18, peers=4)


def better_than(setting: Setting, swarm: Swarm, target: float = TARGET) -> Setting | None:
    return recommend(setting, swarm, cut=cut, counts=range(1, 30), target=target)


@given(swarm=swarms(), target=st.floats(0.5, 0.99), lockstep=st.booleans())
@SEARCHES
def test_what_is_recommended_reaches_the_target(swarm, target, lockstep):
    better = better_than(setting_of(lockstep=lockstep), swarm, target)
    if better is None:
        return
    assert outlook(better, swarm).reaches(target)
    assert better.sync_every >= LEAST_SYNC_EVERY
    assert better.sync_every % better.num_fragments == 0
    assert 0 <= better.sync_delay_steps < better.gap_steps


@given(mbit=st.floats(1, 1000), factor=st.floats(1.2, 100))
@SEARCHES
def test_a_wider_link_asks_for_no_larger_h(mbit, factor):
    narrow, wide = (better_than(setting_of(), swarm_of(rate)) for rate in (mbit, mbit * factor))
    # So much may be given for outer steps that come less late.
    assert narrow and wide and wide.sync_every <= 1.1 * narrow.sync_every


def test_a_link_that_carries_the_run_needs_no_sentence():
    setting, swarm = setting_of(), swarm_of(1000)
    assert next_step(setting, swarm, better_than(setting, swarm), target=TARGET) is None


def test_a_narrow_link_is_told_what_to_do():
    setting, swarm = setting_of(), swarm_of(50)
    better = better_than(setting, swarm)
    sentence = next_step(setting, swarm, better, target=TARGET)
    in_effect = outlook(setting, swarm).sync_every_in_effect
    assert sentence and better
    assert sentence.startswith(f"link-bound: H is effectively {in_effect:,.0f} where sync_every")
    assert f"sync_every = {better.sync_every}, " in sentence
    needed = needed_bytes_per_s(setting, swarm, TARGET)
    assert needed and f"give --up and --down {least_rate_in_words(needed)}" in sentence
    uplink = replace(swarm, down_bytes_per_s=1e12)
    assert "give --up " in str(next_step(setting, uplink, better, target=TARGET))


def test_an_h_beyond_what_was_measured_is_called_so():
    setting, swarm = setting_of(), swarm_of(2)
    better = better_than(setting, swarm)
    assert better and better.sync_every > MOST_SYNC_EVERY
    sentence = next_step(setting, swarm, better, target=TARGET)
    assert sentence and "farther than DiLoCo was measured (H = 1000)" in sentence


def test_a_lockstep_run_waits_instead():
    setting, swarm = setting_of(lockstep=True), swarm_of(50)
    sentence = next_step(setting, swarm, None, target=TARGET)
    assert sentence and f"peers train {outlook(setting, swarm).utilization:.0%}" in sentence


@pytest.mark.parametrize(
    ("rate", "words"),
    [(20 * MBIT, "20mbit"), (97.66 * MBIT, "97.7mbit"), (1250 * MBIT, "1.25gbit"), (1e4, "80kbit")],
)
def test_rates_are_written_as_they_are_typed(rate, words):
    assert rate_in_words(rate) == words


@pytest.mark.parametrize(
    ("rate", "words"), [(20 * MBIT, "20mbit"), (97.1 * MBIT, "98mbit"), (991 * MBIT, "1gbit")]
)
def test_a_least_rate_is_rounded_up(rate, words):
    assert least_rate_in_words(rate) == words
