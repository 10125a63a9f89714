"""The end of a log: what it remembers, what waits, and when a snapshot is fewer bytes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.chain import MAX_TRAIL, step_of
from protocol.following import (
    ASK_AGAIN_S,
    ENTRIES_PER_ASK,
    TRAIL_AGAIN_S,
    Following,
    replay_bytes,
    snapshot_bytes,
)
from protocol.log import GENESIS_ROUND, Head, Part
from protocol.messages import Decided
from tests.protocol import signed
from tests.protocol.makers import ABC, DIGEST, chain, entry, head, terms

TERMS = terms(checkpoint_rounds=4)
PART_BYTES = 8
"""Two values in fp32."""
ROUND_BYTES = 3 * PART_BYTES


def advanced(rounds: int, *, full: bool = False) -> Following:
    following = Following(TERMS, head())
    parts = (Part(DIGEST, (1, 1, 1)),) if full else (None,)
    for round_ in range(rounds):
        following.advance(entry(round=round_, parent=following.head.digest, parts=parts))
    return following


def decided(round_: int) -> Decided:
    return signed.decided(entry(round=round_), ABC)


# --- replay or snapshot ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "last", "rounds"), [(-1, -1, 0), (-1, 0, 1), (3, 4, 1), (3, 9, 6), (9, 3, 0)]
)
def test_a_replay_is_the_encoded_parts_of_its_rounds(after, last, rounds):
    assert replay_bytes(TERMS, after, last) == rounds * ROUND_BYTES


@given(st.integers(-1, 40), st.integers(-1, 40))
def test_a_replay_of_fragments_of_different_sizes_is_the_sum_over_its_rounds(after, last):
    uneven = replace(TERMS, part_values=((1, 1), (100, 7, 3)))
    rounds = range(after + 1, last + 1)
    assert replay_bytes(uneven, after, last) == sum(4 * sum(uneven.parts_of(r)) for r in rounds)


def test_a_snapshot_is_two_fp32_per_value_and_half_of_what_lies_between_two_checkpoints():
    assert snapshot_bytes(TERMS) == 12 * 8 + 2 * ROUND_BYTES


def test_a_snapshot_is_taken_when_a_replay_would_be_more_bytes():
    """Six rounds are as many bytes as a snapshot; the seventh makes the replay dearer."""
    following = advanced(3)
    assert replay_bytes(TERMS, 2, 8) == snapshot_bytes(TERMS)
    assert not following.is_worth_a_snapshot(8)
    assert following.is_worth_a_snapshot(9)
    assert not following.is_worth_a_snapshot(-1)


# --- what is remembered ---------------------------------------------------------------------------


def test_the_trail_is_newest_first_and_ends_at_the_first_entry_that_is_known():
    following = advanced(3)
    heads = chain(3)
    assert following.trail.round == 2
    assert [step.round for step in following.trail.steps] == [2, 1, 0, -1]
    assert following.trail.steps[-1] == step_of(heads[-1])


def test_the_trail_is_bounded_and_what_falls_off_is_forgotten():
    following = advanced(MAX_TRAIL + 5)
    steps = following.trail.steps
    assert len(steps) == MAX_TRAIL and steps[0] == step_of(following.head)
    assert steps[-1].round == GENESIS_ROUND, "which all logs of a run have in common"
    oldest = steps[-2].round
    assert following.contradicts(oldest, "another")
    assert not following.contradicts(oldest - 2, "another")


def test_a_trail_from_disk_that_is_too_long_loses_its_old_end_but_not_genesis():
    steps = [step_of(h) for h in chain(MAX_TRAIL + 5)]
    following = Following(TERMS, chain(MAX_TRAIL + 5)[0], steps)
    assert following.trail.steps == (*steps[: MAX_TRAIL - 1], steps[-1])


def test_another_entry_in_a_known_round_contradicts():
    following = advanced(2)
    assert not following.contradicts(1, following.head.digest)
    assert following.contradicts(1, "another") and following.contradicts(-1, "another")
    assert not following.contradicts(2, "another"), "it may be what comes next"


def test_after_empty_entries_only_a_peer_lacks_no_bytes():
    following = advanced(2)
    assert following.is_close(head().digest) and following.is_close(following.head.digest)
    following.advance(
        entry(round=2, parent=following.head.digest, parts=(Part(DIGEST, (1, 1, 1)),))
    )
    assert not following.is_close(head().digest) and following.is_close(following.head.digest)
    assert not following.is_close("another") and not following.lacks_one("another")
    assert following.lacks_one(head().digest) and not following.lacks_one(following.head.digest)


def test_the_head_is_that_of_the_last_entry():
    last = entry(round=0, parent=head().digest)
    following = Following(TERMS, head())
    following.advance(last)
    assert following.head == Head.of_entry(last)


# --- what waits -----------------------------------------------------------------------------------


def test_decided_entries_wait_for_their_turn():
    following = advanced(1)
    following.keep_for_later("a", decided(2))
    assert following.next_in_backlog() is None
    following.keep_for_later("b", decided(1))
    assert following.next_in_backlog() == ("b", decided(1))
    following.advance(entry(round=1))
    assert following.next_in_backlog() == ("a", decided(2))


def test_no_more_wait_than_one_question_is_answered_with():
    following = advanced(1)
    for round_ in range(1, 100):
        following.keep_for_later("a", decided(round_))
    assert sorted(following.backlog) == list(range(1, 1 + ENTRIES_PER_ASK))


def test_what_was_overtaken_is_dropped():
    following = advanced(1)
    following.keep_for_later("a", decided(1))
    following.advance(entry(round=1))
    following.advance(entry(round=2))
    assert following.next_in_backlog() is None and not following.backlog


def test_what_waits_is_one_chain():
    first = entry(round=1)
    second = entry(round=2, parent=first.digest)
    following = advanced(1)
    for later in (second, entry(round=3, parent="another"), entry(round=4)):
        following.keep_for_later("a", signed.decided(later, ABC))
    assert [waiting.round for _, waiting in following.after(first)] == [2]


# --- whom to ask ----------------------------------------------------------------------------------


def test_one_peer_at_a_time_is_asked_and_each_in_turn():
    following = advanced(1)
    first = following.whom_to_ask("ab", 5.0)
    assert following.whom_to_ask("ab", 5.0 + ASK_AGAIN_S / 2) is None
    second = following.whom_to_ask("ab", 5.0 + ASK_AGAIN_S)
    assert {first, second} == {"a", "b"}
    assert following.whom_to_ask("", 50.0) is None


def test_who_no_longer_has_the_next_entry_is_not_asked_for_it_again():
    following = advanced(1)
    following.whom_to_ask("ab", 5.0)
    assert not following.is_gone_from("a", "ab")
    assert following.whom_to_ask("ab", 5.0) == "b", "without a pause"
    assert following.is_gone_from("b", "ab")
    assert following.whom_to_ask("ab", 50.0) is None
    following.advance(entry(round=1))
    assert following.whom_to_ask("ab", 50.0) in ("a", "b")


def test_nobody_is_sent_entries_or_trails_without_pause():
    following = advanced(1)
    assert following.may_serve("a", 5.0) and following.may_serve("b", 5.0)
    assert not following.may_serve("a", 5.0 + ASK_AGAIN_S / 2)
    assert following.may_serve("a", 5.0 + ASK_AGAIN_S)
    assert following.may_trail("a", 5.0)
    assert not following.may_trail("a", 5.0 + TRAIL_AGAIN_S / 2)
    assert following.may_trail("a", 5.0 + TRAIL_AGAIN_S)
