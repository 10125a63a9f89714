"""The server half of the transport: foreign bytes come in here, and are refused or handed on.

Every await is under a timeout: a sender that stops must not hold anything here.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, Final, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from peer.certificates import Role
from peer.grpc_lending import Lending
from peer.grpc_settings import CALL_S, CHUNK_S, LEG_FROM_WIRE, SERVER_OPTIONS
from peer.library import Library
from peer.pacer import Lanes
from peer.secure import Caller, Security
from peer.transport import Inbox
from peer.turnstile import Turnstile
from protocol.digest import digest
from protocol.errors import InputError, RemoteError, UnavailableError
from protocol.events import Leg, PartReceived
from protocol.pacing import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs
from protocol.wire.claims import inputs_from_pb, signature_from_pb
from protocol.wire.codec import MAX_ITEMS, decode_message

IDLE_STREAM_S: Final = 900.0
"""A stream between two parts: the sender opens a new one for every round."""
ROSTER_WAIT_S: Final = 10.0
"""How long a stream may be early: its sender can have the roster before this peer does."""
MAX_CALLS: Final = 512
MAX_REASONS: Final = 256

TRAINERS: Final = (Role.FOUNDER, Role.TRAINER)
MEMBERS: Final = (*TRAINERS, Role.ARCHIVE)
EVERYBODY: Final = (*MEMBERS, Role.OBSERVER)
"""Of a closed run; in an open one everybody may do everything."""

Reply = TypeVar("Reply")
ShortReply = TypeVar("ShortReply", pb.HelloReply, pb.StatusReply, pb.LogReply, pb.SignedRevocations)


class Desk(Protocol):
    """What the server answers to people and newcomers (peer/gathering.py)."""

    async def hello(self, request: pb.HelloRequest, caller: Caller) -> pb.HelloReply:
        """Raises RemoteError: the request is malformed, or not its caller's."""
        ...

    def status(self) -> pb.StatusReply: ...

    async def log(self, request: pb.LogRequest) -> pb.LogReply:
        """Raises RemoteError: the request is out of range."""
        ...

    def revoked(self, told: pb.SignedRevocations, caller: Caller) -> pb.SignedRevocations:
        """What is known here, after that. Raises RemoteError: the authority did not sign it."""
        ...


class Reception(stubs.PeerServicer):
    """Answers everybody; nothing that they send raises into the peer."""

    def __init__(self, security: Security, lanes: Lanes, desk: Desk) -> None:
        self.refused: Counter[str] = Counter()
        """Messages from others that were refused, by reason; nothing of them was used."""
        self._security = security
        self._lanes = lanes
        self._desk = desk
        self._lending = Lending(lanes)
        self._turnstile = Turnstile(time.monotonic)
        self._inbox: Inbox | None = None
        self._begun = asyncio.Event()
        self._server = grpc.aio.server(
            interceptors=[_Decoding(self._count_refusal)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        stubs.add_PeerServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]

    async def listen(self, host: str, port: int) -> int:
        """Start serving; returns the port.

        Raises:
            InputError: the port is taken or the address is not of this machine.
        """
        try:
            bound: int = self._security.bind(self._server, f"{_bracketed(host)}:{port}")
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {host}:{port}: the port is in use or the address is not this"
                " machine's; choose another with --listen HOST:PORT"
            ) from error
        await self._server.start()
        return bound

    def hand_to(self, inbox: Inbox) -> None:
        """From now on messages and parts go there."""
        self._inbox = inbox
        self._begun.set()

    def dismiss(self) -> None:
        """This peer is going: whoever calls from now on is told so."""
        self._inbox, self._lending.library = None, None
        self._begun.set()

    def lend(self, library: Library) -> None:
        """From now on others can fetch from there."""
        self._lending.library = library

    async def close(self) -> None:
        await self._server.stop(grace=0.2)

    def _count_refusal(self, reason: str) -> None:
        # Reasons can name rounds: a stranger must not be able to make new ones without end.
        known = reason in self.refused or len(self.refused) < MAX_REASONS
        self.refused[reason if known else "other reasons"] += 1

    # --- the service -----------------------------------------------------------------------------

    async def Hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
        async def handle(caller: Caller) -> pb.HelloReply:
            return await self._desk.hello(request, caller)

        return await self._answer_briefly(EVERYBODY, handle, context)

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        async def handle(caller: Caller) -> pb.StatusReply:
            return self._desk.status()

        return await self._answer_briefly(EVERYBODY, handle, context)

    async def Log(self, request: pb.LogRequest, context: Any) -> pb.LogReply:
        async def handle(caller: Caller) -> pb.LogReply:
            return await self._desk.log(request)

        return await self._answer_briefly(EVERYBODY, handle, context)

    async def Revoked(self, request: pb.SignedRevocations, context: Any) -> pb.SignedRevocations:
        async def handle(caller: Caller) -> pb.SignedRevocations:
            return self._desk.revoked(request, caller)

        return await self._answer_briefly(EVERYBODY, handle, context)

    async def Tell(self, request: pb.Envelope, context: Any) -> pb.Ack:
        async def handle(caller: Caller) -> pb.Ack:
            self._lanes.received(request.ByteSize())
            message = decode_message(caller.peer_id, request)
            (await self._await_inbox()).on_message(caller.peer_id, message)
            self._lanes.note_control(0)
            return pb.Ack()

        return await self._answer(MEMBERS, handle, context)

    async def Push(self, chunks: AsyncIterator[pb.Chunk], context: Any) -> pb.Ack:
        async def handle(caller: Caller) -> pb.Ack:
            def check() -> None:
                self._security.caller(context)

            inbox = await self._await_inbox()
            await _Assembly(caller.peer_id, check, inbox, self._lanes).take(chunks)
            self._lanes.note_control(0)
            return pb.Ack()

        return await self._answer(TRAINERS, handle, context)

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> None:
        async def handle(caller: Caller) -> None:
            self._lanes.received(request.ByteSize())
            await self._lending.give_parts(caller.peer_id, request, context)

        await self._answer(MEMBERS, handle, context)

    async def Chunks(self, request: pb.ChunksRequest, context: Any) -> None:
        async def handle(caller: Caller) -> None:
            self._lanes.received(request.ByteSize())
            await self._lending.give_chunks(caller.peer_id, request, context)

        await self._answer(MEMBERS, handle, context)

    async def Offers(self, request: pb.OffersRequest, context: Any) -> pb.OffersReply:
        async def handle(caller: Caller) -> pb.OffersReply:
            return await self._lending.offers()

        return await self._answer(MEMBERS, handle, context)

    async def _answer_briefly(
        self,
        roles: Collection[Role],
        handle: Callable[[Caller], Awaitable[ShortReply]],
        context: Any,
    ) -> ShortReply:
        reply = await self._answer(roles, handle, context)
        self._lanes.note_control(reply.ByteSize())
        return reply

    async def _answer(
        self,
        roles: Collection[Role],
        handle: Callable[[Caller], Awaitable[Reply]],
        context: Any,
    ) -> Reply:
        """What is made of a call by somebody who may make it.

        A refusal is counted and goes back as a status.
        """
        try:
            caller = self._security.caller(context)
            trust = self._security.trust
            if trust is not None and not trust.may(caller.role, *roles):
                why = f"a call that is not for the role of {caller.role}"
                raise RemoteError(caller.peer_id, why)
            with self._turnstile.enter(caller.peer_id):
                return await handle(caller)
        except RemoteError as error:
            self._count_refusal(error.why.split(":")[0])
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.why[:200])
        except UnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error)[:200])
        except TimeoutError:
            self._count_refusal("a stream that stalled")
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "stalled")
        raise AssertionError("abort raises")

    async def _await_inbox(self) -> Inbox:
        """Where messages go; TimeoutError when this peer does not begin within a call's time, and
        UnavailableError when it is going.

        Others can learn of the genesis a moment before this peer does.
        """
        async with asyncio.timeout(CALL_S):
            await self._begun.wait()
        if self._inbox is None:
            raise UnavailableError("this peer is going")
        return self._inbox


class _Decoding(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Counts what is no message at all: gRPC ends such a call before anything here hears of it."""

    def __init__(self, count_refusal: Callable[[str], None]) -> None:
        self._count_refusal = count_refusal

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None  # there is no such call

        def decoded(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except DecodeError:
                self._count_refusal("bytes that are no message")
                raise

        return handler._replace(request_deserializer=decoded)


class _Assembly:
    """Puts the chunks of one stream together into parts. Holds one part at a time."""

    def __init__(self, sender: str, check: Callable[[], None], inbox: Inbox, lanes: Lanes) -> None:
        """`check` raises RemoteError once the sender may send no more: streams last for long."""
        self._sender = sender
        self._check = check
        self._inbox = inbox
        self._lanes = lanes
        self._roster = ""
        self._part: tuple[Leg, int] | None = None
        self._first = pb.Chunk()
        """Of the part: what it says of the whole."""
        self._buffer = bytearray()

    async def take(self, chunks: AsyncIterator[pb.Chunk]) -> None:
        """Read a stream to its end.

        Raises:
            RemoteError: a chunk is out of place, or the roster never came.
            TimeoutError: no chunk for CHUNK_S within a part.
        """
        iterator = aiter(chunks)
        while True:
            try:
                async with asyncio.timeout(CHUNK_S if self._part else IDLE_STREAM_S):
                    chunk = await anext(iterator)
            except StopAsyncIteration:
                break
            self._lanes.received(len(chunk.data))
            await self._add(chunk)
        if self._part is not None:
            raise RemoteError(self._sender, "a stream that ended within a part")

    async def _add(self, chunk: pb.Chunk) -> None:
        if not self._roster:
            self._roster = chunk.roster
        if chunk.leg not in LEG_FROM_WIRE or not chunk.data or len(chunk.data) > MAX_CHUNK_BYTES:
            raise RemoteError(self._sender, "a malformed chunk")
        part = (LEG_FROM_WIRE[chunk.leg], chunk.part_index)
        if self._part is None:
            self._check()
            expected = await self._expected_bytes(*part)
            if expected != chunk.part_bytes:
                raise RemoteError(self._sender, "a part of the wrong size")
            if len(chunk.without) > MAX_ITEMS:
                raise RemoteError(self._sender, "a mean without more peers than there can be")
            self._part, self._buffer, self._first = part, bytearray(), chunk
        if part != self._part or chunk.offset != len(self._buffer):
            raise RemoteError(self._sender, "a chunk out of order")
        if len(chunk.data) < min(MIN_CHUNK_BYTES, chunk.part_bytes - chunk.offset):
            raise RemoteError(self._sender, "a chunk that is smaller than any of ours")
        self._buffer += chunk.data
        if len(self._buffer) > chunk.part_bytes:
            raise RemoteError(self._sender, "more bytes than the part has")
        if len(self._buffer) == chunk.part_bytes:
            self._part, data = None, bytes(self._buffer)
            if digest(data) != self._first.digest:
                raise RemoteError(self._sender, "a part that is not what its digest says")
            self._inbox.on_part(self._received(*part, data))

    def _received(self, leg: Leg, part_index: int, data: bytes) -> PartReceived:
        """A whole part, with what its first chunk says of it."""
        first = self._first
        is_signed = first.HasField("signature")
        return PartReceived(
            sender=self._sender,
            roster=self._roster,
            leg=leg,
            part_index=part_index,
            data=data,
            without=tuple(first.without),
            signature=signature_from_pb(self._sender, first.signature) if is_signed else None,
            inputs=inputs_from_pb(self._sender, first),
        )

    async def _expected_bytes(self, leg: Leg, part_index: int) -> int:
        """Wait, if need be, until the roster of this stream is in force here."""
        async with asyncio.timeout(ROSTER_WAIT_S):
            while True:
                expected = self._inbox.expected_bytes(self._sender, self._roster, leg, part_index)
                if expected is not None:
                    return expected
                await asyncio.sleep(0.02)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
