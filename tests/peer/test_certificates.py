"""What an identity certificate says is believed when the run's authority signed just that."""

import datetime
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from peer.admission import Membership, Trust
from peer.certificates import Authority, Role, authority_key, dns_name, read_certificate
from peer.contact import MAX_CERTIFICATE_BYTES
from protocol.errors import InputError, RemoteError
from tests.peer.people import contact, identity, peer_id

RUN, OTHER = "a" * 64, "b" * 64
ANNA = identity("anna")
AUTHORITY = Authority(Ed25519PrivateKey.from_private_bytes(b"1" * 32))
STRANGER = Authority(Ed25519PrivateKey.from_private_bytes(b"2" * 32))
STRANGERS_KEY = Ed25519PrivateKey.from_private_bytes(b"3" * 32).public_key()


def admitted(by: Authority = AUTHORITY, run_id: str = RUN, days: float | None = 1.0) -> bytes:
    return by.admit(ANNA.public_key, run_id, name="anna", role=Role.ARCHIVE, days=days)


def test_what_the_authority_signed_is_read():
    found = read_certificate(admitted(), AUTHORITY.public_key, RUN)
    assert (found.peer_id, found.name, found.role) == (peer_id("anna"), "anna", Role.ARCHIVE)
    assert found.public_key == ANNA.public_key
    now_s = time.time()
    assert found.is_valid(now_s) and found.is_valid(now_s - 60)
    assert not found.is_valid(now_s + 2 * 86_400) and not found.is_valid(now_s - 7200)


def test_the_longest_fits():
    certificate = AUTHORITY.admit(
        ANNA.public_key, RUN, name="\U0001f409" * 64, role=Role.OBSERVER, days=None
    )
    assert len(certificate) <= MAX_CERTIFICATE_BYTES
    assert read_certificate(certificate, AUTHORITY.public_key, RUN).name == "\U0001f409" * 64


@pytest.mark.parametrize(
    ("der", "why"),
    [
        (admitted(STRANGER), "another authority"),
        (admitted(run_id=OTHER), "not for one peer of this run"),
        (AUTHORITY.certificate, "malformed"),
        (b"", "malformed"),
        (b"\x30\x82", "malformed"),
        (bytes(MAX_CERTIFICATE_BYTES + 1), "oversized"),
    ],
)
def test_any_other_is_refused(der, why):
    with pytest.raises(RemoteError, match=why):
        read_certificate(der, AUTHORITY.public_key, RUN)


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_changed_one_is_refused(place, change):
    der = bytearray(admitted(days=None))
    der[place] ^= change
    with pytest.raises(RemoteError):
        read_certificate(bytes(der), AUTHORITY.public_key, RUN)


ANNAS_KEY = x509.load_der_x509_certificate(admitted()).public_key()
ONE_LEVEL = x509.BasicConstraints(ca=True, path_length=0)
ANNAS_NAME = dns_name(peer_id("anna"), RUN)


def forged(
    name: str = ANNAS_NAME,
    common_name: str = ANNA.peer_id,
    constrain: bool = True,
    ca: x509.BasicConstraints = ONE_LEVEL,
    key: Any = ANNAS_KEY,
) -> bytes:
    """What an authority with another program could sign."""
    now = datetime.datetime.now(datetime.UTC)
    said = {
        NameOID.COMMON_NAME: common_name,
        NameOID.ORGANIZATION_NAME: "anna",
        NameOID.ORGANIZATIONAL_UNIT_NAME: "trainer",
    }
    own = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, text) for oid, text in said.items()]))
        .issuer_name(x509.load_der_x509_certificate(AUTHORITY.certificate).subject)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .serial_number(1)
        .public_key(key)
        .add_extension(ca, critical=True)
    )
    if constrain:
        names = x509.NameConstraints([x509.DNSName(name)], None)
        builder = builder.add_extension(names, critical=True)
    return builder.sign(own, None).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("der", "why"),
    [
        (forged(key=STRANGERS_KEY), "not for one peer"),
        (forged(name="diloco"), "not for one peer"),
        (forged(constrain=False), "malformed"),
        (forged(common_name="bert"), "not for one peer"),
        (forged(ca=x509.BasicConstraints(True, 1)), "not for one peer"),
        (forged(ca=x509.BasicConstraints(False, None)), "not for one peer"),
        (forged(key=ec.generate_private_key(ec.SECP256R1()).public_key()), "another kind of key"),
    ],
)
def test_one_that_lets_a_peer_speak_for_others_is_refused_though_it_is_signed(der, why):
    read_certificate(forged(), AUTHORITY.public_key, RUN)
    with pytest.raises(RemoteError, match=why):
        read_certificate(der, AUTHORITY.public_key, RUN)


def test_everybody_finds_the_authority_of_an_open_run_and_it_is_no_other_runs():
    again = Authority.of_open_run(RUN)
    assert again.certificate == Authority.of_open_run(RUN).certificate
    assert authority_key(again.certificate) == again.public_key
    assert again.public_key != Authority.of_open_run(OTHER).public_key


def test_an_authority_is_kept_for_its_owner_only(tmp_path: Path):
    path = tmp_path / "deep" / "authority.key"
    made = Authority.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Authority.load(path).public_key == made.public_key
    with pytest.raises(InputError, match="exists"):
        Authority.create(path)
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        Authority.load(path)


# --- trust ---------------------------------------------------------------------------------------


def trust_at(now_s: float, der: bytes) -> Trust:
    return Trust(Membership(RUN, AUTHORITY.certificate, der), now_s=lambda: now_s)


def test_a_certificate_ends_while_it_is_in_use():
    der = admitted()
    trust_at(time.time(), der).admit(der)
    clock = [time.time()]
    trust = Trust(Membership(RUN, AUTHORITY.certificate, der), now_s=lambda: clock[0])
    trust.admit(der)
    clock[0] += 90_000
    with pytest.raises(RemoteError, match="ended or not begun"):
        trust.admit(der)


def test_a_contact_counts_with_its_own_certificate_only():
    open_run = Trust(Membership.of_open_run(ANNA, RUN))
    open_run.check_contact(contact("anna", RUN))
    bert = contact("bert", RUN)
    for stolen in (contact("anna", RUN), contact("bert", OTHER)):
        with pytest.raises(RemoteError):
            open_run.check_contact(replace(bert, certificate=stolen.certificate))


def test_roles_count_in_a_closed_run_only():
    closed = trust_at(time.time(), admitted())
    assert closed.may(Role.TRAINER, Role.FOUNDER, Role.TRAINER)
    assert not closed.may(Role.OBSERVER, Role.FOUNDER, Role.TRAINER)
    assert Trust(Membership.of_open_run(ANNA, RUN)).may(Role.OBSERVER, Role.TRAINER)


def test_a_genesis_is_the_founders_also_when_its_certificate_has_ended():
    founder = AUTHORITY.admit(ANNA.public_key, RUN, name="anna", role=Role.FOUNDER, days=1.0)
    later = trust_at(time.time() + 1e9, founder)
    later.check_founder(peer_id("anna"), founder)
    for peer, der in ((peer_id("bert"), founder), (peer_id("anna"), admitted())):
        with pytest.raises(RemoteError, match="may not found"):
            later.check_founder(peer, der)
