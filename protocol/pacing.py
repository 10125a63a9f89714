"""How long to wait before sending: the bandwidth cap, as pure arithmetic.

One pacer serves a whole process and direction. It is a token bucket in the form of a debt: what was
sent is owed, the debt is paid off at the refill rate, and bulk data waits until nothing is owed.

The cap holds in every second (I5), because refill, burst and what control may add sum up to it:

    refill of one second        85 %   bulk and control together
    burst of bulk data           5 %   one chunk, 20 ms of the rate or 4 KiB
    control lane beyond that    10 %   never waits for bulk data

Control messages are owed too, so bulk makes room for them afterwards. The cost of the policy is
the share of the cap that bulk can never use: 15 %.
"""

from dataclasses import dataclass, field

REFILL_SHARE = 0.85
CONTROL_SHARE = 0.10
MIN_CHUNK_BYTES = 4 * 1024
MAX_CHUNK_BYTES = 1024 * 1024
CHUNK_S = 0.02
LENDING_SHARE = 0.5
"""Of an uplink, at most, that rounds leave to whoever catches up.

Rounds that fill the links of M donors would starve it: in the time of a round it must be sent at
least that round's entry, so the share s that they lend must satisfy `2 (M - 1) s / (1 - s) >= 1`: a
third with two donors, less with more. Half is twice what keeps up. The cost: rounds that fill the
link take up to twice as long while somebody catches up; others do not notice.
"""
LENDING_MEMORY_S = 5.0
"""Between two requests of somebody who catches up: it verifies and applies what it has."""

OVERHEAD = 1.05
"""Wire bytes per payload byte: TCP/IP headers and acknowledgements, HTTP/2 frames."""
MESSAGE_OVERHEAD_BYTES = 150
"""Per message, whatever its size: the packet, HTTP/2 headers, the gRPC frame."""


def wire_bytes(payload_bytes: int) -> int:
    """What a message of this payload costs on the wire, an upper estimate."""
    return int(payload_bytes * OVERHEAD) + MESSAGE_OVERHEAD_BYTES


def chunk_bytes(rate_bytes_per_s: float) -> int:
    """Size of one chunk at a planned rate: at most 20 ms of it, 4 KiB to 1 MiB."""
    return int(min(max(rate_bytes_per_s * CHUNK_S, MIN_CHUNK_BYTES), MAX_CHUNK_BYTES))


@dataclass(slots=True)
class Pace:
    """When the chunks of one stream are due at the rate that was planned for it.

    Each waits for its own time, so that no stream begins with two at once. What was held up for
    longer than `max_late_s` is not made up for: the stream ends later instead of in a burst.
    """

    due_s: float
    """When the last chunk was due; at first, when the stream may begin."""
    max_late_s: float = CHUNK_S
    """A chunk's time, so that one may be caught up with."""

    def delay_s(self, size_bytes: int, rate_bytes_per_s: float, now_s: float) -> float:
        """How long the next chunk must wait."""
        self.due_s = max(self.due_s, now_s - self.max_late_s) + size_bytes / rate_bytes_per_s
        return max(0.0, self.due_s - now_s)


@dataclass(slots=True)
class Pacer:
    """The cap on everything that leaves (or enters) this peer."""

    cap_bytes_per_s: float | None
    """None: no cap, nothing ever waits."""
    _owed_bytes: float = field(default=0.0, init=False)
    _updated_s: float = field(default=0.0, init=False)

    @property
    def bulk_bytes_per_s(self) -> float | None:
        """The steady rate that bulk data can have, control left aside."""
        return self.cap_bytes_per_s and self.cap_bytes_per_s * REFILL_SHARE

    @property
    def spare_chunk_bytes(self) -> int:
        """Payload of a chunk that goes when nothing else does.

        Bulk data that comes right after it waits for 20 ms, or as long as 4 KiB take.
        """
        rate = self.bulk_bytes_per_s
        return MAX_CHUNK_BYTES if rate is None else chunk_bytes(rate / OVERHEAD)

    def bulk_delay_s(self, now_s: float) -> float:
        """How long bulk data must wait before its next chunk; 0 when nothing is owed."""
        rate = self.bulk_bytes_per_s
        if rate is None:
            return 0.0
        self._settle(now_s)
        return max(0.0, self._owed_bytes / rate)

    def control_delay_s(self, now_s: float) -> float:
        """How long a control message must wait: only when control alone used up its reserve."""
        rate = self.bulk_bytes_per_s
        if rate is None:
            return 0.0
        self._settle(now_s)
        assert self.cap_bytes_per_s is not None
        reserve = max(self.cap_bytes_per_s * CONTROL_SHARE, MIN_CHUNK_BYTES)
        return max(0.0, (self._owed_bytes - reserve) / rate)

    def sent(self, wire_bytes: int, now_s: float) -> None:
        """Note bytes that were just handed over, bulk or control, ours or p2pd's."""
        if self.cap_bytes_per_s is not None:
            self._settle(now_s)
            self._owed_bytes += wire_bytes

    def _settle(self, now_s: float) -> None:
        rate = self.bulk_bytes_per_s
        assert rate is not None
        self._owed_bytes = max(0.0, self._owed_bytes - rate * max(0.0, now_s - self._updated_s))
        self._updated_s = max(self._updated_s, now_s)
