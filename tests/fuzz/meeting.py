"""Whom to believe: what is signed, what the DHT and other peers tell, and what people are shown."""

from collections.abc import Callable
from random import Random
from typing import Any

import msgpack
from google.protobuf.message import DecodeError
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord
from hivemind.utils import get_dht_time

from peer.certificates import Role
from peer.contact import TTL_S, Contact, read_contact
from peer.dht_records import Guard, peers_key, validator
from peer.finding import check_manifest
from peer.gathering import Gathering
from peer.identity import check_genesis, peer_id_of, verifies
from peer.secure import Caller
from peer.show_log import lines_of
from peer.status import _table
from protocol.errors import InputError, RemoteError
from protocol.log import Genesis
from protocol.manifest import Manifest
from protocol.messages import Decided
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import encode_message
from tests.fuzz import mutations
from tests.fuzz.target import Protobuf, Refused, Target
from tests.fuzz.wire import MANIFEST, each_message
from tests.peer.people import contact, identity, introduction, membership, peer_id, security
from tests.protocol import makers
from tests.protocol.makers import DIGEST
from tests.sim.keys import tally_of

RUN = MANIFEST.run_id
NAMES = ("anna", "bert", "cleo")


def signed_genesis(founder: str = "anna", **changed: Any) -> pb.SignedGenesis:
    voters = sorted(map(peer_id, NAMES))
    fields = {"run_id": RUN, "founder": peer_id(founder), "tie_breaker": peer_id(founder)}
    certificate = membership(founder, RUN).certificate
    return identity(founder).sign_genesis(makers.genesis(voters, **fields | changed), certificate)


def contacts() -> list[pb.SignedContact]:
    return [contact(name, RUN, f"{name}:7000", "/ip4/10.0.0.1/tcp/1").signed for name in NAMES]


class SignedGeneses(Protobuf):
    """Changed by who passes it on; or by a founder, another one or the right one, who signs."""

    name = "genesis"

    def __init__(self) -> None:
        self._right = signed_genesis()
        self.samples = [self._right.SerializeToString()]

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < 0.5:
            return mutations.protobuf(rng, data, other)
        body = mutations.json_text(rng, pb.SignedGenesis.FromString(data).genesis, b"")
        signer = identity(rng.choice(NAMES))
        return pb.SignedGenesis(
            genesis=body, public_key=signer.public_key, signature=signer.sign(body)
        ).SerializeToString()

    def feed(self, data: bytes) -> Genesis:
        return check_genesis("a", pb.SignedGenesis.FromString(data), RUN)

    def is_right(self, data: bytes, made: Genesis) -> bool:
        signed = pb.SignedGenesis.FromString(data)
        founder = peer_id_of(signed.public_key)
        return (
            (made.run_id, made.founder) == (RUN, founder)
            and made.to_bytes() == signed.genesis
            and verifies(signed.public_key, signed.signature, signed.genesis)
        )


def damaged_contact(rng: Random, data: bytes, other: bytes) -> bytes:
    """Changed by who passes it on, or by a peer that signs nonsense."""
    if rng.random() < 0.5:
        return mutations.protobuf(rng, data, other)
    body = mutations.protobuf(rng, pb.SignedContact.FromString(data).contact, b"")
    signer = identity(rng.choice(NAMES))
    signature = signer.sign(b"diloco.v1 contact\0" + body)
    signed = pb.SignedContact(contact=body, public_key=signer.public_key, signature=signature)
    return signed.SerializeToString()


def is_signed(made: Contact) -> bool:
    """Whether its peer has signed exactly this; told without the code that is tested."""
    body = pb.Contact.FromString(made.signed.contact)
    told = (made.peer_id, made.name, made.address, made.incarnation, made.dht, made.signed_s)
    written = (body.peer_id, body.name, body.address, body.incarnation, body.dht, body.signed_s)
    message = b"diloco.v1 contact\0" + made.signed.contact
    return (
        told == written
        and body.run_id == RUN
        and peer_id_of(made.signed.public_key) == made.peer_id
        and verifies(made.signed.public_key, made.signed.signature, message)
    )


class SignedContacts(Protobuf):
    name = "contact"
    structured = staticmethod(damaged_contact)

    def __init__(self) -> None:
        self.samples = [signed.SerializeToString() for signed in contacts()]

    def feed(self, data: bytes) -> Contact:
        return read_contact(pb.SignedContact.FromString(data), RUN, "a")

    def is_right(self, data: bytes, made: Contact) -> bool:
        return is_signed(made)


class DhtRecords(Target):
    """What hivemind asks about before it stores a record or believes an answer."""

    name = "dht"

    def __init__(self) -> None:
        self._guard = Guard()
        self._guard.check = security("me", RUN).check_contact
        self._validator = validator(self._guard)
        key = DHTID.generate(source=peers_key(RUN)).to_bytes()
        self._guard.guarded[key] = RUN
        self._record = lambda subkey, value: DHTRecord(key, subkey, value, get_dht_time() + TTL_S)
        self._unpack = msgpack.unpackb
        self.samples = [
            len(subkey).to_bytes(1, "little") + subkey + msgpack.packb(signed.SerializeToString())
            for name, signed in zip(NAMES, contacts(), strict=True)
            for subkey in [msgpack.packb(peer_id(name))]
        ]

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        """A record in which a contact was changed, or one that only msgpack is to understand."""
        if rng.random() < 0.3:
            size = rng.choice((0, 1, 2, 5, 9))
            head = bytes([rng.randrange(0x80, 0x100)]) + rng.randbytes(size)
            return bytes([len(head)]) + head + mutations.damaged(rng, data, head)
        head, value = data[: 1 + data[0]], msgpack.unpackb(data[1 + data[0] :])
        return head + msgpack.packb(damaged_contact(rng, value, value))

    def feed(self, data: bytes) -> bytes:
        self._guard.refused.clear()
        size = data[0] if data else 0
        record = self._record(data[1 : 1 + size], data[1 + size :])
        if self._validator.validate(record):
            return record.value
        assert self._guard.refused.total() == 1, "a record that was refused in silence"
        raise Refused(*self._guard.refused)

    def is_right(self, data: bytes, made: bytes) -> bool:
        return is_signed(read_contact(pb.SignedContact.FromString(self._unpack(made)), RUN, "a"))


async def _no_log(count: int) -> pb.LogReply:
    return pb.LogReply()


def _now(coroutine: Any) -> Any:
    """What a coroutine returns that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class Gatherings(Protobuf):
    """A peer that has not begun, with one other that it knows."""

    def __init__(self) -> None:
        self._security = security("me", RUN)
        self.reset()

    def reset(self) -> None:
        me = introduction("me", RUN, "me:7000")
        self._gathering = Gathering(MANIFEST, me, self._security, pb.StatusReply, _no_log)
        greeting = pb.HelloRequest(run_id=RUN, me=contact("dora", RUN, "dora:7000").signed)
        _now(self._gathering.hello(greeting, Caller(peer_id("dora"), Role.TRAINER)))

    def state(self) -> Any:
        gathering = self._gathering
        return gathering.contacts(), gathering.present, gathering.genesis

    def _knows_only_what_was_signed(self) -> bool:
        return all(map(is_signed, self._gathering.contacts()))


class Hellos(Gatherings):
    name = "hello"

    def __init__(self) -> None:
        super().__init__()
        requests = [pb.HelloRequest(run_id=RUN, me=signed) for signed in contacts()]
        self.samples = [r.SerializeToString() for r in (*requests, pb.HelloRequest())]

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        request = pb.HelloRequest.FromString(data)
        if rng.random() < 0.5 or not request.HasField("me"):
            return mutations.protobuf(rng, data, other)
        signed = damaged_contact(rng, request.me.SerializeToString(), b"")
        fields = mutations.parse(pb.HelloRequest(run_id=request.run_id).SerializeToString()) or []
        return mutations.serialize([*fields, mutations.Field(2, 2, signed)])

    def feed(self, data: bytes) -> pb.HelloReply:
        request = pb.HelloRequest.FromString(data)
        caller = Caller(_claimed_by(request), Role.TRAINER)
        reply = _now(self._gathering.hello(request, caller))
        assert len(reply.SerializeToString()) < 2**20, "an answer that nobody could read"
        return reply

    def is_right(self, data: bytes, made: pb.HelloReply) -> bool:
        return self._knows_only_what_was_signed()


def _claimed_by(request: pb.HelloRequest) -> str:
    """Whom the contact in a hello names: TLS has shown that it is the one who calls."""
    try:
        return pb.Contact.FromString(request.me.contact).peer_id
    except DecodeError:
        return peer_id("anna")


class HelloReplies(Gatherings):
    """What a newcomer is answered: a manifest, a genesis, and whom else there is."""

    name = "hello-reply"

    def __init__(self) -> None:
        super().__init__()
        reply = pb.HelloReply(run_id=RUN, manifest=MANIFEST.to_bytes(), peers=contacts())
        begun = pb.HelloReply(genesis=signed_genesis())
        begun.MergeFrom(reply)
        self.samples = [reply.SerializeToString(), begun.SerializeToString()]
        self.refusals = (RemoteError, DecodeError, InputError)

    def feed(self, data: bytes) -> Manifest:
        reply = pb.HelloReply.FromString(data)
        manifest = check_manifest(reply, RUN)
        self._gathering.adopt(reply, "a")
        return manifest

    def is_right(self, data: bytes, made: Manifest) -> bool:
        genesis = self._gathering.genesis
        return (
            made == MANIFEST
            and self._knows_only_what_was_signed()
            and (genesis is None or genesis.founder in map(peer_id, NAMES))
        )


class LogRequests(Gatherings):
    name = "log-request"
    share = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.samples = [pb.LogRequest(count=n).SerializeToString() for n in (1, 20, 200)]

    def feed(self, data: bytes) -> Any:
        return _now(self._gathering.log(pb.LogRequest.FromString(data)))


class LogReplies(Protobuf):
    """What `diloco-peer log` is told."""

    name = "log-reply"

    def __init__(self) -> None:
        decided = [x for x in each_message() if isinstance(x, Decided)]
        lines = [pb.LogLine(decided=encode_message(x).decided, part_bytes=9) for x in decided]
        self.samples = [pb.LogReply(lines=lines).SerializeToString()]

    def feed(self, data: bytes) -> Any:
        reply = pb.LogReply.FromString(data)
        return [line.to_json() for line in lines_of(reply, "a", tally_of(makers.RUN))]


class StatusReplies(Protobuf):
    """What `diloco-peer status` is told: it is shown, whatever it is."""

    name = "status-reply"
    share = 0.1

    def __init__(self) -> None:
        self._contacts = [contact("anna", RUN)]
        reply = pb.StatusReply(
            peer_id=peer_id("anna"), name="anna", run_name="r", state="training", step=7, round=3,
            head=DIGEST, loss=2.5, tokens_per_s=100.0, utilization=0.9, state_s=4000.0, group=["a"],
        )  # fmt: skip
        self.samples = [reply.SerializeToString()]

    def feed(self, data: bytes) -> Any:
        return _table(self._contacts, [pb.StatusReply.FromString(data)], True)


TARGETS: list[Callable[[], Target]] = [
    SignedGeneses,
    SignedContacts,
    DhtRecords,
    Hellos,
    HelloReplies,
    LogRequests,
    LogReplies,
    StatusReplies,
]
