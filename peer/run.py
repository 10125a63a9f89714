"""One peer from start to end: the only place that puts the pieces together.

Read `Peer._run` from top to bottom: it is the order in which things start, and its exit stack
undoes them in reverse, whatever the reason for stopping.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer.auditing import Auditor
from peer.background import (
    STEPS_LINE_S,
    announce,
    background,
    remember_peers,
    warn_of_narrow_link,
    write_steps,
)
from peer.board import GATHERING, Board
from peer.catchup import Catchup
from peer.contact import Contact, Introduction
from peer.evaluate import Evaluator
from peer.gathering import Gathering
from peer.grpc_transport import GrpcTransport
from peer.identity import tally_of
from peer.inner import InnerOptimizer, MakeInnerOptimizer
from peer.invitation import Invitation
from peer.library import OwnLibrary
from peer.metrics import Metrics
from peer.pacer import Lanes
from peer.preflight import listening_somewhere
from peer.replica import Replica
from peer.resume import new_ledger, resume
from peer.round_record import RoundRecord
from peer.rounds import RoundDriver
from peer.scribe import Scribe
from peer.settings import ASSUMED_BYTES_PER_S, MAX_NAME, Settings
from peer.share import Share
from peer.shared_state import SharedState
from peer.starting import Base, Learner, load_learner, open_base
from peer.store import Recovered
from peer.taking_part import how_others_join, passing_on_revocations
from peer.threads import in_thread
from peer.trainer import Progress, Trainer
from protocol.errors import DilocoError
from protocol.ledger import Ledger
from protocol.log import Genesis
from protocol.manifest import Manifest
from protocol.member import Member
from protocol.plan import planned_bytes_per_s
from protocol.terms import Terms

FINAL_FILE = "final.safetensors"
LEAVE_S = 8.0
HAND_OVER_S = 1.5
STAY_S = 5.0
"""How long a leaver votes on, at most, while the others decide to do without it."""
STRANDED_S = 5.0
SAVE_AGAIN_S = 3.0


class Peer:
    """One running peer."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        say: Callable[[str], None],
        inner_optimizer: MakeInnerOptimizer = InnerOptimizer,
    ) -> None:
        """Args:
        directory: where this peer's files are; the caller holds it (peer/directory.py).
        say: prints a line that a person has to copy; notes appear in the view by themselves.
        inner_optimizer: makes what takes the inner steps.
        """
        self._invitation: Invitation | None = None
        if settings.invitation is not None:
            self._invitation = Invitation.read(settings.invitation)
            settings = settings.invited(self._invitation)
        settings = listening_somewhere(settings)
        self._settings = settings
        self._inner_optimizer = inner_optimizer
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
        settings, board = self._settings, self.board
        async with contextlib.AsyncExitStack() as stack:
            base = await open_base(stack, settings, self._invitation, self._directory, board)
            manifest, metrics, security = base.manifest, base.metrics, base.security
            learner = await load_learner(base, settings, board, self._inner_optimizer)

            me = Introduction(
                identity=base.identity,
                run_id=manifest.run_id,
                name=board.name,
                incarnation=base.store.incarnation,
                dht=next(iter(await base.discovery.addresses()), ""),
                certificate=security.certificate,
            )
            gathering = Gathering(manifest, me, security, board.status, board.log)
            board.gathering = gathering
            transport = GrpcTransport(security, base.lanes, gathering)
            stack.push_async_callback(transport.close)
            port = await transport.listen(settings.listen_host, settings.listen_port)
            gathering.me = me.at(f"{settings.dialled_host}:{port}")

            beside = await stack.enter_async_context(background())
            beside(base.watch.run())
            base.discovery.guard(manifest.run_id, security.check_contact)
            for work in passing_on_revocations(
                settings, base, gathering, board, drop=transport.drop
            ):
                beside(work)
            beside(announce(base.discovery, gathering, manifest.run_id, board))
            self._write_start(base, learner)
            genesis = await self._gather(base, gathering, learner.state_digest)

            recovered, trainer, ledger = await self._resume(base, learner, genesis)
            stack.push_async_callback(trainer.stop)
            driver = self._driver(base, learner, transport, genesis, recovered, trainer, ledger)
            stack.callback(driver.scribe.close)
            stack.callback(driver.close)
            board.trainer, board.driver = trainer, driver
            transport.lend(OwnLibrary(base.store, driver.member, driver.auditor.inputs))
            transport.connect(driver)
            stack.callback(transport.disconnect)

            def meet(contact: Contact) -> None:
                if transport.reach(contact):
                    driver.on_met(contact.peer_id)

            gathering.greet(meet)
            beside(gathering.keep_meeting(base.discovery))
            beside(remember_peers(gathering, base.remembered, board))
            beside(write_steps(metrics, driver, board, self._leave_at_the_limits))
            beside(warn_of_narrow_link(settings, driver, board))
            await self._train(driver, metrics)
            if driver.member.is_finished:
                await self._conclude(driver, learner.evaluator)

    # --- the stages ------------------------------------------------------------------------------

    async def _gather(self, base: Base, gathering: Gathering, state_digest: str) -> Genesis:
        """Say how others join, and wait until all are there, unless the run has begun."""
        manifest, remembered, discovery = base.manifest, base.remembered, base.discovery
        is_back = remembered.genesis is not None
        founds = self._settings.manifest is not None and not is_back
        addresses = await discovery.addresses()
        for line in how_others_join(self._settings, manifest, addresses, founds):
            self._say(line)
        if remembered.genesis is not None:
            genesis = gathering.resume(remembered.genesis, remembered.peers())
        elif founds:
            self.board.be(GATHERING)
            genesis = await gathering.found(base.identity, state_digest)
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
        if base.identity.peer_id in genesis.voters and not is_back:
            count = len(genesis.voters)
            self.board.note(f"the run begins with {count} peer{'s' * (count > 1)}")
        return genesis

    async def _resume(
        self, base: Base, learner: Learner, genesis: Genesis
    ) -> tuple[Recovered, Trainer, Ledger]:
        """Go on from what an earlier life of this peer left on disk, if there was one."""
        board, manifest, me = self.board, base.manifest, base.identity.peer_id
        replica, optimizer = learner.replica, learner.optimizer
        recovered = await in_thread(base.store.recover, genesis, learner.initial, replica.apply)
        assert recovered is not None
        ledger = new_ledger(manifest, replica)
        first_step = await in_thread(resume, recovered, replica, optimizer, ledger, me)
        for note in recovered.notes:
            board.note(note)
        if recovered.head.round >= 0:
            board.note(f"going on from round {recovered.head.round}, step {first_step}")
        trainer = Trainer(
            manifest, optimizer, learner.corpus, base.cursor, me, base.device, first_step
        )
        return recovered, trainer, ledger

    def _driver(
        self,
        base: Base,
        learner: Learner,
        transport: GrpcTransport,
        genesis: Genesis,
        recovered: Recovered,
        trainer: Trainer,
        ledger: Ledger,
    ) -> RoundDriver:
        """The rounds, put together and ready to begin."""
        me, manifest, store, watch = base.identity.peer_id, base.manifest, base.store, base.watch
        replica, note = learner.replica, self.board.note
        terms = _terms(manifest, replica)
        scribe = Scribe(
            store,
            on_failure=lambda why: driver.on_disk_failure(why),
            on_repair=lambda: driver.on_disk_repair(),
            note=note,
        )
        catchup = Catchup(transport, store, terms, self._settings.down_bytes_per_s, note)
        share = Share(
            manifest=manifest,
            replica=replica,
            trainer=trainer,
            ledger=ledger,
            links=lambda: self._links(transport, base.lanes),
            is_new=recovered.private is None and me not in genesis.voters,
        )
        state = SharedState(
            me=me,
            genesis=genesis,
            initial=learner.initial,
            recovered=recovered,
            share=share,
            scribe=scribe,
            catchup=catchup,
            note=note,
        )
        driver = RoundDriver(
            member=self._member(base, terms, recovered),
            share=share,
            state=state,
            auditor=Auditor(
                me,
                terms,
                average=replica.average,
                calculate=state.arithmetic.calculate,
                fetch=catchup.fetch,
                note=note,
            ),
            transport=transport,
            record=RoundRecord(
                replica,
                base.metrics,
                traffic=lambda: (watch.sent_bytes, watch.received_bytes),
                schedule=manifest.schedule,
                is_elastic=manifest.mode == "elastic",
                note=note,
            ),
            note=note,
        )
        if learner.evaluator is not None:
            driver.after_round = learner.evaluator.after_round
        return driver

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
                audits=dict(driver.auditor.found),
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

    # --- small things ----------------------------------------------------------------------------

    def _leave_at_the_limits(self, progress: Progress) -> None:
        steps, tokens = self._settings.stop_after_steps, self._settings.stop_after_tokens
        limits = ((progress.step, steps), (progress.tokens, tokens))
        if any(limit is not None and reached >= limit for reached, limit in limits):
            self.board.note("reached what --steps or --tokens asked for")
            self.leave()

    def _member(self, base: Base, terms: Terms, recovered: Recovered) -> Member:
        return Member(
            me=self.board.peer_id,
            terms=terms,
            head=recovered.head,
            now_s=asyncio.get_running_loop().time(),
            signer=base.identity,
            incarnation=base.store.incarnation,
            ballots=base.store.ballots,
            accepted_parts=base.store.accepted_parts,
            trail=recovered.trail,
            verdicts=base.store.verdicts.known,
            trains=self._settings.trains,
        )

    def _links(self, transport: GrpcTransport, lanes: Lanes) -> tuple[float, float]:
        """Payload bytes per second that rounds may plan with, up and down."""
        up, down = (
            planned_bytes_per_s(cap or ASSUMED_BYTES_PER_S)
            for cap in (self._settings.up_bytes_per_s, self._settings.down_bytes_per_s)
        )
        up = min(up, transport.measured_up_bytes_per_s or up)
        return up * lanes.share_for_rounds, down

    def _write_start(self, base: Base, learner: Learner) -> None:
        manifest = base.manifest
        base.metrics.write(
            "start",
            run_id=manifest.run_id,
            peer_id=self.board.peer_id,
            name=self.board.name,
            up_bytes_per_s=self._settings.up_bytes_per_s,
            down_bytes_per_s=self._settings.down_bytes_per_s,
            parameters=learner.replica.parameter_count,
            tokens_per_step=manifest.tokens_per_step,
            manifest=manifest.model_dump(mode="json"),
        )


def _terms(manifest: Manifest, replica: Replica) -> Terms:
    return Terms(
        tally=tally_of(manifest),
        schedule=manifest.schedule,
        part_values=tuple(replica.part_values),
        codec=manifest.codec,
        limits=manifest.limits,
        lockstep=manifest.mode == "lockstep",
        audits=manifest.aggregation.audits,
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
