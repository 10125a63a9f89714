"""What a peer says about itself is believed when it is signed, of this run, and not older."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.contact import MAX_BYTES, TTL_S, Contact, read_contact
from peer.dht_records import Guard
from protocol.errors import RemoteError
from protocol.wire import diloco_pb2 as pb
from tests.peer.people import contact, identity, introduction, peer_id

RUN, OTHER = "a" * 64, "b" * 64
ANNA = contact("anna", RUN, "host:7000", dht="/ip4/10.0.0.1/tcp/1")


def changed(signed: pb.SignedContact, **fields: object) -> pb.SignedContact:
    """The same signature under other words."""
    body = pb.Contact.FromString(signed.contact)
    for name, value in fields.items():
        setattr(body, name, value)
    copy = pb.SignedContact()
    copy.CopyFrom(signed)
    copy.contact = body.SerializeToString()
    return copy


def test_what_a_peer_signed_is_read_as_it_was_written():
    assert read_contact(ANNA.signed, RUN, "x") == ANNA
    assert (ANNA.peer_id, ANNA.name, ANNA.address) == (peer_id("anna"), "anna", "host:7000")


@pytest.mark.parametrize(
    "fields",
    [
        {"address": "evil:7000"},
        {"name": "bert"},
        {"peer_id": peer_id("bert")},
        {"incarnation": "other"},
        {"dht": "/ip4/10.0.0.2/tcp/1"},
        {"signed_s": 2e9},
    ],
)
def test_who_passes_it_on_cannot_change_it(fields):
    with pytest.raises(RemoteError, match="not signed by its peer"):
        read_contact(changed(ANNA.signed, **fields), RUN, "x")


def test_another_key_signs_for_nobody_else():
    bert = identity("bert")
    data = ANNA.signed.contact
    for public_key in (bert.public_key, identity("anna").public_key, b"", b"k" * 31, b"\0" * 32):
        forged = pb.SignedContact(
            contact=data,
            public_key=public_key,
            signature=bert.sign(b"diloco.v1 contact\0" + data),
        )
        with pytest.raises(RemoteError, match="not signed by its peer"):
            read_contact(forged, RUN, "x")


def test_a_signature_for_something_else_is_none_for_a_contact():
    signed = pb.SignedContact()
    signed.CopyFrom(ANNA.signed)
    signed.signature = identity("anna").sign(signed.contact)
    with pytest.raises(RemoteError, match="not signed by its peer"):
        read_contact(signed, RUN, "x")


def test_a_contact_of_another_run_is_refused():
    with pytest.raises(RemoteError, match="another run"):
        read_contact(contact("anna", OTHER).signed, RUN, "x")


@pytest.mark.parametrize(
    ("introduced", "why"),
    [
        (introduction("anna", RUN, "no-port"), "malformed"),
        (introduction("anna", RUN, ":7"), "malformed"),
        (introduction("anna", RUN, "host:70000"), "malformed"),
        (introduction("anna", RUN, "host:0"), "malformed"),
        (introduction("anna", RUN, "host:٣"), "malformed"),
        (introduction("anna", RUN, "host:" + "1" * 5000), "oversized"),
        (introduction("anna", RUN, "h" * 256 + ":7"), "malformed"),
        (replace(introduction("anna", RUN), name="n" * 65), "malformed"),
        (replace(introduction("anna", RUN), incarnation="n" * 65), "malformed"),
    ],
)
def test_what_is_out_of_bounds_is_refused_though_it_is_signed(introduced, why):
    with pytest.raises(RemoteError, match=why):
        read_contact(introduced.contact().signed, RUN, "x")


def test_the_longest_that_is_let_in_fits_into_a_record():
    introduced = introduction("\U0001f409" * 64, RUN, "h" * 255 + ":65535", dht="d" * 300)
    longest = replace(introduced, incarnation="i" * 64).contact()
    assert longest.signed.ByteSize() <= MAX_BYTES
    assert read_contact(longest.signed, RUN, "x") == longest


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    for signed in (
        pb.SignedContact(contact=data),
        pb.SignedContact(
            contact=data, public_key=ANNA.signed.public_key, signature=ANNA.signed.signature
        ),
    ):
        with pytest.raises(RemoteError):
            read_contact(signed, RUN, "x")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
def test_a_time_that_is_no_number_is_refused_though_it_is_signed(seconds):
    with pytest.raises(RemoteError, match="malformed"):
        signed_ago(seconds)


# --- records of the DHT --------------------------------------------------------------------------


def read(guard: Guard, known: Contact, *, place: object = None, value: object = None):
    place = known.peer_id if place is None else place
    value = known.signed.SerializeToString() if value is None else value
    return guard.read(RUN, place, value)


def test_a_record_is_believed_in_its_own_place_while_it_is_fresh():
    guard = Guard()
    assert read(guard, contact("anna", RUN)) is not None
    assert not guard.refused


def signed_ago(seconds: float) -> Contact:
    body = pb.Contact.FromString(ANNA.signed.contact)
    body.signed_s = time.time() - seconds
    data = body.SerializeToString()
    signature = identity("anna").sign(b"diloco.v1 contact\0" + data)
    signed = pb.SignedContact(
        contact=data, public_key=identity("anna").public_key, signature=signature
    )
    return read_contact(signed, RUN, "x")


@pytest.mark.parametrize("seconds", [TTL_S + 60, -TTL_S - 60])
def test_a_record_from_another_time_is_counted_and_nothing_else(seconds):
    guard = Guard()
    assert read(guard, signed_ago(seconds)) is None
    assert guard.refused == {"a stale contact": 1}


@pytest.mark.parametrize(
    ("known", "replaced", "why"),
    [
        (ANNA, {"place": peer_id("bert")}, "a record in another peer's place"),
        (ANNA, {"place": 7}, "a record in another peer's place"),
        (ANNA, {"value": b"x" * (MAX_BYTES + 1)}, "a record that is no contact"),
        (ANNA, {"value": 7}, "a record that is no contact"),
        (ANNA, {"value": b"\xff\xff"}, "a garbled record"),
        (contact("anna", OTHER), {}, "a contact of another run"),
        (
            ANNA,
            {"value": changed(ANNA.signed, address="evil:1").SerializeToString()},
            "a contact that is not signed by its peer",
        ),
    ],
)
def test_any_other_record_is_counted_and_nothing_else(known, replaced, why):
    guard = Guard()
    assert read(guard, known, **replaced) is None
    assert guard.refused == {why: 1}
