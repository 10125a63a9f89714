"""The seam between a peer and its network. Two implementations: gRPC (peer/grpc_transport.py), and
the simulated one (benchmarks/virtual/transport.py)."""

from typing import Protocol

from protocol.events import Leg, PartReceived, SendPart
from protocol.messages import Message


class Transport(Protocol):
    """Sends what the state machine wants sent. Neither method waits; failures come as events."""

    def tell(self, peer_id: str, message: Message) -> None:
        """Put a message into the control lane."""
        ...

    def push(self, part: SendPart) -> None:
        """Put a part into the bulk lane, at its planned rate and under the cap."""
        ...

    def start_round(self, roster: str) -> None:
        """Drop everything in the bulk lane that belongs to another roster."""
        ...


class Inbox(Protocol):
    """Where what arrives goes: the driver of the state machine."""

    def on_message(self, sender: str, message: Message) -> None:
        """Raises RemoteError when the message breaks the protocol."""
        ...

    def on_part(self, part: PartReceived) -> None:
        """A whole part; raises RemoteError when it breaks the protocol."""
        ...

    def expected_bytes(self, sender: str, roster: str, leg: Leg, part_index: int) -> int | None:
        """Size of an announced part, None while its roster is unknown here.

        Raises:
            RemoteError: the part is not for this peer.
        """
        ...

    def on_unreachable(self, peer_id: str, why: str, began_s: float) -> None:
        """A peer does not answer. `began_s`: loop time at which the attempt began."""
        ...
