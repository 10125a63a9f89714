"""A peer's directory is held by one process at a time."""

from pathlib import Path

import pytest

from peer.directory import claim
from protocol.errors import InputError


def test_a_directory_is_made_and_held_until_the_block_ends(tmp_path: Path) -> None:
    with claim(tmp_path / "new" / "peer") as directory:
        assert directory.is_dir()
        with pytest.raises(InputError, match="another peer is running"), claim(directory):
            pass
    with claim(directory):
        pass


def test_without_a_name_the_first_free_default_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with claim(None) as first, claim(None) as second:
        assert [str(first), str(second)] == ["peer-state", "peer-state-2"]
        with claim(None) as third:
            assert str(third) == "peer-state-3"
    with claim(None) as again:
        assert again == first


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--dir"), claim(tmp_path / "file" / "peer"):
        pass
