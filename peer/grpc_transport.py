"""The transport over grpc.aio: one server, and for each other peer a control and bulk channels."""

import asyncio
import contextlib
from collections import Counter
from typing import Final

from peer.contact import Contact
from peer.grpc_client import Line
from peer.grpc_fetch import Source
from peer.grpc_server import Desk, Reception
from peer.library import Library
from peer.pacer import Lanes
from peer.secure import Security
from peer.transport import Inbox
from protocol.events import SendPart
from protocol.messages import Message

MIN_BLOCKED_S: Final = 0.2
"""Writes of one round to one peer that waited less than this in sum were not held up."""
RECOVERY_FACTOR: Final = 1.1


class GrpcTransport:
    """Carries control messages and parts between this peer and the others."""

    def __init__(self, security: Security, lanes: Lanes, desk: Desk) -> None:
        self._security = security
        self._lanes = lanes
        self._lines: dict[str, Line] = {}
        self._inbox: Inbox | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._reception = Reception(security, lanes, desk)
        self.measured_up_bytes_per_s: float | None = None
        """Payload that the uplink carries; None while nothing was held up by it."""

    @property
    def refused(self) -> Counter[str]:
        """Messages from others that were refused, by reason; nothing of them was used."""
        return self._reception.refused

    async def listen(self, host: str, port: int) -> int:
        """Start serving; returns the port. Raises InputError when it is taken."""
        return await self._reception.listen(host, port)

    def lend(self, library: Library) -> None:
        """Let the others fetch what is in it, with what rounds leave of the uplink."""
        self._reception.lend(library)

    def connect(self, inbox: Inbox) -> None:
        """What arrives goes to `inbox` from now on, and others can be reached."""
        self._inbox = inbox
        self._reception.hand_to(inbox)

    def disconnect(self) -> None:
        """Nothing is handed on any more; what is under way may still leave."""
        self._reception.dismiss()

    def reach(self, contact: Contact) -> bool:
        """Open a line to a peer, or another one if it has moved; whether that is news."""
        assert self._inbox is not None
        old = self._lines.get(contact.peer_id)
        if old is not None and old.contact.leads_where(contact):
            return False
        self.drop(contact.peer_id)
        self._lines[contact.peer_id] = Line(contact, self._security, self._lanes, self._inbox)
        return True

    def drop(self, peer_id: str) -> None:
        """Close the line to a peer, if there is one, with all that waits in it."""
        if (line := self._lines.pop(peer_id, None)) is not None:
            self._closing.add(task := asyncio.create_task(line.close()))
            task.add_done_callback(self._closing.discard)

    def source(self, peer_id: str) -> Source | None:
        """To fetch from a peer; None while its address is unknown."""
        line = self._lines.get(peer_id)
        if line is None:
            return None
        return Source(line.contact, self._security, self._lanes)

    # --- Transport -------------------------------------------------------------------------------

    def tell(self, peer_id: str, message: Message) -> None:
        if (line := self._lines.get(peer_id)) is not None:
            line.tell(message)

    def push(self, part: SendPart) -> None:
        if (line := self._lines.get(part.to)) is not None:
            line.push(part)

    def start_round(self, roster: str) -> None:
        self._measure_up()
        for line in self._lines.values():
            line.start_round()

    def _measure_up(self) -> None:
        """What the last round's writes were seen to carry, where they were held up.

        A link that no write waited for is not the bottleneck and stays unknown; an old measurement
        fades, since links recover.
        """
        held_up = [line for line in self._lines.values() if line.blocked_s > MIN_BLOCKED_S]
        if held_up:
            carried = sum(line.written_bytes / line.blocked_s for line in held_up)
            last = self.measured_up_bytes_per_s or carried
            self.measured_up_bytes_per_s = (last + carried) / 2
        elif self.measured_up_bytes_per_s is not None:
            self.measured_up_bytes_per_s *= RECOVERY_FACTOR

    async def close(self, drain_s: float = 1.0) -> None:
        """Give what is queued on the control lanes a moment, then drop everything."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await asyncio.gather(*(line.drained() for line in self._lines.values()))
        for line in self._lines.values():
            await line.close()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._reception.close()
