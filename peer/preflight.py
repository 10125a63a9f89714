"""What is checked before anything starts: files, device and ports that were asked for."""

import re
import socket
from pathlib import Path
from typing import Final

import torch

from peer.settings import NOTHING_TO_JOIN, Settings
from protocol.errors import InputError, ManifestError
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest

LOOPBACK: Final = "127.0.0.1"
_MADDR_HOST: Final = re.compile(r"/(?:ip4|ip6|dns4|dns6|dns)/([^/]+)/")


def read_manifest(path: Path, lockstep: bool = False) -> Manifest:
    """The manifest in a TOML file; raises InputError when it cannot be used."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read the manifest {path}: {error.strerror} ('diloco-peer new' writes one)"
        ) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"the manifest {path} is larger than {MAX_MANIFEST_BYTES} bytes: name the"
            " manifest.toml of a run"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"the manifest {path} is not a text file: name the manifest.toml of a run"
        ) from error
    try:
        manifest = Manifest.from_toml(text)
    except ManifestError as error:
        raise InputError(
            f"{path}: {error}: correct it ('diloco-peer new' writes one with every key explained)"
        ) from error
    if lockstep and manifest.mode != "lockstep":
        if manifest.admission.authority:
            raise InputError(
                f'write mode = "lockstep" into {path}: people are invited to the run that it says'
            )
        manifest = manifest.model_copy(update={"mode": "lockstep"})
    return manifest


def listening_somewhere(settings: Settings) -> Settings:
    """The same with a host to listen on: on loopback if nobody else is known.

    Raises:
        InputError: plaintext would leave private networks.
    """
    if settings.listen_host:
        return settings
    hosts = [found[1] for peer in settings.initial_peers if (found := _MADDR_HOST.match(peer))]
    listen_host = _own_address_towards(hosts[0]) if hosts else LOOPBACK
    # Validated anew, with what is now known.
    return Settings(**settings.model_dump() | {"listen_host": listen_host})


def _own_address_towards(host: str) -> str:
    """The address that packets from here to there would bear; none is sent."""
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return LOOPBACK


def usable_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise InputError(
            f"--device {name} cannot be used here ({reason}): say cpu, or a device that this"
            " build of torch has"
        ) from error
    return device


def refuse_taken_ports(settings: Settings) -> None:
    """p2pd would share a taken port in silence, and half of the dials would reach the other."""
    if settings.listen_port == 0:
        return
    for port in (settings.listen_port, settings.listen_port + 1):
        family = socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.listen_host, port))
            except OSError as error:
                raise InputError(
                    f"cannot listen on {settings.listen_host}:{port} ({error.strerror}): a peer"
                    " takes the port of --listen and the next one; choose another"
                ) from error


def refuse_another_run(
    settings: Settings, founded: Manifest | None, mine: Manifest | None, directory: Path
) -> None:
    """A state directory belongs to one run: `mine`, if there is one."""
    wanted = founded.run_id if founded else settings.run_id
    if mine is None and founded is None and not settings.initial_peers:
        raise InputError(NOTHING_TO_JOIN)
    if mine is not None and wanted is not None and not mine.run_id.startswith(wanted):
        raise InputError(
            f"{directory} belongs to run {mine.name} ({mine.run_id[:12]}), not to"
            f" {wanted[:12]}: give this run a directory of its own with --dir"
        )
