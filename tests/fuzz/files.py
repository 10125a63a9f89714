"""The files of a state directory, each damaged in every way while the others are whole.

What carries a digest is believed only while it fits (docs/security.md). What an edited file says
under a digest that fits may be believed; it must still not be more than the reader can bear.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from peer.checkpoint import Checkpoints, Loaded
from peer.evidence import FILE_NAME, Evidence
from peer.journal import Journal
from peer.logbook import LogBook
from peer.runfile import PEERS_FILE, RUN_FILE, RunFile
from peer.verdicts import FOLDER as VERDICTS
from peer.verdicts import Verdicts
from protocol.accepts import Vote
from protocol.ballots import Ballots
from protocol.chain import step_of
from protocol.digest import digest
from protocol.errors import InputError
from protocol.events import Verdict
from protocol.evidence import DoubleVote
from protocol.log import Head
from protocol.wire.codec import encode_message
from protocol.wire.offers import encode_offers
from tests.fuzz import mutations
from tests.fuzz.meeting import RUN, is_signed, signed_genesis
from tests.fuzz.target import Refused, Target
from tests.fuzz.wire import MANIFEST
from tests.peer import chains
from tests.peer.people import contact
from tests.protocol.accusing import FALSE, accusation
from tests.protocol.makers import DIGEST, chain, entry
from tests.protocol.members import next_entry
from tests.protocol.signed import accept, decided
from tests.sim.disk import SimDisk
from tests.sim.keys import tally_of


class StateFile(Target):
    """One file of a state directory; all others are whole."""

    file: str
    structured = staticmethod(mutations.sealed)
    refusals = (InputError,)

    def __init__(self) -> None:
        disk = self.made()
        self._whole = {name: disk.read(name) for name in disk.all_names()}
        self.samples = [self._whole[self.file]]

    def made(self) -> SimDisk:
        """The directory, as the code itself writes it."""
        raise NotImplementedError

    def damaged(self, data: bytes) -> SimDisk:
        disk = SimDisk()
        for name, content in (self._whole | {self.file: data}).items():
            disk.replace(name, [content])
        return disk

    def is_right(self, data: bytes, made: Any) -> bool:
        """What was written, or what somebody has sealed again."""
        return bool(made == self.feed(self.samples[0])) or mutations.is_sealed(data)


class JournalFile(StateFile):
    name = file = "journal.json"

    def made(self) -> SimDisk:
        disk = SimDisk()
        accepted = Ballots(
            round=0, parent=DIGEST, promised=3, accepted_ballot=3, accepted=next_entry()
        )
        Journal.open(disk, lambda: "first")[0].write(accepted)
        return disk

    def feed(self, data: bytes) -> tuple[str, Ballots | None]:
        journal, note = Journal.open(self.damaged(data), lambda: "anew")
        if journal.incarnation == "anew":
            assert note and journal.ballots is None
            raise Refused(note)
        if journal.ballots is not None:
            journal.ballots.allow(Head.of_entry(next_entry()))
            journal.write(journal.ballots)
        return journal.incarnation, journal.ballots


class RunJson(StateFile):
    name = file = RUN_FILE

    def made(self) -> SimDisk:
        disk = SimDisk()
        RunFile(disk).remember_run(MANIFEST, signed_genesis())
        return disk

    def feed(self, data: bytes) -> Any:
        found = RunFile(self.damaged(data))
        if found.manifest is None:
            raise Refused("no run")
        return found.manifest, found.genesis


class PeersJson(StateFile):
    """Addresses are hints, but each is signed by its peer."""

    name = file = PEERS_FILE

    def made(self) -> SimDisk:
        disk = SimDisk()
        remembered = RunFile(disk)
        remembered.remember_run(MANIFEST, signed_genesis())
        remembered.remember_peers([contact(name, RUN, "h:1") for name in ("anna", "bert")])
        return disk

    def feed(self, data: bytes) -> Any:
        found = RunFile(self.damaged(data)).peers()
        if not found:
            raise Refused("no peers")
        return found

    def is_right(self, data: bytes, made: Any) -> bool:
        return super().is_right(data, made) and all(map(is_signed, made))


class Log(StateFile):
    """Three entries and their bytes. Damage costs what it hit and what came before it."""

    file = "log/00000001.json"
    name = "log-record"
    CHAIN = chains.make_chain(3)

    def made(self) -> SimDisk:
        disk = SimDisk()
        chains.extend(chains.open_book(disk), self.CHAIN)
        return disk

    def feed(self, data: bytes) -> LogBook:
        book = chains.open_book(self.damaged(data))
        for round_ in range(3):
            if (found := book.decided(round_)) is not None:
                book.parts_of(found.entry)
                encode_message(found)  # as it is served to others
        if book.notes:
            raise Refused(book.notes[0].partition("(")[2])
        return book

    def is_right(self, data: bytes, made: LogBook) -> bool:
        entries = {made_entry.digest for made_entry, _ in self.CHAIN}
        parts = [part for made_entry, _ in self.CHAIN for part in made_entry.parts if part]
        found = [kept for r in range(3) if (kept := made.decided(r)) is not None]
        honest = mutations.is_sealed(data) or all(d.entry.digest in entries for d in found)
        whole = all(digest(made.part(part.digest) or b"") == part.digest for part in parts
                    if made.part(part.digest) is not None)  # fmt: skip
        return honest and whole


class EntryParts(Log):
    name = "log-parts"
    structured = staticmethod(mutations.headed)
    file = f"log/00000001-{Log.CHAIN[1][0].digest}.safetensors"


class EvidenceFile(StateFile):
    """A proof that a voter has voted twice: made up by nobody."""

    name = file = FILE_NAME
    TALLY = tally_of(RUN)

    def made(self) -> SimDisk:
        disk = SimDisk()
        votes = [Vote.on(made, 0) for made in (next_entry(), entry("another"))]
        first, second = (replace(vote, parent=DIGEST) for vote in votes)
        accepts = tuple(accept(vote, "c", run_id=RUN) for vote in (first, second))
        proof = DoubleVote(first=first, second=second, accepts=accepts)
        Evidence(disk, self.TALLY).keep(proof)
        return disk

    def feed(self, data: bytes) -> tuple[DoubleVote, ...]:
        found = Evidence(self.damaged(data), self.TALLY)
        if not found.proofs:
            raise Refused(found.note or "proves nothing")
        return found.proofs

    def is_right(self, data: bytes, made: tuple[DoubleVote, ...]) -> bool:
        """Whoever seals it, and however often: it is the voter's two signatures that prove it."""
        (proof,) = self.feed(self.samples[0])
        return all(
            (found.voter, {found.first, found.second}) == (proof.voter, {proof.first, proof.second})
            for found in made
        )


class VerdictFile(StateFile):
    """Who was proven to lie: of the two whom the accusation names, and nobody else."""

    name = "verdict"
    file = f"{VERDICTS}/{accusation().digest}.json"
    TALLY = tally_of(FALSE.slot.run_id)

    def made(self) -> SimDisk:
        disk = SimDisk()
        Verdicts(disk, self.TALLY).keep(Verdict("b", accusation()))
        return disk

    def feed(self, data: bytes) -> Verdict:
        found = Verdicts(self.damaged(data), self.TALLY)
        if not found.known:
            raise Refused(found.notes[0])
        return found.known[0]

    def is_right(self, data: bytes, made: Verdict) -> bool:
        """Whoever seals it: it is the accusation that was signed."""
        return made.accusation == accusation() and made.guilty in ("b", "c")


STATES = [(np.arange(n, dtype=np.float32), np.ones(n, dtype=np.float32)) for n in (5, 9)]
PRIVATE = {"local/0": np.arange(5, dtype=np.float32), "generator": np.arange(3, dtype=np.uint8)}


class CheckpointFile(StateFile):
    """Two checkpoints; the newer one, or one of its files, is damaged."""

    name = "checkpoint"
    file = "checkpoints/00000001.json"

    def made(self) -> SimDisk:
        disk = SimDisk()
        checkpoints = Checkpoints(disk, RUN)
        trail = [step_of(head) for head in chain(2)]
        for round_ in range(2):
            states = [(params + round_, momentum) for params, momentum in STATES]
            checkpoints.save(
                round_,
                decided(entry(round=round_), "ab"),
                states,
                [round_, -1],
                PRIVATE,
                {"step": 7, "ledger": {}},
                trail,
            )
        return disk

    def feed(self, data: bytes) -> Loaded:
        checkpoints = Checkpoints(self.damaged(data), RUN)
        loaded, notes = checkpoints.load_newest()
        offers = checkpoints.offers()
        encode_offers(offers)
        for offer in offers:
            for fragment in offer.fragments:
                checkpoints.chunk_digests(fragment.root)
                checkpoints.chunk(fragment.root, 0)
        checkpoints.rounds()
        checkpoints.forget_after(0)
        if loaded is None or loaded.round != 1 or notes:
            raise Refused(notes[0] if notes else "another one is newer")
        return loaded

    def is_right(self, data: bytes, made: Loaded) -> bool:
        if self.file == CheckpointFile.file and mutations.is_sealed(data):
            return True
        was = [np.concatenate([params + 1, momentum]) for params, momentum in STATES]
        now = [np.concatenate(state) for state in made.states]
        private = made.private or {}
        return (
            len(now) == len(was)
            and all(np.array_equal(a, b) for a, b in zip(now, was, strict=True))
            and all(np.array_equal(private[name], PRIVATE[name]) for name in private)
        )


class _CheckpointPart(CheckpointFile):
    structured = staticmethod(mutations.headed)
    folder: str

    def __init__(self) -> None:
        # The newest of the folder: the file is named by what is in it.
        disk = self.made()
        older = {n for n in disk.names(self.folder)}
        checkpoints = Checkpoints(disk, RUN)
        checkpoints.forget_after(0)
        newest = sorted(older - {*disk.names(self.folder)}) or sorted(older)
        self.file = newest[0]
        super().__init__()


class FragmentFile(_CheckpointPart):
    name = "fragment"
    folder = "fragments"


class PrivateFile(_CheckpointPart):
    name = "private"
    folder = "private"


TARGETS: list[Callable[[], Target]] = [
    JournalFile,
    RunJson,
    PeersJson,
    Log,
    EntryParts,
    EvidenceFile,
    VerdictFile,
    CheckpointFile,
    FragmentFile,
    PrivateFile,
]
