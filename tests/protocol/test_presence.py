"""Whom a round can count on: everybody that is live, stands here, and has its journal."""

from dataclasses import replace

import pytest

from protocol.court import Court
from protocol.following import Following
from protocol.liveness import Liveness
from protocol.log import Part
from protocol.presence import Presence
from tests.protocol.makers import DIGEST, entry, head, heartbeat, terms
from tests.sim.keys import SimKey

HEAD = replace(head(), voters=("a", "b", "c", "z"), incarnations=("a-0", "b-0", "c-0", "z-0"))
"""b is this peer, z a voter that it has never met, d a newcomer without a vote."""


def presence(*beats, at=HEAD) -> tuple[Presence, Following, Liveness]:
    log, others = Following(terms(), at), Liveness("b", "acd", 0.0)
    for sender, beat in beats:
        others.beat(sender, beat)
    return Presence("b", log, others, Court("b", terms(), SimKey("b"))), log, others


def test_everybody_met_is_known_and_this_peer_itself():
    assert set(presence()[0].known) == set("abcd")


def test_a_voter_that_stands_here_can_vote_and_is_waited_for():
    here, _, _ = presence(("a", heartbeat("a", head=HEAD.digest)))
    for peer in "ac":
        assert here.can_vote(peer) and here.why_absent(peer) == ""


def test_a_lost_one_cannot_vote():
    here, _, others = presence()
    others.lose("a", "silent for 7 s")
    assert not here.can_vote("a") and here.why_absent("a") == "silent for 7 s"
    assert here.lost == {"a": "silent for 7 s"}


def test_one_on_another_log_cannot_vote():
    here, log, _ = presence()
    log.elsewhere["a"] = "another"
    assert not here.can_vote("a") and here.why_absent("a") == "on another log"


def test_one_that_was_never_met_cannot_vote():
    here, _, _ = presence()
    assert not here.can_vote("z") and here.why_absent("z") == "was never met"


@pytest.mark.parametrize("incarnation", ["a-1", ""])
def test_one_with_another_journal_contributes_and_cannot_vote(incarnation):
    beat = heartbeat("a", head=HEAD.digest, incarnation=incarnation)
    here, _, _ = presence(("a", beat))
    assert not here.can_vote("a") and here.why_absent("a") == ""
    assert here.journal_of("a") == incarnation


def test_before_a_voter_said_anything_it_has_the_journal_that_the_entry_lists():
    here, _, _ = presence()
    assert here.journal_of("a") == "a-0" and here.journal_of("d") == ""


def test_an_archive_is_not_waited_for():
    here, _, _ = presence(("a", heartbeat("a", head=HEAD.digest, trains=False)))
    assert here.why_absent("a") == "only follows"


def test_a_newcomer_is_waited_for_once_it_lacks_no_more_than_one_entry():
    assert presence()[0].why_absent("d") == "behind"
    behind = heartbeat("d", round=-2, head="older")
    assert presence(("d", behind))[0].why_absent("d") == "behind"
    here, log, _ = presence(("d", heartbeat("d", head=HEAD.digest)))
    assert here.why_absent("d") == "" and not here.can_vote("d")
    log.advance(entry(parts=(None,)))
    assert here.why_absent("d") == "", "the empty entry needs no bytes"
    log.advance(entry(round=1))
    assert here.why_absent("d") == "", "it may be fetching its bytes"
    log.advance(entry(round=2))
    assert here.why_absent("d") == "behind"


def test_who_was_given_up_in_the_last_round_is_not_waited_for():
    here, log, _ = presence(("c", heartbeat("c", head=HEAD.digest)))
    log.advance(entry(voters=("a", "b"), parts=(Part(DIGEST, (1, 1, 1)),)))
    assert "c" in log.head.contributors and here.why_absent("c") == "behind"


def test_this_peer_itself_is_never_absent():
    assert presence()[0].why_absent("b") == ""
