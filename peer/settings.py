"""What one peer is told: read once from the command line, and frozen."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from peer.invitation import Invitation
from protocol.errors import InputError

MIN_CAP_BYTES_PER_S = 125_000
"""1 mbit/s. Below it one chunk of 4 KiB is a burst that the cap could not absorb."""
ASSUMED_BYTES_PER_S = 125e6
"""Where there is no cap and nothing measured yet: 1 Gbit/s."""
MAX_NAME = 64
NOTHING_TO_JOIN = (
    "nothing to join: give --invite FILE if somebody invited you, --initial-peers ADDRESS for an"
    " open run, --manifest FILE to found one ('diloco-peer new DIR' writes a manifest), or the"
    " --dir of a peer that was in one"
)


class Settings(BaseModel):
    """Everything about a peer that is its own business and not the run's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path | None = None
    """Identity keys, the data cursor, metrics and the final parameters; None takes the first of the
    default ones that no running peer has (peer/directory.py)."""
    name: str | None = None
    """What people call this peer; None calls it like its directory."""
    manifest: Path | None = None
    """Found the run that this file defines; None joins one."""
    invitation: Path | None = None
    """What the founder of a closed run sent to this peer's owner."""
    initial_peers: tuple[str, ...] = ()
    """Multiaddresses of the DHT to join."""
    run_id: str | None = None
    """The only run to take part in; None takes the one that the initial peers announce."""
    listen_host: str = ""
    """Empty: the address that this machine has on the way to the initial peers."""
    listen_port: int = 0
    """gRPC listens here and the DHT on the next port; 0 lets the system choose both."""
    announce_host: str | None = None
    """The address that others dial; None announces the one that is listened on."""
    up_bytes_per_s: float | None = None
    """Cap on everything that leaves this peer; None means no cap."""
    down_bytes_per_s: float | None = None
    device: str = "cpu"
    threads: int | None = None
    """Threads of torch; None leaves its default."""
    corpus: str | None = None
    """Where the manifest's corpus is on this machine, when not where the manifest says."""
    stop_after_steps: int | None = None
    stop_after_tokens: int | None = None
    lockstep: bool = False
    trains: bool = True
    """False: an archive, which follows the log, evaluates, and serves snapshots."""
    log_bytes: int = 1 << 30
    """Of recent entries that are kept on disk for others."""
    keep_checkpoints: int = 3
    plain: bool = False
    """Lines for a log instead of the live view."""
    insecure: int = 0
    """1: speak plaintext on this machine or in a private network; 2: anywhere."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Raises InputError (which pydantic lets through) for combinations that cannot work."""
        ways = (self.manifest, self.invitation, self.directory)
        if not self.initial_peers and all(way is None for way in ways):
            raise InputError(NOTHING_TO_JOIN)
        if self.insecure and self.invitation is not None:
            raise InputError("an invitation needs encrypted connections: leave --insecure out")
        if self.insecure == 1 and self.dialled_host and not _is_private(self.dialled_host):
            raise InputError(
                f"--insecure on {self.dialled_host}: everybody on the way could read and change"
                " what peers say; leave it out, or say it twice if you mean it"
            )
        if self.listen_host in ("0.0.0.0", "::") and self.announce_host is None:
            raise InputError(
                f"--listen {self.listen_host} needs --announce HOST: the address under which other"
                " machines reach this one"
            )
        for flag, count in (
            ("--steps", self.stop_after_steps),
            ("--tokens", self.stop_after_tokens),
            ("--threads", self.threads),
            ("--keep-checkpoints", self.keep_checkpoints),
        ):
            if count is not None and count < 1:
                raise InputError(f"{flag} {count} must be at least 1: correct it or leave it out")
        if self.name is not None and not 0 < len(self.name) <= MAX_NAME:
            raise InputError(f"--name must have 1 to {MAX_NAME} characters: shorten it")
        for flag, cap in (("--up", self.up_bytes_per_s), ("--down", self.down_bytes_per_s)):
            if cap is not None and cap < MIN_CAP_BYTES_PER_S:
                raise InputError(f"{flag} must be at least 1mbit: raise it or leave it out")
        return self

    def invited(self, invitation: Invitation) -> Self:
        """The same, with what the invitation says where nothing else was asked for."""
        return self.model_copy(
            update={
                "name": self.name or invitation.name,
                "run_id": self.run_id or invitation.membership.run_id,
                "initial_peers": self.initial_peers or invitation.initial_peers,
            }
        )

    @property
    def dialled_host(self) -> str:
        return self.announce_host or self.listen_host


def _is_private(host: str) -> bool:
    """Whether an address is of this machine or of a network that the internet does not reach."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost"
