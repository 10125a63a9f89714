"""A run made up from a seed: peers, weather, disasters, and then a calm in which all must go on."""

import random
import traceback
from collections.abc import Iterable
from dataclasses import dataclass

from protocol.codec import codec_named
from protocol.log import is_quorum
from tests.sim.invariants import Invariants
from tests.sim.network import CALM, Network, Weather
from tests.sim.plan import Plan
from tests.sim.saw import Fate, Observer
from tests.sim.swarm import Swarm

STORM_S = 20.0
CALM_S = 24.0
"""Enough for suspicion, a deadline and several take-overs, one after another."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one seed came to."""

    seed: int
    events: int
    violations: tuple[str, ...]
    committed: int
    empty: int
    forked: int


class Scenario:
    """Everything that is by chance in one run comes from its seed."""

    def __init__(self, seed: int, observers: Iterable[Observer] = ()) -> None:
        self.seed = seed
        self._touched: set[str] = set()
        self._chance = random.Random(seed)
        peer_ids = tuple("abcde"[: self._chance.choice((1, 2, 2, 3, 3, 3, 4, 4, 5))])
        self.plan = Plan(
            peer_ids=peer_ids,
            run_id=f"seed {seed}",
            codec=codec_named(self._chance.choice(("fp32", "bf16", "e3m0"))),
            lockstep=self._chance.random() < 0.1,
            total_steps=self._chance.choice((16, 400, 400)),
        )
        self.invariants = Invariants(self.plan)
        weather = self._weather()
        self._is_lossy = weather.loss > 0
        network = Network(self._chance, weather)
        self.swarm = Swarm(self.plan, network, [self.invariants, *observers])
        for peer_id in peer_ids:
            self.swarm.add(peer_id, step_s=self._chance.choice((0.2, 0.3, 0.3, 0.5)))

    def run(self) -> Result:
        violations = self.invariants.violations
        try:
            self._run()
        except Exception:
            violations.append(traceback.format_exc())
        entries = self.invariants.entries.values()
        return Result(
            seed=self.seed,
            events=self.invariants.events,
            violations=tuple(violations),
            committed=sum(not entry.is_empty for entry in entries),
            empty=sum(entry.is_empty for entry in entries),
            forked=len(self.invariants.forked),
        )

    def _run(self) -> None:
        swarm = self.swarm
        for _ in range(self._chance.randrange(5)):
            self._plan_disaster()
        swarm.start()
        swarm.clock.run(STORM_S)
        swarm.network.weather = CALM
        swarm.saw(None, Fate("the storm is over"))
        # What is still cut or frozen ends within the longest disaster.
        swarm.clock.run(STORM_S + 8.0)
        before = {me: peer.member.head.round for me, peer in swarm.peers.items()}
        swarm.clock.run(STORM_S + 8.0 + CALM_S)
        self._check_progress(before)
        self._check_forks()
        self._check_training()

    def _weather(self) -> Weather:
        chance = self._chance
        return Weather(
            delay_s=chance.choice(((0.01, 0.03), (0.02, 0.2), (0.05, 0.8))),
            loss=chance.choice((0.0, 0.0, 0.01, 0.05)),
            duplication=chance.choice((0.0, 0.05, 0.3)),
            echo_s=chance.choice((0.2, 3.0)),
        )

    def _plan_disaster(self) -> None:
        chance, swarm = self._chance, self.swarm
        ids = self.plan.peer_ids
        victim, other = chance.choice(ids), chance.choice(ids)
        for_s = chance.uniform(0.3, 8.0)
        side = set(chance.sample(ids, chance.randrange(len(ids) + 1)))
        across = [(a, b) for a in ids for b in ids if (a in side) != (b in side)]
        name = " ".join(sorted(side)) or "nobody"
        everybody = set(ids)
        apart = f"{name} and the others are apart"
        one_way = f"{victim} does not reach {other}"
        touched, disaster = chance.choice(
            (
                ({victim}, lambda: swarm.crash(victim)),
                ({victim}, lambda: swarm.leave(victim)),
                ({victim}, lambda: swarm.freeze(victim, for_s)),
                ({victim}, lambda: swarm.freeze(victim, for_s)),
                (everybody, lambda: swarm.cut(across, for_s, apart)),
                (everybody, lambda: swarm.cut(across, for_s, apart)),
                ({victim, other}, lambda: swarm.cut([(victim, other)], for_s, one_way)),
            )
        )
        self._touched |= touched
        swarm.clock.at(chance.uniform(0.5, STORM_S), disaster)

    def _check_progress(self, before: dict[str, int]) -> None:
        """Who is left, can reach each other and is a quorum has gone on, together."""
        well = {
            me: peer.member
            for me, peer in self.swarm.peers.items()
            if not peer.is_dead and peer.member.standing != "forked"
        }
        if not well:
            return
        ahead = max(member.head.round for member in well.values())
        head = self.invariants.heads[ahead]
        quorum = is_quorum(set(well), head.voters, head.tie_breaker)
        if self.plan.lockstep and len(well) < len(self.plan.peer_ids):
            return
        for me, member in well.items():
            if member.head.round < ahead - 1:
                self._violated(f"{me} stayed behind in round {member.round}, without a word")
            if quorum and member.head.round <= before[me] and not member.is_finished:
                self._violated(
                    f"liveness: {me} waits in round {member.round}: {member.waiting_for}"
                )

    def _check_forks(self) -> None:
        """Nobody is left behind whom no disaster touched."""
        for me, text in self.invariants.forked.items():
            if not self._is_lossy and me not in self._touched:
                self._violated(f"{me} forked out of the blue: {text}")

    def _check_training(self) -> None:
        """I3: every peer that lives has trained all the time, but for its own frost."""
        for me, peer in self.swarm.peers.items():
            lived_s = self.swarm.clock.now_s - peer.frozen_s
            if peer.is_dead or not peer.is_training or self.plan.lockstep:
                continue
            if peer.steps < lived_s / peer.step_s - 2:
                self._violated(f"I3: {me} trained {peer.steps} steps in {lived_s:.1f} s")

    def _violated(self, text: str) -> None:
        self.invariants.violations.append(text)
