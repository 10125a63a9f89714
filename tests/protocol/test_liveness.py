"""Who counts as lost and who is back, also where a link carries one way only."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.liveness import Liveness
from tests.protocol.makers import heartbeat

SUSPECT_S = 6.0


def others(now_s: float = 0.0) -> Liveness:
    return Liveness("b", "ac", now_s)


def beat(of: str, *, deaf_to: tuple[str, ...] = ()):
    return heartbeat(of, deaf_to=deaf_to)


def test_everybody_is_live_at_first():
    assert others().states() == {"a": "live", "c": "live"}
    assert others().reachable(voters=()) == ("a", "c")


def test_who_is_silent_for_too_long_is_to_be_lost_and_a_word_brings_it_back():
    alive = others()
    alive.hear("c", 5.0)
    assert alive.silent(SUSPECT_S, SUSPECT_S) == {}
    assert alive.silent(SUSPECT_S, 7.0) == {"a": "silent for 7 s"}
    assert alive.lose("a", "silent for 7 s") and not alive.lose("a", "again")
    assert alive.silent(SUSPECT_S, 8.0) == {}, "it is known by now"
    assert alive.hear("a", 9.0) and not alive.hear("a", 9.5)
    assert alive.lost == {}


def test_a_failed_call_says_nothing_about_who_was_heard_since_it_began():
    alive = others()
    alive.hear("a", 5.0)
    assert alive.was_heard_since("a", 4.0)
    assert not alive.was_heard_since("a", 5.0) and not alive.was_heard_since("a", 9.0)
    assert not alive.was_heard_since("stranger", 0.0)


def test_a_peer_that_slept_itself_blames_nobody():
    alive = others()
    alive.slept(1000.0, 1000.0)
    assert alive.silent(SUSPECT_S, 1000.0) == {}


def test_sleep_makes_nobody_heard_in_the_future():
    alive = others()
    alive.hear("a", 99.0)
    alive.slept(50.0, 100.0)
    assert alive.silent(SUSPECT_S, 106.5).keys() == {"a", "c"}


def test_who_left_stays_away_whatever_arrives_late():
    alive = others()
    assert alive.leave("c") and not alive.leave("c")
    assert not alive.hear("c", 1.0) and not alive.beat("c", beat("c"))
    assert alive.states()["c"] == "left" and alive.reachable(voters=()) == ("a",)
    assert alive.unheard == (), "it is not told that it is not heard"


def test_a_leaver_hears_of_the_entry_that_takes_its_vote_away():
    alive = others()
    alive.leave("c")
    assert alive.reachable(voters=("a", "b", "c")) == ("a", "c")
    assert alive.reachable(voters=("a", "b")) == ("a",)


def test_who_left_and_is_met_again_is_live():
    alive = others()
    alive.leave("c")
    alive.meet("c", 5.0)
    assert alive.states()["c"] == "live" and alive.reachable(voters=()) == ("a", "c")


def test_who_is_forgotten_leaves_no_trace():
    alive = others()
    alive.beat("c", beat("c"))
    alive.lose("c", "silent")
    alive.forget("c")
    assert alive.known == ("a",) and alive.lost == alive.heartbeats == {} and not alive.knows("c")
    alive.forget("never met")


def test_a_stranger_is_not_lost():
    assert not others().lose("stranger", "silent")


# --- links that carry one way only ----------------------------------------------------------------


def test_who_does_not_hear_this_peer_is_lost_although_it_is_heard():
    alive = others()
    assert alive.beat("a", beat("a", deaf_to=("b",)))
    assert alive.lost == {"a": "does not hear this peer"}
    alive.hear("a", 1.0)
    assert not alive.beat("a", beat("a", deaf_to=("b",))), "that is no news"
    assert alive.lost.keys() == {"a"}


def test_who_does_not_hear_somebody_else_is_no_concern_of_ours():
    alive = others()
    assert not alive.beat("a", beat("a", deaf_to=("c",))) and alive.lost == {}


def test_once_it_hears_this_peer_again_it_is_live():
    alive = others()
    alive.beat("a", beat("a", deaf_to=("b",)))
    alive.hear("a", 1.0)
    alive.beat("a", beat("a"))
    assert alive.lost == {}


def test_a_peer_tells_whom_it_does_not_hear_but_not_who_does_not_hear_it():
    """Each side would otherwise be deaf because the other one is, for ever."""
    alive = others()
    alive.lose("c", "silent for 7 s")
    alive.beat("a", beat("a", deaf_to=("b",)))
    assert alive.lost.keys() == {"a", "c"} and alive.unheard == ("c",)


def test_who_left_while_it_was_deaf_stays_away():
    alive = others()
    alive.beat("a", beat("a", deaf_to=("b",)))
    alive.leave("a")
    alive.beat("a", beat("a"))
    assert alive.lost == {"a": "left"}


def beats_between(carries: list[tuple[bool, bool]]) -> tuple[Liveness, Liveness]:
    """a and b send each other a heartbeat every second, where the link carries it."""
    a, b = Liveness("a", ["b"], 0.0), Liveness("b", ["a"], 0.0)
    for second, (to_b, to_a) in enumerate(carries, start=1):
        from_a, from_b = beat("a", deaf_to=a.unheard), beat("b", deaf_to=b.unheard)
        for arrives, at, sender, said in ((to_b, b, "a", from_a), (to_a, a, "b", from_b)):
            if arrives:
                at.hear(sender, second)
                at.beat(sender, said)
            for peer, why in at.silent(SUSPECT_S, second).items():
                at.lose(peer, why)
    return a, b


both = st.tuples(st.booleans(), st.booleans())


@given(st.lists(both, max_size=60))
def test_whatever_a_link_has_done_when_it_carries_again_both_are_live(past):
    a, b = beats_between(past + [(True, True)] * 4)
    assert a.lost == {} and b.lost == {}


@given(st.lists(both, max_size=30), st.booleans())
def test_a_link_that_carries_one_way_only_is_down_on_both_sides(past, to_b):
    a, b = beats_between(past + [(to_b, not to_b)] * 10)
    assert a.lost.keys() == {"b"} and b.lost.keys() == {"a"}
