"""The short set of the fault benchmark: five real peers, one fault after another."""

import json
import subprocess
import sys

import pytest

from benchmarks.fault_list import QUICK

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200)]


def test_five_peers_survive_the_short_set():
    command = [sys.executable, "-m", "benchmarks.faults", "--quick"]
    ran = subprocess.run(command, capture_output=True, text=True)
    printed = ran.stdout + ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert ran.returncode == 0, printed
    done = [row["fault"] for row in summary["rows"]]
    skipped = [name for name in QUICK if f"{name}: skipped, because" in printed]
    assert sorted(done + skipped) == sorted(QUICK)
    assert summary["false_suspicions"] == 0
