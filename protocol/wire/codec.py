"""Messages to protobuf and back: the only place that knows how they are written.

Decoding is where foreign bytes become values. Everything is checked for type, range and size here;
whether a message makes sense in its round is the state machine's business.
"""

import json
import math
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from protocol import messages as m
from protocol.accepts import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SignedAccept
from protocol.audit import Accusation
from protocol.ballots import NO_BALLOT
from protocol.chain import MAX_TRAIL
from protocol.digest import canonical
from protocol.errors import RemoteError
from protocol.log import Entry, Genesis
from protocol.wire import diloco_pb2 as pb

MAX_CONTROL_BYTES = 1024 * 1024
"""Of one control message: an entry with thousands of parts and members is far below it."""
MAX_ITEMS = 65_536
MAX_ACCEPTS = 256
"""Of a decision: as many as a manifest lets a run have peers."""
MAX_TEXT = 512
_ROUNDS: Final = range(-1, 2**31)


def encode_message(message: m.Message) -> pb.Envelope:
    """The envelope for one control message."""
    return _ENCODERS[type(message)](message)


def decode_message(sender: str, envelope: pb.Envelope) -> m.Message:
    """The message in an envelope.

    Raises:
        RemoteError: no body, or a field that is out of range or malformed.
    """
    kind = envelope.WhichOneof("body")
    if kind is None:
        raise RemoteError(sender, "an envelope without a message")
    if envelope.ByteSize() > MAX_CONTROL_BYTES:
        raise RemoteError(sender, f"a {kind} of more than {MAX_CONTROL_BYTES} bytes")
    try:
        return _DECODERS[kind](getattr(envelope, kind))
    except (ValueError, TypeError, KeyError, RecursionError, DecodeError) as error:
        raise RemoteError(sender, f"a malformed {kind}: {error}") from error


def decode_genesis(sender: str, data: bytes) -> Genesis:
    """Raises RemoteError when it is not the canonical bytes of a genesis."""
    try:
        genesis = Genesis.from_json(json.loads(data))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RemoteError(sender, f"a malformed genesis: {error}") from error
    if genesis.to_bytes() != data:
        raise RemoteError(sender, "a genesis that is not in its canonical form")
    return genesis


def _entry_bytes(entry: Entry) -> bytes:
    return canonical(entry.to_json())


def _entry(data: bytes) -> Entry:
    entry = Entry.from_json(json.loads(data))
    if _entry_bytes(entry) != data:
        raise ValueError("an entry that is not in its canonical form")
    return entry


def _ready(b: pb.Ready) -> m.Ready:
    return m.Ready(
        round=_round(b.round),
        parent=_text(b.parent),
        state=_text(b.state),
        tokens=_natural(b.tokens),
        pace_steps_per_s=_number(b.pace_steps_per_s),
        up_bytes_per_s=_positive(b.up_bytes_per_s),
        down_bytes_per_s=_positive(b.down_bytes_per_s),
        overhead_s=_number(b.overhead_s),
        dialable=b.dialable,
    )


def _roster(b: pb.Roster) -> m.Roster:
    _refuse_many(b.members, b.owners, b.missing)
    return m.Roster(
        round=_round(b.round),
        ballot=_natural(b.ballot),
        parent=_text(b.parent),
        members=tuple(
            m.Member(
                peer_id=_text(member.peer_id),
                incarnation=_text(member.incarnation),
                tokens=_natural(member.tokens),
                pace_steps_per_s=_number(member.pace_steps_per_s),
            )
            for member in b.members
        ),
        owners=tuple(b.owners),
        missing=tuple((_text(x.peer_id), _text(x.why)) for x in b.missing),
        transfer_s=_positive(b.transfer_s),
        close_s=_positive(b.close_s),
        deadline_s=_positive(b.deadline_s),
    )


def _amend(b: pb.Amend) -> m.Amend:
    _refuse_many(b.lost, b.owners)
    return m.Amend(
        round=_round(b.round),
        roster=_text(b.roster),
        number=_natural(b.number),
        lost=tuple(_text(peer) for peer in b.lost),
        owners=tuple(b.owners),
        resend_s=_number(b.resend_s),
    )


def _held(b: pb.Held) -> m.Held:
    _refuse_many(b.means, *(mean.without for mean in b.means))
    if b.number < -1:
        raise ValueError(f"amendment {b.number}")
    means = tuple(
        m.Mean(part_index=x.part_index, digest=_text(x.digest), without=tuple(x.without))
        for x in b.means
    )
    return m.Held(round=_round(b.round), roster=_text(b.roster), number=b.number, means=means)


def _heartbeat(b: pb.Heartbeat) -> m.Heartbeat:
    _refuse_many(b.deaf_to, b.convicts)
    return m.Heartbeat(
        round=_round(b.round),
        head=_text(b.head),
        incarnation=_text(b.incarnation),
        step=b.step,
        trains=b.trains,
        deaf_to=tuple(_text(peer) for peer in b.deaf_to),
        convicts=tuple(_text(peer) for peer in b.convicts),
    )


def _trail(b: pb.Trail) -> m.Trail:
    if not 0 < len(b.steps) <= MAX_TRAIL:
        raise ValueError(f"{len(b.steps)} entries")
    return m.Trail(
        round=_round(b.round),
        steps=tuple(
            m.Step(
                round=_round(x.round),
                digest=_text(x.digest),
                term=_natural(x.term),
                committed=_decimal(x.committed),
            )
            for x in b.steps
        ),
    )


def _promise(b: pb.Promise) -> m.Promise:
    if b.accepted_ballot < -1 or (b.accepted_ballot == -1) != (not b.accepted):
        raise ValueError("an entry without the ballot that it was accepted in, or the reverse")
    return m.Promise(
        round=_round(b.round),
        parent=_text(b.parent),
        ballot=_natural(b.ballot),
        accepted_ballot=b.accepted_ballot,
        accepted=_entry(b.accepted) if b.accepted else None,
    )


def _accept(b: pb.SignedAccept) -> SignedAccept:
    if len(b.public_key) != PUBLIC_KEY_BYTES or len(b.signature) != SIGNATURE_BYTES:
        raise ValueError("no signature")
    return SignedAccept(
        voter=_text(b.voter),
        incarnation=_text(b.incarnation),
        public_key=b.public_key,
        signature=b.signature,
    )


def _accepted(b: pb.Accepted) -> m.Accepted:
    return m.Accepted(
        round=_round(b.round),
        ballot=_natural(b.ballot),
        entry_digest=_text(b.entry_digest),
        accept=_accept(b.accept),
    )


def _decided(b: pb.Decided) -> m.Decided:
    if len(b.accepts) > MAX_ACCEPTS or b.ballot < NO_BALLOT:
        raise ValueError(f"{len(b.accepts)} accepts in ballot {b.ballot}")
    return m.Decided(
        round=_round(b.round),
        entry=_entry(b.entry),
        ballot=b.ballot,
        accepts=tuple(map(_accept, b.accepts)),
    )


def _accuse(b: pb.Accuse) -> m.Accuse:
    accusation = Accusation.from_bytes(b.accusation)
    if len(accusation.claim.contributions) > MAX_ACCEPTS or accusation.claim.slot.round != b.round:
        raise ValueError("of another round, or of more contributors than there can be")
    return m.Accuse(round=_round(b.round), accusation=accusation)


_DECODERS: Final[dict[str, Callable[[Any], m.Message]]] = {
    "ready": _ready,
    "roster": _roster,
    "amend": _amend,
    "held": _held,
    "prepare": lambda b: m.Prepare(
        round=_round(b.round), parent=_text(b.parent), ballot=_natural(b.ballot)
    ),
    "promise": _promise,
    "accept": lambda b: m.Accept(
        round=_round(b.round), ballot=_natural(b.ballot), entry=_entry(b.entry)
    ),
    "accepted": _accepted,
    "decided": _decided,
    "heartbeat": _heartbeat,
    "ask": lambda b: m.Ask(round=_round(b.round), head=_text(b.head)),
    "gone": lambda b: m.Gone(round=_round(b.round)),
    "trail": _trail,
    "leave": lambda b: m.Leave(round=_round(b.round)),
    "accuse": _accuse,
}


def _accept_to_pb(accept: SignedAccept) -> pb.SignedAccept:
    return pb.SignedAccept(
        voter=accept.voter,
        incarnation=accept.incarnation,
        public_key=accept.public_key,
        signature=accept.signature,
    )


_ENCODERS: Final[dict[type, Callable[[Any], pb.Envelope]]] = {
    m.Ready: lambda x: pb.Envelope(
        ready=pb.Ready(
            round=x.round,
            parent=x.parent,
            state=x.state,
            tokens=x.tokens,
            pace_steps_per_s=x.pace_steps_per_s,
            up_bytes_per_s=x.up_bytes_per_s,
            down_bytes_per_s=x.down_bytes_per_s,
            overhead_s=x.overhead_s,
            dialable=x.dialable,
        )
    ),
    m.Roster: lambda x: pb.Envelope(
        roster=pb.Roster(
            round=x.round,
            ballot=x.ballot,
            parent=x.parent,
            members=[
                pb.RosterMember(
                    peer_id=p.peer_id,
                    incarnation=p.incarnation,
                    tokens=p.tokens,
                    pace_steps_per_s=p.pace_steps_per_s,
                )
                for p in x.members
            ],
            owners=x.owners,
            missing=[pb.Missing(peer_id=peer, why=why) for peer, why in x.missing],
            transfer_s=x.transfer_s,
            close_s=x.close_s,
            deadline_s=x.deadline_s,
        )
    ),
    m.Amend: lambda x: pb.Envelope(
        amend=pb.Amend(
            round=x.round,
            roster=x.roster,
            number=x.number,
            lost=x.lost,
            owners=x.owners,
            resend_s=x.resend_s,
        )
    ),
    m.Held: lambda x: pb.Envelope(
        held=pb.Held(
            round=x.round,
            roster=x.roster,
            number=x.number,
            means=[
                pb.Mean(part_index=y.part_index, digest=y.digest, without=y.without)
                for y in x.means
            ],
        )
    ),
    m.Prepare: lambda x: pb.Envelope(
        prepare=pb.Prepare(round=x.round, parent=x.parent, ballot=x.ballot)
    ),
    m.Promise: lambda x: pb.Envelope(
        promise=pb.Promise(
            round=x.round,
            parent=x.parent,
            ballot=x.ballot,
            accepted_ballot=x.accepted_ballot,
            accepted=_entry_bytes(x.accepted) if x.accepted else b"",
        )
    ),
    m.Accept: lambda x: pb.Envelope(
        accept=pb.Accept(round=x.round, ballot=x.ballot, entry=_entry_bytes(x.entry))
    ),
    m.Accepted: lambda x: pb.Envelope(
        accepted=pb.Accepted(
            round=x.round,
            ballot=x.ballot,
            entry_digest=x.entry_digest,
            accept=_accept_to_pb(x.accept),
        )
    ),
    m.Decided: lambda x: pb.Envelope(
        decided=pb.Decided(
            round=x.round,
            entry=_entry_bytes(x.entry),
            ballot=x.ballot,
            accepts=map(_accept_to_pb, x.accepts),
        )
    ),
    m.Heartbeat: lambda x: pb.Envelope(
        heartbeat=pb.Heartbeat(
            round=x.round,
            head=x.head,
            incarnation=x.incarnation,
            step=x.step,
            trains=x.trains,
            deaf_to=x.deaf_to,
            convicts=x.convicts,
        )
    ),
    m.Ask: lambda x: pb.Envelope(ask=pb.Ask(round=x.round, head=x.head)),
    m.Gone: lambda x: pb.Envelope(gone=pb.Gone(round=x.round)),
    m.Trail: lambda x: pb.Envelope(
        trail=pb.Trail(
            round=x.round,
            steps=[
                pb.ChainStep(
                    round=y.round, digest=y.digest, term=y.term, committed=str(y.committed)
                )
                for y in x.steps
            ],
        )
    ),
    m.Leave: lambda x: pb.Envelope(leave=pb.Leave(round=x.round)),
    m.Accuse: lambda x: pb.Envelope(
        accuse=pb.Accuse(round=x.round, accusation=x.accusation.to_bytes())
    ),
}


def _round(value: int) -> int:
    if value not in _ROUNDS:
        raise ValueError(f"round {value}")
    return value


def _natural(value: int) -> int:
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value


def _decimal(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 40:
        raise ValueError("not a number in at most 40 digits")
    return int(value)


def _number(value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value} is not a number of at least 0")
    return value


def _positive(value: float) -> float:
    if _number(value) == 0:
        raise ValueError("0 where something was expected")
    return value


def _text(value: str) -> str:
    if len(value) > MAX_TEXT:
        raise ValueError(f"a text of more than {MAX_TEXT} characters")
    return value


def _refuse_many(*fields: Any) -> None:
    if any(len(items) > MAX_ITEMS for items in fields):
        raise ValueError(f"more than {MAX_ITEMS} items")
