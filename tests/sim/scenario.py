"""A run made up from a seed: peers, weather, disasters, and then a calm in which all must go on."""

import random
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocol.codec import codec_named
from protocol.log import Entry
from tests.sim.invariants import Invariants
from tests.sim.network import CALM, Network, Weather
from tests.sim.peer import Habits
from tests.sim.plan import Plan
from tests.sim.saw import Fate, Observer
from tests.sim.swarm import Swarm

STORM_S = 20.0
LONGEST_S = 9.0
CALM_S = 45.0
"""Enough for suspicion, deadlines, a forced term and several take-overs, one after another."""
MANY = 40
NAMES = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True, slots=True)
class Result:
    """What one seed came to."""

    seed: int
    events: int
    violations: tuple[str, ...]
    committed: int
    empty: int
    forced: int
    forked: int


class Scenario:
    """Everything that is by chance in one run comes from its seed."""

    def __init__(
        self, seed: int, observers: Iterable[Observer] = (), *, peers: int | None = None
    ) -> None:
        self.seed = seed
        self._chance = chance = random.Random(seed)
        count = peers or chance.choice((1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 8))
        peer_ids = NAMES[:count]
        lockstep = chance.random() < 0.06 and count < 6
        self.plan = Plan(
            peer_ids=peer_ids,
            run_id=f"seed {seed}",
            codec=codec_named(chance.choice(("fp32", "bf16", "e3m0"))),
            lockstep=lockstep,
            total_steps=chance.choice((16, 400, 400, 400)),
            log_bytes=chance.choice((1 << 20, 1 << 20, 20_000)),
        )
        self.invariants = Invariants(self.plan, holds=self._holds)
        weather = self._weather()
        network = Network(chance, weather)
        self.swarm = Swarm(self.plan, network, [self.invariants, *observers])
        self._newcomers = list(NAMES[count : count + 3])
        for peer_id in peer_ids:
            self.swarm.add(peer_id, habits=self._habits())

    def _habits(self, *, late: bool = False) -> Habits:
        chance = self._chance
        skewed = not self.plan.lockstep and chance.random() < 0.2
        return Habits(
            step_s=chance.choice((0.2, 0.3, 0.3, 0.5)),
            clock_rate=chance.choice((0.97, 1.03)) if skewed else 1.0,
            clock_offset_s=chance.choice((0.0, 3600.0)),
            trains=not (late and chance.random() < 0.3),
            joins_late=late,
        )

    def _holds(self, peer_id: str, entry: Entry) -> bool:
        if peer_id not in self.swarm.peers:
            return True
        return self.swarm.peers[peer_id].store.book.parts_of(entry) is not None

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
            forced=self.invariants.forced,
            forked=len(self.invariants.forked),
        )

    def _run(self) -> None:
        swarm = self.swarm
        for _ in range(self._chance.randrange(6)):
            self._plan_disaster()
        swarm.start()
        swarm.clock.run(STORM_S)
        swarm.network.weather = CALM
        swarm.saw(None, Fate("the storm is over"))
        # What is still cut or frozen ends within the longest disaster.
        swarm.clock.run(STORM_S + LONGEST_S)
        for disk in swarm.disks.values():
            disk.is_full = False
        if not self.plan.lockstep:
            self._restart_some()
        swarm.clock.run(STORM_S + LONGEST_S + CALM_S / 2)
        before = {me: peer.member.head.round for me, peer in swarm.peers.items()}
        swarm.clock.run(STORM_S + LONGEST_S + CALM_S)
        self._check_progress(before)
        self._check_training()
        for me, text in self.invariants.forked.items():
            self._violated(f"{me} forked, though nobody computed otherwise: {text}")

    def _restart_some(self) -> None:
        for me, peer in self.swarm.peers.items():
            if peer.is_dead and self._chance.random() < 0.7:
                self._restart(me, wiped=False)

    def _restart(self, me: str, *, wiped: bool) -> None:
        if wiped and self.swarm.peers[me].is_dead:
            self.invariants.lost_its_books(me)
        if self.swarm.peers[me].is_dead:
            self.invariants.applied.pop(me, None)
        self.swarm.restart(me, wiped=wiped)
        if not self.swarm.peers[me].ledger.trained_tokens:
            self.invariants.lost_its_books(me)

    def _weather(self) -> Weather:
        chance = self._chance
        return Weather(
            delay_s=chance.choice(((0.01, 0.03), (0.02, 0.2), (0.05, 0.8))),
            loss=chance.choice((0.0, 0.0, 0.01, 0.05)),
            duplication=chance.choice((0.0, 0.05, 0.3)),
            echo_s=chance.choice((0.2, 3.0)),
            corruption=chance.choice((0.0, 0.0, 0.01)),
        )

    def _plan_disaster(self) -> None:
        chance, swarm = self._chance, self.swarm
        ids = self.plan.peer_ids
        victim, other = chance.choice(ids), chance.choice(ids)
        for_s = chance.uniform(0.3, LONGEST_S - 1)
        side = set(chance.sample(ids, chance.randrange(len(ids) + 1)))
        across = [(a, b) for a in NAMES for b in NAMES if (a in side) != (b in side)]
        name = " ".join(sorted(side)) or "nobody"
        at_s = chance.uniform(0.5, STORM_S)
        kinds: list[Callable[[], None]] = [
            lambda: swarm.crash(victim),
            lambda: swarm.freeze(victim, for_s),
            lambda: swarm.cut(across, for_s, f"{name} and the others are apart"),
            lambda: swarm.cut([(victim, other)], for_s, f"{victim} does not reach {other}"),
            lambda: swarm.leave(victim),
        ]
        if not self.plan.lockstep:
            kinds += [
                lambda: self._crash_and_restart([victim], for_s, wiped=False),
                lambda: self._crash_and_restart([victim], for_s, wiped=False),
                lambda: self._crash_and_restart([victim], for_s, wiped=True),
                lambda: self._crash_and_restart(list(ids), for_s, wiped=False),
                lambda: self._crash_and_restart(sorted(side), for_s, wiped=False),
                lambda: self._join(),
                lambda: self._break_disk(victim, for_s),
                lambda: self._clog(victim, other, for_s),
                lambda: swarm.cut(across, for_s, f"{name} and the others are apart"),
            ]
        swarm.clock.at(at_s, chance.choice(kinds))

    def _crash_and_restart(self, victims: list[str], for_s: float, *, wiped: bool) -> None:
        for victim in victims:
            self.swarm.crash(victim)
            if self._chance.random() < 0.1 and not wiped:
                self._damage(victim)
            back_s = for_s * self._chance.uniform(0.3, 1.0)
            self.swarm.clock.after(back_s, lambda me=victim: self._restart(me, wiped=wiped))  # type: ignore[misc]

    def _damage(self, victim: str) -> None:
        """A torn or bit-flipped file, but not the identity's."""
        disk = self.swarm.disks[victim]
        names = disk.all_names()
        if names:
            name = self._chance.choice(names)
            self.swarm.saw(None, Fate(f"{name} of {victim} is damaged"))
            if self._chance.random() < 0.5:
                disk.flip_bit(name, self._chance.randrange(1 << 20))
            else:
                disk.tear(name, self._chance.randrange(64))
            self.invariants.lost_its_books(victim)

    def _join(self) -> None:
        if self._newcomers:
            self.swarm.join(self._newcomers.pop(), self._habits(late=True))

    def _break_disk(self, victim: str, for_s: float) -> None:
        disk = self.swarm.disks[victim]
        self.swarm.saw(None, Fate(f"the disk of {victim} is full for {for_s:.1f} s"))
        disk.is_full = True

        def mend() -> None:
            disk.is_full = False

        self.swarm.clock.after(for_s, mend)

    def _clog(self, victim: str, other: str, for_s: float) -> None:
        """Control passes, parts crawl or get stuck."""
        link = (victim, other)
        self.swarm.saw(None, Fate(f"parts from {victim} to {other} hardly move for {for_s:.1f} s"))
        if self._chance.random() < 0.5:
            self.swarm.blocked_parts.add(link)
        else:
            self.swarm.slowness[link] = 20.0

        def mend() -> None:
            self.swarm.blocked_parts.discard(link)
            self.swarm.slowness.pop(link, None)

        self.swarm.clock.after(for_s, mend)

    def _check_progress(self, before: dict[str, int]) -> None:
        """Who is left, can reach each other and can decide has gone on, together."""
        well = {
            me: peer.member
            for me, peer in self.swarm.peers.items()
            if not peer.is_dead and peer.member.standing != "forked"
        }
        trainers = [me for me in well if self.swarm.peers[me].habits.trains]
        if not trainers:
            return
        if self.plan.lockstep and len(well) < len(self.plan.peer_ids):
            return
        ahead = max(member.head.round for member in well.values())
        chains = {m.head.digest for m in well.values() if m.head.round == ahead}
        if len(chains) > 1:
            self._violated(f"agreement: {len(chains)} logs are still there at the end")
        for me, member in well.items():
            if member.head.round < ahead - 1:
                self._violated(
                    f"liveness: {me} stayed behind in round {member.round} of {ahead + 1},"
                    f" {member.standing}"
                )
            elif member.head.round <= before[me] and not member.is_finished:
                self._violated(
                    f"liveness: {me} waits in round {member.round}: {member.waiting_for}"
                )

    def _check_training(self) -> None:
        """I3: every peer that lives has trained all the time, but for its own frost."""
        for me, peer in self.swarm.peers.items():
            lived_s = self.swarm.clock.now_s - peer.frozen_s - peer.born_s
            if peer.is_dead or not peer.is_training or self.plan.lockstep:
                continue
            if peer.steps < lived_s / peer.habits.step_s - 2:
                self._violated(f"I3: {me} trained {peer.steps} steps in {lived_s:.1f} s")

    def _violated(self, text: str) -> None:
        self.invariants.violations.append(text)
