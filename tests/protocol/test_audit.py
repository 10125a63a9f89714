"""When a mean is proven to be false, and what anybody takes for a proof."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.audit import Accusation, drawn, is_forged, is_true
from protocol.digest import canonical, digest
from protocol.errors import CodecError
from tests.protocol.accusing import FALSE, INPUTS, TRUE, accusation, average, claim_of
from tests.sim.keys import is_signed_by

BY_DIGEST = {digest(data): data for data in INPUTS.values()}


def test_the_owners_work_done_again_comes_to_the_same_bits_or_it_has_lied():
    assert is_true(TRUE, BY_DIGEST, 2, average)
    assert not is_true(FALSE, BY_DIGEST, 2, average)


def test_an_owner_that_averaged_what_nobody_can_decode_has_lied():
    def refuses(contributions, tokens, values):
        raise CodecError("no")

    assert not is_true(TRUE, BY_DIGEST, 2, refuses)


def test_tokens_count_as_their_contributors_signed_them():
    more = tuple(replace(c, tokens=c.tokens + 2 * (c.peer_id == "a")) for c in TRUE.contributions)
    assert is_forged(replace(TRUE, contributions=more), is_signed_by)
    assert not is_forged(TRUE, is_signed_by)


def test_a_contribution_that_its_contributor_did_not_sign_is_a_lie_as_it_stands():
    assert is_forged(claim_of(forged=True), is_signed_by)


# --- accusations ----------------------------------------------------------------------------------


def test_an_accusation_is_signed_by_accuser_and_owner():
    assert accusation().is_signed(is_signed_by)
    assert not accusation(signer="x").is_signed(is_signed_by), "by another key"
    another = replace(accusation(), claim=TRUE)
    assert not another.is_signed(is_signed_by), "of another claim"
    made_up = replace(FALSE, signature=accusation().signature)
    assert not accusation(made_up).is_signed(is_signed_by), "of what its owner never claimed"


@pytest.mark.parametrize("field", ["tokens", "digest", "public_key", "signature"])
def test_who_changes_a_contribution_in_anothers_claim_can_accuse_nobody(field):
    """Else a claim becomes a lie in the accuser's hands, and an honest owner is thrown out."""
    first, *others = TRUE.contributions
    changed = {
        "tokens": {"tokens": first.tokens + 1},
        "digest": {"digest": "0" * 64},
        "public_key": {"signature": replace(first.signature, public_key=b"k" * 32)},
        "signature": {"signature": replace(first.signature, signature=b"s" * 64)},
    }[field]
    claim = replace(TRUE, contributions=(replace(first, **changed), *others))
    assert is_forged(claim, is_signed_by) and not accusation(claim).is_signed(is_signed_by)


def test_an_accusation_comes_back_as_it_was():
    again = Accusation.from_bytes(accusation().to_bytes())
    assert again == accusation() and again.digest == accusation().digest


DAMAGE = {
    "no contributors": {"contributions": []},
    "in disorder": {"contributions": accusation().to_json()["contributions"][::-1]},
    "one twice": {"contributions": accusation().to_json()["contributions"][:1] * 2},
    "no digest": {"mean": "../../etc/passwd"},
    "no signature": {"signature": ["00", "00"]},
    "no number": {"part_index": "1"},
    "a negative number": {"part_index": -1},
    "half a surrogate pair": {"owner": "\ud800"},
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_a_malformed_accusation_is_refused(change):
    with pytest.raises((ValueError, TypeError, KeyError)):
        Accusation.from_bytes(canonical(accusation().to_json() | change))


def test_an_accusation_has_one_spelling():
    with pytest.raises(ValueError, match="canonical"):
        Accusation.from_bytes(accusation().to_bytes() + b" ")


# --- the draw -------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.floats(0, 20), st.data())
def test_nobody_audits_itself_and_more_than_there_is(owners, expected, data):
    claims = [replace(TRUE, owner=owner) for owner in owners]
    numbers = data.draw(
        st.lists(st.floats(0, 1, exclude_max=True), min_size=len(claims), max_size=len(claims))
    )
    chosen = drawn(claims, "a", expected, numbers)
    others = [claim for claim in claims if claim.owner != "a"]
    assert all(claim.owner != "a" for claim in chosen) and len(chosen) <= len(others)
    if expected >= len(others):
        assert list(chosen) == others
    if expected == 0:
        assert not chosen


def test_as_many_are_drawn_as_expected_on_average():
    claims = [replace(TRUE, mean=str(i)) for i in range(8)]
    every = [place / 1000 for place in range(1000)]
    counted = sum(len(drawn(claims, "a", 2.0, [number] * 8)) for number in every)
    assert counted == pytest.approx(2.0 * len(every), rel=0.01)
