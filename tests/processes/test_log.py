"""What the log of real peers says about a round in which an owner died, and who can read it."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import COMMAND, SMALL_CORPUS
from tests.processes.swarm import Swarm

pytestmark = pytest.mark.processes

PEERS = ("a", "b", "c", "d")
# Contributions of 150 kB on links of 1 mbit: an exchange takes seconds.
MANIFEST = f"""
name = "log"
start_peers = {len(PEERS)}
total_steps = 1_000_000
[model]
depth = 2
width = 128
head_width = 32
context = 32
[data]
corpus = "{SMALL_CORPUS}"
batch_sequences = 1
[inner_optimizer]
warmup_steps = 5
[sync]
sync_every = 120
num_fragments = 2
edges = "spread"
[limits]
grace_s = 2.0
takeover_s = 1.0
"""
CAPS = ("--up", "1mbit", "--down", "1mbit")


def entries(*arguments: str) -> dict[int, dict[str, Any]]:
    """What `diloco-peer log --json` prints, by round."""
    command = [*COMMAND, "log", *arguments, "--last", "50", "--json"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {entry["round"]: entry for entry in map(json.loads, printed.splitlines())}


def test_a_death_in_mid_exchange_costs_only_what_was_not_sent_and_the_log_shows_it(
    tmp_path: Path,
) -> None:
    with Swarm(tmp_path, MANIFEST) as swarm:
        swarm.found("a", *CAPS)
        for name in PEERS[1:]:
            swarm.join(name, *CAPS)
        swarm.wait_until(
            lambda: len(swarm.lines("a", "roster")) > 1 and len(swarm.rounds("a")) > 1,
            "two rounds",
            *PEERS,
        )
        seen = len(swarm.lines("a", "roster"))
        swarm.wait_until(
            lambda: len(swarm.lines("a", "roster")) > seen, "a roster", *PEERS, poll_s=0.005
        )
        roster = swarm.lines("a", "roster")[-1]
        ids = {swarm.lines(name, "start")[0]["peer_id"]: name for name in PEERS}
        victim = next(p for p in roster["owners"] if p != roster["coordinator"] and ids[p] != "a")
        time.sleep(roster["transfer_s"] / 2)
        swarm.kill(ids[victim])

        round_ = roster["round"]
        survivors = [name for name in PEERS if name != ids[victim]]
        swarm.wait_until(
            lambda: all(swarm.rounds(name)[-1]["round"] > round_ for name in survivors),
            "the round after",
            *survivors,
        )
        lines = [
            line for name in survivors for line in swarm.rounds(name) if line["round"] == round_
        ]
        assert {line["digest"] for line in lines} == {lines[0]["digest"]}
        assert not lines[0]["empty"]
        owned = roster["owners"].count(victim) / len(roster["owners"])
        resent = [line["resent_bytes"] for line in lines]
        assert sum(resent) > 0, "the owner's parts went to others"

        (address,) = [
            word for word in swarm.log("a").split() if word.startswith("/ip4/127.0.0.1/")
        ][:1]
        running = entries("--initial-peers", address)
        on_disk = entries(str(swarm.path(survivors[-1])))
        of_dead = entries(str(swarm.path(ids[victim])))

    entry = on_disk[round_]
    assert entry["digest"] == running[round_]["digest"] == lines[0]["digest"]
    assert all(part is not None for part in entry["parts"]), "no part was given up"
    for bytes_ in resent:
        assert bytes_ <= owned * entry["part_bytes"] * 1.01, "and nothing else was sent again"
    place = entry["members"].index(victim)
    credited = sum(part["tokens"][place] > 0 for part in entry["parts"])
    assert 0 < credited < len(entry["parts"]), "what had arrived of the dead one's counts"
    assert victim not in entry["voters"]
    assert of_dead.keys() <= on_disk.keys() and round_ not in of_dead
    assert all(of_dead[r]["digest"] == on_disk[r]["digest"] for r in of_dead)
