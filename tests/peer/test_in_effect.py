"""H in effect, and what it is put down to: said when it is so for a cycle, not in every round."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.in_effect import SAID_FROM, SAID_UNTIL, InEffect, RoundTimes
from protocol.schedule import Schedule

SCHEDULE = Schedule(sync_every=100, num_fragments=4, sync_delay_steps=0, total_steps=10_000)
PLANNED = RoundTimes(
    due_s=10.0, next_due_s=10.0, took_s=10.0, transfer_s=9.0, exchange_s=9.5, waited_s=0.0
)
LINK = replace(PLANNED, took_s=14.0, transfer_s=13.0, exchange_s=13.5)
PEERS = replace(PLANNED, took_s=14.0, waited_s=3.5)
EXCHANGE = replace(PLANNED, took_s=14.0, exchange_s=13.0)
OTHER = replace(PLANNED, took_s=14.0)


def after(*rounds: RoundTimes) -> InEffect:
    in_effect = InEffect(SCHEDULE)
    for round_, times in enumerate(rounds):
        in_effect.add(round_, times)
    return in_effect


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (LINK, "link-bound: H is effectively 140"),
        (PEERS, "slower peers are waited for: H is effectively 140"),
        (EXCHANGE, "exchanges take longer than planned: H is effectively 140"),
        (OTHER, "rounds take longer than planned: H is effectively 140"),
        (PLANNED, ""),
    ],
)
def test_after_a_whole_cycle_it_is_said_what_makes_rounds_long(times, words):
    assert after(*[times] * 3).in_words == ""
    assert after(*[times] * 4).in_words == words


def test_a_single_long_round_says_nothing():
    assert after(*[PLANNED] * 3, LINK).in_words == ""


def test_a_link_that_is_full_but_in_time_is_no_news():
    """Every exchange is planned to fill the time there is."""
    full = replace(PLANNED, transfer_s=10.0, took_s=11.0)
    assert after(*[full] * 8).in_words == ""


def test_what_is_said_stays_until_it_is_clearly_over():
    between = replace(LINK, took_s=10.0 * (SAID_FROM + SAID_UNTIL) / 2)
    assert after(*[between] * 8).cause == ""
    assert after(*[LINK] * 4, *[between] * 8).cause == "link"
    assert after(*[LINK] * 4, *[PLANNED] * 4).cause == ""


def test_the_cause_does_not_flicker_where_exchanges_just_fill_the_time():
    above, below = replace(LINK, transfer_s=10.1), replace(LINK, transfer_s=9.9)
    in_effect = after(*[above] * 4)
    for round_ in range(4, 40):
        in_effect.add(round_, (above, below)[round_ % 2])
        assert in_effect.cause == "link"


def test_a_cause_is_named_until_another_one_is_clearly_it():
    mixed = replace(PLANNED, took_s=14.0, waited_s=1.5, exchange_s=11.5)
    assert after(*[PEERS] * 4, *[mixed] * 8).cause == "peers"
    assert after(*[EXCHANGE] * 4, *[mixed] * 8).cause == "exchange"
    assert after(*[PEERS] * 4, *[EXCHANGE] * 4).cause == "exchange"


def test_a_number_that_hardly_changes_is_left_as_it_is():
    in_effect = after(*[LINK] * 4)
    for round_ in range(4, 12):
        in_effect.add(round_, replace(LINK, took_s=14.4))
    assert in_effect.in_words.endswith(" 140") and in_effect.sync_every == pytest.approx(144)
    for round_ in range(12, 20):
        in_effect.add(round_, replace(LINK, took_s=16.0))
    assert not in_effect.in_words.endswith(" 140")


def test_rounds_that_drain_are_not_judged():
    last = replace(PLANNED, due_s=0.0, took_s=60.0)
    assert after(*[PLANNED] * 4, *[last] * 4).cause == ""


def test_a_peer_that_was_away_begins_to_count_anew():
    in_effect = after(*[LINK] * 3)
    in_effect.forget()
    in_effect.add(3, LINK)
    assert in_effect.sync_every is None and not in_effect.in_words


times = st.builds(
    RoundTimes,
    due_s=st.floats(0.1, 100),
    next_due_s=st.floats(0.1, 100),
    took_s=st.floats(0.1, 1000),
    transfer_s=st.floats(0, 1000),
    exchange_s=st.floats(0, 1000),
    waited_s=st.floats(0, 1000),
)


@given(cycle=st.lists(times, min_size=4, max_size=12))
def test_h_in_effect_is_h_times_what_the_last_cycle_took(cycle):
    in_effect = after(*cycle)
    last = cycle[-4:]
    stretch = sum(t.took_s for t in last) / sum(t.due_s for t in last)
    assert in_effect.sync_every == pytest.approx(100 * stretch)
    if stretch > SAID_FROM:
        assert in_effect.in_words
    if stretch <= SAID_UNTIL:
        assert not in_effect.in_words
