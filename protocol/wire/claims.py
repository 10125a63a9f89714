"""Signatures and claims to protobuf and back: what the first chunk of a part carries besides bytes.

Whether anybody signed anything, says protocol/provenance.py.
"""

from collections.abc import Iterable
from typing import Final

from protocol.accepts import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from protocol.claims import Input, Signature
from protocol.errors import RemoteError
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import MAX_ACCEPTS

MAX_INPUTS: Final = MAX_ACCEPTS
"""Of a mean: as many as a manifest lets a run have peers."""
DIGEST_BYTES: Final = 32
INPUT_BYTES: Final = DIGEST_BYTES + PUBLIC_KEY_BYTES + SIGNATURE_BYTES
"""What one contributor costs in a claim, to a few bytes."""


def signature_to_pb(signature: Signature) -> pb.Signature:
    return pb.Signature(public_key=signature.public_key, signature=signature.signature)


def signature_from_pb(sender: str, signature: pb.Signature) -> Signature:
    """Raises RemoteError when it has not the form of one."""
    fits = len(signature.public_key) == PUBLIC_KEY_BYTES
    if not fits or len(signature.signature) != SIGNATURE_BYTES:
        raise RemoteError(sender, "something else where a signature belongs")
    return Signature(signature.public_key, signature.signature)


def inputs_to_pb(inputs: Iterable[Input]) -> list[pb.Input]:
    return [
        pb.Input(digest=bytes.fromhex(i.digest), signature=signature_to_pb(i.signature))
        for i in inputs
    ]


def inputs_from_pb(sender: str, chunk: pb.Chunk) -> tuple[Input, ...]:
    """Raises RemoteError when there are more than a round has members, or one is malformed."""
    if len(chunk.inputs) > MAX_INPUTS:
        raise RemoteError(sender, "a claim of more contributors than there can be")
    if any(len(given.digest) != DIGEST_BYTES for given in chunk.inputs):
        raise RemoteError(sender, "something else where a digest belongs")
    return tuple(
        Input(given.digest.hex(), signature_from_pb(sender, given.signature))
        for given in chunk.inputs
    )
