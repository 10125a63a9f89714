"""What a peer believes about another one that cannot be reached."""

import asyncio

from benchmarks.processes import free_ports
from peer.grpc_client import Line
from peer.pacer import Lanes
from protocol.messages import Leave


class Hearsay:
    """An inbox that notes failures, and when the attempts began."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, float]] = []

    def on_unreachable(self, peer_id: str, why: str, began_s: float) -> None:
        self.failures.append((why, began_s))


def test_a_call_that_only_repeats_an_old_failure_is_no_news() -> None:
    async def fail_twice() -> None:
        inbox = Hearsay()
        address = f"127.0.0.1:{free_ports()}"
        line = Line("p", address, (), Lanes(None), inbox)  # type: ignore[arg-type]
        try:
            line.tell(Leave(round=0))
            await line.drained()
            line.tell(Leave(round=0))  # gRPC has not dialled again since
            await line.drained()
        finally:
            await line.close()
        (why, first_s), (_, second_s) = inbox.failures
        assert why == "connection refused" and second_s == first_s

    asyncio.run(fail_twice())
