"""Disasters: what a scenario does to peers, disks and links, and when it is over."""

import random
from collections.abc import Callable
from functools import partial

from protocol.events import ApplyEntry, AveragePart, Record, Send, SendPart, TakeSnapshot
from protocol.messages import Accept, Accepted, Decided, Held, Prepare, Promise, Roster
from tests.sim.climate import Climate
from tests.sim.peer import Habits
from tests.sim.saw import Fate, Sight
from tests.sim.swarm import Swarm

MOMENTS: tuple[type, ...] = (
    Roster,
    Held,
    Prepare,
    Promise,
    Accept,
    Accepted,
    Decided,
    Record,
    ApplyEntry,
    TakeSnapshot,
    AveragePart,
    SendPart,
)
"""Sending one of these messages, or wanting one of these effects: where a crash hurts."""


class Storm:
    """Plans disasters by chance. An observer of the swarm, so that it can strike at a moment."""

    def __init__(
        self,
        climate: Climate,
        chance: random.Random,
        swarm: Swarm,
        peer_ids: tuple[str, ...],
        newcomers: list[tuple[str, Habits]],
    ) -> None:
        self.over_s = climate.storm_s
        """When the last disaster has ended."""
        self._climate = climate
        self._chance = chance
        self._swarm = swarm
        self._ids = peer_ids
        self._newcomers = newcomers
        self._ambushes: list[tuple[str, type, int, Callable[[], None]]] = []
        self._everybody = (*peer_ids, *(name for name, _ in newcomers))
        kinds: dict[str, Callable[[float], None]] = {
            "crash": self._crash,
            "crash and come back": self._crash_and_come_back,
            "crash and come back without a disk": self._lose_disk,
            "crash of many": self._crash_many,
            "crash of all": self._crash_all,
            "crash in the middle of something": self._ambush,
            "crash while writing": self._crash_writing,
            "freeze": self._freeze,
            "partition": self._partition,
            "partition that carries one way": self._one_way,
            "deaf link": self._deaf_link,
            "clogged link": self._clog,
            "full disk": self._fill_disk,
            "leave": self._leave,
            "leave and come back": self._leave_and_come_back,
            "join": self._join,
        }
        for _ in range(chance.randrange(climate.most_disasters + 1)):
            strike = kinds[chance.choice(climate.disasters)]
            for_s = chance.uniform(0.3, climate.longest_s)
            swarm.clock.at(chance.uniform(0.5, climate.storm_s), partial(strike, for_s))

    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None:
        if not self._ambushes:
            return
        what = type(sight.message) if isinstance(sight, Send) else type(sight)
        for place, (who, moment, count, then) in enumerate(self._ambushes):
            if (who, moment) == (peer_id, what):
                if count > 0:
                    self._ambushes[place] = (who, moment, count - 1, then)
                else:
                    del self._ambushes[place]
                    self._swarm.clock.at(now_s, then)
                return

    def _lasts(self, for_s: float) -> None:
        self.over_s = max(self.over_s, self._swarm.clock.now_s + for_s)

    def _somebody(self) -> str:
        return self._chance.choice(sorted(self._swarm.peers))

    # --- crashes ---------------------------------------------------------------------------------

    def _crash(self, for_s: float) -> None:
        self._swarm.crash(self._somebody())

    def _crash_and_come_back(self, for_s: float) -> None:
        self._restart_later([self._somebody()], for_s)

    def _lose_disk(self, for_s: float) -> None:
        victim = self._somebody()
        self._swarm.crash(victim)
        self._back_later(victim, for_s, wiped=True)

    def _crash_many(self, for_s: float) -> None:
        peers = sorted(self._swarm.peers)
        self._restart_later(sorted(self._chance.sample(peers, (len(peers) + 1) // 2)), for_s)

    def _crash_all(self, for_s: float) -> None:
        self._restart_later(sorted(self._swarm.peers), for_s)

    def _ambush(self, for_s: float) -> None:
        """It dies right after it did a certain thing, be it decided or sent to anybody or not."""
        victim, moment = self._somebody(), self._chance.choice(MOMENTS)
        count = self._chance.randrange(4)
        crash = partial(self._restart_later, [victim], for_s)
        self._ambushes.append((victim, moment, count, crash))

    def _crash_writing(self, for_s: float) -> None:
        """It dies between two changes of its disk."""
        victim = self._somebody()
        self._swarm.disks[victim].crash_after = self._chance.randrange(5)
        self._back_later(victim, for_s, wiped=False)

    def _restart_later(self, victims: list[str], for_s: float) -> None:
        for victim in victims:
            self._swarm.crash(victim)
            if self._chance.random() < self._climate.damage:
                self._damage(victim)
            self._back_later(victim, for_s * self._chance.uniform(0.3, 1.0), wiped=False)

    def _back_later(self, victim: str, for_s: float, *, wiped: bool) -> None:
        self._lasts(for_s)
        self._swarm.clock.after(for_s, lambda: self._swarm.restart(victim, wiped=wiped))

    def _damage(self, victim: str) -> None:
        """A torn or bit-flipped file."""
        disk = self._swarm.disks[victim]
        names = disk.all_names()
        if not names:
            return
        name = self._chance.choice(names)
        self._say(f"{name} of {victim} is damaged")
        if self._chance.random() < 0.5:
            disk.flip_bit(name, self._chance.randrange(1 << 20))
        else:
            disk.tear(name, self._chance.randrange(64))

    # --- links -----------------------------------------------------------------------------------

    def _partition(self, for_s: float) -> None:
        side = self._side()
        across = [(a, b) for a in self._everybody for b in self._everybody]
        cut = [(a, b) for a, b in across if (a in side) != (b in side)]
        self._cut(cut, for_s, f"{_names(side)} and the others are apart")

    def _one_way(self, for_s: float) -> None:
        side = self._side()
        cut = [(a, b) for a in side for b in self._everybody if b not in side]
        self._cut(cut, for_s, f"{_names(side)} are not heard by the others")

    def _deaf_link(self, for_s: float) -> None:
        a, b = self._somebody(), self._somebody()
        self._cut([(a, b)], for_s, f"{a} does not reach {b}")

    def _side(self) -> list[str]:
        return sorted(self._chance.sample(self._ids, self._chance.randrange(len(self._ids) + 1)))

    def _cut(self, links: list[tuple[str, str]], for_s: float, text: str) -> None:
        self._lasts(for_s)
        self._swarm.cut(links, for_s, text)

    def _clog(self, for_s: float) -> None:
        """Control passes, parts crawl or get stuck."""
        a, b = link = self._somebody(), self._somebody()
        self._say(f"parts from {a} to {b} hardly move for {for_s:.1f} s")
        if self._chance.random() < 0.5:
            self._swarm.blocked_parts.add(link)
        else:
            self._swarm.slowness[link] = 20.0

        def mend() -> None:
            self._swarm.blocked_parts.discard(link)
            self._swarm.slowness.pop(link, None)

        self._end_later(for_s, mend)

    # --- the rest --------------------------------------------------------------------------------

    def _freeze(self, for_s: float) -> None:
        self._lasts(for_s)
        self._swarm.freeze(self._somebody(), for_s)

    def _fill_disk(self, for_s: float) -> None:
        victim = self._somebody()
        self._say(f"the disk of {victim} is full for {for_s:.1f} s")
        self._swarm.disks[victim].is_full = True

        def mend() -> None:
            self._swarm.disks[victim].is_full = False

        self._end_later(for_s, mend)

    def _leave(self, for_s: float) -> None:
        self._swarm.leave(self._somebody())

    def _leave_and_come_back(self, for_s: float) -> None:
        victim = self._somebody()
        self._swarm.leave(victim)
        self._back_later(victim, for_s + 4.5, wiped=False)

    def _join(self, for_s: float) -> None:
        if self._newcomers:
            self._swarm.join(*self._newcomers.pop())

    def _end_later(self, for_s: float, end: Callable[[], None]) -> None:
        self._lasts(for_s)
        self._swarm.clock.after(for_s, end)

    def _say(self, text: str) -> None:
        self._swarm.saw(None, Fate(text))


def _names(side: list[str]) -> str:
    return " ".join(side) or "nobody"
