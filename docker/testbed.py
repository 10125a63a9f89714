#!/opt/diloco-peer/bin/python
"""What the containers of docker/compose.yaml run, and what a person asks them.

    testbed founder|worker|archive   the entry point: shape the link as root, then be this peer
    testbed link                     shape the link again, after its network was disconnected
    testbed status|log ...           `diloco-peer status` or `log` of the swarm that this peer is in
    testbed health                   whether the peer of this container answers and is well

UP, DOWN, DELAY and LOSS of the environment say what the link is; what is not set is not shaped.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from peer.admission import Membership
from peer.contact import Contact, Introduction, read_contact
from peer.directory import STATE_FOLDER
from peer.grpc_client import Asker
from peer.identity import KEY_FILE, Identity
from peer.runfile import RUN_FILE
from peer.secure import Credentials
from protocol.errors import DilocoError, RemoteError, UnavailableError
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb

USER = "peer"
STATE = Path("/state")
HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "manifest.toml"
NAME_FILE = Path("/tmp/peer-name")
"""What `peer_name` said when this container began: without a network there is nobody to ask."""
PORT = 7000
ENTRANCES = ("founder", "archive")
"""Services whose first container newcomers ask for the way in."""
ENTRANCE_S, BACK_S = 300.0, 20.0
UNWELL = ("alone", "minority", "forked")
"""States of a peer that runs, and whose log is not that of the others."""


def be(role: str) -> NoReturn:
    """Become the peer of this container, without any privilege."""
    shape_link()
    peer = ["diloco-peer", *command_line(role)]
    if os.geteuid() == 0:
        drop = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"]
        peer = [*drop, "--bounding-set", "-all", "--inh-caps", "-all", *peer]
    os.execvpe(peer[0], peer, os.environ | {"HOME": str(STATE)})


def command_line(role: str) -> list[str]:
    """What a person would type here; a newcomer waits for somebody who knows the way in."""
    name = peer_name()
    NAME_FILE.write_text(name)
    directory = STATE / name
    line = ["archive" if role == "archive" else "join", "--dir", str(directory), "--name", name]
    # Docker finds this name in whatever network the container is, with whatever address.
    line += ["--listen", f"0.0.0.0:{PORT}", "--announce", socket.gethostname()]
    # A peer stays below its caps (benchmarks/caps.py): they may be all that the link carries.
    line += ["--threads", "1", "--plain", *from_environment("up", "down")]
    if role == "founder":
        return [*line, "--manifest", str(MANIFEST)]
    is_back = (directory / STATE_FOLDER / RUN_FILE).exists()
    return [*line, *asyncio.run(way_in(is_back))]


def shape_link() -> None:
    """As the environment says; raises DilocoError when this kernel or container cannot."""
    settings = from_environment("up", "down", "delay", "loss")
    if not settings:
        return
    if subprocess.run([HERE / "shape", interface()[0], *settings], check=False).returncode:
        raise DilocoError("that link cannot be made here; without UP, DOWN, DELAY and LOSS none is")


def from_environment(*flags: str) -> list[str]:
    """Those flags that have a value in the environment, as in UP=10mbit, with it."""
    values = {flag: os.environ.get(flag.upper(), "") for flag in flags}
    return [word for flag, value in values.items() if value for word in (f"--{flag}", value)]


def interface() -> tuple[str, str]:
    """Name and IPv4 address of the network card; raises DilocoError when there is none."""
    listed = output("ip", "-oneline", "-4", "address", "show", "scope", "global").split()
    if not listed:
        raise DilocoError("this container is in no network: connect it and start it again")
    return listed[1], listed[3].partition("/")[0]


def peer_name() -> str:
    """As worker-2: what Docker's DNS calls this container (project_worker_2.project_default).

    It is the same again after `down` and `up`, and so is the directory in the volume.
    """
    found = output("getent", "--service", "dns", "hosts", interface()[1]).split()
    if len(found) < 2:
        return socket.gethostname()
    container, _, network = found[1].partition(".")
    return container.removeprefix(network.rpartition("_")[0]).strip("_-").replace("_", "-")


def output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


async def way_in(is_back: bool) -> list[str]:
    """Flags that lead into the run, as soon as one of the entrances answers.

    Args:
        is_back: this peer knows others of the run, and soon looks for them itself.

    Raises:
        UnavailableError: nobody answers, and it knows nobody.
    """
    deadline_s = time.monotonic() + (BACK_S if is_back else ENTRANCE_S)
    while time.monotonic() < deadline_s:
        for host in ENTRANCES:
            try:
                return ["--initial-peers", await dht_address(f"{host}-1", host)]
            except UnavailableError as error:
                why = str(error)
        await asyncio.sleep(1.0)
    if is_back:
        return []
    raise UnavailableError(f"neither of {', '.join(ENTRANCES)} answers: {why}")


async def dht_address(name: str, host: str) -> str:
    """What a peer announces of itself. Raises UnavailableError."""
    contact, asker = known(name, host)
    reply = await asker.hello(contact, pb.HelloRequest())
    try:
        return read_contact(reply.peers[0], reply.run_id, name).dht
    except RemoteError as error:
        raise UnavailableError(str(error)) from error


def known(name: str, host: str) -> tuple[Contact, Asker]:
    """A peer whose directory is in this volume, and somebody to ask it with.

    Raises:
        UnavailableError: it has never run.
    """
    if not (STATE / name / KEY_FILE).exists():
        raise UnavailableError(f"{name} has not begun")
    identity = Identity.load_or_create(STATE / name)
    run_id = Manifest.from_toml(MANIFEST.read_text()).run_id
    membership = Membership.of_open_run(identity, run_id)
    address, certificate = f"{host}:{PORT}", membership.certificate
    itself = Introduction(
        identity=identity, run_id=run_id, name=name, address=address, certificate=certificate
    )
    return itself.contact(), Asker(Credentials(Identity.ephemeral()).for_run(run_id))


def ask_swarm(command: str, *arguments: str) -> NoReturn:
    """`diloco-peer status` and `log`, through the peer of this container."""
    address = asyncio.run(dht_address(NAME_FILE.read_text(), "127.0.0.1"))
    os.execvp("diloco-peer", ["diloco-peer", command, "--initial-peers", address, *arguments])


def say_health() -> None:
    """Print the state; raises DilocoError when the peer does not answer, or is on its own."""
    contact, asker = known(NAME_FILE.read_text(), "127.0.0.1")
    status = asyncio.run(asker.status(contact))
    print(f"{status.state} for {status.state_s:.0f} s, step {status.step}, round {status.round}")
    if status.state in UNWELL:
        raise DilocoError("it takes no part in the log of the others")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["founder" | "worker" | "archive" as role]:
            be(role)
        case ["link"]:
            shape_link()
        case ["status" | "log" as command, *rest]:
            ask_swarm(command, *rest)
        case ["health"]:
            say_health()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DilocoError as error:
        sys.exit(f"testbed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
