"""What can be seen of a simulated swarm, beside the events and effects of its members."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from protocol.events import Effect, Event


@dataclass(frozen=True, slots=True)
class Applied:
    """A peer's shared state after an entry."""

    round: int
    state_digest: str


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


Sight: TypeAlias = Event | Effect | Applied | Refused | Lost | Fate


class Observer(Protocol):
    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None: ...
