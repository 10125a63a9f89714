"""What can be seen of a simulated swarm, beside the events and effects of its members."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from protocol.codec import Values
from protocol.events import Effect, Event
from protocol.ledger import Ledger
from protocol.log import Head

How: TypeAlias = Literal["started", "applied", "rewound", "snapshot"]


@dataclass(frozen=True, slots=True)
class InForce:
    """From now on a peer is in this state."""

    how: How
    head: Head
    states: Sequence[tuple[Values, Values]]
    """global_params and momentum of each fragment; arrays that are not changed any more."""
    local_before: Sequence[Values]
    """Of each fragment, an instant before."""
    local_params: Sequence[Values]
    ledger: Ledger
    has_books: bool = True
    """False when its accounts begin anew, or an entry that it gives up is no longer kept."""


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


Sight: TypeAlias = Event | Effect | InForce | Refused | Lost | Fate


class Observer(Protocol):
    def saw(self, now_s: float, peer_id: str, sight: Sight) -> None: ...
