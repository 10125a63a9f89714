"""I5: messages are small, nobody floods anybody, and what was sent is not sent again."""

from collections import Counter

from protocol.events import Leg, Send, SendPart
from protocol.messages import Heartbeat, Trail
from protocol.wire.codec import encode_message
from tests.sim.checks.chains import Report

MAX_MESSAGE_BYTES = 16 * 1024
"""Far above every message of these swarms, but for a trail."""
MAX_MESSAGES_PER_PEER_S = 60
"""Control messages that one peer may send to one other within a second."""


class Bounds:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._sent: Counter[tuple[str, str]] = Counter()
        self._sent_in_s = 0
        self._measured: object = None
        self._parts: set[tuple[str, str, str, Leg, int]] = set()

    def begins_anew(self, peer_id: str) -> None:
        """A new life, or one at another entry, remembers nothing of what it has sent.

        Whoever went back attempts a round once more, maybe under the very same roster.
        """
        self._parts = {part for part in self._parts if part[0] != peer_id}

    def sends(self, now_s: float, peer_id: str, send: Send) -> None:
        message = send.message
        if message is not self._measured and not isinstance(message, Heartbeat | Trail):
            self._measured = message
            size_bytes = encode_message(message).ByteSize()
            if size_bytes > MAX_MESSAGE_BYTES:
                self._report(f"I5: {peer_id} sent {size_bytes} bytes to {send.to}")
        if int(now_s) != self._sent_in_s:
            self._sent, self._sent_in_s = Counter(), int(now_s)
        self._sent[peer_id, send.to] += 1
        if self._sent[peer_id, send.to] == MAX_MESSAGES_PER_PEER_S:
            self._report(
                f"I5: {peer_id} sent {MAX_MESSAGES_PER_PEER_S} messages to {send.to} in 1 s"
            )

    def sends_part(self, peer_id: str, part: SendPart) -> None:
        key = (peer_id, part.to, part.roster, part.leg, part.part_index)
        if key in self._parts:
            self._report(f"I5: {peer_id} sent part {part.part_index} to {part.to} once more")
        self._parts.add(key)
