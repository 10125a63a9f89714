"""Who was proven to lie, on disk: each proof in a file of its own, which anybody can check."""

from typing import Final

from peer.disk import Disk
from peer.sealed import seal, unseal
from protocol.audit import Accusation
from protocol.digest import is_digest
from protocol.events import Verdict
from protocol.tally import Tally

FOLDER: Final = "verdicts"
MAX_VERDICTS: Final = 256
"""As many as a run has peers."""


class Verdicts:
    """Used by one thread at a time."""

    def __init__(self, disk: Disk, tally: Tally) -> None:
        """`tally`: of the run, whose signatures count."""
        self.notes: list[str] = []
        """What cannot be used of what is there, in words."""
        self.known: tuple[Verdict, ...] = ()
        self._disk = disk
        self._is_signed_by = tally.is_signed_by
        for name in sorted(disk.names(FOLDER)):
            if is_digest(name.removeprefix(f"{FOLDER}/").removesuffix(".json")):
                self._load(name)

    def _load(self, name: str) -> None:
        try:
            raw = unseal(self._disk.read(name))
            accusation = Accusation.from_json(raw["accusation"])
            verdict = Verdict(str(raw["guilty"]), accusation)
            # That the claim is false was seen once; its inputs are gone, and nobody can see it now.
            if verdict.guilty not in (accusation.claim.owner, accusation.accuser):
                raise ValueError("somebody else than its accusation names")
            if not accusation.is_signed(self._is_signed_by):
                raise ValueError("an accusation that was not signed by those in it")
        except OSError as error:
            self.notes.append(f"{name} cannot be read: {error.strerror}")
        except (ValueError, KeyError, TypeError) as error:
            self.notes.append(f"{name} is damaged: {error}")
        else:
            self.known = (*self.known, verdict)

    def keep(self, verdict: Verdict) -> str:
        """Put it on disk, unless there are enough; one sentence that says who did what."""
        said = in_words(verdict)
        if verdict in self.known or len(self.known) >= MAX_VERDICTS:
            return said
        name = file_name(verdict)
        record = {"guilty": verdict.guilty, "accusation": verdict.accusation.to_json()}
        try:
            self._disk.replace(name, [seal(record)])
        except OSError as error:
            return f"{said}; the proof cannot be written ({error.strerror})"
        self.known = (*self.known, verdict)
        return f"{said}; the proof is in state/{name}"


def file_name(verdict: Verdict) -> str:
    """Of its proof, in the state directory."""
    return f"{FOLDER}/{verdict.accusation.digest}.json"


def in_words(verdict: Verdict) -> str:
    """Who lied, and about what."""
    claim, accuser = verdict.accusation.claim, verdict.accusation.accuser
    where = f"part {claim.slot.part_index} of round {claim.slot.round}"
    if verdict.guilty == claim.owner:
        return f"{claim.owner[:8]} averaged {where} falsely"
    return f"{accuser[:8]} accused {claim.owner[:8]} falsely, of {where}"
