"""Whose bytes these are: signs what this peer gives in an exchange, and checks what it is given.

A contribution that repeats an earlier one, or another's of the same round, says nothing new. Its
owner leaves it out: it would be credited with tokens that nobody trained for it. Only exact copies
show; parts of few bytes, and parts that nobody has moved, are equal by chance.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from protocol.accepts import Signer
from protocol.claims import Claim, Contribution, Input, Signature, Slot
from protocol.errors import RemoteError
from protocol.terms import Terms

REMEMBERED: Final = 16_384
"""Digests of contributions, the newest ones: of hundreds of rounds where a peer owns a few dozen
parts in each."""
MIN_COPY_BYTES: Final = 256
"""Smaller parts can be equal though nobody copied."""


class Provenance:
    """One peer's, for as long as it runs."""

    def __init__(self, me: str, terms: Terms, signer: Signer) -> None:
        self._me = me
        self._tally = terms.tally
        self._signer = signer
        self.asks_for_claims = terms.audits > 0
        """Whether means come with claims; they cost bytes, and only audits need them."""
        self._seen: OrderedDict[str, tuple[int, str]] = OrderedDict()
        """Round and contributor of each contribution that this peer was to average, by digest."""

    def slot(self, round_: int, roster: str, part_index: int) -> Slot:
        return Slot(run_id=self._tally.run_id, round=round_, roster=roster, part_index=part_index)

    # --- contributions ---------------------------------------------------------------------------

    def contribution(self, slot: Slot, tokens: int, digest: str) -> Contribution:
        """This peer's own."""
        return Contribution.of(slot, self._me, tokens, digest, self._signer)

    def received(
        self, slot: Slot, sender: str, tokens: int, digest: str, signature: Signature | None
    ) -> Contribution:
        """Another's. Raises RemoteError unless it is signed by who sent it."""
        if signature is None:
            raise RemoteError(sender, "a contribution that nobody signed")
        contribution = Contribution(
            peer_id=sender, tokens=tokens, digest=digest, signature=signature
        )
        if not contribution.is_signed(slot, self._tally.is_signed_by):
            raise RemoteError(sender, "a contribution that its sender did not sign")
        return contribution

    def why_copied(self, round_: int, contribution: Contribution, data: bytes) -> str:
        """What it repeats, in words; empty if nothing. It is remembered."""
        if len(data) < MIN_COPY_BYTES or not data.strip(b"\0"):
            return ""
        peer_id, digest = contribution.peer_id, contribution.digest
        earlier, other = self._seen.get(digest, (round_, peer_id))
        if peer_id != self._me and (earlier < round_ or other != peer_id):
            return f"what {other[:8]} gave in round {earlier}"
        self._seen[digest] = (round_, peer_id)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return ""

    # --- means -----------------------------------------------------------------------------------

    def claim(self, slot: Slot, mean: str, contributions: Sequence[Contribution]) -> Claim:
        """Of a mean that this peer has made."""
        return Claim.of(slot, self._me, mean, tuple(contributions), self._signer)

    def received_claim(
        self,
        slot: Slot,
        owner: str,
        mean: str,
        given: Sequence[tuple[str, int]],
        inputs: Sequence[Input],
        signature: Signature | None,
    ) -> Claim:
        """What another peer claims of a mean.

        The contributors' signatures in it are left to an audit: that they are there is enough to
        hold the owner to them.

        Args:
            given: peer_id and tokens of those that are said to be in the mean.

        Raises:
            RemoteError: there is no claim, or it is not of these contributors, or not signed.
        """
        if signature is None or len(inputs) != len(given):
            raise RemoteError(owner, "a mean without a claim of what is in it")
        claim = Claim(
            slot=slot,
            owner=owner,
            mean=mean,
            contributions=tuple(
                Contribution(peer_id=peer, tokens=tokens, digest=i.digest, signature=i.signature)
                for (peer, tokens), i in zip(given, inputs, strict=True)
            ),
            signature=signature,
        )
        if not claim.is_signed(self._tally.is_signed_by):
            raise RemoteError(owner, "a claim that its owner did not sign")
        return claim
