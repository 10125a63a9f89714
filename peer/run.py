"""One peer from start to end: the only place that puts the pieces together.

Read `run_peer` from top to bottom: it is the order in which things start, and its `async with`
blocks undo them in reverse, whatever the reason for stopping.
"""

import asyncio
import contextlib
import math
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import torch

from peer.cursor import Cursor
from peer.data import Corpus
from peer.discovery import REFRESH_S, DhtDiscovery
from peer.evaluate import Evaluator
from peer.gathering import Gathering, find_run
from peer.grpc_transport import GrpcTransport
from peer.identity import Identity
from peer.inner import InnerOptimizer
from peer.metrics import METRICS_FILE, Metrics
from peer.pacer import Lanes
from peer.replica import Replica
from peer.rounds import RoundDriver
from peer.settings import MAX_NAME, Settings
from peer.threads import in_thread
from peer.traffic import TrafficMeter
from peer.trainer import Trainer
from peer.view import MemberView, PeerView, TrafficView
from peer.watch import TrafficWatch
from protocol.errors import DilocoError, InputError, ManifestError, UnavailableError
from protocol.log import Genesis, Head
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest
from protocol.member import Member
from protocol.pacing import OVERHEAD
from protocol.round import RATE_HEADROOM
from protocol.terms import Terms
from protocol.wire import diloco_pb2 as pb

FINAL_FILE = "final.safetensors"
GATHERING = "gathering"
STEPS_LINE_S = 1.0
LEAVE_S = 3.0
STRANDED_S = 5.0
ASSUMED_BYTES_PER_S = 125e6
"""Where there is no cap and nothing measured yet: 1 Gbit/s."""
LINK_SHARE = 0.80
"""Of a cap that parts are planned with: refill, headers and the headroom of a link come off it."""


def read_manifest(path: Path, lockstep: bool = False) -> Manifest:
    """The manifest in a TOML file; raises InputError when it cannot be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the manifest {path}: {error.strerror} ('diloco-peer new' writes one)"
        ) from error
    try:
        text = data[: MAX_MANIFEST_BYTES + 1].decode()
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
    if lockstep:
        manifest = manifest.model_copy(update={"mode": "lockstep"})
    return manifest


class Peer:
    """A running peer: what the view, the status call and the command line see of it."""

    def __init__(self, settings: Settings, directory: Path, say: Callable[[str], None]) -> None:
        """Args:
        directory: where this peer's files are; the caller holds it (peer/directory.py).
        say: prints a line that a person has to copy; notes appear in the view by themselves.
        """
        self.settings = settings
        self.directory = directory
        self.name = settings.name or (directory.resolve().name or "peer")[:MAX_NAME]
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

    def view(self) -> PeerView:
        """Everything on the live view, as far as it is known."""
        manifest, driver, trainer, watch = self.manifest, self._driver, self._trainer, self._watch
        progress = trainer.progress if trainer and trainer.progress.step else None
        round_ = driver.member.round if driver and not driver.member.is_finished else None
        return PeerView(
            run_name=manifest.name if manifest else "",
            run_id=manifest.run_id if manifest else "",
            name=self.name,
            peer_id=self.peer_id,
            state=self._state_in_words(),
            state_s=time.monotonic() - self._state_since_s,
            step=progress.step if progress else 0,
            position=self._position(),
            total_steps=manifest.total_steps if manifest else 0,
            round=round_,
            fragment_id=manifest.schedule.fragment_of(round_)
            if manifest and round_ is not None
            else None,
            num_fragments=manifest.sync.num_fragments if manifest else 0,
            loss=progress.loss if progress else None,
            learning_rate=progress.learning_rate if progress else None,
            tokens_per_s=progress.pace_steps_per_s * self._tokens_per_step if progress else None,
            utilization=self.utilization,
            heldout_loss=self._heldout_loss,
            rounds_committed=driver.counts.committed if driver else 0,
            rounds_empty=driver.counts.empty if driver else 0,
            up=_traffic_view(
                watch.up_bytes_per_s if watch else 0.0,
                watch.peak_up_bytes_per_s if watch else 0.0,
                self.settings.up_bytes_per_s,
            ),
            down=_traffic_view(
                watch.down_bytes_per_s if watch else 0.0,
                watch.peak_down_bytes_per_s if watch else 0.0,
                self.settings.down_bytes_per_s,
            ),
            members=self._member_views(),
            notes=tuple(self.notes),
        )

    def _state_in_words(self) -> str:
        if self._state != GATHERING or self._gathering is None or self._gathering.genesis:
            return "beginning" if self._state == GATHERING else self._state
        awaited = self._gathering.awaited
        if not awaited:
            return "waiting for the founder to begin"
        return f"waiting for {awaited} more peer{'s' * (awaited > 1)}"

    def _position(self) -> int:
        """How far the swarm is in the schedule; a peer's own steps say that only in lockstep."""
        if self._driver is None or self._trainer is None:
            return 0
        return self._driver.position(self._trainer.progress.step + 1)

    @property
    def has_trained(self) -> bool:
        return self._trainer is not None and self._trainer.progress.step > 0

    @property
    def _tokens_per_step(self) -> int:
        return self.manifest.tokens_per_step if self.manifest else 0

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
        view, driver = self.view(), self._driver
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
            up_bytes_per_s=view.up.now_mbit * 1e6 / 8,
            down_bytes_per_s=view.down.now_mbit * 1e6 / 8,
            group=[member.peer_id for member in view.members if member.missing is None],
        )

    # --- from start to end -----------------------------------------------------------------------

    async def run(self) -> None:
        """Take part in a run until it ends, or until `leave`; then it is gone within seconds.

        Raises:
            InputError: something that was asked for cannot be done; nothing was changed.
            UnavailableError: the swarm cannot be reached.
            DilocoError: the run had to stop here.
        """
        work = asyncio.create_task(self._run())
        leaving = asyncio.create_task(self._leave.wait())
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and self._driver is not None:
                await asyncio.wait({work}, timeout=LEAVE_S)
        finally:
            leaving.cancel()
            if not work.done():
                work.cancel()
            # Also when this call is cancelled: what ends p2pd must not be cancelled half way.
            await asyncio.wait({work})
        if not work.cancelled():
            work.result()

    async def _run(self) -> None:
        settings = self.settings
        founds = settings.manifest is not None
        if settings.manifest is not None:
            self.manifest = read_manifest(settings.manifest, settings.lockstep)
        device = _device(settings.device)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        _refuse_taken_ports(settings)
        identity = Identity.load_or_create(self.directory)
        self.peer_id = identity.peer_id
        async with contextlib.AsyncExitStack() as stack:
            discovery = await stack.enter_async_context(_dht(settings, self.directory))
            if self.manifest is None:
                self._be("looking for the run")
                self.manifest = await find_run(discovery, settings.run_id, me=self.peer_id)
                self.note(f"joining run {self.manifest.name}, {self.manifest.run_id}")
            manifest = self.manifest
            if settings.lockstep and manifest.mode != "lockstep":
                raise InputError(
                    f"run {manifest.name} is not in lockstep mode: leave --lockstep out"
                )
            cursor = Cursor.open(self.directory / "cursor.json", manifest.run_id)
            stack.callback(cursor.release)
            metrics = stack.enter_context(Metrics(self.directory / METRICS_FILE))
            lanes = Lanes(settings.up_bytes_per_s)
            meter = stack.enter_context(TrafficMeter([os.getpid(), discovery.daemon_pid]))
            self._watch = TrafficWatch(meter, discovery.daemon_pid, lanes, metrics)

            self._be("loading")
            corpus = await in_thread(Corpus.load, manifest, settings.corpus or "")
            evaluates = self._compare_corpus(corpus)
            replica = await in_thread(Replica, manifest, device)
            # Before anybody counts on this peer: the first optimizer of a process makes torch
            # import for seconds, and nothing would be answered meanwhile.
            optimizer = await in_thread(InnerOptimizer, manifest, replica.model)
            state_digest = await in_thread(replica.state_digest)
            evaluator = await in_thread(Evaluator, manifest, corpus, device) if evaluates else None
            trainer = self._trainer = Trainer(
                manifest, optimizer, corpus, cursor, identity.peer_id, device
            )

            me = pb.Announcement(peer_id=identity.peer_id, name=self.name)
            gathering = self._gathering = Gathering(manifest, me, self.status)
            transport = GrpcTransport(identity.peer_id, manifest.run_id, lanes, gathering)
            stack.push_async_callback(transport.close)
            port = await transport.listen(settings.listen_host, settings.listen_port)
            me.address = f"{settings.dialled_host}:{port}"

            background = await stack.enter_async_context(_background())
            background(self._watch.run())
            background(self._announce(discovery, me))
            self._write_start(metrics, replica)
            genesis = await self._gather(gathering, discovery, identity, state_digest, founds)

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
            if evaluator is not None:
                driver.after_round = lambda round_: self._maybe_evaluate(
                    round_, evaluator, metrics, driver
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
        state_digest: str,
        founds: bool,
    ) -> Genesis:
        manifest = self.manifest
        assert manifest is not None
        self._say(
            f"run {manifest.name} is founded; the others join it with:"
            if founds
            else f"in run {manifest.name}; others can join it through this peer, too:"
        )
        for address in await discovery.addresses():
            self._say(
                f"diloco-peer join --initial-peers {address} --run {manifest.run_id} --insecure"
            )
        self._be(GATHERING)
        if founds:
            waiting = gathering.found(identity, state_digest)
        else:
            waiting = gathering.join(discovery)
        genesis = await waiting
        if genesis.state_digest != state_digest:
            raise DilocoError(
                "this machine initializes the model differently from the founder: use the same"
                " version of torch"
            )
        self.note(f"the run begins with {len(genesis.voters)} peers")
        return genesis

    async def _train(self, driver: RoundDriver, trainer: Trainer, metrics: Metrics) -> None:
        """Train and take part in rounds, until the last entry or until this peer leaves."""
        self._be("training")
        metrics.write("train_begin")
        trainer.start(driver.on_step, driver.position)
        rounds = asyncio.create_task(driver.run())
        leaving = asyncio.create_task(self._leave.wait())
        stranded = asyncio.create_task(_stranded(driver))
        ends: set[asyncio.Future[Any]] = {rounds, leaving, stranded, trainer.failed}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._leave.is_set() and not rounds.done():
                self._be("leaving")
                driver.leave()
                return
            for end in ends - {leaving}:
                if end.done():
                    end.result()
        finally:
            for end in ends:
                end.cancel()
            progress = trainer.progress
            metrics.write(
                "train_end",
                steps=progress.step,
                tokens=progress.tokens,
                wall_s=progress.trained_s,
                waited_s=progress.waited_s,
                sync_s=progress.sync_s,
            )

    async def _conclude(
        self, driver: RoundDriver, evaluator: Evaluator | None, metrics: Metrics
    ) -> None:
        """The run is complete: keep what it made, and say how good it is."""
        self._be("finishing")
        replica, manifest = driver.replica, driver.manifest
        path = self.directory / FINAL_FILE
        await in_thread(replica.save, path)
        if evaluator is not None:
            loss = await in_thread(
                evaluator.loss_of_replica, replica, manifest.evaluation.final_batches
            )
            self._note_heldout(metrics, driver, loss, manifest.evaluation.final_batches, final=True)
        self._be("done")
        self.note(f"the run is complete; global_params and momentum are in {path}")

    # --- in the background -----------------------------------------------------------------------

    async def _announce(self, discovery: DhtDiscovery, me: pb.Announcement) -> None:
        assert self.manifest is not None
        while True:
            try:
                await discovery.announce(self.manifest.run_id, me)
            except UnavailableError:
                # Whoever is in the run knows the addresses; only newcomers look here.
                self.note("the DHT did not take the announcement; trying again")
            await asyncio.sleep(REFRESH_S)

    async def _write_steps(self, metrics: Metrics) -> None:
        assert self._trainer is not None and self._driver is not None and self.manifest is not None
        step = 0
        while True:
            await asyncio.sleep(STEPS_LINE_S)
            progress = self._trainer.progress
            if progress.step == step:
                continue
            step = progress.step
            metrics.write(
                "steps",
                step=step,
                position=self._driver.position(step),
                tokens=progress.tokens,
                loss=progress.loss,
                tokens_per_s=progress.pace_steps_per_s * self.manifest.tokens_per_step,
                learning_rate=progress.learning_rate,
                waited_s=progress.waited_s,
                sync_s=progress.sync_s,
            )
            self._watch_limits(progress.step, progress.tokens)
            self._name_state()

    def _watch_limits(self, step: int, tokens: int) -> None:
        limits = ((step, self.settings.stop_after_steps), (tokens, self.settings.stop_after_tokens))
        if any(limit is not None and reached >= limit for reached, limit in limits):
            self.note("reached what --steps or --tokens asked for")
            self.leave()

    def _name_state(self) -> None:
        """Put what the rounds are doing into words, unless the peer is already going."""
        assert self._driver is not None
        member = self._driver.member
        if self._state in ("leaving", "finishing", "done"):
            return
        if member.standing == "forked":
            self._be("forked")
        elif member.round >= self._driver.manifest.schedule.training_rounds:
            self._be("draining")
        elif member.lacks_quorum:
            self._be("no quorum")
        else:
            self._be("training")

    def _maybe_evaluate(
        self, round_: int, evaluator: Evaluator, metrics: Metrics, driver: RoundDriver
    ) -> Coroutine[Any, Any, None] | None:
        """Every so many rounds one peer evaluates, each in its turn, so that all pay alike."""
        every = driver.manifest.evaluation.every_rounds
        voters = driver.member.head.voters
        turn, due = divmod(round_ + 1, every)
        if due or driver.member.is_finished or voters[turn % len(voters)] != self.peer_id:
            return None
        return self._evaluate(evaluator, metrics, driver)

    async def _evaluate(self, evaluator: Evaluator, metrics: Metrics, driver: RoundDriver) -> None:
        batches = driver.manifest.evaluation.batches
        loss = await driver.trainer.at_boundary(
            lambda: evaluator.loss_of_replica(driver.replica, batches)
        )
        self._note_heldout(metrics, driver, loss, batches, final=False)

    def _note_heldout(
        self, metrics: Metrics, driver: RoundDriver, loss: float, batches: int, final: bool
    ) -> None:
        self._heldout_loss = loss
        metrics.write(
            "heldout",
            round=driver.member.head.round,
            tokens=round(driver.counts.committed_tokens),
            loss=loss,
            batches=batches,
            final=final,
        )

    # --- small things ----------------------------------------------------------------------------

    def _compare_corpus(self, corpus: Corpus) -> bool:
        """Whether this peer can evaluate: its held-out text is the run's."""
        assert self.manifest is not None
        wanted = self.manifest.data.heldout_digest
        if wanted and corpus.heldout_digest != wanted:
            self.note(
                "this machine's corpus differs from the founder's (another Python version, or other"
                " files): it trains on its own text and leaves evaluation to the others"
            )
            return False
        return True

    def _links(self, transport: GrpcTransport) -> tuple[float, float]:
        """Payload bytes per second that rounds may plan with, up and down."""
        planned_share = LINK_SHARE / OVERHEAD / RATE_HEADROOM
        up, down = (
            (cap or ASSUMED_BYTES_PER_S) * planned_share
            for cap in (self.settings.up_bytes_per_s, self.settings.down_bytes_per_s)
        )
        return min(up, transport.up_bytes_per_s() or up), down

    def _traffic_so_far(self) -> tuple[int, int]:
        return (self._watch.sent_bytes, self._watch.received_bytes) if self._watch else (0, 0)

    def _write_start(self, metrics: Metrics, replica: Replica) -> None:
        assert self.manifest is not None
        metrics.write(
            "start",
            run_id=self.manifest.run_id,
            peer_id=self.peer_id,
            name=self.name,
            up_bytes_per_s=self.settings.up_bytes_per_s,
            down_bytes_per_s=self.settings.down_bytes_per_s,
            parameters=replica.parameter_count,
            tokens_per_step=self.manifest.tokens_per_step,
            manifest=self.manifest.model_dump(mode="json"),
        )


def _member(manifest: Manifest, me: str, genesis: Genesis, replica: Replica) -> Member:
    terms = Terms(
        run_id=manifest.run_id,
        schedule=manifest.schedule,
        part_values=tuple(replica.part_values),
        codec=manifest.codec,
        limits=manifest.limits,
        lockstep=manifest.mode == "lockstep",
    )
    now_s = asyncio.get_running_loop().time()
    return Member(me=me, terms=terms, head=Head.of_genesis(genesis), now_s=now_s)


async def _stranded(driver: RoundDriver) -> None:
    """Raises DilocoError once there is nobody left whom this peer could still rejoin.

    A forked peer trains on for as long as the others do; when they are done, so is it.
    """
    member, since_s = driver.member, time.monotonic()
    while time.monotonic() - since_s < STRANDED_S:
        await asyncio.sleep(STEPS_LINE_S)
        if member.standing != "forked" or not member.all_others_finished():
            since_s = time.monotonic()
    raise DilocoError(
        "the others have finished or gone, and this peer had forked from them"
        f" ({member.waiting_for}): it has no result of its own; theirs is in their directories"
    )


@contextlib.asynccontextmanager
async def _dht(settings: Settings, directory: Path) -> AsyncIterator[DhtDiscovery]:
    discovery = await DhtDiscovery.start(
        initial_peers=settings.initial_peers,
        listen_host=settings.listen_host,
        listen_port=settings.listen_port + 1 if settings.listen_port else 0,
        announce_host=settings.announce_host,
        directory=directory,
    )
    try:
        yield discovery
    finally:
        await discovery.close()


@contextlib.asynccontextmanager
async def _background() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Tasks that live as long as the block; one that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        try:
            yield lambda work: tasks.append(group.create_task(work))
        finally:
            for task in tasks:
                task.cancel()


def _device(name: str) -> torch.device:
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


def _refuse_taken_ports(settings: Settings) -> None:
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


def _traffic_view(now: float, peak: float, cap: float | None) -> TrafficView:
    return TrafficView(
        now_mbit=_mbit(now), peak_mbit=_mbit(peak), cap_mbit=None if cap is None else _mbit(cap)
    )


def _mbit(bytes_per_s: float) -> float:
    return bytes_per_s * 8 / 1e6
