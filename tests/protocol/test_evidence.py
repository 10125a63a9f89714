"""Who signs for two entries in one ballot is shown up; nobody else ever is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.accepts import Vote
from protocol.ballots import NO_BALLOT
from protocol.errors import RemoteError
from protocol.events import ApplyEntry, KeepProof
from protocol.evidence import VOTERS_KEPT, VOTES_KEPT, DoubleVote, Witness
from protocol.log import Head
from tests.protocol.makers import ABC, RUN, head
from tests.protocol.members import empty_entry, hear, kinds, member
from tests.protocol.signed import accept, accepted, decided, forced_by
from tests.sim.keys import tally_of

TALLY = tally_of(RUN)
ONE, OTHER = empty_entry(), empty_entry(reason="another")


def double_vote(first: Vote, second: Vote, **changed) -> DoubleVote:
    accepts = (accept(first, "c"), accept(second, "c", **changed))
    return DoubleVote(first=first, second=second, accepts=accepts)


PROOF = double_vote(Vote.on(ONE, 0), Vote.on(OTHER, 0))


def test_two_signatures_for_two_entries_in_one_ballot_are_a_proof_to_anybody():
    assert PROOF.is_proven(TALLY) and PROOF.voter == "c"
    assert DoubleVote.from_json(PROOF.to_json()) == PROOF


FIRST, SECOND = Vote.on(ONE, 0), Vote.on(OTHER, 0)


@pytest.mark.parametrize(
    "claim",
    [
        double_vote(FIRST, FIRST),
        double_vote(FIRST, Vote.on(OTHER, 3)),
        double_vote(FIRST, Vote.on(empty_entry(parent="another"), 0)),
        double_vote(FIRST, Vote.on(empty_entry(Head.of_entry(ONE)), 0)),
        double_vote(FIRST, SECOND, incarnation="c-1"),
        double_vote(FIRST, SECOND, signer="x"),
        double_vote(FIRST, SECOND, run_id="another run"),
        replace(PROOF, accepts=(PROOF.accepts[0], accept(SECOND, "b"))),
        double_vote(Vote.on(ONE, NO_BALLOT), Vote.on(OTHER, NO_BALLOT)),
    ],
    ids=[
        "one entry",
        "two ballots",
        "two chains",
        "two rounds",
        "two journals",
        "a forged signature",
        "two runs",
        "two voters",
        "two forced terms: one was forgotten in a crash",
    ],
)
def test_what_honest_voters_do_or_somebody_makes_up_is_none(claim):
    assert not claim.is_proven(TALLY)


# --- as a member meets it -------------------------------------------------------------------------


def proofs(effects) -> list[DoubleVote]:
    return [effect.double_vote for effect in effects if isinstance(effect, KeepProof)]


def test_a_second_vote_in_a_ballot_is_shown_up_and_counts_for_nothing():
    machine = member("a")
    machine._round.decision.propose(0, ONE)
    hear(machine, "c", accepted(ONE, "c"))
    (proof,) = proofs(hear(machine, "c", accepted(OTHER, "c")))
    assert proof.is_proven(TALLY) and proof.voter == "c" and machine.round == 0


def test_also_when_the_vote_that_was_asked_for_comes_last():
    machine = member("a")
    machine._round.decision.propose(0, ONE)
    with pytest.raises(RemoteError, match="not proposed"):
        hear(machine, "c", accepted(OTHER, "c"))
    assert len(proofs(hear(machine, "c", accepted(ONE, "c")))) == 1


def test_a_second_decision_of_a_round_shows_up_who_made_both():
    """c is in both quorums; a and b have voted once."""
    machine = member("b")
    assert kinds(hear(machine, "a", decided(ONE, ("a", "c")))) == [ApplyEntry]
    (proof,) = proofs(hear(machine, "b", decided(OTHER, ("b", "c"))))
    assert proof.is_proven(TALLY) and proof.voter == "c"
    assert machine.head == Head.of_entry(ONE), "what is decided stays decided"
    assert not proofs(hear(machine, "b", decided(OTHER, ("b", "c")))), "it is said once"


@pytest.mark.parametrize(
    "other",
    [
        decided(ONE, ("b", "c")),
        decided(OTHER, ("b", "c"), ballot=1),
        decided(OTHER, ("b", "c"), run_id="another run"),
        replace(decided(OTHER, ("b", "c")), accepts=decided(ONE, ABC).accepts),
        forced_by("c"),
    ],
    ids=["the same", "in another ballot", "of another run", "made up", "a forced term"],
)
def test_any_other_decision_of_the_round_shows_up_nobody(other):
    machine = member("b")
    hear(machine, "a", decided(ONE, ("a", "c")))
    assert not proofs(hear(machine, "a", other))


def test_a_vote_of_a_higher_ballot_is_no_second_one():
    machine = member("a")
    machine._round.decision.propose(0, ONE)
    hear(machine, "c", accepted(ONE, "c"))
    machine._round.decision.propose(3, OTHER)
    assert not hear(machine, "c", accepted(OTHER, "c", ballot=3))


# --- bounds ---------------------------------------------------------------------------------------


def test_of_each_voter_the_last_votes_are_remembered():
    witness = Witness(TALLY)
    for ballot in range(3 * VOTES_KEPT):
        witness.hear(accepted(ONE, "c", ballot=ballot), head())
    witness.hear(accepted(ONE, "b"), head())
    forgotten, kept = accepted(OTHER, "c"), accepted(OTHER, "c", ballot=3 * VOTES_KEPT - 1)
    assert not witness.hear(forgotten, head())
    assert len(witness.hear(kept, head())) == 1
    assert len(witness.hear(accepted(OTHER, "b"), head())) == 1, "nobody pushes out another's"


def test_strangers_are_not_remembered_and_voters_only_so_many():
    witness = Witness(TALLY)
    for place in range(VOTERS_KEPT + 10):
        names = ("a", f"s{place:04}")
        at = replace(head(names), digest=ONE.parent)
        witness.hear(accepted(ONE, names[1]), at)
        witness.hear(accepted(ONE, "x"), at)
    assert len(witness._seen) == VOTERS_KEPT and "x" not in witness._seen


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), max_size=30))
def test_who_is_shown_up_has_signed_twice_and_only_then(signed):
    """Whatever comes in whatever order: (voter, ballot, which of two entries)."""
    witness = Witness(TALLY)
    shown = [
        proof
        for voter, ballot, is_other in signed
        for proof in witness.hear(
            accepted(OTHER if is_other else ONE, voter, ballot=ballot), head()
        )
    ]
    twice = {v for v, ballot, is_other in signed if (v, ballot, not is_other) in signed}
    assert sorted(proof.voter for proof in shown) == sorted(twice)
    assert all(proof.is_proven(TALLY) for proof in shown)
