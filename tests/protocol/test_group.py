"""Who does the next round together, and why, in words."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from protocol.group import form_group
from protocol.log import is_quorum
from tests.protocol.makers import ABC, RUN, head, ready
from tests.sim.keys import tally_of

GRACE_S = 5.0


def form(ready_peers, *, absent=None, waited_s=0.0, exact=False, voters=ABC, tokens=32):
    """Everybody is present, unless `absent` says why not."""
    group_head = head(voters)
    everybody = dict.fromkeys({*voters, *ready_peers}, "")
    return form_group(
        tally_of(RUN),
        group_head,
        {p: ready(parent=group_head.digest, tokens=tokens) for p in ready_peers},
        everybody | (absent or {}),
        waited_s=waited_s,
        grace_s=GRACE_S,
        exact=exact,
    )


def test_a_round_starts_at_once_when_everybody_is_ready():
    group, why = form("abc")
    assert group is not None and group.members == group.contributors == ABC
    assert group.missing == () and why == "3 of 3 ready"


def test_a_live_peer_is_waited_for_during_the_grace_time():
    group, why = form("ab", waited_s=2.0)
    assert group is None and why == "2 of 3 ready: waiting for 3.0 s more for c"


def test_then_it_only_receives():
    group, _ = form("ab", waited_s=GRACE_S)
    assert group is not None and group.members == ABC and group.contributors == ("a", "b")
    assert group.missing == (("c", "not ready in time"),)


def test_a_lost_peer_is_not_waited_for():
    group, _ = form("ab", absent={"c": "silent for 7 s"})
    assert group is not None and group.members == ("a", "b")
    assert group.missing == (("c", "silent for 7 s"),)


def test_without_a_quorum_of_voters_nothing_starts():
    group, why = form("c", waited_s=100.0)
    assert group is None and why == "1 of 3 ready: no quorum of the voters yet"


def test_of_two_voters_the_tie_breaker_may_start_alone():
    assert form("a", voters=("a", "b"), waited_s=GRACE_S)[0] is not None
    assert form("b", voters=("a", "b"), waited_s=GRACE_S)[0] is None


def test_in_lockstep_everybody_is_waited_for_however_long():
    group, why = form("ab", waited_s=1e9, exact=True, absent={"c": "lost"})
    assert group is None and why == "2 of 3 ready: waiting for c"


def test_a_peer_without_a_vote_contributes_and_is_waited_for():
    assert form("ab", voters=("a", "b"), absent={"x": ""})[0] is None
    group, _ = form("abx", voters=("a", "b"))
    assert group is not None and group.contributors == ("a", "b", "x")


def test_a_ready_of_another_log_does_not_count():
    readies = {"a": ready(), "b": ready(), "c": ready(parent="another")}
    absent = {"a": "", "b": "", "c": "on another log"}
    group, _ = form_group(
        tally_of(RUN), head(), readies, absent, waited_s=0, grace_s=GRACE_S, exact=False
    )
    assert group is not None and group.members == ("a", "b")
    assert group.missing == (("c", "on another log"),)


def test_who_has_no_tokens_only_receives():
    group, _ = form("abc", tokens=0)
    assert group is not None and group.contributors == () and group.members == ABC


peers = st.sets(st.sampled_from("abcde"))


@given(peers, peers, st.floats(0, 10), st.booleans())
def test_a_group_is_always_sound(ready_peers, gone, waited_s, exact):
    voters = ("a", "b", "c", "d")
    absent = dict.fromkeys(gone - ready_peers, "lost")
    group, why = form(ready_peers, absent=absent, waited_s=waited_s, exact=exact, voters=voters)
    assert why
    if group is None:
        return
    assert is_quorum(set(group.contributors), voters, "a", "majority")
    assert set(group.contributors) == ready_peers
    assert set(group.contributors) <= set(group.members)
    assert list(group.members) == sorted(set(group.members))
    assert not set(group.members) & set(absent)
    assert {peer for peer, _ in group.missing} == set(voters) - ready_peers
    if exact:
        assert set(voters) <= ready_peers


def test_who_contributed_last_is_missed_even_without_a_vote():
    last = replace(head(("a",)), contributors=("a", "z"))
    readies = {"a": ready(parent=last.digest)}
    group, _ = form_group(
        tally_of(RUN), last, readies, {"a": ""}, waited_s=0, grace_s=GRACE_S, exact=False
    )
    assert group is not None and group.missing == (("z", "not ready in time"),)
