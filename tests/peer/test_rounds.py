"""What comes in from the network, before a member sees it."""

import pytest

from peer.rounds import RoundDriver
from protocol.errors import RemoteError
from protocol.events import Leg
from tests.protocol.makers import heartbeat, roster
from tests.protocol.members import member


def test_nobody_speaks_in_this_peers_own_name() -> None:
    """A member believes what it says to itself."""
    driver = object.__new__(RoundDriver)
    driver.member = member("b")
    with pytest.raises(RemoteError, match="by this peer's name"):
        driver.on_message("b", heartbeat("b"))
    with pytest.raises(RemoteError, match="by this peer's name"):
        driver.expected_bytes("b", roster().digest, Leg.SCATTER, 0)
