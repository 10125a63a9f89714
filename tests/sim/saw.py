"""What can be seen of a simulated swarm, beside the events and effects of its members."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from protocol.events import Effect, Event
from protocol.ledger import Ledger
from protocol.log import Head


@dataclass(frozen=True, slots=True)
class Applied:
    """A peer's shared state after an entry."""

    head: Head
    state_digest: str
    is_restored: bool = False
    """From its disk or from others, and not by applying the next entry."""


@dataclass(frozen=True, slots=True)
class Balance:
    """A peer's accounts, after an entry."""

    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer refused what another one sent."""

    sender: str
    event: Event
    why: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Something that a peer sent did not arrive."""

    what: Effect


@dataclass(frozen=True, slots=True)
class Fate:
    """Something that the scenario does to a peer or to the network, in words."""

    text: str


Sight: TypeAlias = Event | Effect | Applied | Balance | Refused | Lost | Fate


class Observer(Protocol):
    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None: ...
