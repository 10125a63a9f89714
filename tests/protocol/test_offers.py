"""Offers of checkpoints on the wire: what comes back, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.state import MAX_CHUNKS, FragmentState, Offer
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import MAX_CONTROL_BYTES
from protocol.wire.offers import MAX_OFFERS, decode_offers, encode_offers
from tests.protocol.makers import DIGEST, entry
from tests.protocol.signed import decided


def offer(round_: int = 7, **changed) -> Offer:
    fields = {
        "decided": decided(entry(round=round_), ("a", "b")),
        "fragments": (
            FragmentState(values=1, version=-1, root=DIGEST),
            FragmentState(values=2**20, version=round_, root=digest(b"other")),
        ),
    }
    return Offer(**fields | changed)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=MAX_OFFERS, unique=True))
def test_offers_come_back_as_they_were(rounds):
    offers = tuple(offer(round_) for round_ in rounds)
    data = encode_offers(offers).SerializeToString()
    assert decode_offers("a", pb.OffersReply.FromString(data)) == offers


def test_the_first_are_sent_when_all_do_not_fit_into_a_message():
    long = entry(round=7, missing=tuple((f"{n:0500}", "w" * 500) for n in range(300)))
    large = offer(decided=decided(long, ("a",)))
    reply = encode_offers([large] * 5)
    assert 1 < len(reply.offers) < 5
    assert reply.ByteSize() <= MAX_CONTROL_BYTES


def changed(**fields) -> pb.OffersReply:
    reply = encode_offers([offer()])
    for name, value in fields.items():
        setattr(reply.offers[0].fragments[1], name, value)
    return reply


@pytest.mark.parametrize(
    "reply",
    [
        pb.OffersReply(offers=[pb.Offer()]),
        pb.OffersReply(offers=[pb.Offer(decided=encode_offers([offer()]).offers[0].decided)]),
        pb.OffersReply(offers=encode_offers([offer()]).offers[:1] * (MAX_OFFERS + 1)),
        changed(values=0),
        changed(values=-5),
        changed(values=MAX_CHUNKS * 2**20 // 8 + 1),
        changed(version=8),
        changed(version=-2),
        changed(root=""),
        changed(root="../" + "0" * 61),
        changed(root="A" * 64),
    ],
)
def test_a_malformed_offer_is_refused(reply):
    with pytest.raises(RemoteError):
        decode_offers("a", reply)


def test_another_round_around_the_entry_is_refused():
    reply = encode_offers([offer()])
    reply.offers[0].decided.round = 6
    with pytest.raises(RemoteError, match="malformed offer"):
        decode_offers("a", reply)


def test_its_name_is_that_of_entry_and_state_and_nothing_else():
    name = offer().digest
    assert offer(decided=decided(entry(round=7), ("c",))).digest == name
    assert offer(8).digest != name
    assert offer(fragments=offer().fragments[:1]).digest != name
