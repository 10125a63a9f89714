"""The recent entries of the log and the bytes of their parts, on disk and bounded.

    log/00000012-<entry digest>.safetensors   bytes of an entry, decided or not (peer/entry_file)
    log/00000012.json                         the decided entry of round 12, and its signed accepts

Bytes are written before their entry is accepted, the record when it is decided. Decided entries of
neighbouring rounds always continue each other; after a jump (a snapshot) there may be a hole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from peer.disk import Disk
from peer.entry_file import FILE_NAME, FOLDER, EntryFile, encode, file_name
from peer.sealed import seal, unseal
from protocol.log import Entry
from protocol.messages import Decided

MAX_ENTRIES = 4096
MAX_NOTES = 100
_RECORD_NAME: Final = re.compile(rf"{FOLDER}/(\d{{8,}})\.json")


@dataclass(frozen=True, slots=True)
class _Record:
    """What memory keeps of a decided entry."""

    entry_digest: str
    parent: str
    size_bytes: int


class LogBook:
    """Decided entries, candidates of the current round, and parts by content address.

    One thread at a time may use it, except for `part`: that one serves other peers, from any
    thread, while the log goes on. It looks up a value that is never changed in place, reads a file
    that is only ever replaced whole, and believes nothing but the digest; a file that is pruned
    under its hands is one that is not here.

    Nothing from the disk is trusted unless its digest fits.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        limit_bytes: int,
        limit_entries: int = MAX_ENTRIES,
        least_entries: int = 1,
    ) -> None:
        """Read what is there; what is damaged is removed, and `notes` says so.

        Args:
            limit_bytes: of all files. The newest `least_entries` and the candidates of the round
                after them stay even beyond that.
            limit_entries: the most decided entries that are kept.

        Raises:
            OSError: the folder cannot be listed, or what has to go cannot be removed.
        """
        assert 1 <= least_entries <= limit_entries
        self.notes: list[str] = []
        """What was found damaged or unreadable, in words, each once; at most MAX_NOTES."""
        self.size_bytes = 0
        """Of everything that is kept."""
        self._disk = disk
        self._limit_bytes = limit_bytes
        self._limit_entries = limit_entries
        self._least_entries = least_entries
        self._records: dict[int, _Record] = {}
        self._files: dict[str, EntryFile] = {}
        self._holders: dict[str, tuple[EntryFile, ...]] = {}
        """Which files hold a part, by its digest."""
        self._load()

    # --- writing ---------------------------------------------------------------------------------

    def keep(self, entry: Entry, parts: Sequence[bytes | None]) -> None:
        """Put the bytes of an entry on disk, so that it may be accepted.

        Bytes that are here already are read again and, if they have gone bad, written anew.

        Args:
            parts: for each part of the entry its bytes, None where it has none. Needed only where
                the bytes are not here yet.

        Raises:
            OSError: they cannot be written (nothing changed), or what has to go for them cannot
                be removed.
        """
        if entry.is_empty or self._is_whole(entry):
            return
        name = file_name(entry.round, entry.digest)
        self._disk.replace(name, [encode(entry, parts)])
        self._add_file(EntryFile.open(self._disk, name))
        self._prune()

    def append(self, decided: Decided, parts: Sequence[bytes | None]) -> None:
        """Put a decided entry on disk, its bytes first; once more does no harm.

        Candidates up to its round that were not decided go, and so does everything that cannot be
        of one chain with it.

        Raises:
            OSError: it cannot be written, or what has to go cannot be removed; it may be tried
                again.
        """
        entry, entry_digest = decided.entry, decided.entry.digest
        assert decided.round == entry.round
        self.keep(entry, parts)
        later = self._records.get(entry.round + 1)
        if later is not None and later.parent != entry_digest:
            self.forget_after(entry.round)
        data = seal(decided.to_json())
        self._disk.replace(_record_name(entry.round), [data])
        self._add_record(entry.round, _Record(entry_digest, entry.parent, len(data)))
        self._drop_other_chains()
        self._drop_undecided()
        self._prune()

    def forget_after(self, round_: int) -> None:
        """Remove the entries after this round, and their candidates: another chain was adopted.

        Raises:
            OSError: something cannot be removed; what is left is a shorter log without holes.
        """
        for later in sorted(self._records, reverse=True):
            if later > round_:
                self._drop_record(later)
        for file in list(self._files.values()):
            if file.round > round_:
                self._drop_file(file)

    # --- reading ---------------------------------------------------------------------------------

    @property
    def last_round(self) -> int | None:
        """The newest decided round that is here."""
        return max(self._records, default=None)

    @property
    def first_round(self) -> int | None:
        """The oldest one from which every entry up to the newest is here."""
        first = self.last_round
        while first is not None and first - 1 in self._records:
            first -= 1
        return first

    def decided(self, round_: int) -> Decided | None:
        """The decided entry of a round; None when it is not here, or not readable any more."""
        record = self._records.get(round_)
        if record is None:
            return None
        name = _record_name(round_)
        try:
            decided = read_record(self._disk, name)
            if decided.entry.digest != record.entry_digest:
                raise ValueError("the entry in it is another one")
        except ValueError as error:
            self._say(f"{name} is damaged: {error}")
        except OSError as error:
            self._say(f"{name} cannot be read: {error.strerror}")
        else:
            return decided
        return None

    def after(self, round_: int, count: int) -> list[Decided]:
        """Up to `count` decided entries, one after another; none if the next one is not here."""
        found: list[Decided] = []
        for later in range(round_ + 1, round_ + 1 + count):
            decided = self.decided(later)
            if decided is None:
                break
            found.append(decided)
        return found

    def parts_of(self, entry: Entry) -> tuple[bytes | None, ...] | None:
        """For each part of an entry its bytes, None where it has none; None if any is not here."""
        parts: list[bytes | None] = []
        for part in entry.parts:
            data = None if part is None else self.part(part.digest)
            if part is not None and data is None:
                return None
            parts.append(data)
        return tuple(parts)

    def part(self, digest: str) -> bytes | None:
        """The bytes with this digest, checked; None when they are not here. From any thread."""
        for file in self._holders.get(digest, ()):
            data = self._part_in(file, digest)
            if data is not None:
                return data
        return None

    def _part_in(self, file: EntryFile, digest: str) -> bytes | None:
        try:
            return file.part(self._disk, digest)
        except FileNotFoundError:
            return None  # pruned since it was looked up
        except ValueError as error:
            self._say(f"{file.name} is damaged: {error}")
        except OSError as error:
            self._say(f"{file.name} cannot be read: {error.strerror}")
        return None

    def _is_whole(self, entry: Entry) -> bool:
        """Whether the entry's own file is here and all of it is what it should be."""
        file = self._files.get(file_name(entry.round, entry.digest))
        return file is not None and all(
            self._part_in(file, digest) is not None for digest in file.places
        )

    # --- opening ---------------------------------------------------------------------------------

    def _load(self) -> None:
        for name in self._disk.names(FOLDER):
            try:
                self._load_file(name)
            except ValueError as error:
                self._disk.remove(name)
                self._say(f"{name} was damaged ({error}) and is removed")
            except OSError as error:
                self._say(f"{name} cannot be read and is not used: {error.strerror}")
        # A crash may have come between the steps of `append`, or of `_drop_record`.
        self._drop_other_chains()
        self._drop_undecided()
        self._prune()

    def _load_file(self, name: str) -> None:
        """Raises ValueError when it is damaged, OSError when it cannot be read."""
        if FILE_NAME.fullmatch(name):
            self._add_file(EntryFile.open(self._disk, name))
        elif match := _RECORD_NAME.fullmatch(name):
            entry = read_record(self._disk, name).entry
            if entry.round != int(match[1]):
                raise ValueError("the entry in it is another one")
            record = _Record(entry.digest, entry.parent, self._disk.size(name))
            self._add_record(entry.round, record)

    def _say(self, note: str) -> None:
        if note not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(note)

    # --- what goes, and when ---------------------------------------------------------------------

    def _drop_other_chains(self) -> None:
        """Of two neighbours that do not continue each other the later one counts."""
        breaks = [
            round_
            for round_, record in self._records.items()
            if (later := self._records.get(round_ + 1)) and later.parent != record.entry_digest
        ]
        if breaks:
            for round_ in sorted(self._records):
                if round_ <= max(breaks):
                    self._drop_record(round_)

    def _drop_undecided(self) -> None:
        """Candidates of rounds that are over."""
        last = self.last_round
        for file in list(self._files.values()):
            if last is not None and file.round <= last and not self._is_decided(file):
                self._drop_file(file)

    def _is_decided(self, file: EntryFile) -> bool:
        record = self._records.get(file.round)
        return record is not None and record.entry_digest == file.entry_digest

    def _prune(self) -> None:
        """The oldest decided entries first, until the limits hold or only the newest are left."""
        for round_ in sorted(self._records)[: -self._least_entries]:
            if self.size_bytes <= self._limit_bytes and len(self._records) <= self._limit_entries:
                break
            self._drop_record(round_)

    # --- the index -------------------------------------------------------------------------------

    def _add_record(self, round_: int, record: _Record) -> None:
        old = self._records.get(round_)
        self._records[round_] = record
        self.size_bytes += record.size_bytes - (old.size_bytes if old else 0)

    def _drop_record(self, round_: int) -> None:
        """The record goes first: bytes without one are only a candidate."""
        self._disk.remove(_record_name(round_))
        record = self._records.pop(round_)
        self.size_bytes -= record.size_bytes
        file = self._files.get(file_name(round_, record.entry_digest))
        if file is not None:
            self._drop_file(file)

    def _add_file(self, file: EntryFile) -> None:
        old = self._files.get(file.name)
        self._files[file.name] = file
        self.size_bytes += file.size_bytes - (old.size_bytes if old else 0)
        for digest in file.places:
            others = self._holders.get(digest, ())
            self._holders[digest] = (*(f for f in others if f.name != file.name), file)

    def _drop_file(self, file: EntryFile) -> None:
        self._disk.remove(file.name)
        del self._files[file.name]
        self.size_bytes -= file.size_bytes
        for digest in file.places:
            others = tuple(f for f in self._holders[digest] if f.name != file.name)
            if others:
                self._holders[digest] = others
            else:
                del self._holders[digest]


def read_record(disk: Disk, name: str) -> Decided:
    """Raises ValueError when it is damaged, OSError when it cannot be read."""
    record = unseal(disk.read(name))
    try:
        return Decided.from_json(record)
    except (KeyError, TypeError) as error:
        raise ValueError("not a decided entry") from error


def record_names(disk: Disk) -> list[str]:
    """Files of decided entries, in the order of their rounds. Raises OSError."""
    names = [name for name in disk.names(FOLDER) if _RECORD_NAME.fullmatch(name)]
    return sorted(names, key=lambda name: (len(name), name))


def _record_name(round_: int) -> str:
    return f"{FOLDER}/{round_:08d}.json"
