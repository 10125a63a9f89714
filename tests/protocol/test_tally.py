"""When a decision is believed: with its quorum's signed accepts, and with nothing less (I4)."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from peer.disk import MAX_SMALL_BYTES
from peer.identity import Identity, is_signed_by
from peer.sealed import seal
from protocol.accepts import SignedAccept, Vote
from protocol.ballots import NO_BALLOT
from protocol.errors import RemoteError
from protocol.events import ApplyEntry
from protocol.log import Head
from protocol.messages import Decided
from protocol.tally import Tally
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import MAX_CONTROL_BYTES, decode_message, encode_message
from tests.protocol.makers import ABC, RUN, head
from tests.protocol.members import empty_entry, hear, kinds, member
from tests.protocol.signed import accept, accepted, decided, forced_by
from tests.protocol.vectors import cases
from tests.sim.keys import tally_of

TALLY = tally_of(RUN)
ENTRY = empty_entry()
VOTE = Vote.on(ENTRY, 0)
GOOD = decided(ENTRY, ("a", "c"))


def is_believed(decision: Decided, before: Head | None) -> bool:
    try:
        TALLY.check("x", decision, before)
    except RemoteError:
        return False
    return True


def with_accepts(*accepts: SignedAccept) -> Decided:
    return replace(GOOD, accepts=accepts)


def test_the_signed_accepts_of_a_quorum_are_believed():
    assert is_believed(GOOD, head()) and is_believed(GOOD, None)
    assert is_believed(decided(ENTRY, ABC), head()), "more than needed do no harm"


@cases("accept")
def test_what_is_signed_is_as_written(case):
    """docs/protocol.md, "Accepts"; by a real key."""
    key = Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["private_key"])))
    vote = Vote(**{name: case[name] for name in ("round", "parent", "ballot", "entry_digest")})
    signed = SignedAccept.of(vote, case["run_id"], key.peer_id, case["incarnation"], key)
    assert vote.message(case["run_id"], case["incarnation"]) == case["message"].encode()
    assert signed.to_json() == [
        case[name] for name in ("voter", "incarnation", "public_key", "signature")
    ]
    tally = Tally(run_id=case["run_id"], quorum="majority", is_signed_by=is_signed_by)
    assert tally.is_signed(vote, signed) and not tally.is_signed(replace(vote, ballot=3), signed)


C = accept(VOTE, "c")
ELSEWHERE = empty_entry(parent="another")
LATER = empty_entry(Head.of_entry(ENTRY))
NOT_FOR_THIS = {
    "forged: another key signed": accept(VOTE, "a", signer="x"),
    "forged: another key, in its own name": replace(accept(VOTE, "x"), voter="a"),
    "for another entry": accept(Vote.on(empty_entry(reason="another"), 0), "a"),
    "of another round": accept(Vote.on(LATER, 0), "a"),
    "of another chain": accept(Vote.on(ELSEWHERE, 0), "a"),
    "of another ballot": accept(Vote.on(ENTRY, 3), "a"),
    "of another run": accept(VOTE, "a", run_id="another run"),
    "of a journal that is gone": replace(accept(VOTE, "a", incarnation="a-9"), incarnation="a-0"),
}


@pytest.mark.parametrize("bad", NOT_FOR_THIS.values(), ids=NOT_FOR_THIS)
def test_an_accept_that_was_not_given_for_this_is_not_believed(bad):
    """Wherever the decision is met, also where the voters are not known."""
    for decision in (with_accepts(bad, C), with_accepts(bad, accept(VOTE, "b"), C)):
        assert not is_believed(decision, head()) and not is_believed(decision, None)


@pytest.mark.parametrize(
    "bad",
    [
        accept(VOTE, "a", incarnation="a-9"),
        accept(VOTE, "x"),
    ],
    ids=["with a journal that is not listed", "of somebody without a vote"],
)
def test_an_accept_of_a_journal_without_a_vote_is_not_believed(bad):
    accepts = sorted([bad, accept(VOTE, "b"), C], key=lambda signed: signed.voter)
    assert not is_believed(with_accepts(*accepts), head())


@pytest.mark.parametrize(
    "accepts", [(), (C,), (C, C), (C, accept(VOTE, "a"))], ids=["none", "few", "twice", "disorder"]
)
def test_too_few_are_not_believed_and_nobody_counts_twice(accepts):
    assert not is_believed(with_accepts(*accepts), head())


def test_accepts_of_several_ballots_do_not_add_up():
    """Each is good in its own; in between another entry may have been chosen."""
    later = accept(Vote.on(ENTRY, 3), "a")
    assert not is_believed(with_accepts(later, C), head())
    assert not is_believed(replace(with_accepts(later, C), ballot=3), head())


fields = st.sampled_from(["voter", "incarnation", "public_key", "signature"])


@given(st.integers(0, 1), fields, st.integers(0, 1000), st.integers(1, 255))
def test_no_changed_byte_of_an_accept_is_believed(which, field, place, change):
    changed = getattr(GOOD.accepts[which], field)
    if isinstance(changed, bytes):
        data = bytearray(changed)
        data[place % len(data)] ^= change
        value: bytes | str = bytes(data)
    else:
        place %= len(changed)
        value = changed[:place] + chr(ord(changed[place]) ^ change) + changed[place + 1 :]
    accepts = list(GOOD.accepts)
    accepts[which] = replace(accepts[which], **{field: value})
    assert not is_believed(with_accepts(*accepts), head())


def test_under_two_thirds_a_majority_is_not_believed():
    tally = tally_of(RUN, "two_thirds")
    tally.check("x", decided(ENTRY, ABC), head())
    with pytest.raises(RemoteError, match="by no quorum"):
        tally.check("x", decided(ENTRY, ("a", "c")), head())


# --- forced terms ---------------------------------------------------------------------------------


def test_a_forced_term_is_signed_by_who_forces_it():
    assert is_believed(forced_by("c"), head()) and is_believed(forced_by("c"), None)


FORCED = forced_by("c")
AS_C = Vote.on(FORCED.entry, NO_BALLOT)
BY_ANOTHER = (accept(AS_C, "b"),)


@pytest.mark.parametrize(
    "bad",
    [
        replace(FORCED, accepts=()),
        replace(FORCED, accepts=BY_ANOTHER),
        replace(FORCED, accepts=(*BY_ANOTHER, accept(AS_C, "c"))),
        replace(FORCED, accepts=(accept(AS_C, "c", signer="b"),)),
        replace(FORCED, accepts=(accept(AS_C, "c", incarnation="c-1"),)),
        decided(FORCED.entry, ABC),
        decided(ENTRY, ("a",), ballot=NO_BALLOT),
    ],
    ids=[
        "by nobody",
        "by another one",
        "by two",
        "with a forged signature",
        "with a journal that it does not list",
        "by a vote",
        "an entry that is not of a new term",
    ],
)
def test_no_other_is_believed(bad):
    assert not is_believed(bad, head())


# --- where decisions are met ----------------------------------------------------------------------


@pytest.mark.parametrize("bad", NOT_FOR_THIS.values(), ids=NOT_FOR_THIS)
def test_a_member_refuses_a_made_up_decision_and_nothing_changes(bad):
    machine = member()
    with pytest.raises(RemoteError):
        hear(machine, "a", with_accepts(bad, C))
    assert machine.round == 0
    assert kinds(hear(machine, "a", GOOD)) == [ApplyEntry]


@pytest.mark.parametrize("bad", NOT_FOR_THIS.values(), ids=NOT_FOR_THIS)
def test_a_proposer_does_not_count_a_made_up_accept(bad):
    machine = member("b")
    decision = machine._round.decision
    decision.propose(1, ENTRY)
    good = {voter: accepted(ENTRY, voter, ballot=1) for voter in ABC}
    assert not hear(machine, "b", good["b"])
    with pytest.raises(RemoteError):
        hear(machine, "a", replace(good["a"], accept=bad))
    assert not hear(machine, "b", good["b"]), "its own is still the only one"
    assert machine.round == 0
    (*_, applied) = hear(machine, "c", good["c"])
    assert isinstance(applied, ApplyEntry) and applied.decided.accepted_by == ("b", "c")


def test_nobody_sends_the_accept_of_another():
    machine = member("b")
    machine._round.decision.propose(1, ENTRY)
    with pytest.raises(RemoteError):
        hear(machine, "c", accepted(ENTRY, "a", ballot=1))


# --- how much it is -------------------------------------------------------------------------------


def test_the_largest_decision_fits_wherever_it_has_to():
    voters = tuple(f"{place:052}" for place in range(256))
    journals = tuple("f" * 16 for _ in voters)
    large = empty_entry(voters=voters, incarnations=journals, tie_breaker=voters[0])
    decision = decided(large, voters)
    envelope = encode_message(decision)
    assert decode_message("x", pb.Envelope.FromString(envelope.SerializeToString())) == decision
    of_accepts = envelope.ByteSize() - len(envelope.decided.entry)
    assert of_accepts < 256 * 256 < MAX_CONTROL_BYTES // 10
    # On disk they are hexadecimal, beside an entry of any size that a message may have.
    assert len(seal(decision.to_json())) - len(envelope.decided.entry) < MAX_SMALL_BYTES // 10
    assert Decided.from_json(decision.to_json()) == decision
    envelope.decided.accepts.add().CopyFrom(envelope.decided.accepts[0])
    with pytest.raises(RemoteError):
        decode_message("x", envelope)
