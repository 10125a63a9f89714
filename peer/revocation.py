"""Who was thrown out: a list that the run's authority signs, and every peer passes on.

Each list is whole and has a number; a higher one replaces a lower one, wherever it comes from.
"""

from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.message import DecodeError

from peer.certificates import Authority
from peer.identity import verifies
from protocol.errors import RemoteError
from protocol.wire import diloco_pb2 as pb

MAX_REVOKED: Final = 4096
MAX_BYTES: Final = 256 * 1024
_PEER_ID_CHARACTERS: Final = 52
_PURPOSE: Final = b"diloco.v1 revocations\0"


def sign_revocations(
    authority: Authority, run_id: str, number: int, peer_ids: Iterable[str]
) -> pb.SignedRevocations:
    body = pb.Revocations(run_id=run_id, number=number, peer_ids=sorted(peer_ids))
    data = body.SerializeToString()
    return pb.SignedRevocations(revocations=data, signature=authority.sign(_PURPOSE + data))


class Revocations:
    """The newest list that this peer has seen; none at first."""

    def __init__(self, run_id: str, authority: bytes | None) -> None:
        """`authority`: public key that must have signed each list. None: the run is open, where
        everybody has that key, and nobody is thrown out."""
        self._run_id = run_id
        self._authority = authority
        self._revoked: frozenset[str] = frozenset()
        self.number = 0
        self.signed = pb.SignedRevocations()
        """To be passed on as it is; empty: none was seen."""
        self.on_news: Callable[[frozenset[str]], None] = lambda added: None
        """Called with the peer_ids that were not on the list before."""

    @property
    def peer_ids(self) -> frozenset[str]:
        return self._revoked

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._revoked

    def take(self, signed: pb.SignedRevocations, told_by: str) -> bool:
        """Believe a list if it is newer; whether it was.

        Raises:
            RemoteError: malformed, of another run, not signed by the authority, or the run is open.
        """
        if signed.ByteSize() > MAX_BYTES:
            raise RemoteError(told_by, "an oversized list of revocations")
        if signed.revocations in (b"", self.signed.revocations):
            return False
        if self._authority is None:
            raise RemoteError(told_by, "a list of revocations in an open run")
        try:
            body = pb.Revocations.FromString(signed.revocations)
        except DecodeError as error:
            raise RemoteError(told_by, "a malformed list of revocations") from error
        if len(body.peer_ids) > MAX_REVOKED or not all(
            len(peer_id) == _PEER_ID_CHARACTERS for peer_id in body.peer_ids
        ):
            raise RemoteError(told_by, "a malformed list of revocations")
        if body.run_id != self._run_id:
            raise RemoteError(told_by, "a list of revocations of another run")
        if not verifies(self._authority, signed.signature, _PURPOSE + signed.revocations):
            raise RemoteError(told_by, "a list of revocations that the authority did not sign")
        if body.number <= self.number:
            return False
        added = frozenset(body.peer_ids) - self._revoked
        self._revoked, self.number, self.signed = frozenset(body.peer_ids), body.number, signed
        self.on_news(added)
        return True
