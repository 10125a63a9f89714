"""When a mean is proven to be false, and what that proof is.

An owner has signed what it averaged and what came out; everybody who has these bytes can average
them again, to the bit (protocol/robust.py). So an accusation needs nobody's word: it is the owner's
claim, under the accuser's signature. If the claim is false the owner is guilty, and else the
accuser is. That holds however the part was chosen, so nobody has to agree on a seed: each peer
draws with numbers of its own, which nobody else can know before.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np

from protocol.accepts import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, IsSignedBy, Signer
from protocol.claims import Claim, Contribution, Signature, Slot
from protocol.codec import Values
from protocol.digest import canonical, digest, is_digest
from protocol.errors import CodecError
from protocol.log import json_int, json_text

AGAINST: Final = 0.05
"""The cosine with what one gave that a lie has at least, backwards: peers that learn unlike things
come to less, and 1 / sqrt(peers) is what a mean has of those that have nothing in common."""
DEVIATIONS: Final = 6.0
"""From zero, for what is no chance."""
QUIET: Final = 0.1
"""Of what a peer gave elsewhere in the fragment, so that a part says nothing about directions."""
LOUDEST: Final = 32.0
"""Of the same: optimizers with a step size of their own move all values alike, and members take
steps in proportion to their pace."""

_ACCUSATION: Final = b"diloco.v1 accusation\0"

Average: TypeAlias = Callable[[Sequence[bytes], Sequence[int], int], bytes]
"""(encoded contributions, tokens, values) -> the encoded mean, as owners make it; raises CodecError
for a contribution that no owner may use."""


@dataclass(frozen=True, kw_only=True)
class Accusation:
    """That a claim is false; keeps its digest, so no slots."""

    claim: Claim
    accuser: str
    signature: Signature

    @classmethod
    def of(cls, claim: Claim, accuser: str, signer: Signer) -> "Accusation":
        signature = Signature.by(signer, _accusation(claim))
        return cls(claim=claim, accuser=accuser, signature=signature)

    @cached_property
    def digest(self) -> str:
        return digest(self.to_bytes())

    def is_signed(self, is_signed_by: IsSignedBy) -> bool:
        """Whether the owner signed the claim, and the accuser that it is false."""
        by = self.signature
        message = _accusation(self.claim)
        return self.claim.is_signed(is_signed_by) and is_signed_by(
            self.accuser, by.public_key, by.signature, message
        )

    def to_bytes(self) -> bytes:
        """The canonical ones."""
        return canonical(self.to_json())

    def to_json(self) -> dict[str, Any]:
        claim, slot = self.claim, self.claim.slot
        return {
            "run_id": slot.run_id,
            "round": slot.round,
            "roster": slot.roster,
            "part_index": slot.part_index,
            "owner": claim.owner,
            "mean": claim.mean,
            "contributions": [
                [c.peer_id, c.tokens, c.digest, *_to_json(c.signature)] for c in claim.contributions
            ],
            "signature": _to_json(claim.signature),
            "accuser": self.accuser,
            "accuser_signature": _to_json(self.signature),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Accusation":
        """Build from decoded JSON; raises KeyError, TypeError or ValueError when malformed."""
        slot = Slot(
            run_id=json_text(raw["run_id"]),
            round=json_int(raw["round"]),
            roster=json_text(raw["roster"]),
            part_index=json_int(raw["part_index"]),
        )
        contributions = tuple(
            Contribution(
                peer_id=json_text(peer_id),
                tokens=json_int(tokens),
                digest=_digest(of),
                signature=_signature(by),
            )
            for peer_id, tokens, of, *by in raw["contributions"]
        )
        givers = [contribution.peer_id for contribution in contributions]
        if not givers or givers != sorted(set(givers)):
            raise ValueError("contributors that are missing, twice, or in disorder")
        if any(contribution.tokens == 0 for contribution in contributions):
            raise ValueError("a contributor without weight")
        claim = Claim(
            slot=slot,
            owner=json_text(raw["owner"]),
            mean=_digest(raw["mean"]),
            contributions=contributions,
            signature=_signature(raw["signature"]),
        )
        signature = _signature(raw["accuser_signature"])
        return cls(claim=claim, accuser=json_text(raw["accuser"]), signature=signature)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Accusation":
        """Raises KeyError, TypeError or ValueError when malformed, or not in the canonical form."""
        accusation = cls.from_json(json.loads(data))
        if accusation.to_bytes() != data:
            raise ValueError("an accusation that is not in its canonical form")
        return accusation


def _accusation(claim: Claim) -> bytes:
    slot = claim.slot
    signed = [slot.run_id, slot.round, slot.roster, slot.part_index, claim.mean]
    return _ACCUSATION + canonical([*signed, claim.owner, claim.signature.signature.hex()])


def is_forged(claim: Claim, is_signed_by: IsSignedBy) -> bool:
    """Whether it names a contribution that its contributor did not sign: a lie as it stands."""
    return not all(c.is_signed(claim.slot, is_signed_by) for c in claim.contributions)


def is_true(claim: Claim, inputs: Mapping[str, bytes], values: int, average: Average) -> bool:
    """Whether the owner's work, done again, comes to what it claimed.

    Args:
        inputs: every contribution's bytes by digest, checked against it.
        values: in the part, as the manifest has it.
    """
    contributions = [inputs[contribution.digest] for contribution in claim.contributions]
    tokens = [contribution.tokens for contribution in claim.contributions]
    try:
        return digest(average(contributions, tokens, values)) == claim.mean
    except CodecError:
        return False  # an owner leaves out what it cannot decode


def loudness(parts: Sequence[Values]) -> float:
    """Root mean square of what one peer gave to the parts of a fragment."""
    squares = sum(float(np.square(part, dtype=np.float64).sum()) for part in parts)
    return math.sqrt(squares / max(1, sum(part.size for part in parts)))


def doubt(own: Values, mean: Values, usual: float) -> float:
    """How little a mean agrees with what this peer gave to it, shape (values,) each.

    0 for the same direction, 1 for nothing in common, 2 for backwards: one minus the cosine. 0 also
    where this peer has no opinion: where it hardly moved, others may have met rare tokens.

    Args:
        usual: loudness of what this peer gave to all parts of the fragment.
    """
    if loudness([own]) <= QUIET * usual:
        return 0.0
    given, averaged = own.astype(np.float64), mean.astype(np.float64)
    lengths = float(np.linalg.norm(given)) * float(np.linalg.norm(averaged))
    return 1.0 - float(given @ averaged) / lengths if lengths else 1.0


def contradicts(own: Values, mean: Values, usual: float) -> bool:
    """Whether a mean cannot be one of anything like what this peer gave to it; args as `doubt`.

    What this peer gave is in it, so an honest mean points away from that by chance at most: the
    cosine of unrelated values has the deviation 1 / sqrt(values). And it is not much louder than
    what this peer gave elsewhere.
    """
    least = max(AGAINST, DEVIATIONS / math.sqrt(max(1, own.size)))
    return doubt(own, mean, usual) > 1.0 + least or loudness([mean]) > LOUDEST * usual > 0.0


def drawn(
    claims: Sequence[Claim],
    me: str,
    expected: float,
    numbers: Sequence[float],
    doubts: Sequence[float],
) -> tuple[Claim, ...]:
    """Which of a round's claims a peer looks at: of others, `expected` of them on average.

    Half of that goes to the one that is doubted most, so that a gross lie is found at once, and the
    rest to all others alike, so that there is no lie too small to be found. Without doubts chance
    decides alone.

    Args:
        numbers: one for each claim, uniform from 0 to 1, which nobody else knows.
        doubts: of each claim, as `doubt` has it; 0 where this peer gave nothing.
    """
    others = [i for i, claim in enumerate(claims) if claim.owner != me]
    chances = dict.fromkeys(others, expected / max(1, len(others)))
    if len(others) > 1 and any(doubts[i] > 0 for i in others):
        most = max(others, key=lambda i: doubts[i])
        first = min(1.0, expected / 2)
        chances = dict.fromkeys(others, (expected - first) / (len(others) - 1)) | {most: first}
    return tuple(claims[i] for i in others if numbers[i] < chances[i])


def _to_json(signature: Signature) -> list[str]:
    return [signature.public_key.hex(), signature.signature.hex()]


def _signature(raw: Any) -> Signature:
    public_key, signature = map(bytes.fromhex, raw)
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise ValueError("no signature")
    return Signature(public_key, signature)


def _digest(raw: Any) -> str:
    if not is_digest(raw):
        raise ValueError("no digest")
    return str(raw)
