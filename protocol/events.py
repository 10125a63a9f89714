"""What happens to a member of the swarm, and what it then wants done.

Events go into `protocol.member.Member`, effects come out; peer/ carries them out in order. All of
them are plain values, so a whole swarm can run in one thread on a virtual clock.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from protocol.log import Entry
from protocol.messages import Message, Roster


class Leg(Enum):
    """The two halves of a round's exchange."""

    SCATTER = "scatter"
    """A member's contribution, on its way to the part's owner."""
    GATHER = "gather"
    """The encoded mean, on its way from the owner to everybody."""


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareTrained:
    """The trainer did its share of steps for this round and holds every entry before it."""

    round: int
    state: str
    """Digest of global_params and momentum of the fragment that the entry before averaged."""
    tokens: int
    """Since the last contribution to the round's fragment, capped."""
    pace_steps_per_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float
    overhead_s: float
    """What this peer measured that readying and deciding add to a round."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    sender: str
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReceived:
    """A whole part arrived; its chunks were put together by the transport."""

    sender: str
    roster: str
    leg: Leg
    part_index: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken:
    """The pseudo-gradient of the round's fragment, encoded part by part."""

    round: int
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartAveraged:
    """The encoded mean of a part that this peer owns."""

    roster: str
    part_index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    """The transport gave a peer up: refused, reset, or silent past every deadline."""

    peer_id: str
    why: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """The trainer's step counter, for the heartbeats."""

    step: int


Event: TypeAlias = (
    ShareTrained
    | MessageReceived
    | PartReceived
    | SnapshotTaken
    | PartAveraged
    | PeerUnreachable
    | StepDone
)


# --- effects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Put a message into the control lane."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class SendPart:
    """Put a part into the bulk lane, at the rate that the roster plans for this link."""

    to: str
    roster: str
    leg: Leg
    part_index: int
    data: bytes
    rate_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class StartRound:
    """A roster is in force: show it; drop what still travels for rosters before it."""

    roster: Roster
    fragment_id: int


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Encode the fragment's pseudo-gradient at the trainer's next step boundary."""

    round: int
    fragment_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragePart:
    """Decode, average in this order, encode once. All of it was checked for size, not content."""

    roster: str
    part_index: int
    senders: tuple[str, ...]
    contributions: tuple[bytes, ...]
    tokens: tuple[int, ...]
    values: int


@dataclass(frozen=True, slots=True)
class ApplyEntry:
    """The entry is decided: step the shared state, then merge or rebase the replica."""

    entry: Entry
    parts: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the log and the live view."""

    text: str


Effect: TypeAlias = Send | SendPart | StartRound | TakeSnapshot | AveragePart | ApplyEntry | Note
