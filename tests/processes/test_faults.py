"""Real peers that die, leave, freeze, come late or come back. No test waits for a time to pass."""

import json
import signal
from pathlib import Path

import pytest

from benchmarks.processes import children, wait_until
from peer.identity import Identity
from protocol.manifest import Manifest
from tests.processes.swarm import SMALL_CORPUS, Swarm

pytestmark = pytest.mark.processes

MANIFEST = f"""
name = "faults"
start_peers = %d
total_steps = %d
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
round_deadline_s = 20.0
grace_s = 2.0
takeover_s = 1.0
suspect_after_s = 3.0
[evaluation]
every_rounds = 10
batches = 1
final_batches = 1
"""
CAPS = ("--up", "20mbit", "--down", "20mbit")
PEERS = ("a", "b", "c")


def three_peers(directory: Path, total_steps: int = 900) -> Swarm:
    """The founder `a` and two more, until all three have contributed to a round."""
    swarm = Swarm(directory, MANIFEST % (3, total_steps))
    try:
        swarm.found("a", *CAPS)
        swarm.join("b", *CAPS)
        swarm.join("c", *CAPS)
        wait_until(
            lambda: any(len(r["contributors"]) == 3 for r in swarm.rounds("a")),
            "a round of all three",
        )
    except BaseException as error:
        swarm.__exit__(type(error), error, None)
        raise
    return swarm


def peer_id(directory: Path) -> str:
    return Identity.load_or_create(directory).peer_id


def committed(swarm: Swarm, name: str) -> int:
    return sum(not round_["empty"] for round_ in swarm.rounds(name))


def go_on_committing(swarm: Swarm, *names: str, rounds: int = 3) -> None:
    """Wait until these peers have committed that many more non-empty rounds."""
    for name in names:
        goal = committed(swarm, name) + rounds
        wait_until(lambda n=name, g=goal: committed(swarm, n) >= g, f"{name} to go on committing")


def end_equal(swarm: Swarm, *names: str) -> None:
    """These peers end by themselves, with the same global_params and momentum to the byte."""
    assert [swarm.wait(name) for name in names] == [0] * len(names)
    results = [(swarm.path(name) / "final.safetensors").read_bytes() for name in names]
    assert all(result == results[0] for result in results)


def test_a_late_peer_is_refused_and_one_that_is_killed_does_not_stop_the_others(tmp_path):
    with three_peers(tmp_path) as swarm:
        swarm.join("late", *CAPS)
        assert swarm.wait("late") == 2
        assert "has begun with 3 peers, and joining in mid-run is not possible" in swarm.log("late")
        assert "Traceback" not in swarm.log("late")

        (p2pd,) = children(swarm.pid("c"))
        swarm.signal("c", signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{p2pd}").exists(), "the p2pd of a killed peer to end")
        go_on_committing(swarm, "a", "b")
        last = swarm.rounds("a")[-1]
        assert sorted(last["contributors"]) == sorted(peer_id(tmp_path / n) for n in ("a", "b"))
        end_equal(swarm, "a", "b")


def test_the_founder_and_bootstrap_peer_can_be_killed(tmp_path):
    with three_peers(tmp_path) as swarm:
        swarm.signal("a", signal.SIGKILL)
        go_on_committing(swarm, "b", "c")
        end_equal(swarm, "b", "c")


def test_peers_that_are_interrupted_leave_and_nobody_has_to_suspect_them(tmp_path):
    with three_peers(tmp_path) as swarm:
        processes = [swarm.pid("c"), *children(swarm.pid("c"))]
        swarm.signal("c", signal.SIGINT)
        assert swarm.wait("c") == 0
        wait_until(lambda: not any(Path(f"/proc/{p}").exists() for p in processes[1:]), "no p2pd")
        assert "peer trained faults" in swarm.log("c")  # its report
        leaver = peer_id(tmp_path / "c")[:8]
        swarm.wait_for("a", f"{leaver} left")
        swarm.wait_for("b", f"{leaver} left")
        go_on_committing(swarm, "a", "b")
        # The founder breaks ties, so b has no quorum without it, unless it hands over.
        swarm.signal("a", signal.SIGINT)
        assert swarm.wait("a") == 0
        end_equal(swarm, "b")
        assert swarm.rounds("b")[-1]["contributors"] == [peer_id(tmp_path / "b")]
        for name in PEERS:
            assert "silent" not in swarm.log(name) and "Traceback" not in swarm.log(name)


def test_a_frozen_peer_holds_nobody_up_and_ends_when_it_thaws(tmp_path):
    with three_peers(tmp_path, total_steps=1500) as swarm:
        swarm.signal("c", signal.SIGSTOP)
        go_on_committing(swarm, "a", "b")
        swarm.signal("c", signal.SIGCONT)
        thawed = peer_id(tmp_path / "c")
        before = len(swarm.rounds("a"))
        wait_until(
            lambda: (
                "forked" in swarm.log("c")
                or any(thawed in r["contributors"] for r in swarm.rounds("a")[before:])
            ),
            "the frozen peer to be back, or to say that it forked",
        )
        end_equal(swarm, "a", "b")
        if "forked" in swarm.log("c"):
            assert swarm.wait("c") == 1
            assert "had forked from them" in swarm.log("c")
            assert "Traceback" not in swarm.log("c")
        else:
            end_equal(swarm, "a", "c")


def test_a_peer_alone_commits_and_its_batches_go_on_after_a_restart(tmp_path):
    text = MANIFEST % (1, 240)
    tokens_per_step = Manifest.from_toml(text).tokens_per_step
    with Swarm(tmp_path, text) as swarm:
        swarm.found("a", *CAPS)
        assert swarm.wait("a") == 0
        assert committed(swarm, "a") > 3
        assert (tmp_path / "a" / "final.safetensors").exists()
        first = swarm.lines("a", "train_end")
        assert cursor(tmp_path / "a") == first[-1]["steps"]

        swarm.found("a", *CAPS)
        assert swarm.wait("a") == 0
        both = swarm.lines("a", "train_end")
        assert len(both) == 2  # the first record was not truncated
        assert cursor(tmp_path / "a") == both[0]["steps"] + both[1]["steps"]
        assert both[1]["tokens"] == both[1]["steps"] * tokens_per_step


def cursor(directory: Path) -> int:
    return json.loads((directory / "cursor.json").read_text())["next_cursor"]
