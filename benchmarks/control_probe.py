"""Asks the peers of a run for their status ten times a second and prints how long each answer took.

    python -m benchmarks.control_probe INITIAL_PEER

It asks those that are there when it starts. A status request travels and waits as control messages
between peers do. One JSON object a line: {"t": unix seconds of the request, "address", "ms"}. Runs
until it is ended (benchmarks/control.py).
"""

import asyncio
import json
import sys
import time
from typing import Any

import grpc

from peer.contact import Contact
from peer.grpc_settings import CONTROL_OPTIONS
from peer.outside import Entrance, look_at
from peer.secure import Security
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs

EVERY_S = 0.1
PATIENCE_S = 5.0


async def probe(contact: Contact, security: Security) -> None:
    """Without end. A request that is not answered in time counts as PATIENCE_S."""
    async with security.channel(contact, CONTROL_OPTIONS) as channel:
        stub: Any = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
        while True:
            asked, began_s = time.time(), time.monotonic()
            try:
                await stub.Status(pb.StatusRequest(), timeout=PATIENCE_S)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    await asyncio.sleep(EVERY_S)
                    continue  # not there yet
            took_s = time.monotonic() - began_s
            line = {"t": asked, "address": contact.address, "ms": round(1000 * took_s, 2)}
            print(json.dumps(line), flush=True)
            await asyncio.sleep(max(0.0, EVERY_S - took_s))


async def main(initial_peer: str) -> None:
    sight = await look_at(Entrance.of([initial_peer], None, None, is_insecure=False))
    async with asyncio.TaskGroup() as tasks:
        for contact in sight.announced:
            tasks.create_task(probe(contact, sight.asker.security))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
