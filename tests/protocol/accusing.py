"""Claims of b about part 1, true and false, and who accuses it."""

from protocol.audit import Accusation
from protocol.claims import Claim
from protocol.codec import codec_named
from protocol.manifest import Aggregation
from tests.protocol import arriving
from tests.protocol.makers import ABC, VALUES, roster
from tests.sim.keys import SimKey

CODEC = codec_named("fp32")
INPUTS = {peer: CODEC.encode(CODEC.decode(bytes([i]) * 8, 2)) for i, peer in enumerate(ABC)}
"""What each contributes."""


def average(contributions, tokens, values) -> bytes:
    decoded = [CODEC.decode(data, values) for data in contributions]
    return CODEC.encode(Aggregation().average(decoded, tokens))


MEAN = average(list(INPUTS.values()), (1, 1, 1), VALUES[1])


def claim_of(
    mean: bytes = MEAN, *, forged: bool = False, owner: str = "b", signer: str = "", part: int = 1
) -> Claim:
    """`forged`: c did not sign what is said to be its contribution; `signer`: of the claim."""
    given = [
        arriving.contribution(
            p, roster(), part, INPUTS[p], signer="x" if forged and p == "c" else ""
        )
        for p in ABC
    ]
    return arriving.claim(owner, roster(), part, mean, given, signer=signer)


TRUE = claim_of()
FALSE = claim_of(INPUTS["a"])


def accusation(claim: Claim = FALSE, by: str = "c", signer: str = "") -> Accusation:
    return Accusation.of(claim, by, SimKey(signer or by))
