"""Peers of different pace: nobody is waited for, and everybody weighs as much as it trained."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from protocol.events import ShareTrained, StartRound
from protocol.ledger import credited_tokens
from tests.sim.invariants import Invariants
from tests.sim.network import Network
from tests.sim.peer import Habits
from tests.sim.plan import TOKENS_PER_STEP, Plan
from tests.sim.saw import Sight
from tests.sim.swarm import Swarm

STEP_S = 0.25
"""Of an ordinary peer. A round is two steps: one at a tenth of the pace ends a step in five."""
EVEN = (STEP_S,) * 4
WITH_ONE_AT_A_TENTH = (*EVEN[:3], 10 * STEP_S)
RUN_S = 30.0


class Watch:
    """When each round could have begun, for the last peer that was ready, and when it did."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []
        self._first_ready_s: dict[int, float] = {}

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        match sight:
            case ShareTrained():
                self._first_ready_s.setdefault(sight.round, now_s)
            case StartRound(roster) if roster.round in self._first_ready_s:
                self.waited_s.append(now_s - self._first_ready_s.pop(roster.round))


class Run:
    """A swarm whose peers take so long for a step, on a calm network."""

    def __init__(self, steps_s: Sequence[float]) -> None:
        self.ids = tuple("abcdef"[: len(steps_s)])
        plan = Plan(peer_ids=self.ids, total_steps=10_000)
        self.invariants, self.watch = Invariants(plan), Watch()
        network = Network(random.Random(1))
        self.swarm = Swarm(plan, network, [self.invariants, self.watch])
        for peer_id, step_s in zip(self.ids, steps_s, strict=True):
            self.swarm.add(peer_id, habits=Habits(step_s=step_s))
        self._values = sum(map(sum, plan.part_values))
        self._cap_tokens = self.swarm.peers["a"].ledger.cap_tokens

    def play(self, until_s: float = RUN_S) -> "Run":
        if not self.swarm.clock.now_s:
            self.swarm.start()
        self.swarm.clock.run(until_s)
        assert not self.invariants.violations
        return self

    @property
    def rounds(self) -> int:
        return min(peer.member.round for peer in self.swarm.peers.values())

    @property
    def weights(self) -> Counter[str]:
        """Tokens x values of each peer that the log has averaged."""
        sums: Counter[str] = Counter()
        for entry in self.invariants.chains.entries.values():
            for peer_id in entry.members:
                values = self.swarm.peers[peer_id].ledger.part_values[entry.fragment_id]
                tokens = credited_tokens(entry, peer_id)
                sums[peer_id] += sum(t * v for t, v in zip(tokens, values, strict=True))
        return sums

    def check_weights(self) -> None:
        """Whatever a peer trained has been averaged, but for what is on its way."""
        for peer_id, peer in self.swarm.peers.items():
            trained = peer.steps * TOKENS_PER_STEP * self._values
            on_its_way = self._cap_tokens * self._values * max(1.0, STEP_S / peer.habits.step_s)
            assert trained - on_its_way <= self.weights[peer_id] <= trained
            # At the beginning nobody's pace is known, and a fragment waits for a cycle and more.
            assert sum(account.lost for account in peer.ledger.accounts) <= 0.02 * trained


@cache
def even_rounds(peers: int) -> int:
    """What a swarm of equal peers comes to in the same time."""
    return Run((STEP_S,) * peers).play().rounds


@pytest.mark.parametrize("place", range(4))
def test_a_peer_at_a_tenth_of_the_pace_neither_stalls_nor_distorts(place):
    """Whoever it is: the founder, the tie-breaker, the coordinator of some rounds."""
    steps_s = [*EVEN[:3]]
    steps_s.insert(place, 10 * STEP_S)
    uneven = Run(steps_s).play()
    assert uneven.rounds >= 0.97 * even_rounds(4)
    # Whoever is ready first waits for no step of the slow one.
    assert max(uneven.watch.waited_s) <= STEP_S
    assert uneven.weights[uneven.ids[place]] > 0
    uneven.check_weights()


@pytest.mark.parametrize("steps_s", [(STEP_S, 10 * STEP_S), (10 * STEP_S, STEP_S)])
def test_of_two_the_faster_one_sets_the_pace(steps_s):
    uneven = Run(steps_s).play()
    assert uneven.rounds >= 0.97 * even_rounds(2)
    uneven.check_weights()


def test_a_peer_of_ten_times_the_pace_weighs_ten_times_as_much():
    run = Run((*EVEN[:3], STEP_S / 10)).play()
    assert run.rounds >= 0.97 * even_rounds(4)
    run.check_weights()
    assert run.weights["d"] == pytest.approx(10 * run.weights["a"], rel=0.05)


def test_paces_that_do_not_divide_each_other_are_ready_together():
    run = Run((0.2, 0.25, 0.3, 0.7)).play()
    assert run.rounds >= 0.97 * even_rounds(4)
    run.check_weights()


@pytest.mark.parametrize("who", "ad")
def test_a_pace_that_falls_suddenly_costs_no_time(who):
    """Its own measure is of the time before, and it is in the middle of a step."""
    run = Run(EVEN).play(12.0)
    before = run.rounds
    peer = run.swarm.peers[who]
    peer.habits = replace(peer.habits, step_s=10 * STEP_S)
    run.play(24.0)
    assert run.rounds - before >= 0.97 * before
    run.check_weights()


def test_a_pace_that_rises_is_used_at_once():
    run = Run(WITH_ONE_AT_A_TENTH).play(12.0)
    peer = run.swarm.peers["d"]
    before_steps, before = peer.steps, run.weights["d"]
    peer.habits = replace(peer.habits, step_s=STEP_S)
    run.play(40.0)
    assert (run.weights["d"] - before) / (peer.steps - before_steps) == pytest.approx(
        run.weights["a"] / run.swarm.peers["a"].steps, rel=0.1
    )
    run.check_weights()


def test_a_step_that_takes_longer_than_a_cycle_is_waited_for_by_nobody():
    run = Run((*EVEN[:3], 30 * STEP_S)).play()
    assert run.rounds >= 0.97 * even_rounds(4)
    run.check_weights()
