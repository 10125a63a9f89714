"""`diloco-peer invite` and `revoke`: what the founder of a run types."""

import asyncio
import shlex
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.units import days
from peer.certificates import Role

RunDirectory = Annotated[
    Path, typer.Argument(help="Where manifest.toml and authority/ are.", metavar="DIRECTORY")
]
PersonName = Annotated[str, typer.Argument(help="What you call that peer.", metavar="NAME")]


def invite(
    directory: RunDirectory,
    name: PersonName,
    expires: Annotated[
        str, typer.Option(help="How long it may take part, as in 30d.", metavar="TIME")
    ] = "30d",
    role: Annotated[
        Role,
        typer.Option(
            help="An archive follows without training, an observer may look.",
            metavar="trainer|archive|observer",
        ),
    ] = Role.TRAINER,
    initial_peers: options.InitialPeers = [],  # noqa: B006 (typer reads it, nobody changes it)
) -> None:
    """Write one file that lets one person join your run. Send it over a channel that you trust.

    Whoever has the file is that peer. Invite the same name again to renew what has expired.
    """
    from peer.founder import invite as write_invitation

    path, invitation = write_invitation(
        directory, name, role, days("--expires", expires), initial_peers
    )
    renews = "" if invitation.key else f"; it renews what {name} has"
    print(f"wrote {path}: it is good for {expires}{renews}")
    command = {Role.ARCHIVE: "archive", Role.OBSERVER: "status"}.get(role, "join")
    file = shlex.quote(path.name)
    print(f"send it to {name}, who types: diloco-peer {command} --invite {file}")


def revoke(
    directory: RunDirectory,
    name: PersonName,
    initial_peers: options.InitialPeers = [],  # noqa: B006
) -> None:
    """Throw a peer out of your run. Those that are there are told at once, and tell the others."""
    from peer.founder import revoke as throw_out

    told = asyncio.run(throw_out(directory, name, initial_peers))
    print(f"{name} is thrown out; told {', '.join(told)}, who pass it on")
