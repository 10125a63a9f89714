"""Seeded storms: whatever the network and the disks do, the invariants hold, and all goes on."""

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.sim.__main__ import main, run_seed
from tests.sim.scenario import Scenario
from tests.sim.transcript import Transcript

SEEDS = 2000
"""One in a hundred has 40 peers."""
BATCH = 250
JOBS = 2


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_the_invariants_hold_for_every_seed(first):
    with ProcessPoolExecutor(JOBS) as pool:
        results = list(pool.map(run_seed, range(first, first + BATCH), chunksize=5))
    broken = [
        f"python -m tests.sim --seed {result.seed}: {violation}"
        for result in results
        for violation in result.violations
    ]
    assert not broken, "\n".join(broken)
    assert sum(result.full for result in results) > BATCH


def transcript_of(seed: int) -> str:
    transcript = Transcript()
    Scenario(seed, [transcript]).run()
    return transcript.text


def test_a_seed_replays_to_the_letter():
    assert transcript_of(3) == transcript_of(3)
    assert transcript_of(3) != transcript_of(4)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_replays_to_the_letter_in_another_process(hash_seed):
    """Where sets and dictionaries of strings are in another order."""
    command = [sys.executable, "-m", "tests.sim", "--seed", "3"]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(transcript_of(3))


def test_the_command_ends_with_one_line_of_json(capsys):
    assert main(["--seeds", "2", "--no-mutations"]) == 0
    totals = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert totals["seeds"] == 2 and totals["events"] > 1000 and totals["violations"] == 0


def test_the_command_shows_one_seed(capsys):
    assert main(["--seed", "1"]) == 0
    assert "Roster of round 0" in capsys.readouterr().out
