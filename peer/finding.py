"""Finding a run through the DHT: which is meant, what it is, and whether it takes this peer."""

import asyncio
import time
from typing import Final

from peer.admission import not_invited, refuse_unfit
from peer.contact import Contact
from peer.discovery import Discovery
from peer.gathering import HELLO_EVERY_S, believe_genesis, one_line, too_late
from peer.grpc_client import Asker
from peer.secure import Credentials, Security
from protocol.digest import is_digest
from protocol.errors import InputError, ManifestError, RemoteError, UnavailableError
from protocol.manifest import Manifest
from protocol.wire import diloco_pb2 as pb

LOOK_S: Final = 8.0
"""How long it looks for a run: whoever prints an address has announced its run already."""


async def find_run(
    discovery: Discovery, wanted: str | None, credentials: Credentials, me: str | None = None
) -> tuple[Manifest, Security]:
    """The manifest of the run to join, checked against its id, and how to call its peers.

    Args:
        wanted: the run_id, or the beginning of one; None takes the only run that is announced.
        me: the peer that would join; None only looks.

    Raises:
        InputError: there is no such run, several, its manifest does not match its id, it takes
            invited peers only, or it is in lockstep mode and has begun.
        UnavailableError: the run is announced and nobody answers.
    """
    deadline_s = time.monotonic() + LOOK_S
    while True:
        try:
            return await _find_run(discovery, wanted, credentials, me)
        except UnavailableError:
            if time.monotonic() > deadline_s:
                raise
        await asyncio.sleep(HELLO_EVERY_S)


async def _find_run(
    discovery: Discovery, wanted: str | None, credentials: Credentials, me: str | None
) -> tuple[Manifest, Security]:
    """One look; raises UnavailableError when another one may find more."""
    # Anybody may announce runs: whoever knows which one it means does not look through them.
    announced = [wanted] if wanted and is_digest(wanted) else await discovery.runs()
    if not announced:
        raise UnavailableError(
            "the initial peers answer, but no run is announced there: found one with --manifest, or"
            " take the address that a peer of the run printed"
        )
    run_ids = [run for run in announced if run.startswith(wanted or "")]
    if not run_ids:
        raise InputError(
            f"--run {wanted} is not what the initial peers announce ({', '.join(announced)}):"
            " correct it, or leave it out"
        )
    if len(run_ids) > 1:
        raise InputError(
            "several runs are announced there; choose one with --run: " + ", ".join(run_ids)
        )
    run_id = run_ids[0]
    unreachable = f"run {run_id[:12]} is announced, but none of its peers is: ask one for its line"
    wrong: InputError | None = None
    security = credentials.for_run(run_id)
    for contact in await discovery.peers(run_id):
        try:
            _refuse_another_kind(contact, credentials, security)
            request = pb.HelloRequest(run_id=run_id)
            reply = await Asker(security).hello(contact, request)
            manifest = check_manifest(reply, run_id)
            refuse_unfit(credentials.membership, manifest, credentials.is_insecure)
            genesis = None
            if reply.HasField("genesis"):
                genesis = believe_genesis(contact.peer_id, reply.genesis, run_id, security)
        except InputError as error:
            wrong = error  # another peer of the run may have the right one
        except UnavailableError as error:
            unreachable = (
                f"run {run_id[:12]} is at {contact.address}, which cannot be reached ({error}):"
                " check that its peers are running and that their ports are open"
            )
        except RemoteError as error:
            why = one_line(error.why)
            wrong = InputError(f"run {run_id[:12]} does not take this peer: it says {why!r}")
        else:
            is_closed = manifest.mode == "lockstep" and genesis is not None
            if me is not None and is_closed and genesis and me not in genesis.voters:
                raise InputError(too_late(manifest, genesis))
            return manifest, security
    raise wrong or UnavailableError(unreachable)


def _refuse_another_kind(contact: Contact, credentials: Credentials, security: Security) -> None:
    """Raises InputError where encryption or an invitation is what is wrong."""
    run = contact.run_id[:12]
    if credentials.is_insecure and contact.certificate:
        raise InputError(f"run {run} is encrypted: leave --insecure out")
    if not credentials.is_insecure and not contact.certificate:
        raise InputError(
            f"run {run} is not encrypted: say --insecure if that is acceptable on this network"
        )
    try:
        security.check_contact(contact)
    except RemoteError as error:
        raise InputError(not_invited(run)) from error


def check_manifest(reply: pb.HelloReply, run_id: str) -> Manifest:
    """The manifest in a reply; raises InputError when it is not the run's."""
    try:
        manifest = Manifest.from_bytes(reply.manifest)
    except ManifestError as error:
        raise InputError(
            f"a peer of run {run_id[:12]} sent a wrong manifest ({error}): join through another"
            " peer's address"
        ) from error
    if manifest.run_id != run_id:
        raise InputError(
            f"a peer of run {run_id[:12]} sent the manifest of run {manifest.run_id[:12]}: it was"
            " tampered with; join through another peer's address"
        )
    return manifest
