"""How much one caller may ask of this peer at once, and how often.

Identities are free in an open run, so what all callers together may ask is bounded as well, by the
server (peer/grpc_server.MAX_CALLS). Whoever exceeds its share is refused, and the others are not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from protocol.errors import RemoteError

MAX_OPEN: Final = 48
"""Calls of one caller at once. An honest one has 8 control messages, 4 streams of parts and 4 of
what it catches up with under way, and as many again that were given up a moment ago."""
CALLS_PER_S: Final = 500.0
"""Toys with many rounds a second come to 200. One caller can cost a tenth of a core."""
BURST: Final = 1000.0
"""Calls that may come at once after a silence: a peer that comes back says much."""
MAX_CALLERS: Final = 2048


@dataclass(slots=True)
class _Caller:
    left: float
    seen_s: float
    open: int = 0


class Turnstile:
    """Counts calls by caller."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._callers: dict[str, _Caller] = {}

    @contextmanager
    def enter(self, peer_id: str) -> Iterator[None]:
        """One call. Raises RemoteError: too many at once, or too often."""
        caller = self._caller(peer_id)
        if caller.left < 1:
            raise RemoteError(peer_id, "calls too often")
        caller.left -= 1
        if caller.open >= MAX_OPEN:
            raise RemoteError(peer_id, "too many calls at once")
        caller.open += 1
        try:
            yield
        finally:
            caller.open -= 1

    def _caller(self, peer_id: str) -> _Caller:
        now_s = self._now_s()
        caller = self._callers.get(peer_id)
        if caller is None:
            if len(self._callers) >= MAX_CALLERS:
                self._forget_idle()
            caller = self._callers[peer_id] = _Caller(BURST, now_s)
        caller.left = min(BURST, caller.left + (now_s - caller.seen_s) * CALLS_PER_S)
        caller.seen_s = now_s
        return caller

    def _forget_idle(self) -> None:
        """Those without a call lose what they were counted with: the longest silent half."""
        idle = sorted(
            (caller.seen_s, peer_id) for peer_id, caller in self._callers.items() if not caller.open
        )
        for _, peer_id in idle[: MAX_CALLERS // 2]:
            del self._callers[peer_id]
