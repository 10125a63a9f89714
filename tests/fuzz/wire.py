"""Encodings: messages, entries, manifests, offers, parts, and requests for bytes."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from google.protobuf.message import DecodeError

from peer.grpc_lending import Lending
from peer.pacer import Lanes
from protocol import messages as m
from protocol.codec import CODEC_NAMES, Values, codec_named
from protocol.digest import canonical, digest
from protocol.errors import CodecError, ManifestError, RemoteError, UnavailableError
from protocol.manifest import Manifest
from protocol.messages import Decided
from protocol.robust import refuse_implausible
from protocol.state import CHUNK_BYTES, FragmentState, Offer, list_of, parse_list
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import decode_message, encode_message
from protocol.wire.offers import decode_offers, encode_offers
from tests.fuzz import mutations
from tests.fuzz.target import Protobuf, Target
from tests.protocol import makers
from tests.protocol.accusing import FALSE, TRUE, accusation
from tests.protocol.makers import DIGEST
from tests.protocol.members import empty_entry, next_entry
from tests.protocol.signed import accepted, decided

MANIFEST = Manifest.from_toml("start_peers = 3\n[limits]\nmax_peers = 5")


def each_message() -> list[m.Message]:
    """One of every type at least, as a swarm at the beginning of its run sends them."""
    mean = m.Mean(part_index=0, digest=DIGEST, without=(1,))
    step = m.Step(round=0, digest=DIGEST, term=0, committed=2**100)
    full, empty = next_entry(), empty_entry()
    return [
        makers.ready(),
        makers.ready(dialable=False, tokens=0),
        makers.roster(missing=(("d", "lost"),)),
        m.Amend(round=0, roster=DIGEST, number=0, lost=("a",), owners=(1, 1, 2), resend_s=0.5),
        m.Held(round=0, roster=DIGEST, number=-1, means=(mean,)),
        m.Held(round=0, roster=DIGEST, number=3, means=()),
        m.Prepare(round=0, parent=DIGEST, ballot=1),
        m.Promise(round=0, parent=DIGEST, ballot=1, accepted_ballot=-1, accepted=None),
        m.Promise(round=0, parent=DIGEST, ballot=1, accepted_ballot=0, accepted=full),
        m.Accept(round=0, ballot=1, entry=full),
        accepted(full, "c", ballot=1),
        decided(full),
        decided(empty, "abc"),
        makers.heartbeat("a", round=0, deaf_to=("c",)),
        m.Ask(round=0, head=DIGEST),
        m.Gone(round=0),
        m.Trail(round=1, steps=(step, m.Step(round=-1, digest=DIGEST, term=0, committed=0))),
        m.Leave(round=0),
        m.Accuse(round=0, accusation=accusation(TRUE)),
        m.Accuse(round=0, accusation=accusation(FALSE)),
    ]


class Envelopes(Protobuf):
    name = "envelope"
    share = 6.0

    def __init__(self) -> None:
        self.samples = [encode_message(x).SerializeToString() for x in each_message()]

    def feed(self, data: bytes) -> m.Message:
        return decode_message("a", pb.Envelope.FromString(data))

    def is_right(self, data: bytes, made: m.Message) -> bool:
        """It can be told to others, who then have the same; an entry has one spelling."""
        envelope = encode_message(made)
        if decode_message("a", envelope) != made:
            return False
        sent, told = pb.Envelope.FromString(data), envelope
        return _entry_bytes(sent) == _entry_bytes(told)


def _entry_bytes(envelope: pb.Envelope) -> bytes:
    body = getattr(envelope, str(envelope.WhichOneof("body")))
    return getattr(body, "entry", b"") or getattr(body, "accepted", b"")


class EntryBytes(Target):
    """An entry by itself: whatever is taken has been spelled in the one canonical way."""

    name = "entry"
    structured = staticmethod(mutations.json_text)

    def __init__(self) -> None:
        entries = (next_entry(), empty_entry(), makers.entry(missing=(("d", "é\n"),), reason="é"))
        self.samples = [canonical(entry.to_json()) for entry in entries]

    def feed(self, data: bytes) -> m.Message:
        return decode_message("a", pb.Envelope(accept=pb.Accept(entry=data)))

    def is_right(self, data: bytes, made: m.Message) -> bool:
        assert isinstance(made, m.Accept)
        return canonical(made.entry.to_json()) == data and made.entry.digest == digest(data)


class ManifestBytes(Target):
    name = "manifest"
    structured = staticmethod(mutations.json_text)
    refusals = (ManifestError,)

    def __init__(self) -> None:
        grown = "[sync]\nqsr_alpha = 0.03\nmax_sync_every = 400\n[aggregation]\nrule = 'median'"
        self.samples = [MANIFEST.to_bytes(), Manifest.from_toml(grown).to_bytes()]

    def feed(self, data: bytes) -> Manifest:
        return Manifest.from_bytes(data)

    def is_right(self, data: bytes, made: Manifest) -> bool:
        return made.to_bytes() == data and made.run_id == digest(data)


class Offers(Protobuf):
    name = "offers"

    def __init__(self) -> None:
        fragments = tuple(
            FragmentState(values=7, version=version, root=DIGEST) for version in (-1, 0)
        )
        decided = [x for x in each_message() if isinstance(x, Decided)]
        offers = [Offer(decided=x, fragments=fragments) for x in decided]
        self.samples = [encode_offers(offers).SerializeToString(), b""]

    def feed(self, data: bytes) -> tuple[Offer, ...]:
        return decode_offers("a", pb.OffersReply.FromString(data))

    def is_right(self, data: bytes, made: tuple[Offer, ...]) -> bool:
        return decode_offers("a", encode_offers(made)) == made


class ChunkLists(Target):
    name = "chunk-list"
    structured = staticmethod(mutations.json_text)
    refusals = (ValueError,)
    _VALUES = 3 * CHUNK_BYTES // 8

    def __init__(self) -> None:
        self.samples = [list_of([digest(bytes([i, n])) for i in range(3)]) for n in range(3)]

    def feed(self, data: bytes) -> tuple[str, ...]:
        return parse_list(data, self._VALUES)

    def is_right(self, data: bytes, made: tuple[str, ...]) -> bool:
        return list_of(made) == data


class PartBytes(Target):
    """A contribution or a mean: what decodes has one encoding, and no value that harms a sum."""

    share = 2.0
    refusals = (CodecError,)
    COUNT = 9

    def __init__(self, codec: str) -> None:
        self.name = f"part-{codec}"
        self._codec = codec_named(codec)
        draw = np.random.default_rng(0)
        rows = [draw.normal(size=self.COUNT) * scale for scale in (1.0, 1e-30, 1e15, 0.0)]
        self.samples = [self._codec.encode(row.astype(np.float32)) for row in rows]

    def feed(self, data: bytes) -> Values:
        values = self._codec.decode(data, self.COUNT)
        refuse_implausible(values)
        return values

    def is_right(self, data: bytes, made: Values) -> bool:
        return bool(np.isfinite(made).all()) and self._codec.encode(made) == data


class _Library:
    """One part and one state, both small."""

    is_healthy = True

    def part(self, digest_: str) -> bytes | None:
        return b"an encoded mean" if digest_ == digest(b"an encoded mean") else None

    def offers(self) -> tuple[Offer, ...]:
        return ()

    def chunk_digests(self, root: str) -> tuple[str, ...] | None:
        return (DIGEST,) if root == DIGEST else None

    def chunk(self, root: str, index: int) -> bytes | None:
        return b"a chunk" if (root, index) == (DIGEST, 0) else None


async def _no_wait(delay_s: float) -> None:
    """Whoever asks for one byte per hour gets it: here at once."""


class Requests(Protobuf):
    """Requests for bytes. Sleeping is left out: a stream may be asked to be as slow as it likes."""

    share = 0.1
    refusals = (RemoteError, DecodeError, UnavailableError)

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._lending = self._runner.run(self._opened())
        self._pieces: list[pb.Piece] = []

    async def _opened(self) -> Lending:
        lending = Lending(Lanes(None))
        lending.library = _Library()
        return lending

    async def write(self, piece: pb.Piece) -> None:
        """What gRPC's context does."""
        self._pieces.append(piece)

    def state(self) -> Any:
        return dict(self._lending._open)

    def _answered(self, work: Callable[[], Any]) -> list[pb.Piece]:
        self._pieces = []
        with mock.patch.object(asyncio, "sleep", _no_wait):
            self._runner.run(work())
        return self._pieces

    def is_right(self, data: bytes, made: list[pb.Piece]) -> bool:
        assert not self._lending._open, "a stream that is over and still counted"
        honest = {b"an encoded mean", b"a chunk", list_of((DIGEST,))}
        return all(piece.data in honest for piece in made)

    def close(self) -> None:
        self._runner.close()


class FetchRequests(Requests):
    name = "fetch-request"

    def __init__(self) -> None:
        super().__init__()
        wanted = [digest(b"an encoded mean"), DIGEST, digest(b"nothing")]
        rates = (0.0, 1e6)
        requests = [pb.FetchRequest(digests=wanted, rate_bytes_per_s=rate) for rate in rates]
        self.samples = [request.SerializeToString() for request in requests]

    def feed(self, data: bytes) -> list[pb.Piece]:
        request = pb.FetchRequest.FromString(data)
        return self._answered(lambda: self._lending.give_parts("a", request, self))


class ChunksRequests(Requests):
    name = "chunks-request"

    def __init__(self) -> None:
        super().__init__()
        request = pb.ChunksRequest(root=DIGEST, indices=[0, 1], rate_bytes_per_s=1e6)
        self.samples = [request.SerializeToString()]

    def feed(self, data: bytes) -> list[pb.Piece]:
        request = pb.ChunksRequest.FromString(data)
        return self._answered(lambda: self._lending.give_chunks("a", request, self))


TARGETS: list[Callable[[], Target]] = [
    Envelopes,
    EntryBytes,
    ManifestBytes,
    Offers,
    ChunkLists,
    *(lambda name=name: PartBytes(name) for name in CODEC_NAMES),
    FetchRequests,
    ChunksRequests,
]
