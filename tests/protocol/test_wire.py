"""Messages on the wire: what goes in comes out; what does not belong is refused, never a crash."""

import json
import math

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages as m
from protocol.digest import canonical
from protocol.errors import RemoteError
from protocol.log import Entry, Part
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import (
    MAX_CONTROL_BYTES,
    decode_genesis,
    decode_message,
    encode_message,
)
from tests.protocol.makers import DIGEST, entry, genesis

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
rounds = st.integers(-1, 2**31 - 1)
naturals = st.integers(0, 2**63 - 1)
numbers = st.floats(0, 1e15)
positives = st.floats(1e-6, 1e15)
indices = st.integers(-(2**31), 2**31 - 1)


def tuples(values, most=4):
    return st.lists(values, max_size=most).map(tuple)


entries = st.builds(
    Entry,
    round=rounds,
    fragment_id=naturals,
    parent=texts,
    planned_steps=naturals,
    members=tuples(texts),
    voters=tuples(texts),
    tie_breaker=texts,
    parts=tuples(st.none() | st.builds(Part, texts, tuples(naturals))),
    missing=tuples(st.tuples(texts, texts)),
    reason=texts,
)
members = st.builds(m.Member, peer_id=texts, tokens=naturals, pace_steps_per_s=numbers)
messages = st.one_of(
    st.builds(
        m.Ready,
        round=rounds,
        parent=texts,
        tokens=naturals,
        pace_steps_per_s=numbers,
        up_bytes_per_s=positives,
        down_bytes_per_s=positives,
        overhead_s=numbers,
        dialable=st.booleans(),
    ),
    st.builds(
        m.Roster,
        round=rounds,
        ballot=naturals,
        parent=texts,
        members=tuples(members),
        owners=tuples(indices),
        missing=tuples(st.tuples(texts, texts)),
        transfer_s=positives,
        deadline_s=positives,
    ),
    st.builds(m.Held, round=rounds, roster=texts, parts_digest=texts),
    st.builds(m.Prepare, round=rounds, ballot=naturals),
    st.builds(
        m.Promise,
        round=rounds,
        ballot=naturals,
        accepted_ballot=st.just(-1),
        accepted=st.none(),
    ),
    st.builds(m.Promise, round=rounds, ballot=naturals, accepted_ballot=naturals, accepted=entries),
    st.builds(m.Accept, round=rounds, ballot=naturals, entry=entries),
    st.builds(m.Accepted, round=rounds, ballot=naturals, entry_digest=texts),
    st.builds(m.Decided, round=rounds, entry=entries, accepted_by=tuples(texts)),
    st.builds(m.Heartbeat, round=rounds, head=texts, step=st.integers(-1, 2**62)),
    st.builds(m.Ask, round=rounds),
    st.builds(m.Leave, round=rounds),
)


@given(messages)
def test_every_message_comes_back_as_it_was(message):
    data = encode_message(message).SerializeToString()
    assert decode_message("a", pb.Envelope.FromString(data)) == message


def test_no_message_type_is_forgotten():
    drawn = {type(option) for option in EXAMPLES}
    assert drawn == set(m.Message.__args__)


EXAMPLES = (
    m.Ready(
        round=0,
        parent=DIGEST,
        state="s",
        tokens=1,
        pace_steps_per_s=1.0,
        up_bytes_per_s=1.0,
        down_bytes_per_s=1.0,
        overhead_s=0.0,
    ),
    m.Roster(
        round=0,
        ballot=0,
        parent=DIGEST,
        members=(m.Member(peer_id="a", tokens=1, pace_steps_per_s=1.0),),
        owners=(0,),
        missing=(("b", "lost"),),
        transfer_s=1.0,
        deadline_s=1.0,
    ),
    m.Held(round=0, roster=DIGEST, parts_digest=DIGEST),
    m.Prepare(round=0, ballot=1),
    m.Promise(round=0, ballot=1, accepted_ballot=0, accepted=entry()),
    m.Accept(round=0, ballot=1, entry=entry()),
    m.Accepted(round=0, ballot=1, entry_digest=DIGEST),
    m.Decided(round=0, entry=entry(), accepted_by=("a",)),
    m.Heartbeat(round=0, head=DIGEST, step=1),
    m.Ask(round=0),
    m.Leave(round=0),
)


def refused(envelope: pb.Envelope) -> bool:
    try:
        decode_message("sender", envelope)
    except RemoteError:
        return True
    return False


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
@pytest.mark.parametrize("round_", [-2, 2**31, 2**62])
def test_a_round_out_of_range_is_refused(message, round_):
    envelope = encode_message(message)
    getattr(envelope, envelope.WhichOneof("body")).round = round_
    assert refused(envelope)


NUMBERS = {
    "ready": ("pace_steps_per_s", "up_bytes_per_s", "down_bytes_per_s", "overhead_s"),
    "roster": ("transfer_s", "deadline_s"),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, names in NUMBERS.items() for field in names]
)
def test_a_number_that_is_none_is_refused(kind, field, value):
    example = next(x for x in EXAMPLES if type(x).__name__.lower() == kind)
    envelope = encode_message(example)
    setattr(getattr(envelope, kind), field, value)
    assert refused(envelope)


@pytest.mark.parametrize("field", ["up_bytes_per_s", "down_bytes_per_s"])
def test_a_link_that_carries_nothing_is_refused(field):
    envelope = encode_message(EXAMPLES[0])
    setattr(envelope.ready, field, 0.0)
    assert refused(envelope)


@pytest.mark.parametrize(
    ("message", "field"),
    [(x, f) for x in EXAMPLES for f in ("tokens", "ballot") if hasattr(x, f)],
    ids=str,
)
def test_a_negative_count_is_refused(message, field):
    envelope = encode_message(message)
    setattr(getattr(envelope, envelope.WhichOneof("body")), field, -1)
    assert refused(envelope)


@pytest.mark.parametrize("field", ["parent", "roster", "parts_digest", "entry_digest", "head"])
def test_a_long_text_is_refused(field):
    for message in EXAMPLES:
        if hasattr(message, field):
            envelope = encode_message(message)
            setattr(getattr(envelope, envelope.WhichOneof("body")), field, "x" * 513)
            assert refused(envelope)


def test_an_entry_in_another_form_than_the_canonical_one_is_refused():
    envelope = encode_message(m.Accept(round=0, ballot=0, entry=entry()))
    assert not refused(envelope)
    envelope.accept.entry = json.dumps(entry().to_json()).encode()
    assert refused(envelope)


@pytest.mark.parametrize("part", [0, False, "", [], {}, 7, "x", [None]])
def test_an_entry_with_a_part_that_is_none_is_refused(part):
    envelope = encode_message(m.Accept(round=0, ballot=0, entry=entry()))
    envelope.accept.entry = canonical(entry().to_json() | {"parts": [part]})
    assert refused(envelope)


def test_an_entry_as_deep_as_the_sea_is_refused():
    envelope = pb.Envelope(accept=pb.Accept(entry=b"[" * 100_000))
    assert refused(envelope)


def test_a_message_beyond_the_bound_is_refused():
    envelope = pb.Envelope(accept=pb.Accept(entry=b" " * MAX_CONTROL_BYTES))
    assert refused(envelope)


def test_more_items_than_anybody_has_are_refused():
    envelope = encode_message(EXAMPLES[1])
    envelope.roster.owners.extend([0] * 65_536)
    assert refused(envelope)


@pytest.mark.parametrize(("ballot", "accepted"), [(-1, entry()), (0, None), (-2, None)])
def test_a_promise_that_contradicts_itself_is_refused(ballot, accepted):
    promise = m.Promise(round=0, ballot=1, accepted_ballot=ballot, accepted=accepted)
    assert refused(encode_message(promise))


def test_an_envelope_without_a_message_is_refused():
    assert refused(pb.Envelope())


@given(st.binary(max_size=300))
def test_random_bytes_never_crash(data):
    try:
        envelope = pb.Envelope.FromString(data)
    except DecodeError:
        return
    refused(envelope)


@given(messages, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
def test_damaged_messages_never_crash(message, damages):
    data = bytearray(encode_message(message).SerializeToString())
    for place, value in damages:
        data[place % len(data)] = value
    try:
        envelope = pb.Envelope.FromString(bytes(data))
    except DecodeError:
        return
    refused(envelope)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_entry_and_no_genesis(data):
    assert refused(pb.Envelope(accept=pb.Accept(entry=data)))
    with pytest.raises(RemoteError):
        decode_genesis("sender", data)


def test_a_genesis_comes_back_and_only_in_its_canonical_form():
    assert decode_genesis("a", genesis().to_bytes()) == genesis()
    with pytest.raises(RemoteError):
        decode_genesis("a", genesis().to_bytes() + b" ")
