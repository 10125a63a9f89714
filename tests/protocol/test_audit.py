"""When a mean is proven to be false, and what anybody takes for a proof."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.audit import Accusation, contradicts, doubt, drawn, is_forged, is_true, loudness
from protocol.codec import codec_named
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


CLAIMS = [replace(TRUE, mean=str(i)) for i in range(8)]
MANY = [place / 1000 for place in range(1000)]


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.floats(0, 20), st.data())
def test_nobody_audits_itself_and_more_than_there_is(owners, expected, data):
    claims = [replace(TRUE, owner=owner) for owner in owners]

    def one_each(of):
        return data.draw(st.lists(of, min_size=len(claims), max_size=len(claims)))

    numbers = one_each(st.floats(0, 1, exclude_max=True))
    chosen = drawn(claims, "a", expected, numbers, one_each(st.floats(0)))
    others = [claim for claim in claims if claim.owner != "a"]
    assert all(claim.owner != "a" for claim in chosen) and len(chosen) <= len(others)
    if expected >= len(others) >= 2:
        assert list(chosen) == others
    if expected == 0:
        assert not chosen


@pytest.mark.parametrize("expected", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("doubts", [[0.0] * 8, [0.3, 0.1, 2.0, 0, 0, 0, 0, 0]], ids=["no", "some"])
def test_as_many_are_drawn_as_expected_on_average(expected, doubts):
    counted = sum(len(drawn(CLAIMS, "a", expected, [number] * 8, doubts)) for number in MANY)
    assert counted == pytest.approx(expected * len(MANY), rel=0.01)


def test_what_is_doubted_most_is_looked_at_first_and_nothing_never():
    doubts = [0.9, 0.9, 1.4, 0.9, 0.0, 0.9, 0.9, 0.9]
    of = [drawn(CLAIMS, "a", 1.0, [number] * 8, doubts) for number in MANY]
    drawn_each = [sum(claim in chosen for chosen in of) / len(of) for claim in CLAIMS]
    assert drawn_each[2] == pytest.approx(0.5, abs=0.01)
    assert all(share == pytest.approx(0.5 / 7, abs=0.01) for share in np.delete(drawn_each, 2))


@given(st.integers(0, 2**32 - 1), st.integers(3, 20))
def test_a_gross_lie_is_doubted_more_than_the_truth(seed, peers):
    """Peers that pull the same way about as much as each pulls by itself."""
    chance = np.random.default_rng(seed)
    given_ = (chance.normal(size=(1, 512)) + chance.normal(size=(peers, 512))).astype(np.float32)
    own, mean = given_[0], given_.mean(axis=0)
    usual = loudness([own])
    assert doubt(own, mean, usual) < 0.7 < doubt(own, chance.normal(size=512), usual)
    assert doubt(own, mean, usual) < 0.7 < 1.3 < doubt(own, -mean, usual)
    assert contradicts(own, -mean, usual) and contradicts(own, 100 * mean, usual)
    assert not contradicts(own, 0 * mean, usual) and not contradicts(0 * own, 0 * mean, 0.0)


def test_who_has_not_met_a_rare_token_has_no_opinion_of_what_others_learned_of_it():
    """Weight decay alone has moved it here."""
    here, elsewhere = np.full(8, 1e-7, np.float32), np.full(512, 1e-3, np.float32)
    usual = loudness([here, elsewhere])
    assert doubt(here, np.full(8, -1e-3, np.float32), usual) == 0.0
    assert not contradicts(here, np.full(8, -1e-3, np.float32), usual)
    assert contradicts(here, np.full(8, -1.0, np.float32), usual)


@given(st.integers(0, 2**32 - 1), st.integers(2, 100), st.sampled_from(["fp32", "e3m0"]))
def test_an_honest_mean_contradicts_nobody_even_where_peers_have_nothing_in_common(
    seed, peers, codec
):
    """As far as paces differ fourfold, and with what the codec makes of it."""
    chance, encoding = np.random.default_rng(seed), codec_named(codec)
    scales = chance.uniform(0.25, 1.0, size=(peers, 1))
    parts = (1e-3 * scales * chance.normal(size=(peers, 512))).astype(np.float32)
    given_ = [encoding.decode(encoding.encode(part), 512) for part in parts]
    mean = encoding.decode(encoding.encode(np.mean(given_, axis=0)), 512)
    assert not any(contradicts(own, mean, loudness([own])) for own in given_)
