"""Proofs of double votes on disk: kept, bounded, and believed only while they prove something."""

from dataclasses import replace

from peer.disk import Disk
from peer.evidence import FILE_NAME, MAX_PROOFS, Evidence
from peer.sealed import seal
from protocol.accepts import Vote
from protocol.evidence import DoubleVote
from tests.peer.disks import flip_bit, full
from tests.protocol.makers import RUN, entry
from tests.protocol.signed import accept
from tests.sim.keys import tally_of

TALLY = tally_of(RUN)


def proof_against(voter: str) -> DoubleVote:
    votes = [Vote.on(entry(reason), 2) for reason in ("one", "another")]
    one, other = (accept(vote, voter) for vote in votes)
    return DoubleVote(first=votes[0], second=votes[1], accepts=(one, other))


def test_a_proof_is_said_and_survives_a_restart(disk: Disk) -> None:
    evidence = Evidence(disk, TALLY)
    said = evidence.keep(proof_against("carl"))
    assert said == (
        "carl voted for two entries in ballot 2 of round 0; proofs in state/evidence.json: 1"
    )
    evidence.keep(proof_against("carl"))
    evidence.keep(proof_against("dora"))
    again = Evidence(disk, TALLY)
    assert again.proofs == (proof_against("carl"), proof_against("dora")) and not again.note
    assert all(proof.is_proven(TALLY) for proof in again.proofs)


def test_there_are_only_so_many(disk: Disk) -> None:
    evidence = Evidence(disk, TALLY)
    for number in range(MAX_PROOFS + 3):
        evidence.keep(proof_against(f"voter {number}"))
    assert len(Evidence(disk, TALLY).proofs) == MAX_PROOFS


def test_a_disk_without_room_costs_the_proof_and_nothing_else(disk: Disk) -> None:
    evidence = Evidence(disk, TALLY)
    with full(disk):
        assert "cannot be written" in evidence.keep(proof_against("carl"))
    assert not evidence.proofs
    evidence.keep(proof_against("carl"))
    assert len(Evidence(disk, TALLY).proofs) == 1


def test_what_proves_nothing_is_not_taken_from_disk(disk: Disk) -> None:
    real = proof_against("carl")
    made_up = replace(real, accepts=(real.accepts[0], accept(real.second, "carl", signer="x")))
    disk.replace(FILE_NAME, [seal({"proofs": [made_up.to_json(), real.to_json()]})])
    assert Evidence(disk, TALLY).proofs == (real,)


def test_a_damaged_file_is_said(disk: Disk) -> None:
    Evidence(disk, TALLY).keep(proof_against("carl"))
    flip_bit(disk, FILE_NAME, 300)
    evidence = Evidence(disk, TALLY)
    assert not evidence.proofs and "evidence.json is damaged" in evidence.note
