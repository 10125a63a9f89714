"""Inviting and throwing out, as far as files go."""

from pathlib import Path

import pytest

from peer.admission import MEMBERSHIP_FILE, Membership, Trust
from peer.authority_folder import AuthorityFolder
from peer.certificates import Role
from peer.identity import Identity
from peer.invitation import Invitation
from peer.sealed import seal, unseal
from protocol.errors import InputError
from protocol.manifest import Manifest
from tests.peer.people import membership
from tests.sim.disk import SimDisk

WAY_IN = ("/ip4/127.0.0.1/tcp/7001/p2p/Qm",)


def manifest_of(directory: Path, name: str = "run") -> Manifest:
    authority = AuthorityFolder.create(directory)
    return Manifest.from_toml(f'name = "{name}"\n[admission]\nauthority = "{authority}"')


@pytest.fixture
def folder(tmp_path: Path) -> AuthorityFolder:
    made = AuthorityFolder(tmp_path / "run", manifest_of(tmp_path / "run"))
    made.remember_way_in(list(WAY_IN))
    return made


def test_an_invitation_is_all_that_a_person_needs(folder: AuthorityFolder, tmp_path: Path) -> None:
    path = tmp_path / "anna.invite"
    written = folder.invite("anna", Role.ARCHIVE, 30.0)
    written.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    read = Invitation.read(path)
    assert read == written and read.initial_peers == WAY_IN
    identity = read.identity_in(tmp_path / "peer")
    assert Identity.load_or_create(tmp_path / "peer").peer_id == identity.peer_id
    assert read.identity_in(tmp_path / "peer").peer_id == identity.peer_id
    found = Trust(read.membership).admit(read.membership.certificate)
    assert (found.peer_id, found.name, found.role) == (identity.peer_id, "anna", Role.ARCHIVE)


def test_who_is_invited_again_keeps_the_key(folder: AuthorityFolder, tmp_path: Path) -> None:
    first, again = (folder.invite("anna", Role.TRAINER, days) for days in (1.0, 30.0))
    identity = first.identity_in(tmp_path / "peer")
    assert again.key == b"" and again.identity_in(tmp_path / "peer").peer_id == identity.peer_id
    ends = [Trust(i.membership).admit(i.membership.certificate).ends_s for i in (first, again)]
    assert ends[1] > ends[0] + 20 * 86_400
    with pytest.raises(InputError, match="whose key is not in"):
        again.identity_in(tmp_path / "another")


def test_a_directory_of_somebody_else_is_not_taken_over(
    folder: AuthorityFolder, tmp_path: Path
) -> None:
    Identity.load_or_create(tmp_path / "peer")
    with pytest.raises(InputError, match="another identity"):
        folder.invite("anna", Role.TRAINER, 1.0).identity_in(tmp_path / "peer")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data.replace(b'"name":"anna"', b'"name":"bert"'),
        lambda data: b"{}",
        lambda data: b"[" * 1000,
        lambda data: data + bytes(70_000),
    ],
)
def test_a_damaged_invitation_is_refused(folder: AuthorityFolder, tmp_path: Path, spoil) -> None:
    path = tmp_path / "anna.invite"
    folder.invite("anna", Role.TRAINER, 1.0).write(path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match="ask for it again"):
        Invitation.read(path)


def test_an_invitation_is_not_written_over_another(folder: AuthorityFolder, tmp_path: Path) -> None:
    invitation = folder.invite("anna", Role.TRAINER, 1.0)
    invitation.write(tmp_path / "anna.invite")
    with pytest.raises(InputError, match="move it away"):
        invitation.write(tmp_path / "anna.invite")


def test_who_is_thrown_out_stays_out_and_may_be_invited_as_somebody_new(
    folder: AuthorityFolder, tmp_path: Path
) -> None:
    anna, bert = (folder.invite(name, Role.TRAINER, 1.0) for name in ("anna", "bert"))
    folder.revoke("anna")
    trust = Trust(bert.membership)
    trust.revocations.take(folder.revocations().signed, "")
    with pytest.raises(Exception, match="revoked"):
        trust.admit(anna.membership.certificate)
    trust.admit(bert.membership.certificate)
    again = folder.invite("anna", Role.TRAINER, 1.0)
    trust.admit(again.membership.certificate)
    folder.revoke("bert")
    trust.revocations.take(folder.revocations().signed, "")
    for out in (anna, bert):
        with pytest.raises(Exception, match="revoked"):
            trust.admit(out.membership.certificate)
    assert trust.revocations.number == 2


def test_what_cannot_be_done_is_said(folder: AuthorityFolder, tmp_path: Path) -> None:
    folder.invite("anna", Role.TRAINER, 1.0)
    with pytest.raises(InputError, match="nobody was invited as 'bert'; invited: anna"):
        folder.revoke("bert")
    for name in ("", "a/b", "a\nb", "n" * 65):
        with pytest.raises(InputError, match="is no name"):
            folder.invite(name, Role.TRAINER, 1.0)
    with pytest.raises(InputError, match="one founder"):
        folder.invite("bert", Role.FOUNDER, 1.0)
    with pytest.raises(InputError, match="is open"):
        AuthorityFolder(tmp_path / "run", Manifest())
    with pytest.raises(InputError, match="another run"):
        AuthorityFolder(tmp_path / "run", manifest_of(tmp_path / "second"))
    early = AuthorityFolder(tmp_path / "third", manifest_of(tmp_path / "third"))
    with pytest.raises(InputError, match="found it with"):
        early.invite("anna", Role.TRAINER, 1.0)
    early.invite("anna", Role.TRAINER, 1.0, WAY_IN)


@pytest.mark.parametrize(
    "changed",
    [
        {"initial_peers": {"/ip4": 1}},
        {"initial_peers": "/ip4"},
        {"run_id": "\ud800"},
        {"key": "AA"},
    ],
    ids=str,
)
def test_what_no_founder_writes_is_no_invitation(
    folder: AuthorityFolder, tmp_path: Path, changed: dict[str, object]
) -> None:
    path = tmp_path / "anna.invite"
    folder.invite("anna", Role.TRAINER, 1.0).write(path)
    path.write_bytes(seal({**unseal(path.read_bytes()), **changed}))
    with pytest.raises(InputError, match="is not an invitation"):
        Invitation.read(path)


def test_a_membership_of_no_run_is_refused() -> None:
    disk = SimDisk()
    membership("anna", "a" * 64).remember(disk)
    disk.replace(
        MEMBERSHIP_FILE, [seal({**unseal(disk.read(MEMBERSHIP_FILE)), "run_id": "\ud800"})]
    )
    with pytest.raises(InputError, match=r"membership\.json .* cannot be used"):
        Membership.remembered(disk)
