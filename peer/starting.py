"""From settings to parts: everything that a peer has before it says hello to anybody.

Whatever has to be undone goes onto the caller's exit stack at the moment it is there.
"""

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import torch

from peer.admission import Membership, refuse_unfit
from peer.authority_folder import AuthorityFolder
from peer.board import Board
from peer.certificates import Role
from peer.cursor import Cursor
from peer.data import Corpus
from peer.discovery import DhtDiscovery
from peer.disk import Disk
from peer.evaluate import Evaluator
from peer.finding import find_run
from peer.identity import Identity
from peer.inner import InnerOptimizer, MakeInnerOptimizer
from peer.invitation import Invitation
from peer.metrics import METRICS_FILE, Metrics
from peer.pacer import Lanes
from peer.preflight import read_manifest, refuse_another_run, refuse_taken_ports, usable_device
from peer.replica import Replica
from peer.resume import open_disk, open_store
from peer.runfile import RunFile
from peer.secure import Credentials, Security
from peer.settings import Settings
from peer.store import State, Store
from peer.threads import in_thread, tell
from peer.traffic import TrafficMeter
from peer.watch import TrafficWatch
from protocol.errors import InputError, UnavailableError
from protocol.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A peer's files, its DHT, and the run that it is in."""

    device: torch.device
    identity: Identity
    remembered: RunFile
    security: Security
    discovery: DhtDiscovery
    manifest: Manifest
    store: Store
    cursor: Cursor
    metrics: Metrics
    lanes: Lanes
    watch: TrafficWatch


@dataclass(frozen=True, slots=True)
class Learner:
    """What trains, and what tells how well."""

    corpus: Corpus
    replica: Replica
    optimizer: InnerOptimizer
    evaluator: Evaluator | None
    """None where the corpus is another one than the founder's."""
    initial: list[State]
    """The shared state at genesis."""
    state_digest: str
    """Of all of it."""


async def open_base(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    invitation: Invitation | None,
    directory: Path,
    board: Board,
) -> Base:
    """Check what was asked for, and open all that belongs to the run and the directory.

    Args:
        invitation: the one that the settings name, whose ways in they hold already.
    """
    device = usable_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.manifest is not None:
        board.manifest = read_manifest(settings.manifest, settings.lockstep)
    refuse_taken_ports(settings)
    identity = (
        Identity.load_or_create(directory)
        if invitation is None
        else invitation.identity_in(directory)
    )
    board.peer_id = identity.peer_id
    disk = open_disk(directory)
    remembered = RunFile(disk)
    refuse_another_run(settings, board.manifest, remembered.manifest, directory)

    credentials = _credentials(settings, invitation, identity, disk, board)
    discovery = await stack.enter_async_context(_dht(settings, directory, remembered))
    manifest = board.manifest or remembered.manifest
    if manifest is None:
        manifest = await _find_run(discovery, settings, credentials, board)
    board.manifest = manifest
    refuse_unfit(credentials.membership, manifest, credentials.is_insecure)
    security = credentials.for_run(manifest.run_id)
    if credentials.membership is not None:
        credentials.membership.remember(disk)
    store = await in_thread(open_store, disk, manifest, settings)
    for note in store.notes:
        board.note(note)
    cursor = Cursor.open(
        directory / "cursor.json",
        manifest.run_id,
        note=functools.partial(tell, asyncio.get_running_loop(), board.note),
    )
    stack.callback(cursor.release)
    metrics = stack.enter_context(Metrics(directory / METRICS_FILE, board.note))
    board.record = metrics
    stack.callback(board.end_record)
    lanes = Lanes(settings.up_bytes_per_s)
    meter = stack.enter_context(TrafficMeter([os.getpid(), discovery.daemon_pid]))
    watch = board.watch = TrafficWatch(meter, discovery.daemon_pid, lanes, metrics)
    return Base(
        device=device,
        identity=identity,
        remembered=remembered,
        security=security,
        discovery=discovery,
        manifest=manifest,
        store=store,
        cursor=cursor,
        metrics=metrics,
        lanes=lanes,
        watch=watch,
    )


def _credentials(
    settings: Settings,
    invitation: Invitation | None,
    identity: Identity,
    disk: Disk,
    board: Board,
) -> Credentials:
    """What this peer shows: its invitation, or what it showed before."""
    manifest = board.manifest
    if settings.insecure:
        return Credentials(identity, is_insecure=True)
    if invitation is not None:
        return Credentials(identity, invitation.membership)
    if settings.manifest is not None and manifest is not None and manifest.admission.authority:
        folder = AuthorityFolder(settings.manifest.parent, manifest)
        return Credentials(identity, folder.admit(identity, board.name, Role.FOUNDER, None))
    return Credentials(identity, Membership.remembered(disk))


async def load_learner(
    base: Base, settings: Settings, board: Board, make_optimizer: MakeInnerOptimizer
) -> Learner:
    """Everything slow, before anybody counts on this peer."""
    board.be("loading")
    manifest = base.manifest
    corpus = await in_thread(Corpus.load, manifest, settings.corpus or "")
    replica = await in_thread(Replica, manifest, base.device)
    # The first optimizer of a process makes torch import for seconds, and nothing would be
    # answered meanwhile.
    optimizer = await in_thread(make_optimizer, manifest, replica.model)
    initial, state_digest = replica.states, await in_thread(replica.state_digest)
    evaluator = None
    if _has_the_heldout_text(manifest, corpus, board):
        evaluator = await in_thread(Evaluator, manifest, corpus, base.device, base.metrics, board)
    return Learner(corpus, replica, optimizer, evaluator, initial, state_digest)


async def _find_run(
    discovery: DhtDiscovery, settings: Settings, credentials: Credentials, board: Board
) -> Manifest:
    board.be("looking for the run")
    manifest, _ = await find_run(discovery, settings.run_id, credentials, me=board.peer_id)
    if settings.lockstep and manifest.mode != "lockstep":
        raise InputError(f"run {manifest.name} is not in lockstep mode: leave --lockstep out")
    board.manifest = manifest
    board.note(f"joining run {manifest.name}, {manifest.run_id}")
    return manifest


def _has_the_heldout_text(manifest: Manifest, corpus: Corpus, board: Board) -> bool:
    """Whether this peer can evaluate: its held-out text is the run's."""
    wanted = manifest.data.heldout_digest
    if wanted and corpus.heldout_digest != wanted:
        board.note(
            "this machine's corpus differs from the founder's (another Python version, or other"
            " files): it trains on its own text and leaves evaluation to the others"
        )
        return False
    return True


@contextlib.asynccontextmanager
async def _dht(
    settings: Settings, directory: Path, remembered: RunFile
) -> AsyncIterator[DhtDiscovery]:
    """The DHT of the initial peers and of those that this peer knew; a new one if it is back
    before all of them."""
    known = [peer.dht for peer in remembered.peers() if peer.dht]
    start = functools.partial(
        DhtDiscovery.start,
        listen_host=settings.listen_host,
        listen_port=settings.listen_port + 1 if settings.listen_port else 0,
        announce_host=settings.announce_host,
        directory=directory,
    )
    try:
        discovery = await start(initial_peers=[*settings.initial_peers, *known])
    except UnavailableError:
        if remembered.genesis is None:
            raise
        discovery = await start(initial_peers=[])
    try:
        yield discovery
    finally:
        await discovery.close()
