"""Ten peers of a run in one process: the code that every peer runs, and its rounds to the last one.

The seam is `peer.transport.Transport`. Above it everything is real: RoundDriver, Share, SharedState
and Member, votes in a journal on disk, codec, replica and outer step, AdamW on real text. Below it
a virtual clock carries bytes from one inbox to the next (transport.py), and the trainer takes its
steps on that clock instead of in a thread (trainer.py). tests/sim was not taken: its peers do by
hand what peer/rounds.py does, around a toy of a few values, and what is measured with them would
not be what a peer does.

What is missing: discovery and hellos (everybody knows everybody), gRPC, and time: a step takes
`STEP_S` on every peer, arithmetic and disks none. With the same arguments every run is the same,
except for what is drawn for audits.
"""

import asyncio
import functools
import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.virtual.trainer import STEP_S, VirtualTrainer
from benchmarks.virtual.transport import LINK_BYTES_PER_S, Network, VirtualTransport
from peer.auditing import Auditor
from peer.catchup import Catchup
from peer.cursor import Cursor
from peer.data import Corpus
from peer.disk import FolderDisk
from peer.identity import Identity, tally_of
from peer.inner import InnerOptimizer
from peer.library import OwnLibrary
from peer.logbook import read_record, record_names
from peer.metrics import METRICS_FILE, Metrics
from peer.replica import Replica
from peer.resume import new_ledger
from peer.round_record import RoundRecord
from peer.rounds import RoundDriver
from peer.scribe import Scribe
from peer.share import Share
from peer.shared_state import SharedState
from peer.store import Recovered, Store
from protocol.chain import step_of
from protocol.errors import DilocoError, UnavailableError
from protocol.log import Genesis, Head
from protocol.manifest import Manifest
from protocol.member import Member
from protocol.terms import Terms

CPU = torch.device("cpu")
PATIENCE = 5.0
"""How many times longer than planned a run may take."""


@dataclass(frozen=True, slots=True)
class Nature:
    """What one peer is made of, where peers may differ."""

    corpus: Corpus
    """What it trains on."""
    replica: Callable[[Manifest, torch.device], Replica] = Replica
    """What it contributes, and what it makes of the parts that it owns."""


class VirtualPeer:
    """One peer, from genesis on."""

    def __init__(self, number: int, manifest: Manifest, nature: Nature, folder: Path) -> None:
        self.manifest, self.nature = manifest, nature
        # Always the same ones: a peer's batches depend on its peer_id.
        key = hashlib.sha256(f"virtual peer {number}".encode()).digest()
        self.identity = Identity(Ed25519PrivateKey.from_private_bytes(key))
        self.replica = nature.replica(manifest, CPU)
        self.store = Store(
            FolderDisk(folder / "state"),
            tally_of(manifest),
            new_incarnation=lambda: f"{number:016}",
            checkpoint_rounds=manifest.limits.checkpoint_rounds,
        )
        self.notes: list[str] = []
        self._folder = folder

    def start(self, genesis: Genesis, network: Network, stack: ExitStack) -> None:
        """Put it together, as peer.run.Peer does, and begin to train."""
        manifest, replica, me = self.manifest, self.replica, self.identity.peer_id
        terms = Terms(
            tally=tally_of(manifest),
            schedule=manifest.schedule,
            part_values=tuple(replica.part_values),
            codec=manifest.codec,
            limits=manifest.limits,
            lockstep=False,
            audits=manifest.aggregation.audits,
        )
        head = Head.of_genesis(genesis)
        recovered = Recovered(
            head=head,
            trail=(step_of(head),),
            states=replica.states,
            versions=[head.round] * len(replica.fragments),
            private=None,
            private_round=head.round,
            facts={},
        )
        cursor = Cursor(
            self._folder / "cursor.json", manifest.run_id, 0, beside=lambda work: work()
        )
        self.trainer = VirtualTrainer(
            manifest, InnerOptimizer(manifest, replica.model), self.nature.corpus, cursor, me, CPU
        )
        transport = VirtualTransport(me, network)
        scribe = Scribe(
            self.store,
            on_failure=lambda why: self.driver.on_disk_failure(why),
            on_repair=lambda: self.driver.on_disk_repair(),
            note=self.notes.append,
        )
        stack.callback(scribe.close)
        share = Share(
            manifest=manifest,
            replica=replica,
            trainer=self.trainer,
            ledger=new_ledger(manifest, replica),
            links=lambda: (LINK_BYTES_PER_S, LINK_BYTES_PER_S),
            is_new=False,
        )
        catchup = Catchup(transport, self.store, terms, None, self.notes.append)
        state = SharedState(
            me=me,
            genesis=genesis,
            initial=recovered.states,
            recovered=recovered,
            share=share,
            scribe=scribe,
            catchup=catchup,
            note=self.notes.append,
        )
        self.driver = RoundDriver(
            member=self._member(terms, head),
            share=share,
            state=state,
            auditor=Auditor(
                me,
                terms,
                # Who lies about its own means may well tell the truth about others'.
                average=functools.partial(Replica.average, replica),
                calculate=state.arithmetic.calculate,
                fetch=catchup.fetch,
                note=self.notes.append,
            ),
            transport=transport,
            record=RoundRecord(
                replica,
                stack.enter_context(Metrics(self._folder / METRICS_FILE)),
                traffic=lambda: (0, 0),
                schedule=manifest.schedule,
                is_elastic=True,
                note=self.notes.append,
            ),
            note=self.notes.append,
        )
        stack.callback(self.driver.close)
        network.inboxes[me] = self.driver
        network.libraries[me] = OwnLibrary(
            self.store, self.driver.member, self.driver.auditor.inputs
        )
        self.trainer.start(self.driver.on_step, self.driver.position)

    async def take_part(self) -> None:
        """Rounds and steps, to the last entry."""
        rounds = asyncio.create_task(self.driver.run())
        try:
            ends: set[asyncio.Future[Any]] = {rounds, self.trainer.failed}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    end.result()
        finally:
            rounds.cancel()
            await self.trainer.stop()

    def _member(self, terms: Terms, head: Head) -> Member:
        return Member(
            me=self.identity.peer_id,
            terms=terms,
            head=head,
            now_s=asyncio.get_running_loop().time(),
            signer=self.identity,
            incarnation=self.store.incarnation,
        )

    def banned_after_rounds(self) -> dict[str, int]:
        """Of each peer that its log bans, in how many rounds it came to that."""
        banned: dict[str, int] = {}
        for name in record_names(self.store.disk):
            entry = read_record(self.store.disk, name).entry
            for peer_id, _ in entry.banned:
                banned.setdefault(peer_id, entry.round + 1)
        return banned


class VirtualSwarm:
    """All peers of a run; each has a folder in `folder`."""

    def __init__(self, manifest: Manifest, natures: Sequence[Nature], folder: Path) -> None:
        self.manifest = manifest
        self.network = Network()
        self.peers = []
        for number, nature in enumerate(natures):
            directory = folder / f"{number:02}"
            directory.mkdir()
            self.peers.append(VirtualPeer(number, manifest, nature, directory))

    async def run(self) -> None:
        """From genesis to the last entry.

        Raises:
            DilocoError: a peer could not go on.
            UnavailableError: there was no end to it.
        """
        ids = {peer.identity.peer_id: peer.store.incarnation for peer in self.peers}
        voters = tuple(sorted(ids))
        founder = self.peers[0]
        genesis = Genesis(
            run_id=self.manifest.run_id,
            founder=founder.identity.peer_id,
            voters=voters,
            incarnations=tuple(ids[voter] for voter in voters),
            tie_breaker=founder.identity.peer_id,
            state_digest=founder.replica.state_digest(),
        )
        longest_s = PATIENCE * (self.manifest.total_steps * STEP_S + 60)
        try:
            with ExitStack() as stack:
                async with asyncio.timeout(longest_s):
                    await self._run(genesis, stack)
        except TimeoutError:
            waiting_for = self.peers[0].driver.member.waiting_for
            raise UnavailableError(f"the rounds do not end: {waiting_for}") from None

    async def _run(self, genesis: Genesis, stack: ExitStack) -> None:
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[None] = loop.create_future()
        # What arrives is handled in callbacks of the loop, which would only log a bug.
        loop.set_exception_handler(lambda _, context: _fail(broken, context))
        for peer in self.peers:
            peer.start(genesis, self.network, stack)
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(_result_of(broken))
                taking_part = [tasks.create_task(peer.take_part()) for peer in self.peers]
                while not all(task.done() for task in self._not_banned(taking_part)):
                    await asyncio.wait(taking_part, timeout=STEP_S)
                for task in (watch, *taking_part):
                    task.cancel()
        except BaseExceptionGroup as group:
            if (errors := group.subgroup(DilocoError)) is None:
                raise
            raise _first(errors) from group

    def _not_banned(self, tasks: Sequence["asyncio.Task[None]"]) -> "list[asyncio.Task[None]]":
        """Those whose peers the first one's log has room for; for the others there is no end."""
        banned = {peer_id for peer_id, _ in self.peers[0].driver.member.head.banned}
        pairs = zip(self.peers, tasks, strict=True)
        return [task for peer, task in pairs if peer.identity.peer_id not in banned]


async def _result_of(future: "asyncio.Future[None]") -> None:
    await future


def _fail(broken: "asyncio.Future[None]", context: dict[str, Any]) -> None:
    if not broken.done():
        broken.set_exception(context.get("exception") or RuntimeError(context["message"]))


def _first(error: BaseException) -> BaseException:
    """Of a tree of errors, the first leaf."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
