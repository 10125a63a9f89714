"""The log as a table: of a running swarm, or of a state directory, also while its peer runs.

Only what was decided is shown: the entry before the oldest one is read too, for its voters.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peer import evidence, verdicts
from peer.contact import Contact
from peer.directory import STATE_FOLDER
from peer.disk import Disk, FolderDisk
from peer.entry_file import EntryFile, file_name
from peer.gathering import one_line
from peer.grpc_client import Asker
from peer.identity import tally_of
from peer.logbook import read_record, record_names
from peer.metrics import METRICS_FILE
from peer.outside import Entrance, look_at
from peer.runfile import RUN_FILE, RunFile
from protocol.errors import DilocoError, InputError, RemoteError, UnavailableError
from protocol.log import Entry, Head
from protocol.messages import Decided
from protocol.tally import Tally
from protocol.wire import diloco_pb2 as pb
from protocol.wire.codec import decode_message

WIDTH_IN_A_FILE = 150
WIDE = 120
"""Columns from which contributors and who is missing have one of their own."""


class _Said(BaseModel):
    """A line of a peer's record, as far as it is shown beside the log."""

    model_config = ConfigDict(allow_inf_nan=False)


class _Start(_Said):
    peer_id: str
    name: str


class _Round(_Said):
    digest: str
    ready_s: float = 0.0
    exchange_s: float = 0.0
    apply_s: float = 0.0
    resent_bytes: int = 0


Said = TypeVar("Said", bound=_Said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One decided entry, and how the peer that tells of it saw its round."""

    decided: Decided
    part_bytes: int
    """Of the encoded means."""
    ready_s: float = 0.0
    exchange_s: float = 0.0
    apply_s: float = 0.0
    resent_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            **self.decided.entry.to_json(),
            "digest": self.decided.entry.digest,
            "accepted_by": list(self.decided.accepted_by),
            "part_bytes": self.part_bytes,
            "ready_s": self.ready_s,
            "exchange_s": self.exchange_s,
            "apply_s": self.apply_s,
            "resent_bytes": self.resent_bytes,
        }


def show_directory(directory: Path, count: int, as_json: bool, console: Console) -> None:
    """Print the newest entries in a peer's directory; raises InputError when there are none."""
    lines, damaged = lines_in(directory, count)
    names = _names_in(directory)
    _show(lines, names, as_json, console)
    proofs, unproven = proofs_in(directory)
    for sentence in [] if as_json else proofs:
        console.print(f"proof: {_named(sentence, names)}", highlight=False, markup=False)
    for sentence in damaged + unproven:
        Console(stderr=True).print(sentence, style="red", highlight=False, markup=False)


async def show_swarm(entrance: Entrance, count: int, as_json: bool, console: Console) -> None:
    """Print the newest entries of a running swarm, from the peer that has most of them.

    Raises:
        InputError, UnavailableError: there is no such run, or nobody answers.
    """
    sight = await look_at(entrance)
    tally = tally_of(sight.manifest)
    answers = await asyncio.gather(*(_ask(sight.asker, a, count, tally) for a in sight.announced))
    logs = [log for log in answers if log is not None]
    if not logs:
        raise UnavailableError("no peer of the run answers: ask one of them for its line")
    best = max(logs, key=lambda lines: lines[-1].decided.round if lines else -1)
    _show(best, {a.peer_id: one_line(a.name) for a in sight.announced}, as_json, console)


async def _ask(asker: Asker, contact: Contact, count: int, tally: Tally) -> list[Line] | None:
    """What a peer tells of its log; None when it does not: another one has the same log."""
    try:
        reply = await asker.log(contact, count + 1)
        return lines_of(reply, contact.peer_id, tally)[-count:]
    except DilocoError:
        return None


def lines_in(directory: Path, count: int) -> tuple[list[Line], list[str]]:
    """The newest entries in a directory, oldest first, and sentences about damaged ones."""
    disk = FolderDisk(directory / STATE_FOLDER, only_reads=True)
    rounds = {said.digest: said for said in _said_in(directory / METRICS_FILE, "round", _Round)}
    try:
        names = record_names(disk)
    except OSError as error:
        raise InputError(f"the log in {directory} cannot be read: {error.strerror}") from error
    if not names:
        raise InputError(f"there is no log in {directory}: name the --dir of a peer")
    tally = _tally_in(disk)
    lines: list[Line] = []
    damaged: list[str] = []
    for name in names[-count - 1 :]:
        try:
            decided = read_record(disk, name)
            _check(tally, name, decided, lines)
        except (OSError, ValueError) as error:
            damaged.append(f"{name} is damaged: {error}")
            continue
        except RemoteError as error:
            damaged.append(f"{name} is not believed: {error.why}")
            continue
        entry = decided.entry
        size = 0
        if not entry.is_empty:
            try:
                file = EntryFile.open(disk, file_name(entry.round, entry.digest))
                size = sum(file.places[part.digest][1] for part in entry.parts if part is not None)
            except (OSError, ValueError) as error:
                damaged.append(f"the bytes of round {entry.round} are not here: {error}")
        seen = rounds.get(entry.digest, _Round(digest="")).model_dump(exclude={"digest"})
        lines.append(Line(decided=decided, part_bytes=size, **seen))
    return lines[-count:], damaged


def proofs_in(directory: Path) -> tuple[list[str], list[str]]:
    """Who was proven to this peer to lie and the file that shows it, and what proves nothing."""
    disk = FolderDisk(directory / STATE_FOLDER, only_reads=True)
    tally = _tally_in(disk)
    double_votes, lies = evidence.Evidence(disk, tally), verdicts.Verdicts(disk, tally)
    said = [(evidence.in_words(proof), evidence.FILE_NAME) for proof in double_votes.proofs]
    said += [(verdicts.in_words(verdict), verdicts.file_name(verdict)) for verdict in lies.known]
    unproven = [*filter(None, [double_votes.note]), *lies.notes]
    return [f"{what}: {STATE_FOLDER}/{name}" for what, name in said], unproven


def _tally_in(disk: Disk) -> Tally:
    """Raises InputError when the directory does not say which run it is of."""
    manifest = RunFile(disk).manifest
    if manifest is None:
        raise InputError(f"{RUN_FILE} is missing: nobody can tell who signed what is in the log")
    return tally_of(manifest)


def _check(tally: Tally, sender: str, decided: Decided, earlier: Sequence[Line]) -> None:
    """Raises RemoteError unless the entry was decided, as far as the line before it tells."""
    before = Head.of_entry(earlier[-1].decided.entry) if earlier else None
    if before is not None and before.digest != decided.entry.parent:
        before = None
    tally.check(sender, decided, before)


def _names_in(directory: Path) -> dict[str, str]:
    """What the peers are called that this one knows, as far as its files say."""
    try:
        known = RunFile(FolderDisk(directory / STATE_FOLDER, only_reads=True)).peers()
    except InputError:
        known = []
    names = {a.peer_id: one_line(a.name) for a in known if a.name}
    for said in _said_in(directory / METRICS_FILE, "start", _Start):
        names[said.peer_id] = one_line(said.name)
    return names


def _said_in(metrics: Path, kind: str, model: type[Said]) -> Iterator[Said]:
    """The lines of a kind in a peer's record, without damaged ones; none if there is no record."""
    try:
        data = metrics.read_bytes()
    except OSError:
        return
    for line in data.split(b"\n")[:-1]:  # the last one may still be being written
        if f'"kind": "{kind}"'.encode() in line:
            try:
                said = model.model_validate_json(line)
            except ValueError:
                continue
            yield said


def lines_of(reply: pb.LogReply, sender: str, tally: Tally) -> list[Line]:
    """Raises RemoteError when an entry is malformed, or was not decided."""
    lines: list[Line] = []
    for line in reply.lines:
        decided = decode_message(sender, pb.Envelope(decided=line.decided))
        assert isinstance(decided, Decided)
        _check(tally, sender, decided, lines)
        lines.append(
            Line(
                decided=decided,
                part_bytes=line.part_bytes,
                ready_s=line.ready_s,
                exchange_s=line.exchange_s,
                apply_s=line.apply_s,
                resent_bytes=line.resent_bytes,
            )
        )
    return lines


def _show(lines: Sequence[Line], names: Mapping[str, str], as_json: bool, console: Console) -> None:
    if as_json:
        for line in lines:
            console.print(json.dumps(line.to_json()), soft_wrap=True, highlight=False, markup=False)
        return
    if not lines:
        console.print("no round has been decided yet", highlight=False)
        return
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDTH_IN_A_FILE)
    console.print(_table(lines, names, console.width >= WIDE), highlight=False)
    for peer_id, proof in lines[-1].decided.entry.banned:
        who = names.get(peer_id, peer_id[:8])
        console.print(f"banned: {who}, proven to lie by {proof[:8]}", highlight=False, markup=False)


def _table(lines: Sequence[Line], names: Mapping[str, str], is_wide: bool) -> Table:
    """80 columns are enough: who contributed and who is missing then share one column."""
    table = Table(box=None, pad_edge=False, caption_justify="left")
    for column in ("round", "frag"):
        table.add_column(column, justify="right", no_wrap=True)
    if is_wide:
        table.add_column("contributors", overflow="fold", min_width=12)
        table.add_column("missing, or why it is empty", overflow="fold", min_width=16)
    else:
        table.add_column("contributors, missing", overflow="fold", min_width=16)
    for column in ("tokens", "kB"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("resent\nkB", justify="right", no_wrap=True)
    for column in ("ready\ns", "exch.\ns", "apply\ns"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    for line in lines:
        entry = line.decided.entry
        who = Text(_contributors(entry, names))
        why = Text(_missing(entry, names), style="red" if entry.is_empty else "yellow")
        tokens = max((sum(part.tokens) for part in entry.parts if part is not None), default=0)
        table.add_row(
            str(entry.round) + (f" t{entry.term}" if entry.term else ""),
            str(entry.fragment_id),
            *((who, why) if is_wide else (Text("\n").join(filter(None, (who, why))),)),
            f"{tokens:,}",
            f"{line.part_bytes / 1e3:.0f}",
            f"{line.resent_bytes / 1e3:.0f}" if line.resent_bytes else "",
            *(f"{s:.2f}" if s else "" for s in (line.ready_s, line.exchange_s, line.apply_s)),
            entry.digest[:6],
        )
    table.caption = (
        "60%: weight in the mean; 2/8: in so many of its parts; t1: after a forced term; seconds"
        " and resent bytes as the peer that tells of them saw the round"
    )
    return table


def _contributors(entry: Entry, names: Mapping[str, str]) -> str:
    """Who is in the mean, each with its weight, and in how many parts if not in all of them."""
    total = sum(sum(part.tokens) for part in entry.parts if part is not None)
    told = []
    for place, peer in enumerate(entry.members):
        parts = entry.contributed_parts(peer)
        if any(parts):
            tokens = sum(part.tokens[place] for part in entry.parts if part is not None)
            share = "" if all(parts) else f" {sum(parts)}/{len(parts)}"
            told.append(f"{names.get(peer, peer[:6])} {tokens / total:.0%}{share}")
    return ", ".join(told)


def _missing(entry: Entry, names: Mapping[str, str]) -> str:
    """Why an entry is empty, and who is not in it and why."""
    why = [_named(one_line(entry.reason), names)] if entry.is_empty else []
    why += [f"{names.get(peer, peer[:6])}: {one_line(said)}" for peer, said in entry.missing]
    return "; ".join(why)


def _named(sentence: str, names: Mapping[str, str]) -> str:
    """With names in place of the beginnings of peer_ids."""
    for peer, name in names.items():
        sentence = sentence.replace(peer[:8], name)
    return sentence
