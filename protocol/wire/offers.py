"""Offers of checkpoints to protobuf and back: what a newcomer reads before it trusts anybody."""

from collections.abc import Sequence
from typing import Final

from protocol.errors import RemoteError
from protocol.messages import Decided
from protocol.state import FragmentState, Offer
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import MAX_CONTROL_BYTES, MAX_ITEMS, decode_message, encode_message

MAX_OFFERS: Final = 16


def encode_offers(offers: Sequence[Offer]) -> pb.OffersReply:
    """The reply with these offers, the first ones if they are more than one message can carry."""
    reply = pb.OffersReply()
    for offer in offers[:MAX_OFFERS]:
        encoded = pb.Offer(
            decided=encode_message(offer.decided).decided,
            fragments=[
                pb.FragmentState(values=f.values, version=f.version, root=f.root)
                for f in offer.fragments
            ],
        )
        if reply.offers and reply.ByteSize() + encoded.ByteSize() > MAX_CONTROL_BYTES:
            break
        reply.offers.append(encoded)
    return reply


def decode_offers(sender: str, reply: pb.OffersReply) -> tuple[Offer, ...]:
    """The offers in a reply.

    Raises:
        RemoteError: too many, or a field that is out of range or malformed.
    """
    if len(reply.offers) > MAX_OFFERS:
        raise RemoteError(sender, f"more than {MAX_OFFERS} offers")
    return tuple(_offer(sender, offer) for offer in reply.offers)


def _offer(sender: str, offer: pb.Offer) -> Offer:
    decided = decode_message(sender, pb.Envelope(decided=offer.decided))
    assert isinstance(decided, Decided)
    if not 0 < len(offer.fragments) <= MAX_ITEMS or decided.round != decided.entry.round:
        raise RemoteError(sender, "a malformed offer")
    fragments = tuple(
        FragmentState(values=f.values, version=f.version, root=f.root) for f in offer.fragments
    )
    if not all(fragment.is_possible(decided.round) for fragment in fragments):
        raise RemoteError(sender, "a malformed offer")
    return Offer(decided=decided, fragments=fragments)
