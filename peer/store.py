"""Everything of one peer that survives it, on disk, and how it begins again.

A peer that comes back loads its newest whole checkpoint and replays its own log on top; what was
decided meanwhile it then gets from the others. The same way leads back to an older entry, when
another chain goes on from there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from peer.checkpoint import Checkpoints, Loaded
from peer.disk import Disk
from peer.evidence import Evidence
from peer.journal import Journal
from peer.logbook import MAX_ENTRIES, LogBook
from peer.tensors import Array
from peer.verdicts import Verdicts
from protocol.ballots import Ballots
from protocol.chain import MAX_TRAIL, step_of, with_history
from protocol.codec import Values
from protocol.errors import RemoteError
from protocol.events import Record
from protocol.following import ENTRIES_PER_ASK
from protocol.log import GENESIS_ROUND, Entry, Genesis, Head
from protocol.messages import Decided, Gone, Message, Step
from protocol.tally import Tally

State: TypeAlias = tuple[Values, Values]
"""global_params and momentum of one fragment, flat."""
Apply: TypeAlias = Callable[[State, Entry, Sequence[bytes | None]], State]
"""What an entry with these bytes makes of its fragment's state."""

PROBE = "probe"
"""A file that is written and removed to see whether the disk works again."""
LOG_BYTES = 1 << 30
"""Of recent entries that are kept for others, unless the settings say otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """Where a peer can go on."""

    head: Head
    trail: tuple[Step, ...]
    """Newest first, the head's own included."""
    states: list[State]
    versions: list[int]
    """For each fragment the round of the last entry that averaged it."""
    private: Mapping[str, Array] | None
    """This peer's own tensors, as of `private_round`; None where there are none."""
    private_round: int
    facts: dict[str, Any]
    begun_at: Sequence[State] = ()
    """The states at `private_round`, from which the entries below lead to `states`."""
    replayed: tuple[tuple[Entry, Sequence[bytes | None]], ...] = ()
    """Entries of the own log after `private_round` and their bytes, in order."""
    notes: tuple[str, ...] = ()


@dataclass
class Store:
    """The durable side of one peer. One thread at a time uses it, but for what others read."""

    disk: Disk
    tally: Tally
    new_incarnation: Callable[[], str]
    """Gives one that was never used before."""
    keep_checkpoints: int = 3
    log_bytes: int = LOG_BYTES
    checkpoint_rounds: int = 1
    """A checkpoint is written after so many rounds. The log always keeps twice as many entries:
    whoever begins at a checkpoint must be able to go on from it."""
    notes: list[str] = field(default_factory=list)
    """What was found damaged, in words."""

    def __post_init__(self) -> None:
        """Raises OSError when the disk cannot be read, InputError when it is of another run."""
        self.journal, note = Journal.open(self.disk, self.new_incarnation)
        self.book = LogBook(
            self.disk,
            limit_bytes=self.log_bytes,
            least_entries=min(2 * self.checkpoint_rounds, MAX_ENTRIES),
        )
        self.checkpoints = Checkpoints(self.disk, self.tally.run_id, keep=self.keep_checkpoints)
        self.evidence = Evidence(self.disk, self.tally)
        self.verdicts = Verdicts(self.disk, self.tally)
        self.is_new = not self.checkpoints.rounds() and self.book.last_round is None
        self.notes += [note] if note and not self.is_new else []
        self.notes += self.book.notes
        self.notes += [self.evidence.note] if self.evidence.note else []
        self.notes += self.verdicts.notes
        if self._lost_what_it_accepted():
            # The others would ask this peer, and perhaps nobody else, for those bytes for ever.
            self.journal, note = Journal.begin_anew(
                self.disk, self.new_incarnation, "the bytes that its last vote was for are damaged"
            )
            self.notes.append(note)

    def _lost_what_it_accepted(self) -> bool:
        """Whether the bytes of the entry that was accepted last are gone, while it matters."""
        accepted = self.ballots.accepted if self.ballots else None
        if accepted is None or self.book.parts_of(accepted) is not None:
            return False
        decided = self.book.decided(accepted.round)
        has_applied = decided is not None and self.book.parts_of(decided.entry) is not None
        return not has_applied and max(self.checkpoints.rounds(), default=-1) < accepted.round

    @property
    def incarnation(self) -> str:
        return self.journal.incarnation

    @property
    def ballots(self) -> Ballots | None:
        return self.journal.ballots

    @property
    def accepted_parts(self) -> Sequence[bytes | None]:
        """Bytes of the entry that the journal says was accepted, if there is one."""
        accepted = self.ballots.accepted if self.ballots else None
        return (self.book.parts_of(accepted) if accepted else None) or ()

    # --- votes and entries -----------------------------------------------------------------------

    def record(self, record: Record) -> None:
        """A promise or an accept, durable before it returns; an accepted entry's bytes first.

        Raises:
            OSError: it is not on disk, and nobody may hear of it.
        """
        accepted = record.ballots.accepted
        if record.parts is not None and accepted is not None:
            self.book.keep(accepted, record.parts)
        self.journal.write(record.ballots)

    def probe(self, size_bytes: int) -> None:
        """See whether so many bytes can be written; OSError when they cannot."""
        self.disk.replace(PROBE, [bytes(size_bytes)])
        self.disk.remove(PROBE)

    def append(self, decided: Decided, parts: Sequence[bytes | None]) -> None:
        """A decided entry. Raises OSError."""
        self.book.append(decided, parts)

    def entries_after(self, round_: int) -> list[Message]:
        """What a peer is sent that has this round's entry and asks for more."""
        entries = self.book.after(round_, ENTRIES_PER_ASK)
        if entries:
            return list(entries)
        first = self.book.first_round
        return [] if first is None or first <= round_ + 1 else [Gone(round=first)]

    # --- beginning again -------------------------------------------------------------------------

    def recover(
        self,
        genesis: Genesis,
        initial: Sequence[State],
        apply: Apply,
        upto: int | None = None,
        at: str = "",
    ) -> Recovered | None:
        """The newest state that checkpoints and log lead to, or the one after the entry `upto`.

        Args:
            initial: the state at genesis.
            at: digest of the entry `upto`; what is on disk may be of another chain.

        Returns:
            None when `upto` cannot be reached from what is on disk.
        """
        loaded, found = self.checkpoints.load_newest(upto)
        notes = list(found)
        if loaded is None or not self._is_believed(loaded, genesis, notes):
            loaded = Loaded(
                round=GENESIS_ROUND,
                decided=None,
                states=tuple(initial),
                versions=(GENESIS_ROUND,) * len(initial),
                private=None,
                trail=(),
                facts={},
            )
        head = (
            Head.of_genesis(genesis)
            if loaded.decided is None
            else (Head.of_entry(loaded.decided.entry))
        )
        states, versions = list(loaded.states), list(loaded.versions)
        trail = [step_of(head)]
        replayed: list[tuple[Entry, Sequence[bytes | None]]] = []
        while upto is None or head.round < upto:
            decided = next(iter(self.book.after(head.round, 1)), None)
            if decided is None or decided.entry.parent != head.digest:
                break
            if not self._is_decided(decided, head, notes):
                break
            entry = decided.entry
            parts = self.book.parts_of(entry)
            if parts is None:
                break
            if not entry.is_empty:
                states[entry.fragment_id] = apply(states[entry.fragment_id], entry, parts)
                versions[entry.fragment_id] = entry.round
            head = Head.of_entry(entry)
            trail.append(step_of(head))
            replayed.append((entry, parts))
        if upto is not None and (head.round != upto or at not in ("", head.digest)):
            return None
        return Recovered(
            head=head,
            trail=tuple(reversed([*self._trail_before(loaded, genesis), *trail])),
            states=states,
            versions=versions,
            private=loaded.private,
            private_round=loaded.round,
            facts=loaded.facts,
            begun_at=loaded.states,
            replayed=tuple(replayed),
            notes=tuple(notes),
        )

    def _is_believed(self, loaded: Loaded, genesis: Genesis, notes: list[str]) -> bool:
        """Whether the last entry of a checkpoint was decided, as far as can be told here."""
        if loaded.decided is None:
            return True
        before: Head | None = Head.of_genesis(genesis)
        if loaded.round > 0:
            earlier = self.book.decided(loaded.round - 1)
            before = None if earlier is None else Head.of_entry(earlier.entry)
        if before is not None and before.digest != loaded.decided.entry.parent:
            before = None
        return self._is_decided(loaded.decided, before, notes)

    def _is_decided(self, decided: Decided, before: Head | None, notes: list[str]) -> bool:
        """Whether what is on disk was decided; if not, a note says why it is not used."""
        try:
            self.tally.check("", decided, before)
        except RemoteError as error:
            notes.append(f"not believed, though it is on disk: {error.why}")
            return False
        return True

    def _trail_before(self, loaded: Loaded, genesis: Genesis) -> list[Step]:
        """Steps of what came before a checkpoint, oldest first.

        Genesis, what the checkpoint itself knew, and what the log has.
        """
        if loaded.decided is None:
            return []
        steps = [step_of(Head.of_entry(loaded.decided.entry))]
        parent = loaded.decided.entry.parent
        for round_ in range(loaded.round - 1, max(loaded.round - MAX_TRAIL, GENESIS_ROUND), -1):
            decided = self.book.decided(round_)
            if decided is None or decided.entry.digest != parent:
                break
            steps.append(step_of(Head.of_entry(decided.entry)))
            parent = decided.entry.parent
        known = list(with_history(steps, loaded.trail))
        first = step_of(Head.of_genesis(genesis))
        if known[-1] != first:
            known.append(first)
        return known[:0:-1]

    def rewind(self, round_: int) -> list[Entry]:
        """Another chain goes on from this entry: forget every vote, and what came after it.

        Returns:
            the entries that are forgotten, oldest first.

        Raises:
            OSError: something cannot be forgotten, so this peer must not vote.
        """
        forgotten = [d.entry for d in self.book.after(round_, MAX_TRAIL)]
        self.journal.renew(self.new_incarnation)
        self.book.forget_after(round_)
        self.checkpoints.forget_after(round_)
        return forgotten

    def begin_anew(self) -> None:
        """A snapshot from others is in force: forget every vote, and the log before it.

        Raises:
            OSError: something cannot be forgotten, so this peer must not vote.
        """
        self.journal.renew(self.new_incarnation)
        self.book.forget_after(GENESIS_ROUND)
