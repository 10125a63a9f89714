"""Who was thrown out: believed when the authority says it, and the newest list counts."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from peer.admission import Membership, Trust
from peer.certificates import Authority
from peer.revocation import MAX_REVOKED, Revocations, sign_revocations
from protocol.errors import RemoteError
from protocol.wire import diloco_pb2 as pb
from tests.peer.people import identity, peer_id

RUN = "a" * 64
AUTHORITY = Authority(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
STRANGER = Authority(Ed25519PrivateKey.from_private_bytes(b"2" * 32))
ANNA, BERT = map(peer_id, ("anna", "bert"))


def known() -> Revocations:
    return Revocations(RUN, AUTHORITY.public_key)


def signed(number: int, *peer_ids: str, by: Authority = AUTHORITY, run_id: str = RUN):
    return sign_revocations(by, run_id, number, peer_ids)


@given(st.permutations([1, 2, 3, 4]))
def test_whatever_the_order_the_newest_list_counts(order):
    lists = {1: signed(1, ANNA), 2: signed(2, ANNA, BERT), 3: signed(3, BERT), 4: signed(4, ANNA)}
    revocations = known()
    for number in order:
        revocations.take(lists[number], "x")
    assert revocations.number == 4 and revocations.signed == lists[4]
    assert ANNA in revocations and BERT not in revocations


def test_news_are_told_once():
    revocations, news = known(), []
    revocations.on_news = news.append
    assert not revocations.take(pb.SignedRevocations(), "x")
    assert revocations.take(signed(1, ANNA), "x")
    assert not revocations.take(signed(1, ANNA), "x")
    assert revocations.take(signed(2, ANNA, BERT), "x")
    assert news == [{ANNA}, {BERT}]


def test_in_an_open_run_nobody_is_thrown_out_though_everybody_has_the_authority():
    trust = Trust(Membership.of_open_run(identity("bert"), RUN))
    everybodys = Authority.of_open_run(RUN)
    with pytest.raises(RemoteError, match="open run"):
        trust.revocations.take(signed(1, ANNA, by=everybodys), "x")
    assert ANNA not in trust.revocations
    trust.admit(Membership.of_open_run(identity("anna"), RUN).certificate)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (signed(9, BERT, by=STRANGER), "did not sign"),
        (signed(9, BERT, run_id="b" * 64), "another run"),
        (signed(9, "bert"), "malformed"),
        (signed(9, *([BERT] * (MAX_REVOKED + 1))), "malformed"),
        (pb.SignedRevocations(revocations=b"\xff", signature=b"x"), "malformed"),
        (pb.SignedRevocations(revocations=bytes(300_000)), "oversized"),
        (
            pb.SignedRevocations(
                revocations=signed(9, BERT).revocations, signature=AUTHORITY.sign(b"something")
            ),
            "did not sign",
        ),
    ],
)
def test_any_other_list_is_refused_and_changes_nothing(bad, why):
    revocations = known()
    revocations.take(signed(1, ANNA), "x")
    with pytest.raises(RemoteError, match=why):
        revocations.take(bad, "x")
    assert revocations.number == 1 and ANNA in revocations and BERT not in revocations
