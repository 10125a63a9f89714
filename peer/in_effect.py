"""How long rounds really are, and what makes them longer than planned: said once it is so for long.

Elastic peers never wait, so a round that takes longer than planned means more inner steps between
two rounds of a fragment: a larger H. Arithmetic only; the moments come from peer/round_record.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

from protocol.schedule import Schedule

SAID_FROM = 1.15
SAID_UNTIL = 1.08
"""Times the planned length of a cycle: where it begins to be said, and where it no longer is."""
LINK_UNTIL = 0.95
"""Once the link was it, it is until exchanges are planned with so much less than the time."""
NAMED_FROM, NAMED_UNTIL = 0.5, 0.25
"""Share of the excess that has to be one thing's for it to be named, and to stay so."""
SAME = 0.05
"""A number that differs less from the one that is shown is not shown."""

Cause = Literal["", "link", "peers", "exchange", "other"]
WORDS: dict[Cause, str] = {
    "link": "link-bound",
    "peers": "slower peers are waited for",
    "exchange": "exchanges take longer than planned",
    "other": "rounds take longer than planned",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTimes:
    """One round, from the entry before to its own; all in seconds."""

    due_s: float
    """That it was meant to take: the planned steps at the median pace."""
    next_due_s: float
    """The same of the round after, which its exchange is planned to fill."""
    took_s: float
    transfer_s: float
    """Planned for the exchange."""
    exchange_s: float
    """From the roster to the decision."""
    waited_s: float
    """That the roster came later than due, while this peer was ready."""


class InEffect:
    """The last cycle of rounds, judged."""

    def __init__(self, schedule: Schedule) -> None:
        self.sync_every: float | None = None
        """H in effect over the last cycle; None before there was one."""
        self.cause: Cause = ""
        """What makes rounds longer than planned; empty: they are not."""
        self._schedule = schedule
        self._cycle: deque[RoundTimes] = deque(maxlen=schedule.num_fragments)
        self._shown = 0.0

    @property
    def in_words(self) -> str:
        """'link-bound: H is effectively 140'; empty while H is about what was planned."""
        return f"{WORDS[self.cause]}: H is effectively {self._shown:.0f}" if self.cause else ""

    def forget(self) -> None:
        """This peer was not in the last round: a cycle begins anew."""
        self._cycle.clear()

    def add(self, round_: int, times: RoundTimes) -> None:
        """A round was applied."""
        if not times.due_s or not times.next_due_s:
            return  # the run ends: these rounds only drain
        self._cycle.append(times)
        if len(self._cycle) < self._schedule.num_fragments:
            return
        due_s = sum(t.due_s for t in self._cycle)
        took_s = sum(t.took_s for t in self._cycle)
        self.sync_every = self._schedule.sync_every_of(round_) * took_s / due_s
        if took_s <= (SAID_UNTIL if self.cause else SAID_FROM) * due_s:
            self.cause = ""
            return
        self.cause, before = self._what(took_s - due_s), self.cause
        if self.cause != before or abs(self.sync_every - self._shown) > SAME * self._shown:
            self._shown = self.sync_every

    def _what(self, excess_s: float) -> Cause:
        """What most of the excess of a cycle is due to."""
        full = LINK_UNTIL if self.cause == "link" else 1.0
        if sum(t.transfer_s for t in self._cycle) > full * sum(t.next_due_s for t in self._cycle):
            return "link"
        shares_s: dict[Cause, float] = {
            "peers": sum(t.waited_s for t in self._cycle),
            "exchange": sum(max(0.0, t.exchange_s - t.transfer_s) for t in self._cycle),
        }
        if shares_s.get(self.cause, 0.0) > NAMED_UNTIL * excess_s:
            return self.cause
        largest = max(shares_s, key=lambda cause: shares_s[cause])
        return largest if shares_s[largest] > NAMED_FROM * excess_s else "other"
