"""Where one member stands in the log: behind, on another one, in another state, or alone."""

from dataclasses import replace

from protocol.chain import step_of
from protocol.events import (
    ApplyEntry,
    Effect,
    GetSnapshot,
    Note,
    PeerMet,
    Restored,
    RestoreFailed,
    Rewind,
    Send,
    ServeEntries,
)
from protocol.log import Head
from protocol.messages import Ask, Decided, Gone, Leave, Trail
from tests.protocol.makers import head, heartbeat, ready, step
from tests.protocol.members import empty_entry, hear, kinds, member, share
from tests.protocol.signed import decided, forced_by

FIRST = empty_entry()
AFTER = Head.of_entry(FIRST)


def texts(effects: list[Effect]) -> str:
    return " ".join(effect.text for effect in effects if isinstance(effect, Note))


def lonely_member(me: str = "b", **changed):
    """A peer whose companions have left, and that has waited for a minute."""
    machine = member(me, **changed)
    for other in machine.others:
        hear(machine, other, Leave(round=-1))
    effects: list[Effect] = []
    while machine.wakes_at_s() < 62.0 and not machine.head.term:
        effects += machine.tick(machine.wakes_at_s())
    return machine, effects


# --- behind ---------------------------------------------------------------------------------------


def test_who_is_behind_asks_and_what_is_decided_is_served():
    machine = member()
    ahead = heartbeat("a", round=0, head=FIRST.digest)
    assert hear(machine, "a", ahead) == [Send("a", Ask(round=-1, head=head().digest))]
    assert not hear(machine, "a", ahead), "once a second"
    hear(machine, "a", decided(FIRST))
    assert hear(machine, "c", Ask(round=-1, head=head().digest)) == [ServeEntries("c", -1)]
    assert not hear(machine, "c", Ask(round=0, head=FIRST.digest))


def test_entries_that_come_out_of_order_are_applied_in_order():
    machine = member()
    second = empty_entry(AFTER)
    assert not hear(machine, "a", decided(second))
    assert kinds(hear(machine, "a", decided(FIRST))) == [ApplyEntry, ApplyEntry]
    assert machine.head.digest == second.digest


def test_where_entries_are_gone_logs_are_compared_and_a_snapshot_is_taken():
    machine = member()
    (send,) = hear(machine, "a", Gone(round=5))
    assert isinstance(send, Send) and isinstance(send.message, Trail)
    steps = (step("later", round_=7), step_of(head()))
    assert GetSnapshot in kinds(hear(machine, "a", Trail(round=7, steps=steps)))
    assert machine.standing == "restoring" and not machine.votes


def test_a_snapshot_that_cannot_be_had_is_tried_again_when_it_is_due():
    machine = member()
    hear(machine, "a", Gone(round=5))
    hear(machine, "a", Trail(round=7, steps=(step("later", round_=7), step_of(head()))))
    assert "cannot catch up yet" in texts(machine.handle(RestoreFailed("no donors"), 1.0))
    assert machine.standing == "in step"


# --- on another log -------------------------------------------------------------------------------


def test_who_meets_another_log_shows_its_own():
    machine = member()
    hear(machine, "a", decided(FIRST))
    (send,) = hear(machine, "c", heartbeat("c", round=0, head="another"))
    assert send == Send("c", Trail(round=0, steps=(step_of(AFTER), step_of(head()))))
    assert not hear(machine, "c", heartbeat("c", round=0, head="another")), "not at once again"


def test_the_loser_rewinds_to_the_last_common_entry():
    machine, _ = lonely_member("b")
    assert (machine.head.term, machine.head.round) == (1, 0)
    unbroken = Trail(round=0, steps=(step_of(AFTER), step_of(head())))
    effects = hear(machine, "a", unbroken, 70.0)
    assert Rewind in kinds(effects) and machine.standing == "restoring"
    (rewind,) = [e for e in effects if isinstance(e, Rewind)]
    assert rewind.round == -1
    machine.handle(Restored(head=head(), trail=(step_of(head()),), incarnation="b-1"), 71.0)
    assert machine.standing == "in step" and not machine.votes, "its journal began anew"
    hear(machine, "a", decided(FIRST), 71.0)
    assert machine.head == AFTER


def test_voters_that_went_on_by_force_are_not_waited_for():
    """They are there, and in sight, and will never vote on this peer's next entry."""
    machine = member("b")
    forced = forced_by("c")
    hear(machine, "c", forced)
    while machine.wakes_at_s() < 62.0:
        now_s = machine.wakes_at_s()
        for other in "ac":
            hear(machine, other, heartbeat(other, round=3, head="on the forced log"), now_s)
        machine.tick(now_s)
    hear(machine, "c", forced, 62.0)
    assert machine.head.term == 1


def test_a_loser_does_not_take_back_what_it_gave_up():
    """Another loser, that has not rewound yet, would serve it the very log that has lost."""
    machine, effects = lonely_member("b")
    (forced,) = {
        e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Decided)
    }
    hear(machine, "a", Trail(round=0, steps=(step_of(AFTER), step_of(head()))), 70.0)
    machine.handle(Restored(head=head(), trail=(step_of(head()),), incarnation=""), 71.0)
    while machine.wakes_at_s() < 140.0:
        machine.tick(machine.wakes_at_s())
    assert machine.lacks_quorum, "so that it may follow another forced term"
    hear(machine, "c", forced, 140.0)
    assert machine.head == head()
    another = forced_by("c", reason="another")
    hear(machine, "c", another, 140.0)
    assert machine.head.term == 1


def test_the_winner_stays_and_shows_why():
    machine = member()
    hear(machine, "a", decided(FIRST))
    forced = Trail(round=0, steps=(step("forced", round_=0, term=1), step_of(head())))
    (send,) = hear(machine, "c", forced)
    assert isinstance(send, Send) and isinstance(send.message, Trail)
    assert machine.standing == "in step" and machine.head == AFTER


def test_a_log_without_anything_in_common_is_only_noted():
    stranger = Trail(round=-1, steps=(step("another genesis", round_=-1),))
    assert "no entry" in texts(hear(member(), "c", stranger))


def test_a_ready_of_who_stands_elsewhere_does_not_count():
    """Nor does one that is said again, until it stands here."""
    machine = member("a")
    hear(machine, "c", heartbeat("c", round=-1, head="another"))
    hear(machine, "c", ready(tokens=1))
    machine.handle(share(), 0.0)
    hear(machine, "b", ready(tokens=1))
    assert machine.roster is not None and machine.roster.peer_ids == ("a", "b")


# --- in another state -----------------------------------------------------------------------------


def test_who_is_in_another_state_than_most_takes_a_snapshot():
    machine = member()
    machine.handle(share(), 0.0)
    assert not hear(machine, "a", ready(state="another"))
    assert GetSnapshot in kinds(hear(machine, "c", ready(state="another")))


def doubts(machine) -> list[Effect]:
    """The others say that they are in another state, and are said again."""
    machine.handle(share(), 0.0)
    return [e for peer in "ac" for e in hear(machine, peer, ready(state="another"))]


def test_a_snapshot_that_changed_nothing_makes_a_peer_say_forked():
    machine = member()
    doubts(machine)
    machine.handle(Restored(head=head(), trail=(step_of(head()),), incarnation="b-1"), 1.0)
    assert "forked" in texts(doubts(machine))
    assert machine.standing == "forked" and "another state" in machine.waiting_for


def test_a_snapshot_that_could_not_be_had_does_not():
    machine = member()
    doubts(machine)
    machine.handle(RestoreFailed("no donors"), 1.0)
    assert GetSnapshot in kinds(doubts(machine)) and machine.standing == "restoring"


def test_one_peer_in_another_state_is_that_peers_problem():
    machine = member()
    machine.handle(share(), 0.0)
    hear(machine, "c", ready(state="another"))
    assert machine.standing == "in step" and not machine.waiting_for.startswith("most")


# --- without a quorum -----------------------------------------------------------------------------


def test_who_was_alone_for_long_forces_a_term_and_says_so():
    machine, effects = lonely_member()
    assert "forces a new term after 60 s" in texts(effects)
    assert (machine.head.term, machine.head.voters) == (1, ("b",))
    assert machine.votes and not machine.lacks_quorum


def test_not_before_it_has_been_alone_for_so_long():
    machine = member()
    for other in machine.others:
        hear(machine, other, Leave(round=-1))
    while machine.wakes_at_s() < 59.0:
        machine.tick(machine.wakes_at_s())
    assert machine.head.term == 0


def test_who_hears_an_archive_that_is_ahead_takes_its_state_before_it_forces_anything():
    machine = member("b")
    for other in machine.others:
        hear(machine, other, Leave(round=-1))
    machine.handle(PeerMet("x"), 0.0)
    later = step("later", round_=7)
    while (now_s := machine.wakes_at_s()) < 70.0:
        hear(machine, "x", heartbeat("x", round=7, head=later.digest, trains=False), now_s)
        machine.tick(now_s)
    assert machine.head.term == 0
    hear(machine, "x", Gone(round=5), now_s)
    effects = hear(machine, "x", Trail(round=7, steps=(later, step_of(head()))), now_s)
    (snapshot,) = (effect for effect in effects if isinstance(effect, GetSnapshot))
    assert snapshot.without_quorum
    machine.handle(RestoreFailed("no donor is left"), now_s)
    machine.tick(now_s + 1.0)
    assert machine.head.term == 0


def test_in_lockstep_and_without_training_nobody_does():
    assert lonely_member(lockstep=True)[0].head.term == 0
    assert lonely_member(trains=False)[0].head.term == 0


def test_who_is_not_alone_does_not_follow_a_forced_term():
    machine = member()
    forced = forced_by("c")
    assert not hear(machine, "c", forced)
    assert machine.head.term == 0
    hear(machine, "c", ready())
    assert "c" not in machine._round.readies, "it is on another log now"


def test_after_a_snapshot_a_peer_stands_where_that_was_taken():
    machine = member()
    at = replace(head(), round=7, digest="snapshot")
    assert "restored to round 7" in texts(
        machine.handle(Restored(head=at, trail=(step_of(at),), incarnation="b-1"), 0.0)
    )
    assert machine.round == 8 and machine.incarnation == "b-1"
