"""The simulated transport: what one peer sends arrives at another one's inbox, later on a virtual
clock. Messages travel as the bytes that gRPC would carry, parts at the rates that rosters plan.

It loses, damages and reorders nothing; tests/sim does that, to members that hold no model.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import cast

from peer.grpc_fetch import OnPart, Source
from peer.library import Library
from peer.transport import Inbox
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import PartReceived, SendPart
from protocol.messages import Message
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import decode_message, encode_message

DELAY_S = 0.02
"""One way."""
LINK_BYTES_PER_S = 12.5e6
"""Of each peer, up and down, as it is published."""
ROSTER_WAIT_S, ROSTER_POLL_S = 5.0, 0.05
"""A part that comes before its roster waits for it, as in peer/grpc_server.py."""


class Network:
    """Who can be reached, and what was refused of what they sent."""

    def __init__(self) -> None:
        self.inboxes: dict[str, Inbox] = {}
        self.libraries: dict[str, Library] = {}
        self.refused: Counter[tuple[str, str]] = Counter()
        """By (sender, reason)."""
        self._told: tuple[Message | None, bytes] = (None, b"")

    def on_the_wire(self, message: Message) -> bytes:
        """What goes to all is one object, sent to one after another."""
        if self._told[0] is not message:
            self._told = (message, encode_message(message).SerializeToString())
        return self._told[1]


class VirtualTransport:
    """Of one peer: `peer.transport.Transport`, and the roads by which it catches up."""

    def __init__(self, me: str, network: Network) -> None:
        self._me = me
        self._network = network
        self._loop = asyncio.get_running_loop()
        self._roster = ""
        self._line_free_s: dict[str, float] = {}

    # --- Transport -------------------------------------------------------------------------------

    def tell(self, peer_id: str, message: Message) -> None:
        data = self._network.on_the_wire(message)
        self._loop.call_later(DELAY_S, self._told, peer_id, data)

    def push(self, part: SendPart) -> None:
        begins_s = max(self._loop.time(), self._line_free_s.get(part.to, 0.0))
        ends_s = begins_s + len(part.data) / part.rate_bytes_per_s
        self._line_free_s[part.to] = ends_s
        self._loop.call_at(ends_s + DELAY_S, self._pushed, part)

    def start_round(self, roster: str) -> None:
        self._roster = roster
        self._line_free_s.clear()

    # --- what arrives ----------------------------------------------------------------------------

    def _told(self, to: str, data: bytes) -> None:
        try:
            message = decode_message(self._me, pb.Envelope.FromString(data))
            self._network.inboxes[to].on_message(self._me, message)
        except RemoteError as error:
            self._count_refusal(error)

    def _pushed(self, part: SendPart) -> None:
        if part.roster == self._roster:  # else its sender has dropped it
            self._arrive(part, self._loop.time() + ROSTER_WAIT_S)

    def _arrive(self, part: SendPart, give_up_s: float) -> None:
        inbox = self._network.inboxes[part.to]
        try:
            expected = inbox.expected_bytes(self._me, part.roster, part.leg, part.part_index)
            if expected is not None:
                inbox.on_part(
                    PartReceived(
                        sender=self._me,
                        roster=part.roster,
                        leg=part.leg,
                        part_index=part.part_index,
                        data=part.data,
                        without=part.without,
                        signature=part.signature,
                        inputs=part.inputs,
                    )
                )
            elif self._loop.time() < give_up_s:
                self._loop.call_later(ROSTER_POLL_S, self._arrive, part, give_up_s)
        except RemoteError as error:
            self._count_refusal(error)

    def _count_refusal(self, error: RemoteError) -> None:
        self._network.refused[self._me, error.why.split(":")[0]] += 1

    # --- catching up -----------------------------------------------------------------------------

    def source(self, peer_id: str) -> Source | None:
        library = self._network.libraries.get(peer_id)
        return None if library is None else cast(Source, _Shelf(library))


class _Shelf:
    """What of `peer.grpc_fetch.Source` a peer needs that is hardly behind: parts by digest."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def fetch_parts(
        self, wanted: Mapping[str, int], rate_bytes_per_s: float, on_part: OnPart
    ) -> None:
        await asyncio.sleep(2 * DELAY_S)
        for part_digest in list(wanted):
            data = self._library.part(part_digest)
            if data is not None and digest(data) == part_digest:
                on_part(part_digest, data)

    async def close(self) -> None:
        """Nothing is open."""
