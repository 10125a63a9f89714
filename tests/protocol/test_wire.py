"""Messages on the wire: what goes in comes out; what does not belong is refused, never a crash."""

import json
import math

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages as m
from protocol.accepts import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SignedAccept
from protocol.chain import MAX_TRAIL
from protocol.digest import canonical
from protocol.errors import RemoteError
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import (
    MAX_CONTROL_BYTES,
    MAX_ITEMS,
    decode_genesis,
    decode_message,
    encode_message,
)
from tests.protocol.accusing import accusation
from tests.protocol.arbitrary import entries, texts
from tests.protocol.makers import DIGEST, entry, genesis, heartbeat, ready, roster
from tests.protocol.signed import accepted, decided

rounds = st.integers(-1, 2**31 - 1)
naturals = st.integers(0, 2**63 - 1)
numbers = st.floats(0, 1e15)
positives = st.floats(1e-6, 1e15)
indices = st.integers(-(2**31), 2**31 - 1)


def tuples(values, most=4):
    return st.lists(values, max_size=most).map(tuple)


members = st.builds(
    m.Member, peer_id=texts, incarnation=texts, tokens=naturals, pace_steps_per_s=numbers
)
accepts = st.builds(
    SignedAccept,
    voter=texts,
    incarnation=texts,
    public_key=st.binary(min_size=PUBLIC_KEY_BYTES, max_size=PUBLIC_KEY_BYTES),
    signature=st.binary(min_size=SIGNATURE_BYTES, max_size=SIGNATURE_BYTES),
)
means = st.builds(m.Mean, part_index=indices, digest=texts, without=tuples(indices))
steps = st.builds(
    m.Step, round=rounds, digest=texts, term=naturals, committed=st.integers(0, 2**120)
)
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
        close_s=positives,
        deadline_s=positives,
    ),
    st.builds(
        m.Amend,
        round=rounds,
        roster=texts,
        number=naturals,
        lost=tuples(texts),
        owners=tuples(indices),
        resend_s=numbers,
    ),
    st.builds(
        m.Held, round=rounds, roster=texts, number=st.integers(-1, 2**62), means=tuples(means)
    ),
    st.builds(m.Prepare, round=rounds, parent=texts, ballot=naturals),
    st.builds(
        m.Promise,
        round=rounds,
        parent=texts,
        ballot=naturals,
        accepted_ballot=st.just(-1),
        accepted=st.none(),
    ),
    st.builds(
        m.Promise,
        round=rounds,
        parent=texts,
        ballot=naturals,
        accepted_ballot=naturals,
        accepted=entries(),
    ),
    st.builds(m.Accept, round=rounds, ballot=naturals, entry=entries()),
    st.builds(m.Accepted, round=rounds, ballot=naturals, entry_digest=texts, accept=accepts),
    st.builds(
        m.Decided,
        round=rounds,
        entry=entries(),
        ballot=st.integers(-1, 2**63 - 1),
        accepts=tuples(accepts),
    ),
    st.builds(
        m.Heartbeat,
        round=rounds,
        head=texts,
        incarnation=texts,
        step=st.integers(-1, 2**62),
        trains=st.booleans(),
        deaf_to=tuples(texts),
        convicts=tuples(texts),
    ),
    st.builds(m.Ask, round=rounds, head=texts),
    st.builds(m.Gone, round=rounds),
    st.builds(m.Trail, round=rounds, steps=st.lists(steps, min_size=1, max_size=4).map(tuple)),
    st.builds(m.Leave, round=rounds),
    st.just(m.Accuse(round=0, accusation=accusation())),
)


@given(messages)
def test_every_message_comes_back_as_it_was(message):
    data = encode_message(message).SerializeToString()
    assert decode_message("a", pb.Envelope.FromString(data)) == message


MEAN = m.Mean(part_index=0, digest=DIGEST, without=(1,))
STEP = m.Step(round=0, digest=DIGEST, term=0, committed=2**100)
EXAMPLES = (
    ready(),
    roster(missing=(("d", "lost"),)),
    m.Amend(round=0, roster=DIGEST, number=0, lost=("a",), owners=(1,), resend_s=0.0),
    m.Held(round=0, roster=DIGEST, number=-1, means=(MEAN,)),
    m.Prepare(round=0, parent=DIGEST, ballot=1),
    m.Promise(round=0, parent=DIGEST, ballot=1, accepted_ballot=0, accepted=entry()),
    m.Accept(round=0, ballot=1, entry=entry()),
    accepted(entry(), "a", ballot=1),
    decided(entry(), ("a",)),
    heartbeat("a", round=0, deaf_to=("c",)),
    m.Ask(round=0, head=DIGEST),
    m.Gone(round=0),
    m.Trail(round=0, steps=(STEP,)),
    m.Leave(round=0),
    m.Accuse(round=0, accusation=accusation()),
)
BY_KIND = {type(example).__name__.lower(): example for example in EXAMPLES}


def test_no_message_type_is_forgotten():
    assert {type(example) for example in EXAMPLES} == set(m.Message.__args__)


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
    "roster": ("transfer_s", "close_s", "deadline_s"),
    "amend": ("resend_s",),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, names in NUMBERS.items() for field in names]
)
def test_a_number_that_is_none_is_refused(kind, field, value):
    envelope = encode_message(BY_KIND[kind])
    setattr(getattr(envelope, kind), field, value)
    assert refused(envelope)


@pytest.mark.parametrize("field", ["up_bytes_per_s", "down_bytes_per_s"])
def test_a_link_that_carries_nothing_is_refused(field):
    envelope = encode_message(BY_KIND["ready"])
    setattr(envelope.ready, field, 0.0)
    assert refused(envelope)


@pytest.mark.parametrize(
    ("message", "field"),
    [(x, f) for x in EXAMPLES for f in ("tokens", "ballot") if hasattr(x, f)],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_negative_count_is_refused(message, field):
    envelope = encode_message(message)
    # Only a decision may have been made without a ballot.
    setattr(getattr(envelope, envelope.WhichOneof("body")), field, -2)
    assert refused(envelope)
    if not isinstance(message, m.Decided):
        setattr(getattr(envelope, envelope.WhichOneof("body")), field, -1)
        assert refused(envelope)


@pytest.mark.parametrize(("kind", "number"), [("amend", -1), ("held", -2)])
def test_an_amendment_that_nobody_could_have_made_is_refused(kind, number):
    envelope = encode_message(BY_KIND[kind])
    getattr(envelope, kind).number = number
    assert refused(envelope)


@pytest.mark.parametrize("digits", ["", "-1", "1.5", "1e3", " 7", "\u0661", "9" * 41])
def test_what_a_chain_has_committed_is_a_decimal_number(digits):
    envelope = encode_message(BY_KIND["trail"])
    envelope.trail.steps[0].committed = digits
    assert refused(envelope)


def test_a_trail_is_neither_empty_nor_endless():
    empty, endless = (encode_message(BY_KIND["trail"]) for _ in range(2))
    del empty.trail.steps[:]
    endless.trail.steps.extend(endless.trail.steps[:1] * MAX_TRAIL)
    assert refused(empty) and refused(endless)
    del endless.trail.steps[0]
    assert not refused(endless)


@pytest.mark.parametrize(
    "field", ["parent", "roster", "entry_digest", "head", "incarnation", "state"]
)
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


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("roster", "owners"),
        ("amend", "owners"),
        ("amend", "lost"),
        ("held", "means"),
        ("heartbeat", "deaf_to"),
        ("decided", "accepts"),
    ],
)
def test_more_items_than_anybody_has_are_refused(kind, field):
    envelope = encode_message(BY_KIND[kind])
    items = getattr(getattr(envelope, kind), field)
    items.extend([items[0]] * (MAX_ITEMS + 1))
    assert refused(envelope)


@pytest.mark.parametrize("field", ["public_key", "signature"])
@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_an_accept_that_has_not_the_form_of_a_signed_one_is_refused(field, size):
    one, several = (encode_message(BY_KIND[kind]) for kind in ("accepted", "decided"))
    setattr(one.accepted.accept, field, bytes(size))
    setattr(several.decided.accepts[0], field, bytes(size))
    assert refused(one) and refused(several)


def test_a_mean_that_lacks_more_members_than_anybody_has_is_refused():
    envelope = encode_message(BY_KIND["held"])
    envelope.held.means[0].without.extend([0] * (MAX_ITEMS + 1))
    assert refused(envelope)


@pytest.mark.parametrize(("ballot", "accepted"), [(-1, entry()), (0, None), (-2, None)])
def test_a_promise_that_contradicts_itself_is_refused(ballot, accepted):
    promise = m.Promise(round=0, parent=DIGEST, ballot=1, accepted_ballot=ballot, accepted=accepted)
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
