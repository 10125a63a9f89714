"""One peer from start to end: the only place that puts the pieces together.

Read `Peer._run` from top to bottom: it is the order in which things start, and its exit stack
undoes them in reverse, whatever the reason for stopping.
"""

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import torch

from peer.arithmetic import Arithmetic
from peer.board import GATHERING, Board
from peer.catchup import Catchup
from peer.cursor import Cursor
from peer.data import Corpus
from peer.discovery import REFRESH_S, DhtDiscovery
from peer.evaluate import Evaluator
from peer.gathering import Gathering, find_run
from peer.grpc_transport import GrpcTransport
from peer.identity import Identity
from peer.inner import InnerOptimizer
from peer.library import OwnLibrary
from peer.metrics import METRICS_FILE, Metrics
from peer.pacer import Lanes
from peer.preflight import read_manifest, refuse_taken_ports, usable_device
from peer.replica import Replica
from peer.resume import new_ledger, open_disk, open_store, resume
from peer.round_record import RoundRecord
from peer.rounds import RoundDriver
from peer.runfile import RunFile
from peer.scribe import Scribe
from peer.settings import MAX_NAME, NOTHING_TO_JOIN, Settings
from peer.share import Share
from peer.shared_state import SharedState
from peer.store import Recovered, Store
from peer.threads import in_thread, tell
from peer.traffic import TrafficMeter
from peer.trainer import Trainer
from peer.watch import TrafficWatch
from protocol.errors import DilocoError, InputError, UnavailableError
from protocol.log import Genesis
from protocol.manifest import Manifest
from protocol.member import Member
from protocol.pacing import OVERHEAD
from protocol.round import RATE_HEADROOM
from protocol.terms import Terms
from protocol.wire import diloco_pb2 as pb

FINAL_FILE = "final.safetensors"
STEPS_LINE_S = 1.0
LEAVE_S = 8.0
HAND_OVER_S = 1.5
STAY_S = 5.0
"""How long a leaver votes on, at most, while the others decide to do without it."""
STRANDED_S = 5.0
SAVE_AGAIN_S = 3.0
ASSUMED_BYTES_PER_S = 125e6
"""Where there is no cap and nothing measured yet: 1 Gbit/s."""
LINK_SHARE = 0.80
"""Of a cap that parts are planned with: refill, headers and the headroom of a link come off it."""


class Peer:
    """One running peer."""

    def __init__(self, settings: Settings, directory: Path, say: Callable[[str], None]) -> None:
        """Args:
        directory: where this peer's files are; the caller holds it (peer/directory.py).
        say: prints a line that a person has to copy; notes appear in the view by themselves.
        """
        self._settings = settings
        self._directory = directory
        self._say = say
        self._leave = asyncio.Event()
        name = settings.name or (directory.resolve().name or "peer")[:MAX_NAME]
        self.board = Board(settings, name)

    def leave(self) -> None:
        """Stop training and go, as Ctrl-C does."""
        self._leave.set()

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
            if not work.done() and self.board.driver is not None:
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
        settings, board, directory = self._settings, self.board, self._directory
        device = usable_device(settings.device)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        if settings.manifest is not None:
            board.manifest = read_manifest(settings.manifest, settings.lockstep)
        refuse_taken_ports(settings)
        identity = Identity.load_or_create(directory)
        board.peer_id = identity.peer_id
        disk = open_disk(directory)
        remembered = RunFile(disk)
        self._refuse_another_run(remembered)
        async with contextlib.AsyncExitStack() as stack:
            discovery = await stack.enter_async_context(_dht(settings, directory, remembered))
            manifest = board.manifest or remembered.manifest or await self._find_run(discovery)
            board.manifest = manifest
            store = await in_thread(open_store, disk, manifest.run_id, settings)
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

            board.be("loading")
            corpus = await in_thread(Corpus.load, manifest, settings.corpus or "")
            replica = await in_thread(Replica, manifest, device)
            # Before anybody counts on this peer: the first optimizer of a process makes torch
            # import for seconds, and nothing would be answered meanwhile.
            optimizer = await in_thread(InnerOptimizer, manifest, replica.model)
            initial, state_digest = replica.states, await in_thread(replica.state_digest)
            evaluator = None
            if self._has_the_heldout_text(manifest, corpus):
                evaluator = await in_thread(Evaluator, manifest, corpus, device, metrics, board)

            me = pb.Announcement(
                peer_id=identity.peer_id, name=board.name, incarnation=store.incarnation
            )
            me.dht = next(iter(await discovery.addresses()), "")[:256]
            gathering = board.gathering = Gathering(manifest, me, board.status, board.log)
            transport = GrpcTransport(identity.peer_id, manifest.run_id, lanes, gathering)
            stack.push_async_callback(transport.close)
            port = await transport.listen(settings.listen_host, settings.listen_port)
            me.address = f"{settings.dialled_host}:{port}"

            background = await stack.enter_async_context(_background())
            background(watch.run())
            background(self._announce(discovery, manifest.run_id, me))
            self._write_start(metrics, manifest, replica)
            genesis = await self._gather(
                gathering, discovery, identity, manifest, state_digest, remembered
            )

            recovered = await in_thread(store.recover, genesis, initial, replica.apply)
            assert recovered is not None
            ledger = new_ledger(manifest, replica)
            first_step = await in_thread(
                resume, recovered, replica, optimizer, ledger, identity.peer_id
            )
            for note in recovered.notes:
                board.note(note)
            if recovered.head.round >= 0:
                board.note(f"going on from round {recovered.head.round}, step {first_step}")
            trainer = Trainer(
                manifest, optimizer, corpus, cursor, identity.peer_id, device, first_step
            )
            stack.push_async_callback(trainer.stop)
            terms = _terms(manifest, replica)
            member = self._member(terms, store, recovered)
            scribe = Scribe(
                store,
                on_failure=lambda why: driver.on_disk_failure(why),
                on_repair=lambda: driver.on_disk_repair(),
                note=board.note,
            )
            stack.callback(scribe.close)
            arithmetic = Arithmetic(replica)
            catchup = Catchup(transport, store, terms, settings.down_bytes_per_s, board.note)
            share = Share(
                manifest=manifest,
                replica=replica,
                trainer=trainer,
                ledger=ledger,
                links=lambda: self._links(transport),
                is_new=recovered.private is None and identity.peer_id not in genesis.voters,
            )
            driver = RoundDriver(
                manifest=manifest,
                member=member,
                replica=replica,
                trainer=trainer,
                share=share,
                state=SharedState(
                    me=identity.peer_id,
                    schedule=manifest.schedule,
                    genesis=genesis,
                    initial=initial,
                    replica=replica,
                    arithmetic=arithmetic,
                    trainer=trainer,
                    share=share,
                    ledger=ledger,
                    scribe=scribe,
                    catchup=catchup,
                    note=board.note,
                    round=recovered.head.round,
                    versions=list(recovered.versions),
                ),
                arithmetic=arithmetic,
                transport=transport,
                scribe=scribe,
                catchup=catchup,
                record=RoundRecord(
                    replica, metrics, traffic=lambda: (watch.sent_bytes, watch.received_bytes)
                ),
                note=board.note,
            )
            stack.callback(driver.close)
            board.trainer, board.driver = trainer, driver
            if evaluator is not None:
                driver.after_round = evaluator.after_round
            transport.lend(OwnLibrary(store, member))
            transport.connect(driver)
            stack.callback(transport.disconnect)

            def meet(peer_id: str, address: str) -> None:
                if transport.reach(peer_id, address):
                    driver.on_met(peer_id)

            gathering.greet(meet)
            background(gathering.keep_meeting(discovery))
            background(self._remember_peers(gathering, remembered))
            background(self._write_steps(metrics, driver))
            await self._train(driver, metrics)
            if driver.member.is_finished:
                await self._conclude(driver, evaluator)

    # --- the stages ------------------------------------------------------------------------------

    async def _find_run(self, discovery: DhtDiscovery) -> Manifest:
        board, settings = self.board, self._settings
        board.be("looking for the run")
        manifest = await find_run(discovery, settings.run_id, me=board.peer_id)
        if settings.lockstep and manifest.mode != "lockstep":
            raise InputError(f"run {manifest.name} is not in lockstep mode: leave --lockstep out")
        board.manifest = manifest
        board.note(f"joining run {manifest.name}, {manifest.run_id}")
        return manifest

    def _refuse_another_run(self, remembered: RunFile) -> None:
        """A state directory belongs to one run."""
        settings, mine = self._settings, remembered.manifest
        wanted = self.board.manifest.run_id if self.board.manifest else settings.run_id
        if mine is None and self.board.manifest is None and not settings.initial_peers:
            raise InputError(NOTHING_TO_JOIN)
        if mine is not None and wanted is not None and not mine.run_id.startswith(wanted):
            raise InputError(
                f"{self._directory} belongs to run {mine.name} ({mine.run_id[:12]}), not to"
                f" {wanted[:12]}: give this run a directory of its own with --dir"
            )

    async def _gather(
        self,
        gathering: Gathering,
        discovery: DhtDiscovery,
        identity: Identity,
        manifest: Manifest,
        state_digest: str,
        remembered: RunFile,
    ) -> Genesis:
        """Say how others join, and wait until all are there, unless the run has begun."""
        is_back = remembered.genesis is not None
        founds = self._settings.manifest is not None and not is_back
        self._say(
            f"run {manifest.name} is founded; the others join it with:"
            if founds
            else f"in run {manifest.name}; others can join it through this peer, too:"
        )
        for address in await discovery.addresses():
            self._say(
                f"diloco-peer join --initial-peers {address} --run {manifest.run_id} --insecure"
            )
        if remembered.genesis is not None:
            genesis = gathering.resume(remembered.genesis, remembered.peers())
        elif founds:
            self.board.be(GATHERING)
            genesis = await gathering.found(identity, state_digest)
        else:
            self.board.be(GATHERING)
            genesis = await gathering.join(discovery)
        assert gathering.signed is not None
        remembered.remember_run(manifest, gathering.signed)
        if genesis.state_digest != state_digest:
            raise DilocoError(
                "this machine initializes the model differently from the founder: use the same"
                " version of torch"
            )
        if identity.peer_id in genesis.voters and not is_back:
            count = len(genesis.voters)
            self.board.note(f"the run begins with {count} peer{'s' * (count > 1)}")
        return genesis

    async def _train(self, driver: RoundDriver, metrics: Metrics) -> None:
        """Train and take part in rounds, until the last entry or until this peer leaves."""
        trainer = driver.trainer
        self.board.name_state()
        metrics.write("train_begin", steps=trainer.progress.step, tokens=trainer.progress.tokens)
        if not driver.member.trains or driver.member.is_finished:
            trainer.finish()
        elif driver.is_new:
            trainer.hold_at(trainer.progress.step)
        trainer.start(driver.on_step, driver.position)
        rounds = asyncio.create_task(driver.run())
        leaving = asyncio.create_task(self._leave.wait())
        stranded = asyncio.create_task(_stranded(driver))
        ends: set[asyncio.Future[Any]] = {rounds, leaving, stranded, trainer.failed}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._leave.is_set() and not rounds.done():
                self.board.be("leaving")
                await driver.leave(HAND_OVER_S, STAY_S)
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
                fates=driver.share.ledger.fates(),
            )

    async def _conclude(self, driver: RoundDriver, evaluator: Evaluator | None) -> None:
        """The run is complete: keep what it made, and say how good it is."""
        self.board.be("finishing")
        path = self._directory / FINAL_FILE
        await self._save_result(driver.replica, path)
        if evaluator is not None:
            await evaluator.evaluate_finally(driver)
        self.board.be("done")
        self.board.note(f"the run is complete; global_params and momentum are in {path}")

    async def _save_result(self, replica: Replica, path: Path) -> None:
        """As soon as there is room for it: it may be nowhere else."""
        is_said = False
        while True:
            try:
                return await in_thread(replica.save, path)
            except OSError as error:
                if not is_said:
                    self.board.note(
                        f"the result cannot be written: make room on the disk ({error})"
                    )
                is_said = True
            await asyncio.sleep(SAVE_AGAIN_S)

    # --- in the background -----------------------------------------------------------------------

    async def _announce(
        self, discovery: DhtDiscovery, run_id: str, announcement: pb.Announcement
    ) -> None:
        while True:
            try:
                await discovery.announce(run_id, announcement)
            except UnavailableError:
                # Whoever is in the run knows the addresses; only newcomers look here.
                self.board.note("the DHT did not take the announcement; trying again")
            await asyncio.sleep(REFRESH_S)

    async def _remember_peers(self, gathering: Gathering, remembered: RunFile) -> None:
        while True:
            await asyncio.sleep(REFRESH_S / 3)
            try:
                remembered.remember_peers(gathering.announcements())
            except OSError as error:
                self.board.note(f"the addresses of the others cannot be kept: {error.strerror}")

    async def _write_steps(self, metrics: Metrics, driver: RoundDriver) -> None:
        """Once a second: a line of the record, and what follows from the count of steps."""
        written_step, largest_gap_s = 0, 0.0
        while True:
            await asyncio.sleep(STEPS_LINE_S)
            self.board.name_state()
            progress = driver.trainer.progress
            if progress.step == written_step:
                continue
            written_step = progress.step
            largest_gap_s = max(largest_gap_s, driver.trainer.take_largest_gap_s())
            is_written = metrics.write(
                "steps",
                step=progress.step,
                position=driver.position(progress.step),
                tokens=progress.tokens,
                loss=progress.loss,
                tokens_per_s=progress.pace_steps_per_s * driver.manifest.tokens_per_step,
                learning_rate=progress.learning_rate,
                largest_gap_s=largest_gap_s,
                waited_s=progress.waited_s,
                sync_s=progress.sync_s,
            )
            largest_gap_s = 0.0 if is_written else largest_gap_s
            self._leave_at_the_limits(progress.step, progress.tokens)

    def _leave_at_the_limits(self, step: int, tokens: int) -> None:
        settings = self._settings
        limits = ((step, settings.stop_after_steps), (tokens, settings.stop_after_tokens))
        if any(limit is not None and reached >= limit for reached, limit in limits):
            self.board.note("reached what --steps or --tokens asked for")
            self.leave()

    # --- small things ----------------------------------------------------------------------------

    def _member(self, terms: Terms, store: Store, recovered: Recovered) -> Member:
        return Member(
            me=self.board.peer_id,
            terms=terms,
            head=recovered.head,
            now_s=asyncio.get_running_loop().time(),
            incarnation=store.incarnation,
            ballots=store.ballots,
            accepted_parts=store.accepted_parts,
            trail=recovered.trail,
            trains=self._settings.trains,
        )

    def _has_the_heldout_text(self, manifest: Manifest, corpus: Corpus) -> bool:
        """Whether this peer can evaluate: its held-out text is the run's."""
        wanted = manifest.data.heldout_digest
        if wanted and corpus.heldout_digest != wanted:
            self.board.note(
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
            for cap in (self._settings.up_bytes_per_s, self._settings.down_bytes_per_s)
        )
        return min(up, transport.measured_up_bytes_per_s or up), down

    def _write_start(self, metrics: Metrics, manifest: Manifest, replica: Replica) -> None:
        metrics.write(
            "start",
            run_id=manifest.run_id,
            peer_id=self.board.peer_id,
            name=self.board.name,
            up_bytes_per_s=self._settings.up_bytes_per_s,
            down_bytes_per_s=self._settings.down_bytes_per_s,
            parameters=replica.parameter_count,
            tokens_per_step=manifest.tokens_per_step,
            manifest=manifest.model_dump(mode="json"),
        )


def _terms(manifest: Manifest, replica: Replica) -> Terms:
    return Terms(
        run_id=manifest.run_id,
        schedule=manifest.schedule,
        part_values=tuple(replica.part_values),
        codec=manifest.codec,
        limits=manifest.limits,
        lockstep=manifest.mode == "lockstep",
    )


async def _stranded(driver: RoundDriver) -> None:
    """Raises DilocoError once there is nobody left whom this peer could still rejoin.

    A forked peer trains on for as long as the others do; when they are done, so is it.
    """
    loop = asyncio.get_running_loop()
    member, since_s = driver.member, loop.time()
    while loop.time() - since_s < STRANDED_S:
        await asyncio.sleep(STEPS_LINE_S)
        if member.standing != "forked" or not member.all_others_finished():
            since_s = loop.time()
    raise DilocoError(
        "the others have finished or gone, and this peer had forked from them"
        f" ({member.waiting_for}): it has no result of its own; theirs is in their directories"
    )


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
