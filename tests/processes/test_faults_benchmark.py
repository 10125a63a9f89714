"""The short set of the fault benchmark: five real peers, one fault after another.

How long anything took is the benchmark's own business: here it may share the machine. Peers that
come late are in test_faults.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fault_list import QUICK
from benchmarks.faults_swarm import COMMITS

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200)]


def test_five_peers_survive_the_short_set(tmp_path: Path) -> None:
    folder = tmp_path / "faults"  # what a reader needs should it fail
    command = [sys.executable, "-m", "benchmarks.faults", "--quick", "--folder", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as benchmark:
        try:
            out, errors = benchmark.communicate()
        except BaseException:
            benchmark.terminate()  # then it ends its peers; a kill would leave them behind
            raise
    *_, last = ["", *out.splitlines()]
    assert last.startswith("{"), out + errors
    summary = json.loads(last)
    done = [row["fault"] for row in summary["rows"]]
    skipped = [name for name in QUICK if f"{name}: skipped, because" in out]
    assert sorted(done + skipped) == sorted(QUICK), out
    for row in summary["rows"]:
        assert row["digests_equal"] and row["loss_fell"], out
        assert row["commits_after"] >= COMMITS, out
    assert summary["false_suspicions"] == 0, out
