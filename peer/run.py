"""One peer from start to end: the only place that puts the pieces together.

Read `run_peer` from top to bottom: it is the order in which things start, and its `async with`
blocks undo them in reverse, whatever the reason for stopping.
"""

import asyncio
import contextlib
import math
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import torch

from peer.cursor import Cursor
from peer.data import Corpus
from peer.discovery import REFRESH_S, DhtDiscovery
from peer.evaluate import Evaluator
from peer.gathering import Gathering, find_run
from peer.grpc_transport import GrpcTransport
from peer.identity import Identity
from peer.metrics import METRICS_FILE, Metrics
from peer.pacer import Lanes
from peer.replica import Replica
from peer.rounds import RoundDriver
from peer.settings import Settings
from peer.traffic import TrafficMeter
from peer.trainer import Trainer
from peer.view import MemberView, PeerView, TrafficView
from peer.watch import TrafficWatch
from protocol.errors import DilocoError, InputError, UnavailableError
from protocol.log import Genesis, Head
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest
from protocol.member import Member
from protocol.pacing import OVERHEAD
from protocol.round import RATE_HEADROOM
from protocol.wire import diloco_pb2 as pb

FINAL_FILE = "final.safetensors"
STEPS_LINE_S = 1.0
LEAVE_S = 2.0
ASSUMED_BYTES_PER_S = 125e6
"""Where there is no cap and nothing measured yet: 1 Gbit/s."""
LINK_SHARE = 0.80
"""Of a cap that parts are planned with: refill, headers and the headroom of a link come off it."""


def read_manifest(path: Path, lockstep: bool = False) -> Manifest:
    """The manifest in a TOML file; raises InputError when it cannot be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the manifest {path}: {error.strerror}") from error
    try:
        text = data[: MAX_MANIFEST_BYTES + 1].decode()
    except UnicodeDecodeError as error:
        raise InputError(f"the manifest {path} is not a text file") from error
    manifest = Manifest.from_toml(text)
    if lockstep:
        manifest = manifest.model_copy(update={"mode": "lockstep"})
    return manifest


class Peer:
    """A running peer: what the view, the status call and the command line see of it."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self._say = say
        self.notes: deque[str] = deque(maxlen=8)
        self.manifest: Manifest | None = None
        self.peer_id = ""
        self._state = "starting"
        self._state_since_s = time.monotonic()
        self._gathering: Gathering | None = None
        self._driver: RoundDriver | None = None
        self._trainer: Trainer | None = None
        self._watch: TrafficWatch | None = None
        self._heldout_loss: float | None = None
        self._leave = asyncio.Event()

    # --- what others see -------------------------------------------------------------------------

    def leave(self) -> None:
        """Stop training and go, as Ctrl-C does."""
        self._leave.set()

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._say(text)

    def _be(self, state: str) -> None:
        if state != self._state:
            self._state, self._state_since_s = state, time.monotonic()

    @property
    def utilization(self) -> float | None:
        """1 - time the trainer waited for the network / wall time of training."""
        if self._trainer is None or not self._trainer.progress.trained_s:
            return None
        progress = self._trainer.progress
        return 1 - progress.waited_s / progress.trained_s

    def view(self) -> PeerView | None:
        """Everything on the live view; None before the run is known."""
        if self.manifest is None or self._watch is None:
            return None
        manifest, driver, trainer, watch = self.manifest, self._driver, self._trainer, self._watch
        progress = trainer.progress if trainer else None
        started = progress is not None and progress.step > 0
        round_ = driver.member.round if driver and not driver.member.is_finished else None
        return PeerView(
            run_name=manifest.name,
            run_id=manifest.run_id,
            name=self.settings.name,
            peer_id=self.peer_id,
            state=self._state,
            state_s=time.monotonic() - self._state_since_s,
            step=progress.step if progress else 0,
            total_steps=manifest.total_steps,
            round=round_,
            fragment_id=None if round_ is None else manifest.schedule.fragment_of(round_),
            num_fragments=manifest.sync.num_fragments,
            loss=progress.loss if started and progress else None,
            learning_rate=progress.learning_rate if started and progress else None,
            tokens_per_s=progress.pace_steps_per_s * manifest.tokens_per_step if progress else None,
            utilization=self.utilization,
            heldout_loss=self._heldout_loss,
            rounds_committed=driver.counts.committed if driver else 0,
            rounds_empty=driver.counts.empty if driver else 0,
            up=_traffic_view(
                watch.up_bytes_per_s, watch.peak_up_bytes_per_s, self.settings.up_bytes_per_s
            ),
            down=_traffic_view(
                watch.down_bytes_per_s, watch.peak_down_bytes_per_s, self.settings.down_bytes_per_s
            ),
            members=self._member_views(),
            notes=tuple(self.notes),
        )

    def _member_views(self) -> tuple[MemberView, ...]:
        if self._driver is None or self._gathering is None:
            return ()
        names, member = self._gathering.names(), self._driver.member
        paces = dict(self._driver.last_group)
        states = {**member.peer_states(), self.peer_id: "live"}
        return tuple(
            MemberView(
                name=names.get(peer, peer[:8]),
                peer_id=peer,
                missing=None if state == "live" else state,
                steps_per_s=paces.get(peer),
                rtt_ms=None,
            )
            for peer, state in sorted(states.items())
        )

    def status(self) -> pb.StatusReply:
        """The same, for `diloco-peer status` of somebody else."""
        view, watch, driver = self.view(), self._watch, self._driver
        if view is None or watch is None:
            return pb.StatusReply(peer_id=self.peer_id, name=self.settings.name, state=self._state)
        return pb.StatusReply(
            peer_id=view.peer_id,
            name=view.name,
            run_name=view.run_name,
            state=view.state,
            step=view.step,
            total_steps=view.total_steps,
            round=driver.member.round if driver else -1,
            head=driver.member.head.digest if driver else "",
            loss=math.nan if view.loss is None else view.loss,
            tokens_per_s=view.tokens_per_s or 0.0,
            utilization=math.nan if view.utilization is None else view.utilization,
            rounds_committed=view.rounds_committed,
            rounds_empty=view.rounds_empty,
            up_bytes_per_s=watch.up_bytes_per_s,
            down_bytes_per_s=watch.down_bytes_per_s,
            group=[member.peer_id for member in view.members if member.missing is None],
        )

    # --- from start to end -----------------------------------------------------------------------

    async def run(self) -> None:
        """Take part in a run until it ends, or until `leave`.

        Raises:
            InputError: something that was asked for cannot be done; nothing was changed.
            UnavailableError: the swarm cannot be reached.
            DilocoError: the run had to stop here.
        """
        settings = self.settings
        founds = settings.manifest is not None
        if settings.manifest is not None:
            self.manifest = read_manifest(settings.manifest, settings.lockstep)
        device = _device(settings.device)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        _refuse_taken_ports(settings)
        identity = Identity.load_or_create(settings.directory)
        self.peer_id = identity.peer_id
        async with contextlib.AsyncExitStack() as stack:
            discovery = await stack.enter_async_context(_dht(settings))
            if self.manifest is None:
                self.manifest = await find_run(discovery, settings.run_id)
                self.note(f"joining run {self.manifest.name}, {self.manifest.run_id}")
            manifest = self.manifest
            if settings.lockstep and manifest.mode != "lockstep":
                raise InputError(f"run {manifest.name} is not in lockstep mode: leave --lockstep out")
            metrics = stack.enter_context(Metrics(settings.directory / METRICS_FILE))
            lanes = Lanes(settings.up_bytes_per_s)
            meter = stack.enter_context(TrafficMeter([_own_pid(), discovery.daemon_pid]))
            self._watch = TrafficWatch(meter, discovery.daemon_pid, lanes, metrics)

            self._be("loading")
            corpus = await asyncio.to_thread(Corpus.load, manifest, settings.corpus or "")
            evaluates = self._compare_corpus(corpus)
            replica = await asyncio.to_thread(Replica, manifest, device)
            cursor = Cursor.open(settings.directory / "cursor.json", manifest.run_id)
            stack.callback(cursor.release)

            me = pb.Announcement(peer_id=identity.peer_id, name=settings.name)
            gathering = self._gathering = Gathering(manifest, me, self.status)
            transport = GrpcTransport(identity.peer_id, manifest.run_id, lanes, gathering)
            stack.push_async_callback(transport.close)
            port = await transport.listen(settings.listen_host, settings.listen_port)
            me.address = f"{settings.dialled_host}:{port}"

            background = await stack.enter_async_context(_background())
            background(self._watch.run())
            background(self._announce(discovery, me))
            self._write_start(metrics, replica)
            genesis = await self._gather(gathering, discovery, identity, replica, founds)

            trainer = self._trainer = Trainer(
                manifest, replica, corpus, cursor, identity.peer_id, device
            )
            stack.push_async_callback(trainer.stop)
            driver = self._driver = RoundDriver(
                manifest=manifest,
                member=_member(manifest, identity.peer_id, genesis, replica),
                replica=replica,
                trainer=trainer,
                transport=transport,
                metrics=metrics,
                links=lambda: self._links(transport),
                note=self.note,
                traffic=self._traffic_so_far,
            )
            stack.callback(driver.close)
            evaluator = Evaluator(manifest, corpus, device) if evaluates else None
            if evaluator is not None:
                driver.on_applied = lambda round_, empty: self._maybe_evaluate(
                    round_, evaluator, metrics, background
                )
            addresses = gathering.addresses()
            transport.connect(driver, {p: addresses[p] for p in genesis.voters if p in addresses})
            background(self._write_steps(metrics))
            await self._train(driver, trainer, metrics)
            if driver.member.is_finished:
                await self._conclude(driver, evaluator, metrics)

    async def _gather(
        self,
        gathering: Gathering,
        discovery: DhtDiscovery,
        identity: Identity,
        replica: Replica,
        founds: bool,
    ) -> Genesis:
        manifest = self.manifest
        assert manifest is not None
        for address in await discovery.addresses():
            self.note(
                f"diloco-peer join --initial-peers {address} --run {manifest.run_id} --insecure"
            )
        self._be(f"gathering {manifest.start_peers} peers")
        state_digest = await asyncio.to_thread(replica.state_digest)
        if founds:
            waiting = gathering.found(identity, state_digest)
        else:
            waiting = gathering.join(discovery)
        genesis = await self._unless_leaving(waiting)
        if genesis.state_digest != state_digest:
            raise DilocoError(
                "this machine initializes the model differently from the founder: use the same"
                " version of torch"
            )
        self.note(f"the run begins with {len(genesis.voters)} peers")
        return genesis

    async def _unless_leaving(self, waiting: "asyncio.coroutines.Coroutine[None, None, Genesis]") -> Genesis:  # type: ignore[name-defined]
        leaving = asyncio.create_task(self._leave.wait())
        work = asyncio.create_task(waiting)
        try:
            await asyncio.wait({leaving, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise asyncio.CancelledError
            return work.result()
        finally:
            leaving.cancel()
            work.cancel()
