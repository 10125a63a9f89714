"""Real peers that come late, die, leave, end, and are started again.

What `python -m benchmarks.faults --quick` does to five of them is not done here once more. No test
waits for a time to pass.
"""

import json
import signal
from pathlib import Path

import pytest

from benchmarks.processes import SMALL_CORPUS, children, wait_until
from peer.identity import Identity
from protocol.manifest import Manifest
from tests.processes.swarm import Swarm

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
suspect_after_s = 4.0
checkpoint_rounds = 4
[evaluation]
every_rounds = 10
batches = 1
final_batches = 1
"""
CAPS = ("--up", "20mbit", "--down", "20mbit")
ENDLESS = 1_000_000


def begin(directory: Path, total_steps: int, *names: str) -> Swarm:
    """The founder, who comes first, and others, until all have contributed to one round."""
    founder, *others = names
    swarm = Swarm(directory, MANIFEST % (len(names), total_steps))
    try:
        swarm.found(founder, *CAPS)
        for name in others:
            swarm.join(name, *CAPS)
        wait_for_contributions(swarm, founder, *names)
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


def wait_for_contributions(swarm: Swarm, witness: str, *names: str) -> None:
    """Wait until each of these peers is in a round that the witness applies from now on."""
    seen = len(swarm.rounds(witness))

    def all_contributed() -> bool:
        rounds = swarm.rounds(witness)[seen:]
        return {p for r in rounds for p in r["contributors"]}.issuperset(ids)

    for name in names:
        swarm.wait_until(lambda n=name: swarm.lines(n, "start") != [], f"{name} to start", name)
    ids = [peer_id(swarm.path(name)) for name in names]
    swarm.wait_until(all_contributed, f"contributions of {', '.join(names)}", *names)


def assert_equal_states(swarm: Swarm, *names: str) -> None:
    """Whatever round two of these peers recorded, in whatever life, it left them in one state."""
    states: dict[int, set[tuple[str, str]]] = {}
    for name in names:
        for line in swarm.rounds(name):
            states.setdefault(line["round"], set()).add((line["digest"], line["state"]))
    assert states and all(len(of_round) == 1 for of_round in states.values()), states


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_late_peer_takes_part_and_the_founder_comes_back_to_a_run_that_went_on(tmp_path):
    with begin(tmp_path, ENDLESS, "a", "b", "c") as swarm:
        swarm.join("late", *CAPS)
        wait_for_contributions(swarm, "b", "late")
        assert "arrived at round" in swarm.log("late")

        swarm.kill("a")  # the bootstrap peer of everybody
        go_on_committing(swarm, "b", "c", "late")
        swarm.restart("a")
        wait_for_contributions(swarm, "b", "a")
        assert "going on from round" in swarm.log("a")

        go_on_committing(swarm, "a", "b", "c", "late")
        assert_equal_states(swarm, "a", "b", "c", "late")
        for name in ("a", "b", "c", "late"):
            assert "Traceback" not in swarm.log(name)


def test_who_is_interrupted_leaves_and_the_others_end_the_run_with_the_same_bytes(tmp_path):
    with begin(tmp_path, 900, "a", "b", "c") as swarm:
        processes = children(swarm.pid("c"))
        swarm.signal("c", signal.SIGINT)
        assert swarm.wait("c") == 0
        wait_until(lambda: all(map(is_gone, processes)), "no p2pd")
        assert "peer trained faults" in swarm.log("c")  # its report
        leaver = peer_id(tmp_path / "c")[:8]
        swarm.wait_for("a", f"{leaver} left")
        swarm.wait_for("b", f"{leaver} left")
        assert swarm.wait("a") == 0
        assert swarm.wait("b") == 0
        assert_equal_states(swarm, "a", "b", "c")
        finals = [(swarm.path(name) / "final.safetensors").read_bytes() for name in ("a", "b")]
        assert finals[0] == finals[1]
        for name in ("a", "b", "c"):
            assert "is lost" not in swarm.log(name) and "Traceback" not in swarm.log(name)


def test_the_last_one_goes_on_alone_when_the_founder_leaves(tmp_path):
    with begin(tmp_path, ENDLESS, "a", "b") as swarm:
        # The founder breaks ties, so b has no quorum without it, unless it hands over.
        swarm.signal("a", signal.SIGINT)
        assert swarm.wait("a") == 0
        go_on_committing(swarm, "b")
        assert swarm.rounds("b")[-1]["contributors"] == [peer_id(tmp_path / "b")]
        assert "is lost" not in swarm.log("b")


def test_a_peer_alone_ends_its_run_and_says_so_again_when_it_is_started_again(tmp_path):
    text = MANIFEST % (1, 240)
    tokens_per_step = Manifest.from_toml(text).tokens_per_step
    with Swarm(tmp_path, text) as swarm:
        swarm.found("a", *CAPS)
        assert swarm.wait("a") == 0
        assert committed(swarm, "a") > 3
        final = (tmp_path / "a" / "final.safetensors").read_bytes()
        (first,) = swarm.lines("a", "train_end")
        assert next_cursor(tmp_path / "a") == first["steps"]

        swarm.restart("a")
        assert swarm.wait("a") == 0
        assert "the run is complete" in swarm.log("a")
        assert "begins with" not in swarm.log("a")
        _, second = swarm.lines("a", "train_end")  # and the first record was not truncated
        assert second["steps"] == first["steps"] == next_cursor(tmp_path / "a")
        assert second["tokens"] == first["steps"] * tokens_per_step
        assert (tmp_path / "a" / "final.safetensors").read_bytes() == final


def next_cursor(directory: Path) -> int:
    return json.loads((directory / "cursor.json").read_text())["next_cursor"]
