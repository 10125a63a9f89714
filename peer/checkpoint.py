"""Checkpoints: the shared state after an entry, and what this peer needs besides to go on.

    checkpoints/<round>.json        the entry, each fragment's version and root, small private facts
    fragments/<root>.safetensors    the state of one fragment (peer/fragment_files.py)
    private/<digest>.safetensors    what is nobody else's: local parameters, moments, generators

Each json file carries its own digest and is written last, so a checkpoint is there or it is not.
Fragments that did not change are neither hashed nor written again. The shared part of a checkpoint
is equal on all peers; the private part is this peer's and can be lost without the rest.
"""

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from peer import tensors
from peer.checkpoint_record import Record
from peer.disk import Disk
from peer.fragment_files import DamagedError, FragmentFiles
from protocol.codec import Values
from protocol.digest import digest, digest_of_pieces
from protocol.errors import InputError
from protocol.log import GENESIS_ROUND
from protocol.messages import Decided, Step
from protocol.state import FragmentState, Offer, root_of

LEASE_S: Final = 120.0
"""A checkpoint is kept this long after the last chunk that somebody took from it: a download on a
slow link outlives the newest `keep`."""
MAX_LEASED: Final = 2
MAX_NOTES: Final = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint in memory."""

    round: int
    decided: Decided | None
    """The last entry of the state; None for genesis."""
    states: tuple[tuple[Values, Values], ...]
    """(global_params, momentum) of each fragment, flat."""
    versions: tuple[int, ...]
    """For each fragment the round of the last entry that averaged it."""
    private: dict[str, tensors.Array] | None
    """None: none was saved, it was damaged, or the state came from others."""
    trail: tuple[Step, ...]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A fragment that was saved, without keeping its arrays alive."""

    global_params: weakref.ref[Values]
    momentum: weakref.ref[Values]
    version: int
    root: str

    def is_of(self, global_params: Values, momentum: Values, version: int) -> bool:
        """Whether these are the very arrays: then nothing needs to be hashed again."""
        return (
            self.global_params() is global_params
            and self.momentum() is momentum
            and self.version == version
        )


class Checkpoints:
    """The last few of them. Writers wait for each other; reading for others goes on meanwhile."""

    def __init__(
        self,
        disk: Disk,
        run_id: str,
        keep: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            keep: how many stay; up to MAX_LEASED more while somebody downloads them.
            clock: seconds, from any beginning.

        Raises:
            InputError: the files belong to another run.
            OSError: the folder cannot be read.
        """
        self._disk = disk
        self._run_id = run_id
        self._keep = keep
        self._clock = clock
        self._files = FragmentFiles(disk)
        self._writing = threading.RLock()
        self._notes: list[str] = []
        self._read_s: dict[str, float] = {}
        """When a chunk of each root was last given away."""
        self._expected: frozenset[str] = frozenset()
        """Roots of a snapshot that is being downloaded."""
        self._seen: list[_Seen] = []
        """What the last save wrote."""
        # Replaced, never changed: a reader in another thread sees one state or the next.
        self._records: dict[int, Record] = self._read_records()

    def _read_records(self) -> dict[int, Record]:
        records = {}
        for name in self._disk.names("checkpoints"):
            try:
                record = Record.from_bytes(self._disk.read(name))
            except (OSError, ValueError) as error:
                self._note(f"{name} is not used: {error}")
                continue
            if record.run_id != self._run_id:
                raise InputError(
                    f"this directory holds checkpoints of run {record.run_id[:12]}, not of"
                    f" {self._run_id[:12]}; choose another one with --dir"
                )
            records[record.round] = record
        return records

    def rounds(self) -> tuple[int, ...]:
        """Those that are there, ascending; GENESIS_ROUND is genesis."""
        return tuple(sorted(self._records))

    def take_notes(self) -> tuple[str, ...]:
        """Sentences about files that could not be used, since the last time."""
        notes, self._notes = self._notes, []
        return tuple(notes)

    # --- writing ---------------------------------------------------------------------------------

    def save(
        self,
        round_: int,
        decided: Decided | None,
        states: Sequence[tuple[Values, Values]],
        versions: Sequence[int],
        private: Mapping[str, tensors.Array] | None,
        facts: Mapping[str, Any],
        trail: Sequence[Step] = (),
    ) -> None:
        """Keep this state; the oldest goes, and so do later ones: that log was given up.

        Args:
            decided: the entry of `round_`; None for genesis only.
            states: (global_params, momentum) of each fragment; arrays that are replaced and never
                changed in place, since those of the last save are taken for unchanged.
            versions: for each fragment the round of the last entry that averaged it.
            private, facts: this peer's own; facts are plain JSON and stay when `private` is lost.
            trail: the entries up to this one, newest first; the log does not keep them for ever,
                and without them it is guessed where another log has left this one.

        Raises:
            OSError: the disk is full or broken; older checkpoints are untouched.
        """
        assert (decided is None) == (round_ == GENESIS_ROUND)
        with self._writing:
            self._sweep()
            try:
                self._save(round_, decided, states, versions, private, dict(facts), tuple(trail))
            except OSError:
                self._seen = []
                self._sweep()
                raise
            self._prune()

    def _save(
        self,
        round_: int,
        decided: Decided | None,
        states: Sequence[tuple[Values, Values]],
        versions: Sequence[int],
        private: Mapping[str, tensors.Array] | None,
        facts: dict[str, Any],
        trail: tuple[Step, ...],
    ) -> None:
        fragments = self._save_fragments(states, versions)
        private_digest = ""
        if private is not None:
            private_digest = digest_of_pieces(tensors.pieces_of(private))
            self._disk.replace(_private_name(private_digest), tensors.pieces_of(private))
        self._record(
            Record(
                run_id=self._run_id,
                round=round_,
                decided=decided,
                fragments=fragments,
                private=private_digest,
                trail=trail,
                facts=facts,
            )
        )

    def _save_fragments(
        self, states: Sequence[tuple[Values, Values]], versions: Sequence[int]
    ) -> tuple[FragmentState, ...]:
        last, self._seen = self._seen, []
        fragments = []
        for (global_params, momentum), version in zip(states, versions, strict=True):
            seen = next((s for s in last if s.is_of(global_params, momentum, version)), None)
            if seen is None or not self._files.is_whole(seen.root):
                root = self._files.write(global_params, momentum)
                seen = _Seen(weakref.ref(global_params), weakref.ref(momentum), version, root)
            self._seen.append(seen)
            fragments.append(
                FragmentState(values=global_params.size, version=version, root=seen.root)
            )
        return tuple(fragments)

    def _record(self, record: Record) -> None:
        """What makes it a checkpoint."""
        self._disk.replace(_record_name(record.round), [record.to_bytes()])
        earlier = {r: kept for r, kept in self._records.items() if r < record.round}
        self._records = {**earlier, record.round: record}

    def _prune(self) -> None:
        """Forget all but the newest, and those that somebody downloads."""
        newest_first = sorted(self._records, reverse=True)
        leased = [r for r in newest_first[self._keep :] if self._is_leased(r)][:MAX_LEASED]
        kept = {*newest_first[: self._keep], *leased}
        self._records = {r: record for r, record in self._records.items() if r in kept}
        self._sweep()

    def _is_leased(self, round_: int) -> bool:
        fragments = self._records[round_].fragments
        last_s = max(self._read_s.get(f.root, -math.inf) for f in fragments)
        return self._clock() - last_s < LEASE_S

    def _sweep(self) -> None:
        """Remove every file that no checkpoint needs, as far as the disk lets us."""
        records = self._records.values()
        needed = {_record_name(r.round) for r in records}
        needed |= {_private_name(r.private) for r in records if r.private}
        for folder in ("checkpoints", "private"):
            for name in self._disk.names(folder):
                if name not in needed:
                    with contextlib.suppress(OSError):
                        self._disk.remove(name)
        roots = {f.root for r in records for f in r.fragments}
        self._files.keep_only(roots | self._expected)
        self._read_s = {root: s for root in roots if (s := self._read_s.get(root)) is not None}

    # --- reading ---------------------------------------------------------------------------------

    def load_newest(self, max_round: int | None = None) -> tuple[Loaded | None, tuple[str, ...]]:
        """The newest that is whole, of `max_round` or before; and sentences about what was not."""
        with self._writing:
            for round_ in sorted(self._records, reverse=True):
                if max_round is not None and round_ > max_round:
                    continue
                try:
                    return self._load(self._records[round_]), self.take_notes()
                except OSError as error:
                    self._give_up([round_], error)
            return None, self.take_notes()

    def _load(self, record: Record) -> Loaded:
        return Loaded(
            round=record.round,
            decided=record.decided,
            states=tuple(self._files.read(f.root) for f in record.fragments),
            versions=tuple(f.version for f in record.fragments),
            private=self._load_private(record),
            trail=record.trail,
            facts=record.facts,
        )

    def _load_private(self, record: Record) -> dict[str, tensors.Array] | None:
        if not record.private:
            return None
        name = _private_name(record.private)
        try:
            data = self._disk.read_at(name, 0, self._disk.size(name))
            if digest(data) != record.private:
                raise DamagedError(name, "it has another digest")
            return load_tensors(data)
        except (OSError, SafetensorError) as error:
            self._note(
                f"the private state of round {record.round} is lost, the shared one is not: {error}"
            )
            return None

    def _give_up(self, rounds: Iterable[int], error: OSError) -> None:
        """Say why these checkpoints are not used; what is damaged goes with the next save."""
        is_lost = isinstance(error, DamagedError | FileNotFoundError)
        with self._writing:
            for round_ in rounds:
                self._note(f"the checkpoint of round {round_} is not used: {error}")
                if is_lost:
                    self._records = {r: kept for r, kept in self._records.items() if r != round_}

    def _note(self, sentence: str) -> None:
        if sentence not in self._notes and len(self._notes) < MAX_NOTES:
            self._notes.append(sentence)

    # --- for others ------------------------------------------------------------------------------

    def offer(self, round_: int) -> Offer | None:
        """The checkpoint of a round as others see it; None for genesis: they can compute that."""
        record = self._records.get(round_)
        if record is None or record.decided is None:
            return None
        return Offer(decided=record.decided, fragments=record.fragments)

    def offers(self) -> tuple[Offer, ...]:
        """All that there are, the newest first."""
        offers = (self.offer(round_) for round_ in sorted(self._records, reverse=True))
        return tuple(offer for offer in offers if offer is not None)

    def chunk_digests(self, root: str) -> tuple[str, ...] | None:
        """Of the chunks of a fragment's state; None when no checkpoint has that state."""
        return self._read_for_others(root, lambda: self._files.digests(root))

    def chunk(self, root: str, index: int) -> bytes | None:
        """A chunk of a fragment's state, verified; None when no checkpoint has it."""
        try:
            return self._read_for_others(root, lambda: self._files.chunk(root, index))
        except IndexError:
            return None

    def _read_for_others(self, root: str, read: Callable[[], T]) -> T | None:
        # The root comes from outside: it must be one of ours before it becomes part of a file name.
        records = self._records.values()
        rounds = [r.round for r in records if any(f.root == root for f in r.fragments)]
        if not rounds:
            return None
        self._read_s[root] = self._clock()
        try:
            return read()
        except OSError as error:
            self._give_up(rounds, error)
            return None

    def forget_after(self, round_: int) -> None:
        """Another chain goes on from there: later states are of a log that was given up."""
        with self._writing:
            self._records = {r: kept for r, kept in self._records.items() if r <= round_}
            self._sweep()

    # --- from others -----------------------------------------------------------------------------

    def expect(self, offer: Offer | None) -> None:
        """Keep what is adopted of this offer, though no checkpoint needs it yet; None: no more."""
        self._expected = frozenset(f.root for f in offer.fragments) if offer else frozenset()

    def holds(self, fragment: FragmentState) -> bool:
        """Whether the state of a fragment is here from end to end; reads it once to be sure."""
        if not self._files.is_whole(fragment.root):
            with contextlib.suppress(OSError):
                self._files.verify(fragment.root)
        return self._files.is_whole(fragment.root)

    def adopt_fragment(
        self, fragment: FragmentState, digests: Sequence[str], read: Callable[[int], bytes]
    ) -> None:
        """Put the chunks of an offered fragment together, one at a time; `read` gives them.

        Raises:
            DamagedError: a chunk is not what its digest says.
            OSError: the disk is full or broken, or `read` raised it.
        """
        assert root_of(digests) == fragment.root
        with self._writing:
            self._files.assemble(fragment.values, digests, read)

    def adopt(self, offer: Offer, facts: Mapping[str, Any]) -> None:
        """Make a checkpoint of an offer whose fragments are all held; it has no private state.

        Raises:
            OSError: the disk is full or broken; older checkpoints are untouched.
        """
        assert all(self._files.is_whole(f.root) for f in offer.fragments)
        with self._writing:
            self._record(
                Record(
                    run_id=self._run_id,
                    round=offer.round,
                    decided=offer.decided,
                    fragments=offer.fragments,
                    private="",
                    trail=(),
                    facts=dict(facts),
                )
            )
            self.expect(None)
            self._prune()


def _record_name(round_: int) -> str:
    return f"checkpoints/{'genesis' if round_ == GENESIS_ROUND else f'{round_:08d}'}.json"


def _private_name(private_digest: str) -> str:
    return f"private/{private_digest}.safetensors"
