"""What contributors and owners sign, and what an owner takes for a contribution."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peer.identity import Identity, is_signed_by
from protocol.claims import Claim, Contribution, Input, Signature, Slot
from protocol.codec import codec_named
from protocol.digest import digest
from protocol.errors import RemoteError
from protocol.events import AveragePart, CompareMean, Effect, Leg, Note, PartReceived, SendPart
from protocol.messages import Roster
from protocol.provenance import MIN_COPY_BYTES, REMEMBERED, Provenance
from protocol.round import Exchange
from protocol.wire import diloco_pb2 as pb
from protocol.wire.claims import MAX_INPUTS, inputs_from_pb, inputs_to_pb, signature_from_pb
from tests.protocol import arriving
from tests.protocol.makers import ABC, roster, terms
from tests.protocol.vectors import cases
from tests.sim.keys import SimKey

VALUES = (MIN_COPY_BYTES // 4,) * 3
"""Parts that are just large enough for copies to show."""


def bytes_of(peer: str, part_index: int) -> bytes:
    return f"{peer}{part_index}".encode() * (MIN_COPY_BYTES // 2)


def provenance(me: str = "b", audits: float = 0.0) -> Provenance:
    return Provenance(me, terms(audits=audits), SimKey(me))


def exchange(
    me: str = "b", of: Roster | None = None, knows: Provenance | None = None, audits: float = 0.0
) -> Exchange:
    """Of one that has contributed. a owns part 0, b part 1 and c part 2."""
    codec, knows = codec_named("fp32"), knows or provenance(me, audits)
    machine = Exchange(me, of or roster(), codec, VALUES, knows)
    machine.contribute([bytes_of(me, i) for i in range(3)])
    return machine


def gives(machine: Exchange, sender: str, data: bytes = b"", **changed) -> list[Effect]:
    """A contribution to part 1 arrives."""
    data = data or bytes_of(sender, 1)
    return machine.receive(
        replace(arriving.part(sender, machine.roster, Leg.SCATTER, 1, data), **changed)
    )


def averages(effects: list[Effect]) -> list[tuple[str, ...]]:
    return [effect.senders for effect in effects if isinstance(effect, AveragePart)]


# --- to the byte ----------------------------------------------------------------------------------


@cases("contribution")
def test_what_a_contributor_signs_is_as_written(case):
    """docs/protocol.md, "Contributions and claims"; by a real key."""
    key, where = _key_and_slot(case)
    signed = Contribution.of(where, key.peer_id, case["tokens"], case["digest"], key)
    assert signed.signature.signature.hex() == case["signature"]
    assert is_signed_by(
        key.peer_id, key.public_key, signed.signature.signature, case["message"].encode()
    )
    assert signed.is_signed(where, is_signed_by)
    assert not replace(signed, tokens=1).is_signed(where, is_signed_by)


@cases("claim")
def test_what_an_owner_signs_is_as_written(case):
    key, where = _key_and_slot(case)
    given = Contribution.of(where, key.peer_id, case["tokens"], case["digest"], key)
    assert given.signature.signature.hex() == case["contribution"]
    claim = Claim.of(where, key.peer_id, case["mean"], (given,), key)
    assert claim.signature.signature.hex() == case["signature"]
    assert is_signed_by(
        key.peer_id, key.public_key, claim.signature.signature, case["message"].encode()
    )
    assert claim.is_signed(is_signed_by)
    assert not replace(claim, contributions=()).is_signed(is_signed_by)


def _key_and_slot(case: dict) -> tuple[Identity, Slot]:
    key = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["private_key"])))
    return key, Slot(**{name: case[name] for name in ("run_id", "round", "roster", "part_index")})


# --- contributions --------------------------------------------------------------------------------


NOT_ITS_OWN = {
    "nobody": None,
    "another": arriving.contribution("a", roster(), 1, bytes_of("a", 1), signer="x").signature,
    "it, for other bytes": arriving.contribution("a", roster(), 1, b"other").signature,
    "it, for another part": arriving.contribution("a", roster(), 0, bytes_of("a", 1)).signature,
    "it, under another roster": arriving.contribution(
        "a", roster(ballot=3), 1, bytes_of("a", 1)
    ).signature,
    "it, with other tokens": arriving.contribution(
        "a", replace(roster(), members=roster(tokens=(5, 1, 1)).members), 1, bytes_of("a", 1)
    ).signature,
    "it, in another run": arriving.contribution(
        "a", roster(), 1, bytes_of("a", 1), run_id="another"
    ).signature,
}


@pytest.mark.parametrize("signature", NOT_ITS_OWN.values(), ids=NOT_ITS_OWN)
def test_a_contribution_that_its_sender_did_not_sign_is_refused(signature):
    machine = exchange()
    with pytest.raises(RemoteError, match="sign"):
        gives(machine, "a", signature=signature)
    assert not gives(machine, "c")
    assert averages(gives(machine, "a")) == [ABC], "and its own counts when it comes"


def test_each_contribution_goes_out_signed():
    codec = codec_named("fp32")
    sent = Exchange("b", roster(), codec, VALUES, provenance()).contribute(
        [bytes_of("b", i) for i in range(3)]
    )
    for part in sent:
        assert isinstance(part, SendPart)
        expected = arriving.contribution("b", roster(), part.part_index, part.data)
        assert part.signature == expected.signature


# --- copies ---------------------------------------------------------------------------------------


def test_who_gives_what_another_gave_is_left_out():
    machine = exchange()
    assert not gives(machine, "a")
    note, average = gives(machine, "c", bytes_of("a", 1))
    assert isinstance(note, Note) and "what a gave in round 0" in note.text
    assert averages([average]) == [("a", "b")], "and nobody waits for it"


def test_who_gives_what_the_owner_gave_is_left_out():
    machine = exchange()
    gives(machine, "a")
    note, average = gives(machine, "c", bytes_of("b", 1))
    assert isinstance(note, Note) and averages([average]) == [("a", "b")]


def test_who_gives_what_somebody_gave_in_an_earlier_round_is_left_out():
    knows = provenance()
    first = exchange(knows=knows)
    gives(first, "a")
    gives(first, "c")
    for data in (bytes_of("a", 1), bytes_of("c", 1)):
        later = exchange(of=roster(round=2), knows=knows)
        note, *_ = gives(later, "a", data)
        assert isinstance(note, Note) and "in round 0" in note.text


def test_what_comes_again_under_another_roster_of_the_round_counts():
    knows = provenance()
    gives(exchange(knows=knows), "a")
    again = exchange(of=roster(ballot=3), knows=knows)
    assert not gives(again, "a")
    assert averages(gives(again, "c")) == [ABC]


def test_what_comes_again_after_a_rewind_counts():
    """An earlier round is done again, on another log."""
    knows = provenance()
    gives(exchange(of=roster(round=2), knows=knows), "a")
    again = exchange(knows=knows)
    assert not gives(again, "a")
    assert averages(gives(again, "c")) == [ABC]


def test_an_own_contribution_is_never_left_out():
    """Somebody who had it before may have given it as its own."""
    machine = Exchange("b", roster(), codec_named("fp32"), VALUES, provenance())
    gives(machine, "a", bytes_of("b", 1))
    gives(machine, "c")
    assert averages(machine.contribute([bytes_of("b", i) for i in range(3)])) == [ABC]


@pytest.mark.parametrize("data", [bytes(MIN_COPY_BYTES), b"x" * (MIN_COPY_BYTES - 1)])
def test_what_is_equal_by_chance_is_no_copy(data):
    """Parts that nobody has moved, and those of a few values."""
    knows = provenance()
    for peer in "ac":
        given = arriving.contribution(peer, roster(), 1, data)
        assert knows.why_copied(0, given, data) == ""


def test_what_is_remembered_is_bounded():
    knows, data = provenance(), b"x" * MIN_COPY_BYTES
    first = arriving.contribution("a", roster(), 1, data)
    assert not knows.why_copied(0, first, data)
    for i in range(REMEMBERED - 1):
        assert not knows.why_copied(1, replace(first, digest=str(i)), data)
    assert knows.why_copied(2, first, data)
    assert not knows.why_copied(2, replace(first, digest="one more"), data)
    assert not knows.why_copied(2, first, data)


# --- claims ---------------------------------------------------------------------------------------


def made_by_b() -> list[SendPart]:
    """The mean of part 1, as b sends it to the others where the run has audits."""
    machine = exchange(audits=1.0)
    gives(machine, "a")
    gives(machine, "c")
    return [e for e in machine.averaged(1, bytes_of("m", 1)) if isinstance(e, SendPart)]


def arrived(send: SendPart) -> PartReceived:
    return PartReceived(
        sender="b",
        roster=send.roster,
        leg=send.leg,
        part_index=send.part_index,
        data=send.data,
        without=send.without,
        signature=send.signature,
        inputs=send.inputs,
    )


def test_a_mean_comes_with_what_is_in_it_signed_by_all():
    to_a, _ = made_by_b()
    machine = exchange("a", audits=1.0)
    asked = machine.receive(arrived(to_a))
    assert asked == [CompareMean(round=0, part_index=1, data=bytes_of("m", 1))]
    assert not machine.receive(arrived(to_a)), "a second one changes nothing"
    (claim,) = machine.claims.values()
    given = tuple(arriving.contribution(p, roster(), 1, bytes_of(p, 1)) for p in ABC)
    assert claim == arriving.claim("b", roster(), 1, bytes_of("m", 1), given)
    assert all(c.is_signed(claim.slot, terms().tally.is_signed_by) for c in claim.contributions)


def test_a_mean_without_audits_has_no_claim():
    machine = exchange()
    gives(machine, "a")
    gives(machine, "c")
    sends = [e for e in machine.averaged(1, bytes_of("m", 1)) if isinstance(e, SendPart)]
    assert sends and all(not send.inputs and send.signature is None for send in sends)
    assert not machine.claims


BAD_CLAIMS = {
    "none": {"signature": None, "inputs": ()},
    "of fewer than are in the mean": {"inputs": made_by_b()[0].inputs[:2]},
    "of more": {"inputs": made_by_b()[0].inputs * 2},
    "of other inputs than it signed": {
        "inputs": (Input(digest(b"x"), Signature(b"", b"")), *made_by_b()[0].inputs[1:])
    },
    "of another mean": {"data": bytes_of("n", 1)},
    "of a mean of others": {"without": (0,)},
    "signed by another": {"signature": Signature.by(SimKey("x"), b"anything")},
}


@pytest.mark.parametrize("changed", BAD_CLAIMS.values(), ids=BAD_CLAIMS)
def test_a_mean_without_a_claim_that_fits_is_refused(changed):
    good = arrived(made_by_b()[0])
    machine = exchange("a", audits=1.0)
    with pytest.raises(RemoteError, match="claim"):
        machine.receive(replace(good, **changed))
    assert not machine.claims and not machine.means
    machine.receive(good)
    assert machine.means


# --- on the wire ----------------------------------------------------------------------------------


def test_a_claim_travels_as_it_is():
    inputs = made_by_b()[0].inputs
    chunk = pb.Chunk.FromString(pb.Chunk(inputs=inputs_to_pb(inputs)).SerializeToString())
    assert inputs_from_pb("b", chunk) == inputs


@pytest.mark.parametrize(
    "chunk",
    [
        pb.Chunk(inputs=inputs_to_pb(made_by_b()[0].inputs[:1]) * (MAX_INPUTS + 1)),
        pb.Chunk(inputs=[pb.Input(digest=b"short")]),
        pb.Chunk(inputs=[pb.Input(digest=bytes(32))]),
    ],
    ids=["too many", "no digest", "no signature"],
)
def test_a_malformed_claim_is_refused(chunk):
    with pytest.raises(RemoteError):
        inputs_from_pb("b", chunk)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_has_its_size(size):
    with pytest.raises(RemoteError):
        signature_from_pb("b", pb.Signature(public_key=bytes(32), signature=bytes(size)))
