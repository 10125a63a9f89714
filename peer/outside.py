"""Looking at a run from outside, for the commands that ask and do not take part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from peer.contact import Contact
from peer.discovery import DhtDiscovery
from peer.finding import find_run
from peer.grpc_client import Asker
from peer.identity import Identity
from peer.invitation import Invitation
from peer.secure import Credentials
from protocol.errors import InputError
from protocol.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Entrance:
    """The way to a run, and what is shown there."""

    initial_peers: tuple[str, ...]
    run_id: str | None
    """None: the only run that is announced."""
    credentials: Credentials

    @classmethod
    def of(
        cls,
        initial_peers: Sequence[str],
        run_id: str | None,
        invitation: Path | None,
        is_insecure: bool,
    ) -> Self:
        """From what was typed; raises InputError when that leads nowhere."""
        if invitation is not None:
            return cls._invited(Invitation.read(invitation), initial_peers)
        if not initial_peers:
            raise InputError("name a peer of the run with --initial-peers, or your --invite FILE")
        credentials = Credentials(Identity.ephemeral(), is_insecure=is_insecure)
        return cls(tuple(initial_peers), run_id, credentials)

    @classmethod
    def _invited(cls, invitation: Invitation, initial_peers: Sequence[str]) -> Self:
        if invitation.identity is None:
            raise InputError(
                "this invitation renews another one, and the key is not in it: use the first one"
            )
        return cls(
            tuple(initial_peers) or invitation.initial_peers,
            invitation.membership.run_id,
            Credentials(invitation.identity, invitation.membership),
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """A run, as its DHT shows it."""

    manifest: Manifest
    announced: list[Contact]
    asker: Asker


async def look_at(entrance: Entrance) -> Sight:
    """Find a run and who announces itself there.

    Raises:
        InputError, UnavailableError: there is no such run, nobody answers, or it takes only others.
    """
    discovery = await DhtDiscovery.start(
        initial_peers=entrance.initial_peers,
        listen_host="127.0.0.1",
        listen_port=0,
        announce_host=None,
        directory=None,
    )
    try:
        manifest, security = await find_run(discovery, entrance.run_id, entrance.credentials)
        announced = await discovery.peers(manifest.run_id)
    finally:
        await discovery.close()
    return Sight(manifest, announced, Asker(security))
