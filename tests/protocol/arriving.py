"""Parts as they arrive from other members, signed by simulated keys."""

from collections.abc import Sequence

from protocol.claims import Claim, Contribution, Signature, Slot
from protocol.digest import digest
from protocol.events import Leg, PartReceived
from protocol.messages import Roster
from tests.protocol.makers import RUN
from tests.sim.keys import SimKey


def slot(of: Roster, part_index: int, run_id: str = RUN) -> Slot:
    return Slot(run_id=run_id, round=of.round, roster=of.digest, part_index=part_index)


def contribution(
    sender: str, of: Roster, part_index: int, data: bytes, *, signer: str = "", run_id: str = RUN
) -> Contribution:
    """Signed by `signer`, if that is not the sender itself."""
    tokens = next((m.tokens for m in of.members if m.peer_id == sender), 0)
    where = slot(of, part_index, run_id)
    return Contribution.of(where, sender, tokens, digest(data), SimKey(signer or sender))


def claim(
    owner: str,
    of: Roster,
    part_index: int,
    mean: bytes,
    given: Sequence[Contribution],
    *,
    signer: str = "",
) -> Claim:
    key = SimKey(signer or owner)
    return Claim.of(slot(of, part_index), owner, digest(mean), tuple(given), key)


def part(
    sender: str,
    of: Roster,
    leg: Leg,
    part_index: int,
    data: bytes,
    without: tuple[int, ...] = (),
    *,
    signature: Signature | None = None,
    claimed: Claim | None = None,
) -> PartReceived:
    """A contribution is signed by its sender, unless a signature is given."""
    if leg is Leg.SCATTER and signature is None:
        signature = contribution(sender, of, part_index, data).signature
    return PartReceived(
        sender=sender,
        roster=of.digest,
        leg=leg,
        part_index=part_index,
        data=data,
        without=without,
        signature=signature if claimed is None else claimed.signature,
        inputs=() if claimed is None else claimed.inputs,
    )
