"""One scripted run per policy of a round. Nothing is by chance; each docstring is the policy."""

from collections.abc import Callable
from dataclasses import replace

from protocol.events import (
    AveragePart,
    Leg,
    Record,
    SendPart,
)
from protocol.messages import Accept, Accepted, Roster
from tests.protocol.stage import Stage, applies, does, sends
from tests.sim.network import Weather
from tests.sim.saw import Fate

# --- readiness ------------------------------------------------------------------------------------


def everybody_is_ready() -> Stage:
    """When everybody is ready, the round starts at once and is committed with all of them."""
    stage = Stage("abc")
    stage.add("abc")
    stage.play(rounds=2)
    return stage


def a_late_peer_only_receives() -> Stage:
    """A live peer that is not ready is waited for during the grace time; then it only receives."""
    stage = Stage("abc")
    stage.add("ab")
    stage.add("c", step_s=0.8)
    to_c = [("a", "c"), ("b", "c")]
    stage.swarm.clock.at(0.9, lambda: stage.swarm.cut(to_c, 1.2, "c hears nobody"))
    stage.play(rounds=1)
    return stage


def a_slow_peer_goes_along() -> Stage:
    """Who has not trained its share when the round is due is ready with what it has."""
    stage = Stage("abc")
    stage.add("ab")
    stage.add("c", step_s=0.8)
    stage.play(rounds=1)
    return stage


def a_ready_that_is_lost_is_said_again() -> Stage:
    """Every Ready goes out again with the heartbeats, so that a lost one cannot stop a round."""
    stage = Stage("abc")
    stage.add("abc")
    clock = stage.swarm.clock
    clock.at(0.95, lambda: weather(stage, Weather(loss=1.0), "everything is lost"))
    clock.at(1.05, lambda: weather(stage, Weather(), "nothing is lost any more"))
    stage.play(rounds=1)
    return stage


def weather(stage: Stage, weather: Weather, text: str) -> None:
    stage.swarm.saw(None, Fate(text))
    stage.network.weather = weather


def duplicates_change_nothing() -> Stage:
    """A message that arrives twice, or long after its round, changes nothing."""
    stage = Stage("abc")
    stage.network.weather = replace(stage.network.weather, duplication=1.0, echo_s=1.5)
    stage.add("abc")
    stage.play(rounds=2)
    return stage


# --- partial credit -------------------------------------------------------------------------------


def a_contributor_dies_before_anything_of_it_arrived() -> Stage:
    """Of a contributor that dies nothing is lost but its own contribution."""
    stage = Stage("abcd")
    stage.add("abcd")
    stage.when("d", does(SendPart), lambda: stage.swarm.crash("d"))
    stage.play(rounds=2)
    return stage


def a_contributor_dies_after_half_of_its_parts() -> Stage:
    """What has arrived of a contributor that dies counts; each part says whose it is a mean of."""
    stage = Stage("abcd")
    stage.add("abcd")
    stage.swarm.slowness["d", "b"] = 20.0
    stage.when_part_arrives("d", "a", Leg.SCATTER, lambda: stage.swarm.crash("d"))
    stage.play(rounds=1)
    return stage


def an_owner_dies_before_it_has_averaged() -> Stage:
    """An owner's death moves its parts: who contributed sends those again, and nothing else."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("c", does(AveragePart), lambda: stage.swarm.crash("c"))
    stage.play(rounds=2)
    return stage


def an_owner_dies_after_its_mean_has_reached_some() -> Stage:
    """A mean that has reached somebody is not made again: the others fetch it."""
    stage = Stage("abc")
    stage.add("abc")
    stage.swarm.slowness["c", "b"] = 1.5
    stage.when_part_arrives("c", "a", Leg.GATHER, lambda: stage.swarm.crash("c"))
    stage.play(rounds=1)
    return stage


def an_owner_is_given_up_too_early() -> Stage:
    """Two means of one part may then exist: the entry names the one with more contributions."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("c", does(AveragePart), lambda: stage.swarm.freeze("c", 2.0))
    stage.play(rounds=1)
    return stage


def the_deadline_passes() -> Stage:
    """At its deadline a round is committed with the parts that somebody has; others fetch them."""
    stage = Stage("abc")
    stage.add("abc")
    stage.swarm.blocked_parts.add(("b", "c"))
    stage.when("a", applies(0), stage.swarm.blocked_parts.clear)
    stage.play(rounds=1)
    return stage


def nobody_is_done_before_the_deadline() -> Stage:
    """A round of which nobody has anything at its deadline is committed empty."""
    stage = Stage("abc")
    stage.add("abc")

    def slow_down() -> None:
        stage.swarm.saw(None, Fate("a snapshot takes 30 s from now on"))
        for peer in stage.swarm.peers.values():
            peer.habits = replace(peer.habits, snapshot_s=30.0)

    stage.swarm.clock.at(0.9, slow_down)
    stage.play(rounds=1)
    return stage


def an_owner_stands_still_for_a_moment() -> Stage:
    """An owner that stood still takes in what came meanwhile, and its parts are not late for it."""
    stage = Stage("abc")
    stage.add("abc")
    stage.swarm.clock.at(1.15, lambda: stage.swarm.freeze("c", 1.3))
    stage.play(rounds=1)
    return stage


def members_hold_different_means() -> Stage:
    """If two members hold different bytes for one part, the entry names one of the two."""
    stage = Stage("abc")
    stage.add("abc")

    def tamper(sender: str, part: SendPart) -> bytes:
        if (sender, part.to, part.leg) == ("b", "c", Leg.GATHER):
            return bytes(len(part.data))
        return part.data

    stage.swarm.tamper = tamper
    stage.play(rounds=1)
    return stage


# --- coordinators ---------------------------------------------------------------------------------


def the_coordinator_dies_before_the_roster() -> Stage:
    """A coordinator that dies before it formed the group is passed over once it counts as lost."""
    stage = Stage("abc")
    stage.add("abc")
    stage.swarm.clock.at(0.9, lambda: stage.swarm.crash("a"))
    stage.play(rounds=1)
    return stage


def two_coordinators_die_before_the_roster() -> Stage:
    """However many coordinators are gone, the next in order that is alive forms the group."""
    stage = Stage("abcde")
    stage.add("abcde")
    stage.swarm.clock.at(0.9, lambda: stage.swarm.crash("a"))
    stage.swarm.clock.at(0.9, lambda: stage.swarm.crash("b"))
    stage.play(rounds=1)
    return stage


def the_coordinator_dies_after_the_roster() -> Stage:
    """A coordinator that dies after its roster: the next one leads the same exchange to its end."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("a", sends(Roster), lambda: stage.swarm.crash("a"))
    stage.play(rounds=1)
    return stage


def the_coordinator_dies_in_the_exchange() -> Stage:
    """A coordinator is an owner too: what it had averaged and sent is used, the rest is moved."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("a", does(AveragePart), lambda: stage.swarm.crash("a"))
    stage.play(rounds=1)
    return stage


def the_coordinator_dies_before_its_proposal_is_heard() -> Stage:
    """What only a dead coordinator has accepted is nobody's business: the next proposes its own."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("a", does(Record), lambda: stage.swarm.crash("a"))
    stage.play(rounds=1)
    return stage


def the_coordinator_dies_after_its_proposal() -> Stage:
    """What a voter accepted from a coordinator that died is proposed again, not replaced."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("a", sends(Accept), lambda: stage.swarm.crash("a"))
    stage.play(rounds=1)
    return stage


def the_coordinator_dies_when_only_it_knows_the_decision() -> Stage:
    """What was decided stays decided, even if nobody heard of it who lives."""
    stage = Stage("abc")
    stage.add("abc")
    speaks = [("a", "b"), ("a", "c")]
    stage.when("b", does(Record), lambda: stage.swarm.cut(speaks, 60.0, "nobody hears a"))
    stage.when("a", applies(0), lambda: stage.swarm.crash("a"))
    stage.play(rounds=1)
    return stage


def the_coordinator_was_asleep() -> Stage:
    """A coordinator that slept does not take the others for lost: that was its own doing."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("a", sends(Roster), lambda: stage.swarm.freeze("a", 1.2))
    stage.play(rounds=1)
    return stage


# --- votes and journals ---------------------------------------------------------------------------


def a_voter_that_lacks_bytes_fetches_them_before_it_accepts() -> Stage:
    """A voter accepts only what it holds on disk: a quorum can always give what is decided."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("b", does(AveragePart), lambda: stage.swarm.blocked_parts.add(("b", "c")))
    stage.play(rounds=1)
    return stage


def a_restarted_voter_remembers_what_it_accepted() -> Stage:
    """A voter's journal survives it: what it had accepted is what the next proposer hears of."""
    stage = Stage("abc")
    stage.add("abc")
    swarm = stage.swarm

    def kill_two() -> None:
        swarm.crash("a")
        swarm.crash("b")
        swarm.clock.after(0.5, lambda: swarm.restart("b"))

    # b's vote is on disk, and its answer on the way to a coordinator that is dead.
    stage.when("b", sends(Accepted), kill_two)
    stage.play(rounds=1)
    return stage


def a_restarted_voter_without_its_journal_has_no_vote() -> Stage:
    """Who has lost its journal votes again once an entry lists it under its new incarnation."""
    stage = Stage("abc")
    stage.add("abc")
    swarm = stage.swarm

    def lose_the_journal() -> None:
        swarm.crash("c")
        swarm.disks["c"].remove("journal.json")
        swarm.saw(None, Fate("the journal of c is lost"))
        swarm.restart("c")

    stage.when("c", applies(0), lambda: swarm.clock.after(0.02, lose_the_journal))
    stage.play(rounds=3)
    return stage


# --- following the log ----------------------------------------------------------------------------


def a_peer_that_missed_a_decided_round_fetches_it() -> Stage:
    """Whoever was away gets the entries that it missed, their bytes by digest, and applies them."""
    stage = Stage("abcd")
    stage.add("abcd")
    stage.when("d", applies(0), lambda: stage.cut_off("d", 2.0))
    stage.play(rounds=4)
    return stage


def a_peer_on_another_log() -> Stage:
    """Logs without a common entry are not compared; who is on another one is never averaged."""
    stage = Stage("abcd", foreign="d")
    stage.add("abc")
    stage.add("d", started_from="another state")
    stage.play(rounds=1, at_most_s=3.0)
    return stage


def a_peer_that_computes_otherwise() -> Stage:
    """The same entries and another state: it is not averaged until a snapshot has put it right."""
    stage = Stage("abc")
    stage.add("abc")

    def flip_one_bit() -> None:
        stage.invariants.disown("c")
        for global_params, _ in stage.swarm.peers["c"].replica.states:
            global_params.view("uint32")[0] ^= 1

    stage.when("c", applies(0), flip_one_bit)
    stage.play(rounds=7, at_most_s=7.0)
    return stage


# --- quorums and terms ----------------------------------------------------------------------------


def of_two_peers_the_tie_breaker_goes_on() -> Stage:
    """Of two peers that lose each other, the tie-breaker goes on; the other has no quorum."""
    stage = Stage("ab")
    stage.add("ab")
    stage.when("b", applies(0), lambda: stage.cut_off("b", 60.0))
    stage.play(rounds=9, at_most_s=4.0)
    return stage


def the_tie_breaker_dies() -> Stage:
    """Of two peers, the one that is not the tie-breaker decides nothing alone, and says so."""
    stage = Stage("ab")
    stage.add("ab")
    stage.when("b", applies(0), lambda: stage.swarm.crash("a"))
    stage.play(rounds=9, at_most_s=5.0)
    return stage


def a_minority_decides_nothing() -> Stage:
    """The smaller side of a partition trains on and decides nothing; the larger one goes on."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("c", applies(0), lambda: stage.cut_off("c", 60.0))
    stage.play(rounds=9, at_most_s=4.0)
    return stage


def a_minority_forces_a_term_and_gives_it_up_again() -> Stage:
    """Who was without a quorum for long goes on in a new term; the majority's unbroken log wins."""
    stage = Stage("abc")
    stage.add("abc", step_s=1.0)
    stage.when("c", applies(0), lambda: stage.cut_off("c", 13.0))
    stage.play(rounds=99, at_most_s=25.0)
    return stage


def two_sides_force_terms_and_one_log_wins() -> Stage:
    """Between two forced terms the tokens since the fork decide; if equal, the smaller digest."""
    stage = Stage("abc")
    stage.add("abc", step_s=1.0)

    def split() -> None:
        stage.swarm.crash("a")
        stage.cut_off("c", 14.0)

    stage.when("c", applies(0), split)
    stage.play(rounds=99, at_most_s=26.0)
    return stage


# --- leaving --------------------------------------------------------------------------------------


def a_peer_leaves() -> Stage:
    """Nobody waits for who said goodbye; it stays until an entry lists the voters without it."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("c", applies(0), lambda: stage.swarm.leave("c"))
    stage.play(rounds=5)
    return stage


def a_peer_that_is_needed_hands_over() -> Stage:
    """Without whom the others could decide nothing hands its vote over first: an empty entry."""
    stage = Stage("ab")
    stage.add("ab")
    stage.when("a", applies(0), lambda: stage.swarm.leave("a"))
    stage.play(rounds=5, at_most_s=4.0)
    return stage


# --- lockstep -------------------------------------------------------------------------------------


def in_lockstep_a_late_peer_is_waited_for() -> Stage:
    """In lockstep nobody is left out: the others hold their trainers until the late one comes."""
    stage = Stage("abc", lockstep=True)
    stage.add("ab")
    stage.add("c", step_s=1.0)
    stage.play(rounds=1)
    return stage


def in_lockstep_a_lost_peer_stops_the_run() -> Stage:
    """In lockstep nobody may be missing: a lost peer stops the run, and the others say so."""
    stage = Stage("abc", lockstep=True)
    stage.add("abc")
    stage.when("c", applies(0), lambda: stage.swarm.crash("c"))
    stage.play(rounds=9, at_most_s=5.0)
    return stage


POLICIES: tuple[Callable[[], Stage], ...] = (
    everybody_is_ready,
    a_late_peer_only_receives,
    a_slow_peer_goes_along,
    a_ready_that_is_lost_is_said_again,
    duplicates_change_nothing,
    a_contributor_dies_before_anything_of_it_arrived,
    a_contributor_dies_after_half_of_its_parts,
    an_owner_dies_before_it_has_averaged,
    an_owner_dies_after_its_mean_has_reached_some,
    an_owner_is_given_up_too_early,
    the_deadline_passes,
    nobody_is_done_before_the_deadline,
    an_owner_stands_still_for_a_moment,
    members_hold_different_means,
    the_coordinator_dies_before_the_roster,
    two_coordinators_die_before_the_roster,
    the_coordinator_dies_after_the_roster,
    the_coordinator_dies_in_the_exchange,
    the_coordinator_dies_before_its_proposal_is_heard,
    the_coordinator_dies_after_its_proposal,
    the_coordinator_dies_when_only_it_knows_the_decision,
    the_coordinator_was_asleep,
    a_voter_that_lacks_bytes_fetches_them_before_it_accepts,
    a_restarted_voter_remembers_what_it_accepted,
    a_restarted_voter_without_its_journal_has_no_vote,
    a_peer_that_missed_a_decided_round_fetches_it,
    a_peer_on_another_log,
    a_peer_that_computes_otherwise,
    of_two_peers_the_tie_breaker_goes_on,
    the_tie_breaker_dies,
    a_minority_decides_nothing,
    a_minority_forces_a_term_and_gives_it_up_again,
    two_sides_force_terms_and_one_log_wins,
    a_peer_leaves,
    a_peer_that_is_needed_hands_over,
    in_lockstep_a_late_peer_is_waited_for,
    in_lockstep_a_lost_peer_stops_the_run,
)
