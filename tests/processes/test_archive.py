"""An archive of real peers: it follows, evaluates and keeps states, and nobody depends on it."""

import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.processes import COMMAND, SMALL_CORPUS, wait_until
from tests.processes.swarm import Swarm

pytestmark = pytest.mark.processes

MANIFEST = f"""
name = "archive"
start_peers = 2
total_steps = 100_000
[model]
depth = 3
width = 32
head_width = 16
context = 32
[data]
corpus = "{SMALL_CORPUS}"
batch_sequences = 2
[inner_optimizer]
warmup_steps = 5
[sync]
sync_every = 60
num_fragments = 3
[limits]
checkpoint_rounds = 3
[evaluation]
every_rounds = 3
batches = 1
"""
CAPS = ("--up", "5mbit", "--down", "5mbit")


def printed(*arguments: str) -> str:
    return subprocess.run([*COMMAND, *arguments], check=True, capture_output=True, text=True).stdout


def test_an_archive_follows_and_is_never_waited_for(tmp_path: Path) -> None:
    with Swarm(tmp_path, MANIFEST) as swarm:
        swarm.found("a", *CAPS)
        swarm.join("b", *CAPS)
        swarm.wait_until(lambda: len(swarm.rounds("a")) > 3, "some rounds", "a", "b")
        address = swarm.wait_for("a", r"--initial-peers (\S+)")[1]
        swarm.start(
            "c",
            [
                *(*COMMAND, "archive", "--initial-peers", address, "--plain"),
                *("--dir", str(swarm.path("c")), "--name", "c"),
            ],
        )
        swarm.wait_until(lambda: bool(swarm.lines("c", "arrived")), "the archive", "a", "b", "c")
        at = swarm.lines("c", "arrived")[0]["round"]
        swarm.wait_until(
            lambda: swarm.rounds("c")[-1]["round"] > at + 6 and bool(swarm.lines("c", "heldout")),
            "rounds and their evaluation",
            *"abc",
        )
        (line,) = [
            line
            for line in printed("status", "--initial-peers", address).splitlines()
            if line.startswith("c ")
        ]
        assert "following for" in line

        me = swarm.lines("c", "start")[0]["peer_id"]
        seen = {line["round"]: line for line in swarm.rounds("c") if line["round"] > at}
        for theirs in swarm.rounds("a"):
            if (mine := seen.get(theirs["round"])) is not None:
                assert mine["digest"] == theirs["digest"]
                assert me not in theirs["voters"] + theirs["members"] + list(theirs["missing"])
        wait_until(lambda: any(swarm.path("c").rglob("checkpoints/*.json")), "a checkpoint")

        swarm.signal("c", signal.SIGINT)
        assert swarm.wait("c") == 0
        assert "Traceback" not in swarm.log("c")
        swarm.wait_for("a", f"{me[:8]} left")
        rounds = len(swarm.rounds("a"))
        swarm.wait_until(lambda: len(swarm.rounds("a")) > rounds + 2, "more rounds", "a", "b")
    assert seen[max(seen)]["digest"][:6] in printed("log", str(tmp_path / "c"), "--last", "200")
