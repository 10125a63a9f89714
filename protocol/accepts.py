"""What a voter signs when it accepts, so that its vote can be shown to others (I4).

The keys are the shell's; here are the bytes that they sign.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, TypeAlias

from protocol.digest import canonical
from protocol.log import Entry, json_text

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_PURPOSE: Final = b"diloco.v1 accept\0"
"""What is signed begins with it: no signature is good for anything else."""

IsSignedBy: TypeAlias = Callable[[str, bytes, bytes, bytes], bool]
"""(peer_id, public_key, signature, message): whether the key is this peer's, and signed this."""


class Signer(Protocol):
    """This peer's key."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a voter says yes to: an entry, in one ballot of the instance that decides it."""

    round: int
    parent: str
    """Digest of the entry before: it and the round name the instance of consensus."""
    ballot: int
    """NO_BALLOT: a forced term, which nobody votes on."""
    entry_digest: str

    @classmethod
    def on(cls, entry: Entry, ballot: int) -> Self:
        return cls(round=entry.round, parent=entry.parent, ballot=ballot, entry_digest=entry.digest)

    def message(self, run_id: str, incarnation: str) -> bytes:
        """The bytes that a voter signs."""
        return _PURPOSE + canonical(
            [run_id, self.round, self.parent, self.ballot, self.entry_digest, incarnation]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedAccept:
    """One voter's word that it accepted; what, says the message or the file that it stands in."""

    voter: str
    incarnation: str
    """Of the journal that it wrote this vote into."""
    public_key: bytes
    signature: bytes

    @classmethod
    def of(cls, vote: Vote, run_id: str, voter: str, incarnation: str, signer: Signer) -> Self:
        """Sign a vote. It is on disk before anybody hears of it."""
        return cls(
            voter=voter,
            incarnation=incarnation,
            public_key=signer.public_key,
            signature=signer.sign(vote.message(run_id, incarnation)),
        )

    def to_json(self) -> list[str]:
        return [self.voter, self.incarnation, self.public_key.hex(), self.signature.hex()]

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Build from decoded JSON; raises TypeError or ValueError when malformed."""
        voter, incarnation, public_key, signature = raw
        return cls(
            voter=json_text(voter),
            incarnation=json_text(incarnation),
            public_key=bytes.fromhex(public_key),
            signature=bytes.fromhex(signature),
        )
