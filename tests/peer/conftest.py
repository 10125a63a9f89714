"""Fixtures of everything that is stored: each test runs on the real disk and the simulated one."""

from pathlib import Path

import pytest

from peer.disk import Disk
from tests.peer.disks import make_disk


@pytest.fixture(params=["folder", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return make_disk(request.param, tmp_path / "state")
