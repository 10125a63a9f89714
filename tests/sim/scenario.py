"""A run made up from a seed: peers, weather, disasters, and then a calm in which all must go on."""

import json
import random
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from protocol.codec import codec_named
from protocol.log import Entry
from protocol.manifest import Limits
from tests.sim.checks.chains import are_enough
from tests.sim.climate import CROWDED, TEMPERATE, Climate
from tests.sim.invariants import Invariants, Violation
from tests.sim.liar import Liar
from tests.sim.network import CALM, Network, Weather
from tests.sim.peer import Habits
from tests.sim.plan import Plan
from tests.sim.saw import Fate, Observer
from tests.sim.storm import Storm
from tests.sim.swarm import Swarm

CROWDED_EVERY = 100
"""One seed in so many has 40 peers."""
CALM_S = 60.0
"""Enough for suspicion, deadlines, a forced term and several take-overs, one after another."""
EVERY_PART = 64.0
"""Audits, where somebody lies: a lie that is not looked at proves nothing."""
ROUNDS_IN_CALM = 3
"""When everybody has decided so many more, all is well again."""
NEWCOMERS = 3
NAMES = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
LIMITS = Limits(
    round_deadline_s=8.0,
    grace_s=1.0,
    takeover_s=1.0,
    suspect_after_s=2.5,
    lonely_after_s=6.0,
    checkpoint_rounds=4,
)
"""Short waits: what takes minutes on the internet fits into a storm."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one seed came to."""

    seed: int
    events: int
    violations: tuple[str, ...]
    full: int
    """Entries with parts."""
    empty: int
    forced: int
    simulated_s: float


class Scenario:
    """Everything that is by chance in one run comes from its seed."""

    def __init__(
        self,
        seed: int,
        observers: Iterable[Observer] = (),
        climate: Climate | None = None,
        *,
        is_strict: bool = False,
    ) -> None:
        """`is_strict`: it ends with the first violation."""
        if climate is None:
            climate = CROWDED if seed % CROWDED_EVERY == CROWDED_EVERY - 1 else TEMPERATE
        self.seed = seed
        self._climate = climate
        self._chance = chance = random.Random(seed)
        # Of its own, so that the storm is the same without lies and under either rule.
        apart = random.Random(f"seed {seed}")
        count = chance.choice(climate.peers)
        peer_ids = NAMES[:count]
        lie = apart.choice(climate.liars) if count >= 3 else ""
        self.liars = {apart.choice(peer_ids): lie} if lie else {}
        self.plan = Plan(
            peer_ids=peer_ids,
            run_id=f"seed {seed}",
            codec=codec_named(chance.choice(climate.codecs)),
            quorum=apart.choice(climate.quorums),
            limits=LIMITS,
            lockstep=chance.random() < climate.lockstep and count < 6,
            audits=EVERY_PART if lie else 0.0,
            total_steps=chance.choice(climate.total_steps),
            log_bytes=chance.choice(climate.log_bytes),
        )
        self.invariants = Invariants(
            self.plan,
            journal=self._journal,
            holds=self._holds,
            liars=self.liars,
            is_strict=is_strict,
        )
        self.swarm = Swarm(self.plan, Network(chance, self._weather()), [self.invariants])
        for peer_id in peer_ids:
            habits = replace(self._habits(), lies=self.liars.get(peer_id, ""))
            self.swarm.add(peer_id, habits=habits)
        self.swarm.observers += observers
        lies = apart.choice(climate.lies)
        self.swarm.observers.append(Liar(apart, self.plan, self.swarm, lies, climate.storm_s))
        self._storm: Storm | None = None
        if not self.plan.lockstep:
            newcomers = [(n, self._habits(late=True)) for n in NAMES[count : count + NEWCOMERS]]
            self._storm = Storm(climate, chance, self.swarm, peer_ids, newcomers)
            self.swarm.observers.append(self._storm)

    def _habits(self, *, late: bool = False) -> Habits:
        chance = self._chance
        skewed = not self.plan.lockstep and chance.random() < 0.2
        return Habits(
            step_s=chance.choice(self._climate.steps_s),
            clock_rate=chance.choice((0.97, 1.03)) if skewed else 1.0,
            clock_offset_s=chance.choice((0.0, 3600.0)),
            trains=not (late and chance.random() < 0.3),
            joins_late=late,
        )

    def _weather(self) -> Weather:
        chance, climate = self._chance, self._climate
        return Weather(
            delay_s=chance.choice(climate.delays_s),
            loss=chance.choice(climate.losses),
            duplication=chance.choice(climate.duplications),
            echo_s=chance.choice((0.2, 3.0)),
            corruption=chance.choice(climate.corruptions),
            bad_chunks=chance.choice(climate.bad_chunks),
        )

    def _journal(self, peer_id: str) -> dict[str, Any]:
        journal: dict[str, Any] = json.loads(self.swarm.disks[peer_id].read("journal.json"))
        return journal

    def _holds(self, peer_id: str, entry: Entry) -> bool:
        return self.swarm.peers[peer_id].store.book.parts_of(entry) is not None

    def run(self) -> Result:
        violations = self.invariants.violations
        try:
            self._run()
        except Violation:
            pass
        except Exception:
            violations.append(traceback.format_exc())
        entries = self.invariants.chains.entries.values()
        return Result(
            seed=self.seed,
            events=self.invariants.events,
            violations=tuple(violations),
            full=sum(not entry.is_empty for entry in entries),
            empty=sum(entry.is_empty for entry in entries),
            forced=self.invariants.chains.forced,
            simulated_s=round(self.swarm.clock.now_s, 1),
        )

    def _run(self) -> None:
        swarm = self.swarm
        swarm.start()
        swarm.clock.run(self._climate.storm_s)
        swarm.network.weather = replace(CALM, bad_chunks=swarm.network.weather.bad_chunks)
        swarm.saw(None, Fate("the storm is over"))
        while self._storm is not None and swarm.clock.now_s < self._storm.over_s:
            swarm.clock.run(self._storm.over_s)
        for disk in swarm.disks.values():
            disk.is_full, disk.crash_after = False, None
        if not self.plan.lockstep:
            for me, peer in sorted(swarm.peers.items()):
                if not peer.member.incarnation:
                    swarm.crash(me)  # its disk failed: it votes again when it is restarted
                    swarm.restart(me)
                elif self._chance.random() < 0.7:
                    swarm.restart(me)
        before = {me: peer.member.head.round for me, peer in swarm.peers.items()}
        give_up_s = swarm.clock.now_s + CALM_S
        while self._troubles(before) and swarm.clock.now_s < give_up_s:
            swarm.clock.run(swarm.clock.now_s + 1.0)
        for trouble in self._troubles(before):
            self.invariants.violated(trouble)
        self._check_training()
        self.invariants.verdicts.check()
        for me, text in self.invariants.forked.items():
            self.invariants.violated(
                f"liveness: {me} forked, though nobody computed otherwise: {text}"
            )

    def _troubles(self, before: dict[str, int]) -> list[str]:
        """What is not well: who can reach the others and decide has to have gone on, together."""
        well = {me: p.member for me, p in self.swarm.peers.items() if not p.is_dead}
        if not any(self.swarm.peers[me].habits.trains for me in well):
            return []
        if self.plan.lockstep and len(well) < len(self.plan.peer_ids):
            return []
        troubles = []
        ahead = max(member.head.round for member in well.values())
        chains = {m.head.digest for m in well.values() if m.head.round == ahead}
        if len(chains) > 1:
            troubles.append(f"liveness: {len(chains)} logs are still there at the end")
        ended = {me: member for me, member in well.items() if member.is_finished}
        last = next((member.head for member in ended.values()), None)
        if last is not None and not are_enough(set(ended), last, self.plan.quorum):
            # The run is over, and of its last voters too few are there, or still have its end:
            # nobody else can be made to believe it.
            well = ended
        for me, member in well.items():
            if member.head.round < ahead - 1 or member.standing not in ("in step", "done"):
                troubles.append(
                    f"liveness: {me} stayed behind in round {member.round} of {ahead + 1},"
                    f" {member.standing}"
                )
            elif member.head.round < before[me] + ROUNDS_IN_CALM and not member.is_finished:
                troubles.append(
                    f"liveness: {me} waits in round {member.round}: {member.waiting_for}"
                )
        return troubles

    def _check_training(self) -> None:
        """I3: every peer that lives has trained all the time, but for its own frost."""
        for me, peer in self.swarm.peers.items():
            lived_s = self.swarm.clock.now_s - peer.idle_s - peer.born_s
            if peer.is_dead or not peer.is_training or self.plan.lockstep:
                continue
            if peer.steps < lived_s / peer.habits.step_s - 2:
                self.invariants.violated(f"I3: {me} trained {peer.steps} steps in {lived_s:.1f} s")
