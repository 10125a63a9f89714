"""Proofs that voters have voted twice, on disk, so that a person can show them to others."""

from typing import Final

from peer.disk import Disk
from peer.sealed import seal, unseal
from protocol.evidence import DoubleVote
from protocol.tally import Tally

FILE_NAME: Final = "evidence.json"
MAX_PROOFS: Final = 64
"""The first ones: with so many there is more to be done than to keep another."""


class Evidence:
    """One small file, replaced for every proof. Used by one thread at a time."""

    def __init__(self, disk: Disk, tally: Tally) -> None:
        self.note = ""
        """Why what is there cannot be used, in words."""
        self.proofs: tuple[DoubleVote, ...] = ()
        self._disk = disk
        try:
            raw = unseal(disk.read(FILE_NAME))["proofs"]
            proofs = tuple(map(DoubleVote.from_json, raw))
        except FileNotFoundError:
            return
        except OSError as error:
            self.note = f"{FILE_NAME} cannot be read: {error.strerror}"
            return
        except (ValueError, KeyError, TypeError) as error:
            self.note = f"{FILE_NAME} is damaged: {error}"
            return
        self.proofs = tuple(proof for proof in proofs if proof.is_proven(tally))

    def keep(self, proof: DoubleVote) -> str:
        """Put it on disk, unless there are enough; one sentence that says who did what."""
        said = in_words(proof)
        if proof not in self.proofs and len(self.proofs) < MAX_PROOFS:
            proofs = (*self.proofs, proof)
            try:
                self._disk.replace(FILE_NAME, [seal({"proofs": [p.to_json() for p in proofs]})])
            except OSError as error:
                return f"{said}, and the proof cannot be written ({error.strerror})"
            self.proofs = proofs
        return f"{said}; proofs in state/{FILE_NAME}: {len(self.proofs)}"


def in_words(proof: DoubleVote) -> str:
    """Who voted twice, and where."""
    vote = proof.first
    where = f"ballot {vote.ballot} of round {vote.round}"
    return f"{proof.voter[:8]} voted for two entries in {where}"
