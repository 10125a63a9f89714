"""Identity keys, peer_ids, and the founder's signature under the genesis."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from peer.identity import KEY_FILE, Identity, check_genesis, is_signed_by, peer_id_of
from protocol.errors import InputError, RemoteError
from protocol.log import Genesis
from protocol.wire import diloco_pb2 as pb
from tests.protocol.makers import genesis

RUN = "a" * 64


def genesis_of(founder: str) -> Genesis:
    return genesis((founder,), run_id=RUN)


def test_a_directory_keeps_one_identity_that_only_its_owner_can_read(tmp_path: Path) -> None:
    first = Identity.load_or_create(tmp_path / "peer")
    again = Identity.load_or_create(tmp_path / "peer")
    assert first.peer_id == again.peer_id == peer_id_of(first.public_key)
    assert len(first.peer_id) == 52
    assert (tmp_path / "peer" / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_key_file_that_is_no_key_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"not a key")
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(InputError, match="is not a key"):
        Identity.load_or_create(tmp_path)
    assert (tmp_path / KEY_FILE).read_bytes() == b"not a key"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_key_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    Identity.load_or_create(tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(InputError, match="chmod 600"):
        Identity.load_or_create(tmp_path)


def test_a_genesis_is_believed_when_its_founder_signed_it(tmp_path: Path) -> None:
    founder = Identity.load_or_create(tmp_path)
    begun = genesis_of(founder.peer_id)
    assert check_genesis("x", founder.sign_genesis(begun), RUN) == begun


def test_a_genesis_of_another_run_founder_or_content_is_refused(tmp_path: Path) -> None:
    founder = Identity.load_or_create(tmp_path / "founder")
    stranger = Identity.load_or_create(tmp_path / "stranger")
    begun = genesis_of(founder.peer_id)
    signed = founder.sign_genesis(begun)
    both = tuple(sorted([founder.peer_id, stranger.peer_id]))
    more_voters = replace(begun, voters=both, incarnations=("1", "2"))
    no_voters = replace(begun, voters=(), incarnations=())
    for forged, why in (
        (stranger.sign_genesis(begun), "somebody else"),
        (founder.sign_genesis(replace(begun, run_id="b" * 64)), "another run"),
        (founder.sign_genesis(no_voters), "without voters"),
        (
            pb.SignedGenesis(
                genesis=more_voters.to_bytes(),
                public_key=signed.public_key,
                signature=signed.signature,
            ),
            "wrong signature",
        ),
        (pb.SignedGenesis(genesis=b"{}", public_key=b"", signature=b""), "malformed"),
    ):
        with pytest.raises(RemoteError, match=why):
            check_genesis("x", forged, RUN)


def test_whose_signature_it_is_the_key_and_the_peer_id_say_together(tmp_path: Path) -> None:
    """And of the last ones nothing is computed twice."""
    me, other = (Identity.load_or_create(tmp_path / name) for name in ("me", "other"))
    signature = me.sign(b"yes")
    assert is_signed_by(me.peer_id, me.public_key, signature, b"yes")
    for peer_id, public_key, signed, message in (
        (other.peer_id, me.public_key, signature, b"yes"),
        (me.peer_id, other.public_key, signature, b"yes"),
        (me.peer_id, other.public_key, other.sign(b"yes"), b"yes"),
        (me.peer_id, me.public_key, signature, b"no"),
        (me.peer_id, me.public_key, b"", b"yes"),
        (me.peer_id, b"", signature, b"yes"),
    ):
        assert not is_signed_by(peer_id, public_key, signed, message)
    hits = is_signed_by.cache_info().hits
    assert is_signed_by(me.peer_id, me.public_key, signature, b"yes")
    assert is_signed_by.cache_info().hits == hits + 1 and is_signed_by.cache_info().maxsize


def test_a_giant_key_file_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).touch(mode=0o600)
    os.truncate(tmp_path / KEY_FILE, 2**40)  # sparse: it takes no room on the disk either
    with pytest.raises(InputError, match="is not a key"):
        Identity.load_or_create(tmp_path)
