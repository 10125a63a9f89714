"""A real peer that averages falsely is found out by the others, and the log bans it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import COMMAND, SMALL_CORPUS, free_ports
from peer.identity import Identity
from tests.processes.swarm import Swarm

pytestmark = pytest.mark.processes

MANIFEST = f"""
name = "ban"
start_peers = 4
total_steps = 1_000_000
[model]
depth = 2
width = 64
head_width = 32
context = 32
[data]
corpus = "{SMALL_CORPUS}"
batch_sequences = 1
[inner_optimizer]
warmup_steps = 5
[sync]
sync_every = 60
num_fragments = 2
edges = "spread"
[aggregation]
audits = 4.0
"""
LIAR = """
from dataclasses import replace
from peer.arithmetic import Arithmetic
honest = Arithmetic.average
async def average(self, part):
    averaged = await honest(self, part)
    codec = self._replica._manifest.codec
    return replace(averaged, data=codec.encode(codec.decode(averaged.data, part.values) * -1))
Arithmetic.average = average
from cli.main import main
main()
"""
"""The product, but for the sign of what it averages."""


def newest_entry(directory: Path) -> dict[str, Any]:
    command = [*COMMAND, "log", str(directory), "--last", "1", "--json"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    entry: dict[str, Any] = json.loads(printed)
    return entry


def test_who_averages_falsely_is_banned_and_the_others_go_on(tmp_path: Path) -> None:
    honest = ("a", "b", "c")
    with Swarm(tmp_path, MANIFEST) as swarm:
        swarm.found("a")
        swarm.join("b")
        swarm.join("c")
        arguments = ["join", "--initial-peers", swarm.entrance, "--dir", str(tmp_path / "d")]
        arguments += ["--name", "d", "--threads", "1", "--plain"]
        arguments += ["--listen", f"127.0.0.1:{free_ports()}"]
        swarm.start("d", [sys.executable, "-c", LIAR, *arguments])
        swarm.wait_until(lambda: bool(swarm.rounds("a")), "a round", *honest)
        liar = Identity.load_or_create(tmp_path / "d").peer_id
        swarm.wait_until(
            lambda: [peer for peer, _ in newest_entry(tmp_path / "a")["banned"]] == [liar],
            "the ban",
            *honest,
            poll_s=1.0,
        )
        banned_at = newest_entry(tmp_path / "a")["round"]
        swarm.wait_until(lambda: len(swarm.rounds("a")) > banned_at + 3, "rounds after it", *honest)
    for name in honest:
        (proof,) = (tmp_path / name / "state" / "verdicts").iterdir()
        assert json.loads(proof.read_text())["guilty"] == liar
    assert all(
        liar not in round_["contributors"]
        for round_ in swarm.rounds("a")
        if round_["round"] > banned_at
    )
