"""The cap in force: waits that protocol/pacing.py computes, for the two lanes of this process."""

import asyncio
from typing import Final

from protocol.pacing import LENDING_MEMORY_S, LENDING_SHARE, Pacer, wire_bytes

MIN_WAIT_S: Final = 0.0001
"""What is left of a wait can be too short for any clock to show."""


class Lanes:
    """Everything that leaves this peer asks here first; what arrives is only counted.

    Bulk data waits for the cap in the order it came. Control has a reserve of its own and never
    stands behind bulk data. What others catch up with comes last: rounds never wait for it longer
    than for one small chunk, and what they leave of the cap is all its own; while it is asked for,
    the rounds to come are planned to leave something (`share_for_rounds`). Bytes that somebody else
    sends for this peer (p2pd, replies) are noted afterwards, and bulk data makes room.
    """

    def __init__(self, up_bytes_per_s: float | None) -> None:
        self._pacer = Pacer(up_bytes_per_s)
        self._bulk_order = asyncio.Lock()
        self._bulk_waiting = 0
        self._spare_order = asyncio.Lock()
        self._spare_asked_s = float("-inf")
        self._loop = asyncio.get_running_loop()
        self.sent_bytes = {"control": 0, "bulk": 0, "catch-up": 0}
        """Payload bytes by purpose, as serialized."""
        self.received_bytes = 0

    async def bulk_turn(self, payload_bytes: int) -> None:
        """Wait until a chunk of this size may leave."""
        self._bulk_waiting += 1
        try:
            async with self._bulk_order:
                await asyncio.sleep(self._pacer.bulk_delay_s(self._loop.time()))
                self._note("bulk", payload_bytes)
        finally:
            self._bulk_waiting -= 1

    @property
    def spare_chunk_bytes(self) -> int:
        """The most that `spare_turn` may be asked for at once."""
        return self._pacer.spare_chunk_bytes

    @property
    def share_for_rounds(self) -> float:
        """Of the uplink, in the next round: not all of it while somebody catches up from here."""
        is_lending = self._loop.time() - self._spare_asked_s < LENDING_MEMORY_S
        return 1 - LENDING_SHARE if is_lending else 1.0

    async def spare_turn(self, payload_bytes: int) -> None:
        """Wait until a chunk of this size may leave that is not part of a round."""
        self._spare_asked_s = self._loop.time()
        async with self._spare_order:
            while (wait_s := self._pacer.bulk_delay_s(self._loop.time())) or self._bulk_waiting:
                await asyncio.sleep(max(wait_s, MIN_WAIT_S))
            self._note("catch-up", payload_bytes)

    async def control_turn(self, payload_bytes: int) -> None:
        """Wait only when control messages alone used up their reserve."""
        await asyncio.sleep(self._pacer.control_delay_s(self._loop.time()))
        self._note("control", payload_bytes)

    def note_control(self, payload_bytes: int) -> None:
        """A reply that left without asking: it is owed."""
        self._note("control", payload_bytes)

    def note_foreign(self, sent_bytes: int) -> None:
        """Bytes on the wire that another process sent for this peer (p2pd)."""
        self._pacer.sent(sent_bytes, self._loop.time())

    def received(self, payload_bytes: int) -> None:
        self.received_bytes += payload_bytes

    def _note(self, purpose: str, payload_bytes: int) -> None:
        self.sent_bytes[purpose] += payload_bytes
        self._pacer.sent(wire_bytes(payload_bytes), self._loop.time())
