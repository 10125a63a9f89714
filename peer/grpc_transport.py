"""The transport over grpc.aio: one server, and for each other peer a control and bulk channels.

Settings and the reason for each: docs/architecture.md ("gRPC"). Two rules hold everywhere, because
a frozen peer breaks both of gRPC's own promises: every await is under `asyncio.timeout` (a write to
a stopped process outlives its deadline), and every call is cancelled in `finally`.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import grpc
from google.protobuf.message import Message as ProtoMessage

from peer.pacer import Lanes
from peer.transport import Inbox
from protocol.errors import InputError, RemoteError, UnavailableError
from protocol.events import Leg, SendPart
from protocol.messages import Message
from protocol.pacing import MAX_CHUNK_BYTES, chunk_bytes
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs
from protocol.wire.codec import MAX_CONTROL_BYTES, decode_message, encode_message

CALL_S: Final = 4.0
"""One control message, connection included. Twice the longest round trip worth supporting."""
CHUNK_S: Final = 30.0
"""One chunk into or out of a stream: at the smallest cap a chunk takes well under a second."""
IDLE_STREAM_S: Final = 900.0
"""A stream between two parts: the sender opens a new one for every round."""
ROSTER_WAIT_S: Final = 10.0
"""How long a stream may be early: its sender can have the roster before this peer does."""
ATTEMPTS: Final = 3
RETRY_S: Final = 0.3
MAX_CONTROL_QUEUE: Final = 256
CONTROL_IN_FLIGHT: Final = 8
MAX_BULK_QUEUE: Final = 65_536
BULK_CHANNEL_BYTES_PER_S: Final = 12_500_000
"""One channel carries about 180 mbit/s at a round trip of 100 ms; count on 100 and add channels."""
MAX_BULK_CHANNELS: Final = 4
MIN_BLOCKED_S: Final = 0.2
"""Writes of one round to one peer that waited less than this in sum were not held up."""
RECOVERY_FACTOR: Final = 1.1

_SHARED_OPTIONS: Final = [
    ("grpc.max_receive_message_length", 2 * MAX_CONTROL_BYTES),
    ("grpc.max_send_message_length", 2 * MAX_CONTROL_BYTES),
    ("grpc.default_compression_algorithm", 0),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_CHANNEL_OPTIONS: Final = [
    *_SHARED_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_CONTROL_OPTIONS: Final = [*_CHANNEL_OPTIONS, ("grpc.http2.ping_timeout_ms", 4_000)]
# A ping may queue behind chunks in the kernel's buffers on a slow link.
_BULK_OPTIONS: Final = [*_CHANNEL_OPTIONS, ("grpc.http2.ping_timeout_ms", 20_000)]
_SERVER_OPTIONS: Final = [
    *_SHARED_OPTIONS,
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.http2.max_ping_strikes", 3),
    ("grpc.max_concurrent_streams", 128),
    ("grpc.so_reuseport", 0),
]

Reply = TypeVar("Reply")

_LEG_TO_WIRE: Final = {Leg.SCATTER: pb.LEG_SCATTER, Leg.GATHER: pb.LEG_GATHER}
_LEG_FROM_WIRE: Final = {wire: leg for leg, wire in _LEG_TO_WIRE.items()}


class Desk(Protocol):
    """What the server answers to people and newcomers (peer/gathering.py)."""

    async def hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        """Raises RemoteError: the request is malformed."""
        ...

    def status(self) -> pb.StatusReply: ...


class GrpcTransport:
    """Carries control messages and parts between this peer and the others."""

    def __init__(self, me: str, run_id: str, lanes: Lanes, desk: Desk) -> None:
        self._metadata = (("peer-id", me), ("run-id", run_id))
        self._run_id = run_id
        self._lanes = lanes
        self._desk = desk
        self._inbox: Inbox | None = None
        self._connected = asyncio.Event()
        self._lines: dict[str, _Line] = {}
        self.measured_up_bytes_per_s: float | None = None
        """Payload that the uplink carries; None while nothing was held up by it."""
        self.refused: Counter[str] = Counter()
        """Messages from others that were refused, by reason; nothing of them was used."""
        self._server = grpc.aio.server(options=_SERVER_OPTIONS, maximum_concurrent_rpcs=512)
        stubs.add_PeerServicer_to_server(  # type: ignore[no-untyped-call]
            _Servicer(self, desk), self._server
        )

    async def listen(self, host: str, port: int) -> int:
        """Start serving; returns the port.

        Raises:
            InputError: the port is taken or the address is not of this machine.
        """
        try:
            bound: int = self._server.add_insecure_port(f"{_bracketed(host)}:{port}")
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {host}:{port}: the port is in use or the address is not this"
                " machine's; choose another with --listen HOST:PORT"
            ) from error
        await self._server.start()
        return bound

    def connect(self, inbox: Inbox, addresses: dict[str, str]) -> None:
        """Open lines to the run's other peers; what arrives goes to `inbox` from now on."""
        self._inbox = inbox
        for peer_id, address in addresses.items():
            self._lines[peer_id] = _Line(peer_id, address, self._metadata, self._lanes, inbox)
        self._connected.set()

    # --- Transport -------------------------------------------------------------------------------

    def tell(self, peer_id: str, message: Message) -> None:
        self._lines[peer_id].tell(message)

    def push(self, part: SendPart) -> None:
        self._lines[part.to].push(part)

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
        await self._server.stop(grace=0.2)

    # --- what the servicer needs -----------------------------------------------------------------

    def caller(self, context: Any) -> str:
        """Who calls, as it claims; RemoteError when it means another run."""
        metadata = dict(context.invocation_metadata() or ())
        sender = str(metadata.get("peer-id", ""))[:64]
        if metadata.get("run-id") != self._run_id:
            raise RemoteError(sender, "calls about another run")
        return sender

    async def inbox(self) -> Inbox:
        """Where messages go; TimeoutError when this peer does not begin within a call's time.

        Others can learn of the genesis a moment before this peer does.
        """
        async with asyncio.timeout(CALL_S):
            await self._connected.wait()
        assert self._inbox is not None
        return self._inbox

    @property
    def lanes(self) -> Lanes:
        return self._lanes


class _Servicer(stubs.PeerServicer):
    """Foreign bytes come in here: refuse, or hand on. Nothing raises into the peer."""

    def __init__(self, transport: GrpcTransport, desk: Desk) -> None:
        self._transport = transport
        self._desk = desk

    async def Hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
        reply: pb.HelloReply = await self._answer(self._desk.hello(request), context)
        self._transport.lanes.note_control(reply.ByteSize())
        return reply

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        return self._desk.status()

    async def Tell(self, request: pb.Envelope, context: Any) -> pb.Ack:
        async def handle() -> pb.Ack:
            sender = self._transport.caller(context)
            self._transport.lanes.received(request.ByteSize())
            message = decode_message(sender, request)
            (await self._transport.inbox()).on_message(sender, message)
            self._transport.lanes.note_control(0)
            return pb.Ack()

        return await self._answer(handle(), context)

    async def Push(self, chunks: AsyncIterator[pb.Chunk], context: Any) -> pb.Ack:
        async def handle() -> pb.Ack:
            sender = self._transport.caller(context)
            inbox = await self._transport.inbox()
            await _Assembly(sender, inbox, self._transport.lanes).take(chunks)
            self._transport.lanes.note_control(0)
            return pb.Ack()

        return await self._answer(handle(), context)

    async def _answer(self, work: Awaitable[Reply], context: Any) -> Reply:
        """What the work returns; a refusal is counted and goes back as a status."""
        try:
            return await work
        except RemoteError as error:
            self._transport.refused[error.why.split(":")[0]] += 1
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.why[:200])
        except TimeoutError:
            self._transport.refused["a stream that stalled"] += 1
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "stalled")
        raise AssertionError("abort raises")


class _Assembly:
    """Puts the chunks of one stream together into parts. Holds one part at a time."""

    def __init__(self, sender: str, inbox: Inbox, lanes: Lanes) -> None:
        self._sender = sender
        self._inbox = inbox
        self._lanes = lanes
        self._roster = ""
        self._part: tuple[Leg, int] | None = None
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
        if chunk.leg not in _LEG_FROM_WIRE or not chunk.data or len(chunk.data) > MAX_CHUNK_BYTES:
            raise RemoteError(self._sender, "a malformed chunk")
        part = (_LEG_FROM_WIRE[chunk.leg], chunk.part_index)
        if self._part is None:
            expected = await self._expected_bytes(*part)
            if expected != chunk.part_bytes:
                raise RemoteError(self._sender, "a part of the wrong size")
            self._part, self._buffer = part, bytearray()
        if part != self._part or chunk.offset != len(self._buffer):
            raise RemoteError(self._sender, "a chunk out of order")
        self._buffer += chunk.data
        if len(self._buffer) > chunk.part_bytes:
            raise RemoteError(self._sender, "more bytes than the part has")
        if len(self._buffer) == chunk.part_bytes:
            leg, part_index = part
            self._part = None
            self._inbox.on_part(self._sender, self._roster, leg, part_index, bytes(self._buffer))

    async def _expected_bytes(self, leg: Leg, part_index: int) -> int:
        """Wait, if need be, until the roster of this stream is in force here."""
        async with asyncio.timeout(ROSTER_WAIT_S):
            while True:
                expected = self._inbox.expected_bytes(self._sender, self._roster, leg, part_index)
                if expected is not None:
                    return expected
                await asyncio.sleep(0.02)


@dataclass
class _Line:
    """Everything that goes to one other peer."""

    peer_id: str
    address: str
    metadata: tuple[tuple[str, str], ...]
    lanes: Lanes
    inbox: Inbox
    written_bytes: int = 0
    blocked_s: float = 0.0
    _closed: bool = False
    _bulk: "list[_BulkStream]" = field(default_factory=list)
    _waiting: int = 0
    _failures: int = 0

    def __post_init__(self) -> None:
        self._control_channel = grpc.aio.insecure_channel(self.address, options=_CONTROL_OPTIONS)
        self._control: Any = stubs.PeerStub(self._control_channel)  # type: ignore[no-untyped-call]
        self._bulk_channels: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(CONTROL_IN_FLIGHT)

    # --- control ---------------------------------------------------------------------------------

    def tell(self, message: Message) -> None:
        if self._waiting >= MAX_CONTROL_QUEUE or self._closed:
            # Only a peer that does not answer has so many waiting; it will ask for what it missed.
            return
        self._waiting += 1
        self._keep(asyncio.create_task(self._tell(encode_message(message))))

    async def _tell(self, envelope: pb.Envelope) -> None:
        try:
            async with self._slots:
                await self._attempt(envelope)
        finally:
            self._waiting -= 1

    async def _attempt(self, envelope: pb.Envelope) -> None:
        # A peer that is already known not to answer gets one attempt for each message, so that a
        # dead one costs little and one that is back is noticed by the next heartbeat.
        attempts = ATTEMPTS if self._failures == 0 else 1
        why = ""
        for attempt in range(attempts):
            await self.lanes.control_turn(envelope.ByteSize())
            try:
                await _call(self._control.Tell, envelope, self.metadata, CALL_S)
                self._failures = 0
                return
            except RemoteError:
                # It lives and does not want this message; its own log says why.
                self._failures = 0
                return
            except UnavailableError as error:
                why = str(error)
            if attempt + 1 < attempts:
                await asyncio.sleep(RETRY_S)
        self._failures += 1
        self.inbox.on_unreachable(self.peer_id, why)

    # --- bulk ------------------------------------------------------------------------------------

    def start_round(self) -> None:
        for stream in self._bulk:
            stream.cancel()
        self._bulk = []
        self.written_bytes, self.blocked_s = 0, 0.0

    def push(self, part: SendPart) -> None:
        if self._closed:
            return
        if not self._bulk:
            count = min(
                1 + int(part.rate_bytes_per_s / BULK_CHANNEL_BYTES_PER_S), MAX_BULK_CHANNELS
            )
            while len(self._bulk_channels) < count:
                self._bulk_channels.append(
                    grpc.aio.insecure_channel(
                        self.address,
                        options=[*_BULK_OPTIONS, ("diloco.channel", len(self._bulk_channels))],
                    )
                )
            queue: asyncio.Queue[SendPart] = asyncio.Queue(MAX_BULK_QUEUE)
            self._bulk = [
                _BulkStream(self, channel, queue, part.roster, part.rate_bytes_per_s / count)
                for channel in self._bulk_channels[:count]
            ]
        self._bulk[0].queue.put_nowait(part)

    async def drained(self) -> None:
        """Wait until no control message is under way."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        self._closed = True
        self.start_round()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._control_channel.close()
        for channel in self._bulk_channels:
            await channel.close()

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _BulkStream:
    """One Push call to one peer for one roster; several of them share a queue."""

    def __init__(
        self,
        line: _Line,
        channel: Any,
        queue: "asyncio.Queue[SendPart]",
        roster: str,
        rate_bytes_per_s: float,
    ) -> None:
        self.queue = queue
        self._line = line
        self._stub: Any = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
        self._roster = roster
        self._rate_bytes_per_s = rate_bytes_per_s
        self._next_s = 0.0
        self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        call = self._stub.Push(metadata=self._line.metadata)
        try:
            first = True
            while True:
                part = await self.queue.get()
                for chunk in _chunks(part, self._rate_bytes_per_s):
                    if first:
                        chunk.roster, first = self._roster, False
                    await self._write(call, chunk)
        except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError) as error:
            # A refusal (the other side already has another roster) says nothing about the peer:
            # whatever the round then misses, its deadline ends it.
            if not isinstance(error, grpc.aio.AioRpcError) or (
                error.code() is grpc.StatusCode.UNAVAILABLE
            ):
                self._line.inbox.on_unreachable(self._line.peer_id, _why(error))
        finally:
            call.cancel()

    async def _write(self, call: Any, chunk: pb.Chunk) -> None:
        size = len(chunk.data)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next_s - loop.time()))
        self._next_s = max(self._next_s, loop.time() - 0.02) + size / self._rate_bytes_per_s
        await self._line.lanes.bulk_turn(size)
        began_s = loop.time()
        async with asyncio.timeout(CHUNK_S):
            await call.write(chunk)
        self._line.blocked_s += loop.time() - began_s
        self._line.written_bytes += size


def _chunks(part: SendPart, rate_bytes_per_s: float) -> "list[pb.Chunk]":
    size = chunk_bytes(rate_bytes_per_s)
    return [
        pb.Chunk(
            leg=_LEG_TO_WIRE[part.leg],
            part_index=part.part_index,
            offset=offset,
            part_bytes=len(part.data),
            data=part.data[offset : offset + size],
        )
        for offset in range(0, len(part.data), size)
    ]


async def ask_hello(address: str, request: pb.HelloRequest) -> pb.HelloReply:
    """Dial a peer that may not be in a run with us yet; raises UnavailableError."""
    reply: pb.HelloReply = await _ask(address, "Hello", request)
    return reply


async def ask_status(address: str) -> pb.StatusReply:
    """What a peer says about itself; raises UnavailableError."""
    reply: pb.StatusReply = await _ask(address, "Status", pb.StatusRequest())
    return reply


async def _ask(address: str, method: str, request: ProtoMessage) -> Any:
    channel = grpc.aio.insecure_channel(address, options=_CONTROL_OPTIONS)
    try:
        stub = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
        return await _call(getattr(stub, method), request, (), CALL_S)
    finally:
        await channel.close()


async def _call(
    method: Any, request: ProtoMessage, metadata: tuple[tuple[str, str], ...], timeout_s: float
) -> Any:
    """One unary call.

    Raises:
        RemoteError: the other side refused the message.
        UnavailableError: there was no answer, whatever the reason.
    """
    call = method(request, timeout=timeout_s, metadata=metadata)
    try:
        async with asyncio.timeout(timeout_s + 0.5):
            return await call
    except (grpc.RpcError, TimeoutError) as error:
        if getattr(error, "code", lambda: None)() is grpc.StatusCode.INVALID_ARGUMENT:
            raise RemoteError("", _why(error)) from error
        raise UnavailableError(_why(error)) from error
    finally:
        call.cancel()


def _why(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        details = (error.details() or error.code().name).splitlines()[0]
        return "connection refused" if "refused" in details else details[:120]
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)[:120]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
