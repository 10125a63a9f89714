"""The client half of the transport: what this peer sends to each of the others.

A frozen peer breaks two of gRPC's promises, so two rules hold here: every await is under a timeout
(a write to a stopped process outlives its deadline), and every call is cancelled in `finally`.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.message import Message as ProtoMessage

from peer.contact import Contact
from peer.grpc_settings import BULK_OPTIONS, CALL_S, CHUNK_S, CONTROL_OPTIONS, LEG_TO_WIRE
from peer.pacer import Lanes
from peer.secure import Security
from peer.transport import Inbox
from protocol.digest import digest
from protocol.errors import RemoteError, UnavailableError
from protocol.events import SendPart
from protocol.messages import Message
from protocol.pacing import Pace, chunk_bytes
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs
from protocol.wire.claims import INPUT_BYTES, inputs_to_pb, signature_to_pb
from protocol.wire.codec import encode_message

ATTEMPTS: Final = 3
RETRY_S: Final = 0.3
MAX_CONTROL_QUEUE: Final = 256
CONTROL_IN_FLIGHT: Final = 8
MAX_BULK_QUEUE: Final = 65_536
BULK_CHANNEL_BYTES_PER_S: Final = 12_500_000
"""One channel carries about 180 mbit/s at a round trip of 100 ms; count on 100 and add channels."""
MAX_BULK_CHANNELS: Final = 4
MAX_REOPENED: Final = 8
"""How often a stream of parts is opened within one round."""


@dataclass
class Line:
    """Everything that goes to one other peer."""

    contact: Contact
    security: Security
    lanes: Lanes
    inbox: Inbox
    written_bytes: int = 0
    blocked_s: float = 0.0
    _closed: bool = False
    _bulk: "list[_BulkStream]" = field(default_factory=list)
    _waiting: int = 0
    _failures: int = 0
    _tried_s: float = 0.0
    """When the last call was made that could tell whether the peer is there."""

    def __post_init__(self) -> None:
        self.peer_id = self.contact.peer_id
        self.metadata = self.security.metadata
        self._control_channel = self.security.channel(self.contact, CONTROL_OPTIONS)
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
        why, began_s = "", asyncio.get_running_loop().time()
        if is_waiting(self._control_channel):
            began_s = self._tried_s
        self._tried_s = began_s
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
        self.inbox.on_unreachable(self.peer_id, why, began_s)

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
                    self.security.channel(
                        self.contact,
                        [*BULK_OPTIONS, ("diloco.channel", len(self._bulk_channels))],
                    )
                )
            queue: asyncio.Queue[SendPart] = asyncio.Queue(MAX_BULK_QUEUE)
            self._bulk = [
                _BulkStream(self, channel, queue, part.roster, count)
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
        line: Line,
        channel: Any,
        queue: "asyncio.Queue[SendPart]",
        roster: str,
        streams: int,
    ) -> None:
        """`streams`: so many share the planned rate."""
        self.queue = queue
        self._line = line
        self._channel = channel
        self._stub: Any = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
        self._roster = roster
        self._streams = streams
        self._pace = Pace(asyncio.get_running_loop().time())
        self._is_first = True
        self._write_began_s = 0.0
        self._has_written = False
        """Whether the call that is open now has carried anything."""
        self._task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        """Send what is queued; a call that breaks is opened again, a few times a round."""
        part: SendPart | None = None
        for _ in range(MAX_REOPENED):
            was_waiting = is_waiting(self._channel)
            call = self._stub.Push(metadata=self._line.metadata)
            self._is_first, self._has_written = True, False
            try:
                while True:
                    part = part or await self.queue.get()
                    await self._send(call, part)
                    part = None
            except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError) as error:
                refused = getattr(error, "code", lambda: None)() is grpc.StatusCode.INVALID_ARGUMENT
                if refused:
                    # It says nothing about the peer; whatever the round misses, its deadline ends.
                    part = None
                elif self._has_written and not isinstance(error, TimeoutError):
                    # It ended at some time since the last write, maybe while this process stood
                    # still. Whether the peer is there now is what another call tells.
                    pass
                else:
                    if not was_waiting:
                        began_s = self._write_began_s
                        self._line.inbox.on_unreachable(self._line.peer_id, _why(error), began_s)
                    await asyncio.sleep(RETRY_S)
            finally:
                call.cancel()

    async def _send(self, call: Any, part: SendPart) -> None:
        # Each part has its own rate: what is sent again for a lost owner may be faster.
        rate_bytes_per_s = part.rate_bytes_per_s / self._streams
        for chunk in _chunks(part, rate_bytes_per_s):
            if self._is_first:
                chunk.roster, self._is_first = self._roster, False
            await self._write(call, chunk, rate_bytes_per_s)

    async def _write(self, call: Any, chunk: pb.Chunk, rate_bytes_per_s: float) -> None:
        size = len(chunk.data) + len(chunk.inputs) * INPUT_BYTES
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._pace.delay_s(size, rate_bytes_per_s, loop.time()))
        await self._line.lanes.bulk_turn(size)
        self._write_began_s = loop.time()
        async with asyncio.timeout(CHUNK_S):
            await call.write(chunk)
        self._has_written = True
        self._line.blocked_s += loop.time() - self._write_began_s
        self._line.written_bytes += size


def is_waiting(channel: Any) -> bool:
    """Whether a channel waits before it dials again: a call then fails with the last dial's error,
    which says nothing new. The peer may have come back since."""
    return channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE


def _chunks(part: SendPart, rate_bytes_per_s: float) -> "list[pb.Chunk]":
    size = chunk_bytes(rate_bytes_per_s)
    chunks = [
        pb.Chunk(
            leg=LEG_TO_WIRE[part.leg],
            part_index=part.part_index,
            offset=offset,
            part_bytes=len(part.data),
            data=part.data[offset : offset + size],
        )
        for offset in range(0, len(part.data), size)
    ]
    chunks[0].without.extend(part.without)
    chunks[0].digest = digest(part.data)
    if part.signature is not None:
        chunks[0].signature.CopyFrom(signature_to_pb(part.signature))
    chunks[0].inputs.extend(inputs_to_pb(part.inputs))
    return chunks


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks peers to which no line is open. Each method raises RemoteError and UnavailableError."""

    security: Security

    async def hello(self, contact: Contact, request: pb.HelloRequest) -> pb.HelloReply:
        """Who is it, which run is it in, and who else is there."""
        reply: pb.HelloReply = await self._ask(contact, "Hello", request)
        return reply

    async def status(self, contact: Contact) -> pb.StatusReply:
        """What it says about itself."""
        reply: pb.StatusReply = await self._ask(contact, "Status", pb.StatusRequest())
        return reply

    async def log(self, contact: Contact, count: int) -> pb.LogReply:
        """The newest entries of its log."""
        reply: pb.LogReply = await self._ask(contact, "Log", pb.LogRequest(count=count))
        return reply

    async def revoked(self, contact: Contact, known: pb.SignedRevocations) -> pb.SignedRevocations:
        """Tell it who was thrown out, as far as is known here, and hear the same."""
        reply: pb.SignedRevocations = await self._ask(contact, "Revoked", known)
        return reply

    async def _ask(self, contact: Contact, method: str, request: ProtoMessage) -> Any:
        self.security.check_contact(contact)
        channel = self.security.channel(contact, CONTROL_OPTIONS)
        try:
            stub: Any = stubs.PeerStub(channel)  # type: ignore[no-untyped-call]
            return await _call(getattr(stub, method), request, self.security.metadata, CALL_S)
        finally:
            await channel.close()


async def _call(
    method: Any, request: ProtoMessage, metadata: tuple[tuple[str, str], ...], timeout_s: float
) -> Any:
    """One unary call; raises RemoteError or UnavailableError as `failure_of` says."""
    call = method(request, timeout=timeout_s, metadata=metadata)
    try:
        async with asyncio.timeout(timeout_s + 0.5):
            return await call
    except (grpc.RpcError, TimeoutError) as error:
        raise failure_of(error) from error
    finally:
        call.cancel()


def failure_of(error: BaseException, peer_id: str = "") -> RemoteError | UnavailableError:
    """Whether the other side refused what we said, or there was no answer, for whatever reason."""
    if getattr(error, "code", lambda: None)() is grpc.StatusCode.INVALID_ARGUMENT:
        return RemoteError(peer_id, _why(error))
    return UnavailableError(_why(error))


def _why(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        details = (error.details() or error.code().name).splitlines()[0]
        return "connection refused" if "refused" in details else details[:120]
    if isinstance(error, asyncio.InvalidStateError):
        return "broke off the connection"  # grpc.aio: the call is over, and nobody awaited why
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)[:120]
