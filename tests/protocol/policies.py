"""One scripted run per policy of a round. Nothing is by chance; each docstring is the policy."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from protocol.codec import codec_named
from protocol.events import ApplyEntry, Leg, Send, SendPart
from protocol.log import coordinators
from protocol.messages import Accept, Message, Roster
from tests.sim.invariants import Invariants
from tests.sim.network import Network, Weather
from tests.sim.plan import Plan
from tests.sim.saw import Fate, Sight
from tests.sim.swarm import Swarm
from tests.sim.transcript import Transcript


class Stage:
    """A swarm with a transcript, and what a script needs to interfere at the right moment."""

    def __init__(self, peer_ids: str, *, lockstep: bool = False, foreign: str = "") -> None:
        """The peers lead round 0 in the order of `peer_ids`; the first one is the tie-breaker."""
        ids = tuple(peer_ids)
        run_ids = (f"run {i}" for i in range(10_000))
        run_id = next(r for r in run_ids if coordinators(r, 0, ids) == ids)
        self.plan = Plan(peer_ids=ids, run_id=run_id, lockstep=lockstep, codec=codec_named("e3m0"))
        self.transcript = Transcript()
        self.invariants = Invariants(self.plan, frozenset(foreign))
        self.network = Network(random.Random(0))
        self.swarm = Swarm(self.plan, self.network, [self.invariants, self.transcript, self])
        self._triggers: list[tuple[str, Callable[[Sight], bool], Callable[[], None]]] = []

    def add(self, peer_ids: str, *, step_s: float = 0.25, started_from: str = "") -> None:
        for peer_id in peer_ids:
            self.swarm.add(peer_id, step_s=step_s, head=self.plan.genesis_head(started_from))

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        for trigger in list(self._triggers):
            who, matches, then = trigger
            if peer_id == who and matches(sight):
                self._triggers.remove(trigger)
                self.swarm.clock.at(now_s, then)

    def when(self, who: str, matches: Callable[[Sight], bool], then: Callable[[], None]) -> None:
        """Once, right after everything that `who` does in that moment."""
        self._triggers.append((who, matches, then))

    def play(self, *, rounds: int, at_most_s: float = 30.0) -> None:
        """Until all peers that are alive have applied so many rounds, or the time is over."""
        self.swarm.start()
        clock = self.swarm.clock
        while clock.now_s < at_most_s and not self._have_applied(rounds):
            clock.run(clock.now_s + 0.05)

    def _have_applied(self, rounds: int) -> bool:
        live = [peer for peer in self.swarm.peers.values() if not peer.is_dead]
        return all(peer.member.round >= rounds for peer in live if not peer.is_frozen)

    def text(self) -> str:
        return self.transcript.text + "".join(self._endings())

    def _endings(self) -> Iterator[str]:
        for me, peer in self.swarm.peers.items():
            if peer.is_dead:
                yield f"= {me} is dead\n"
                continue
            member = peer.member
            quorum = ", has no quorum" if member.lacks_quorum else ""
            why = f" ({member.waiting_for})" if member.waiting_for else ""
            yield (
                f"= {me} is {member.standing}{quorum}, after round {member.head.round}"
                f" {member.head.digest[:6]}, {peer.steps} steps{why}\n"
            )


def sends(kind: type[Message]) -> Callable[[Sight], bool]:
    return lambda sight: isinstance(sight, Send) and isinstance(sight.message, kind)


def applies(round_: int) -> Callable[[Sight], bool]:
    return lambda sight: isinstance(sight, ApplyEntry) and sight.entry.round == round_


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
    stage.play(rounds=1)
    return stage


def a_member_dies_in_the_exchange() -> Stage:
    """A member that dies before it holds everything costs the round; the next goes without it."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("c", lambda sight: isinstance(sight, SendPart), lambda: stage.swarm.crash("c"))
    stage.play(rounds=2)
    return stage


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
    """A coordinator that dies after its roster is replaced: the next one ends the round empty."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("a", sends(Roster), lambda: stage.swarm.crash("a"))
    stage.play(rounds=2)
    return stage


def the_coordinator_dies_after_its_proposal() -> Stage:
    """What a voter accepted from a coordinator that died is proposed again, not replaced."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("a", sends(Accept), lambda: stage.swarm.crash("a"))
    stage.play(rounds=1)
    return stage


def the_deadline_passes() -> Stage:
    """A round that its deadline overtakes is committed empty, and training has gone on."""
    stage = Stage("abc")
    stage.add("abc")
    bulk = [("b", "c")]
    stage.swarm.blocked_parts.update(bulk)
    stage.when("a", applies(0), stage.swarm.blocked_parts.clear)
    stage.play(rounds=2)
    return stage


def of_two_peers_the_tie_breaker_goes_on() -> Stage:
    """Of two peers that lose each other, the tie-breaker goes on; the other has no quorum."""
    stage = Stage("ab")
    stage.add("ab")
    links = [("a", "b"), ("b", "a")]
    apart = lambda: stage.swarm.cut(links, 60.0, "a and b are apart")  # noqa: E731
    stage.when("b", applies(0), apart)
    stage.play(rounds=9, at_most_s=5.0)
    return stage


def the_tie_breaker_dies() -> Stage:
    """Of two peers, the one that is not the tie-breaker decides nothing alone, and says so."""
    stage = Stage("ab")
    stage.add("ab")
    stage.when("b", applies(0), lambda: stage.swarm.crash("a"))
    stage.play(rounds=9, at_most_s=6.0)
    return stage


def a_minority_decides_nothing() -> Stage:
    """The smaller side of a partition trains on and decides nothing; the larger one goes on."""
    stage = Stage("abc")
    stage.add("abc")
    links = [("c", "a"), ("c", "b"), ("a", "c"), ("b", "c")]
    apart = lambda: stage.swarm.cut(links, 60.0, "c and the others are apart")  # noqa: E731
    stage.when("c", applies(0), apart)
    stage.play(rounds=9, at_most_s=5.0)
    return stage


def a_short_absence_costs_one_round() -> Stage:
    """A peer that missed only an empty round is back in the next one."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("c", lambda s: isinstance(s, SendPart), lambda: stage.swarm.freeze("c", 1.6))
    stage.play(rounds=2)
    return stage


def the_coordinator_was_asleep() -> Stage:
    """A coordinator that slept does not take the others for lost: that was its own doing."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("a", sends(Roster), lambda: stage.swarm.freeze("a", 1.2))
    stage.play(rounds=2)
    return stage


def members_hold_different_means() -> Stage:
    """If two members hold different bytes for one part, nobody applies any."""
    stage = Stage("abc")
    stage.add("abc")

    def tamper(sender: str, part: SendPart) -> bytes:
        if (sender, part.to, part.leg) == ("b", "c", Leg.GATHER):
            return bytes(len(part.data))
        return part.data

    stage.swarm.tamper = tamper
    stage.play(rounds=1)
    return stage


def a_peer_on_another_log() -> Stage:
    """A peer on another log is never averaged nor waited for; it says forked and trains on."""
    stage = Stage("abcd", foreign="d")
    stage.add("abc")
    stage.add("d", started_from="another state")
    stage.play(rounds=1, at_most_s=3.0)
    return stage


def a_peer_that_computes_otherwise() -> Stage:
    """The same entry and another state: that peer is never averaged again, and says forked."""
    stage = Stage("abc")
    stage.add("abc")

    def flip_one_bit() -> None:
        stage.invariants.disown("c")
        for flat in stage.swarm.peers["c"].replica.global_params:
            flat.view("uint32")[0] ^= 1

    stage.when("c", applies(0), flip_one_bit)
    stage.play(rounds=3, at_most_s=6.0)
    return stage


def a_peer_leaves() -> Stage:
    """Nobody waits for a peer that said goodbye; the next entry lists the voters without it."""
    stage = Stage("abc")
    stage.add("abc")
    stage.when("c", applies(0), lambda: stage.swarm.leave("c"))
    stage.play(rounds=2)
    return stage


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


POLICIES: tuple[Callable[[], Stage], ...] = (
    everybody_is_ready,
    a_late_peer_only_receives,
    a_member_dies_in_the_exchange,
    the_coordinator_dies_before_the_roster,
    two_coordinators_die_before_the_roster,
    the_coordinator_dies_after_the_roster,
    the_coordinator_dies_after_its_proposal,
    the_deadline_passes,
    of_two_peers_the_tie_breaker_goes_on,
    the_tie_breaker_dies,
    a_minority_decides_nothing,
    a_short_absence_costs_one_round,
    the_coordinator_was_asleep,
    members_hold_different_means,
    a_peer_on_another_log,
    a_peer_that_computes_otherwise,
    a_peer_leaves,
    in_lockstep_a_late_peer_is_waited_for,
    in_lockstep_a_lost_peer_stops_the_run,
    a_ready_that_is_lost_is_said_again,
    duplicates_change_nothing,
)
