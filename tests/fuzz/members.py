"""Every control message, into a member of a swarm in the middle of something.

An input is an envelope after one byte, which says who sends it, and who falls silent then. What is
refused must leave the member as it was. What is taken is played to its end: effects are carried out
and 25 s pass, in which nothing may be raised, and nothing said that others would refuse.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from peer.grpc_settings import LEG_FROM_WIRE, LEG_TO_WIRE
from protocol import messages as m
from protocol.chain import step_of
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import (
    Leg,
    MessageReceived,
    PartReceived,
)
from protocol.member import Member
from protocol.wire import diloco_pb2 as pb
from protocol.wire.claims import (
    inputs_from_pb,
    inputs_to_pb,
    signature_from_pb,
    signature_to_pb,
)
from protocol.wire.codec import decode_message, encode_message
from tests.fuzz import mutations
from tests.fuzz.standing import STATES, Shell, following, play_on, snapshot
from tests.fuzz.target import Refused, Target
from tests.protocol.makers import head, heartbeat, ready, roster
from tests.protocol.members import (
    DATA,
    empty_entry,
    next_entry,
    part,
)
from tests.protocol.signed import accepted, decided, forced_by

SENDERS = ("a", "b", "c", "d", "a", "c", "b", "stranger")
"""Voters a, b and c, and d, who follows. The low bits of the first byte."""
SILENT = ("", "a", "b", "c")
"""The two bits beside them."""


def said_around(machine: Member) -> list[tuple[str, m.Message]]:
    """Who may say what to a member in round 0; every type of message is there."""
    at, me, round_ = machine.head, machine.me, machine.round
    under = machine.roster or roster()
    full, empty, forced = next_entry(), empty_entry(), empty_entry(term=1, reason="forced")
    means = tuple(m.Mean(part_index=i, digest=digest(data)) for i, data in enumerate(DATA))
    coordinated = "c" if me == "a" else "a"
    asked = max(machine._round.decision._ballot, 0)
    steps = (m.Step(round=0, digest="other", term=1, committed=9), step_of(head()))
    return [
        ("c", ready(round=round_, parent=at.digest, tokens=1)),
        ("a", roster(round=round_, parent=at.digest)),
        ("b", roster(ballot=1, round=round_, parent=at.digest)),
        ("c", roster(ballot=2, round=round_, parent=at.digest)),
        *(
            (sender, m.Amend(round=round_, roster=under.digest, number=number, lost=(),
                             owners=(0, 2, 2), resend_s=0.5))
            for number, sender in enumerate("abc")
        ),
        ("c", m.Held(round=round_, roster=under.digest, number=-1, means=means)),
        *((s, m.Prepare(round=round_, parent=at.digest, ballot=n)) for n, s in enumerate("abc")),
        *(
            ("c", m.Promise(round=round_, parent=at.digest, ballot=asked, accepted_ballot=ballot,
                            accepted=accepted))
            for ballot, accepted in ((-1, None), (0, full), (0, forced))
        ),
        *((s, m.Accept(round=round_, ballot=n, entry=full)) for n, s in enumerate("abc")),
        (coordinated, m.Accept(round=round_, ballot=0, entry=empty)),
        *(("c", accepted(entry, "c", ballot=n)) for entry in (full, empty) for n in (0, asked)),
        ("a", decided(full)),
        ("c", decided(empty)),
        ("c", forced_by("c")),
        ("c", heartbeat("c", round=at.round, head=at.digest)),
        ("a", heartbeat("a", round=at.round, head=at.digest, deaf_to=(me,))),
        ("c", heartbeat("c", round=2, head="other", trains=False)),
        ("a", m.Ask(round=at.round, head=at.digest)),
        ("c", m.Ask(round=-1, head="other")),
        ("a", m.Gone(round=3)),
        ("c", m.Trail(round=0, steps=steps)),
        ("c", m.Leave(round=0)),
    ]  # fmt: skip


def sender_of(data: bytes, me: str) -> str:
    """Whom an input comes from. Nobody else comes in under this peer's name (peer/rounds.py)."""
    sender = SENDERS[data[0] % len(SENDERS)] if data else "a"
    return sender if sender != me else "stranger"


class Members(Target):
    """A member in one of `STATES`, made anew after every message that it took."""

    share = 0.6
    refusals = (RemoteError, DecodeError)

    def __init__(self, make: Callable[[], Member]) -> None:
        self.name = f"member-{make.__name__}"
        self._make = make
        self.reset()
        said = [
            bytes([SENDERS.index(sender)]) + encode_message(message).SerializeToString()
            for sender, message in said_around(self._member)
        ]
        self.samples = [data for data in said if self._is_taken(data)]
        self._others = [data for data in said if data not in self.samples]

    def _is_taken(self, data: bytes) -> bool:
        """Some of what may be said at some time makes no sense in this state."""
        try:
            self.feed(data)
        except RemoteError:
            return False
        finally:
            self.reset()
        return True

    def reset(self) -> None:
        self._member = self._make()
        self._now_s = self._member.wakes_at_s()

    def state(self) -> Any:
        return snapshot(self._member)

    @staticmethod
    def structured(rng: Random, data: bytes, other: bytes) -> bytes:
        first = rng.randrange(32) if rng.random() < 0.3 else data[0] | rng.randrange(4) << 3
        return bytes([first]) + mutations.protobuf(rng, data[1:], other[1:])

    def input(self, seed: int, place: int) -> bytes:
        """A tenth of them begin with what makes no sense here."""
        if place % 10 or not self._others:
            return super().input(seed, place)
        rng = Random(f"{seed}/{self.name}/{place}")
        return self.structured(rng, rng.choice(self._others), rng.choice(self.samples))

    def feed(self, data: bytes) -> None:
        sender = sender_of(data, self._member.me)
        message = decode_message(sender, pb.Envelope.FromString(data[1:]))
        before = self.state()
        effects = self._member.handle(MessageReceived(sender, message), self._now_s)
        if not effects and self.state() == before:
            return  # heard, and of no consequence
        silent = SILENT[data[0] >> 3 & 3] if data else ""
        try:
            play_on(Shell(self._member, self._now_s, silent=silent), effects)
        except RemoteError as error:
            # peer/rounds.py: whatever an event of its own raises is this peer's bug.
            raise AssertionError(f"it refuses itself: {error}") from error


class Parts(Target):
    """Whole parts from other peers, under the roster in force: a Chunk says which."""

    name = "member-parts"
    refusals = (RemoteError, DecodeError)
    structured = staticmethod(Members.structured)

    def __init__(self) -> None:
        self.reset()
        parts = [part("a", roster(), Leg.SCATTER, 1), part("c", roster(), Leg.SCATTER, 1)]
        parts += [part("a", roster(), Leg.GATHER, 0), part("c", roster(), Leg.GATHER, 2, (0,))]
        self.samples = [
            bytes([SENDERS.index(x.sender)])
            + pb.Chunk(
                roster=x.roster,
                leg=LEG_TO_WIRE[x.leg],
                part_index=x.part_index,
                data=x.data,
                without=x.without,
                signature=None if x.signature is None else signature_to_pb(x.signature),
                inputs=inputs_to_pb(x.inputs),
            ).SerializeToString()
            for x in parts
        ]

    def reset(self) -> None:
        self._member = following()

    def state(self) -> Any:
        return snapshot(self._member)

    def feed(self, data: bytes) -> None:
        sender = sender_of(data, self._member.me)
        chunk = pb.Chunk.FromString(data[1:])
        leg = LEG_FROM_WIRE.get(chunk.leg)
        if leg is None:
            raise Refused("no leg")
        size = self._member.expected_bytes(sender, chunk.roster, leg, chunk.part_index)
        if size != len(chunk.data):
            raise Refused("another size, or another roster")
        received = PartReceived(
            sender=sender,
            roster=chunk.roster,
            leg=leg,
            part_index=chunk.part_index,
            data=chunk.data,
            without=tuple(chunk.without),
            signature=(
                signature_from_pb(sender, chunk.signature) if chunk.HasField("signature") else None
            ),
            inputs=inputs_from_pb(sender, chunk),
        )
        play_on(Shell(self._member, 0.1), self._member.handle(received, 0.1))


TARGETS: list[Callable[[], Target]] = [
    *(lambda make=make: Members(make) for make in STATES),
    Parts,
]
