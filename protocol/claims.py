"""What a contributor signs when it contributes, and an owner when it gives the mean.

A contributor's signature binds it to its bytes before anybody has averaged them. An owner's claim
binds its mean to the contributions that it says it got, each with its contributor's signature: with
their bytes anybody can do the owner's work again (protocol/audit.py). Nothing else is needed for
that, no roster and no log, so tokens stand in both.
"""

from dataclasses import dataclass
from typing import Final

from protocol.accepts import IsSignedBy, Signer
from protocol.digest import canonical

_CONTRIBUTION: Final = b"diloco.v1 contribution\0"
_CLAIM: Final = b"diloco.v1 claim\0"
"""What is signed begins with them: no signature is good for anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One part in one round of a run, under one roster."""

    run_id: str
    round: int
    roster: str
    """Digest of the roster."""
    part_index: int


@dataclass(frozen=True, slots=True)
class Signature:
    """And the key to check it with, of which the signer's peer_id is the digest."""

    public_key: bytes
    signature: bytes

    @classmethod
    def by(cls, signer: Signer, message: bytes) -> "Signature":
        return cls(signer.public_key, signer.sign(message))


@dataclass(frozen=True, slots=True)
class Input:
    """A contribution as an owner passes it on; whose it is, says its place among the others."""

    digest: str
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one member says that it gives to a part."""

    peer_id: str
    tokens: int
    digest: str
    """Of the encoded part."""
    signature: Signature

    @classmethod
    def of(
        cls, slot: Slot, peer_id: str, tokens: int, digest: str, signer: Signer
    ) -> "Contribution":
        """Signed by its contributor."""
        signature = Signature.by(signer, _contribution(slot, tokens, digest))
        return cls(peer_id=peer_id, tokens=tokens, digest=digest, signature=signature)

    @property
    def input(self) -> Input:
        return Input(self.digest, self.signature)

    def is_signed(self, slot: Slot, is_signed_by: IsSignedBy) -> bool:
        """Whether its contributor signed just that."""
        message = _contribution(slot, self.tokens, self.digest)
        by = self.signature
        return is_signed_by(self.peer_id, by.public_key, by.signature, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an owner says that it has averaged, and what came out."""

    slot: Slot
    owner: str
    mean: str
    """Digest of the encoded mean."""
    contributions: tuple[Contribution, ...]
    """In peer_id order."""
    signature: Signature

    @classmethod
    def of(
        cls,
        slot: Slot,
        owner: str,
        mean: str,
        contributions: tuple[Contribution, ...],
        signer: Signer,
    ) -> "Claim":
        """Signed by its owner."""
        signature = Signature.by(signer, _claim(slot, mean, contributions))
        return cls(
            slot=slot, owner=owner, mean=mean, contributions=contributions, signature=signature
        )

    @property
    def inputs(self) -> tuple[Input, ...]:
        return tuple(contribution.input for contribution in self.contributions)

    def is_signed(self, is_signed_by: IsSignedBy) -> bool:
        """Whether its owner signed just that; what it says may be a lie all the same."""
        message = _claim(self.slot, self.mean, self.contributions)
        by = self.signature
        return is_signed_by(self.owner, by.public_key, by.signature, message)


def _contribution(slot: Slot, tokens: int, digest: str) -> bytes:
    return _CONTRIBUTION + canonical(
        [slot.run_id, slot.round, slot.roster, slot.part_index, tokens, digest]
    )


def _claim(slot: Slot, mean: str, contributions: tuple[Contribution, ...]) -> bytes:
    # The keys too, though a peer_id has only one: else somebody could put another into the claim,
    # and accuse its owner of a contribution that nobody signed.
    inputs = [
        [c.peer_id, c.tokens, c.digest, c.signature.public_key.hex(), c.signature.signature.hex()]
        for c in contributions
    ]
    return _CLAIM + canonical([slot.run_id, slot.round, slot.roster, slot.part_index, mean, inputs])
