"""The testbed in Docker, as a person uses it: up, one killed, one cut off, and down again.

Needs an engine and a few minutes, most of them for the image. Everything that this makes has names
of its own and is removed again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from benchmarks.processes import wait_until
from peer.signals import signals_raise, signals_wait

ROOT = Path(__file__).parents[2]
PROJECT = f"diloco-test-{os.getpid()}"
TRAINERS = ("founder-1", "worker-1", "worker-2")
POLL_S = 1.0
PATIENCE_S = 240.0
COMMAND_S = 900.0
"""Enough to build the image on two busy cores."""
SHOWN_CHARACTERS = 4000


def compose_command() -> list[str]:
    """Version 1 or 2, whichever is here; empty when neither is."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    v2 = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return [] if v2.returncode else ["docker", "compose"]


def unavailable() -> str | None:
    """Why there can be no testbed here; None when nothing speaks against it."""
    if shutil.which("docker") is None:
        return "the command 'docker' is not installed"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker engine answers ('docker info')"
    if not compose_command():
        return "there is neither docker-compose nor 'docker compose'"
    return None


WHY_NOT = unavailable()
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(WHY_NOT is not None, reason=f"skipped, because {WHY_NOT}"),
]


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """What it prints; raises CalledProcessError, and shows why."""
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    if done.returncode:
        print(f"'{' '.join(command)}' ended with {done.returncode}:")
        print(done.stdout[-SHOWN_CHARACTERS:], done.stderr[-SHOWN_CHARACTERS:], sep="\n")
    done.check_returncode()
    return done.stdout


class Containers:
    """docker/compose.yaml under a name of its own. Leaving the block removes all of it."""

    def __init__(self) -> None:
        self._compose = [*compose_command(), "--file", str(ROOT / "docker" / "compose.yaml")]
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "IMAGE": PROJECT,
            "WORKERS": "2",
            "UP": "10mbit",
            "DOWN": "20mbit",
            "DELAY": "10ms",
        }
        self.containers: dict[str, str] = {}
        """Ids by the peer's name, as worker-2."""

    def compose(self, *arguments: str) -> str:
        return run(*self._compose, *arguments, environment=self._environment)

    def up(self) -> None:
        self.compose("up", "--detach")
        label = "com.docker.compose."
        columns = (
            f'{{{{.ID}}}} {{{{.Label "{label}service"}}}}-{{{{.Label "{label}container-number"}}}}'
        )
        of_project = f"label={label}project={PROJECT}"
        listed = run("docker", "ps", "--filter", of_project, "--format", columns)
        self.containers = {name: found for found, name in map(str.split, listed.splitlines())}

    def inside(self, name: str, *command: str) -> str:
        return run("docker", "exec", self.containers[name], *command)

    def health(self, name: str) -> str:
        command = ["docker", "exec", self.containers[name], "testbed", "health"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def lines(self, name: str, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind that a peer has recorded up to now (docs/operating.md)."""
        path = f"/state/{name}/metrics.jsonl"
        text = self.inside(name, "sh", "-c", f"test ! -e {path} || cat {path}")
        records = map(json.loads, text.rpartition("\n")[0].splitlines())
        return [record for record in records if record["kind"] == kind]

    def rounds(self, name: str) -> list[dict[str, Any]]:
        return self.lines(name, "round")

    def wait_for_contributions(self, witness: str, *names: str) -> None:
        """Wait until each of these peers is in a round that the witness applies from now on."""
        seen = len(self.rounds(witness))
        for name in names:
            wait_until(
                lambda n=name: self.lines(n, "start"), f"{name} to start", POLL_S, PATIENCE_S
            )
        ids = {self.lines(name, "start")[-1]["peer_id"] for name in names}

        def all_contributed() -> bool:
            rounds = self.rounds(witness)[seen:]
            return {peer for line in rounds for peer in line["contributors"]} >= ids

        wait_until(all_contributed, f"contributions of {', '.join(names)}", POLL_S, PATIENCE_S)

    def go_on_committing(self, *names: str, rounds: int = 3) -> None:
        """Wait until these peers have applied that many more rounds that were not empty."""
        for name in names:
            goal = self._committed(name) + rounds
            wait_until(
                lambda n=name, g=goal: self._committed(n) >= g,
                f"{name} to go on committing",
                POLL_S,
                PATIENCE_S,
            )

    def shows_all(self) -> bool:
        """On a busy machine one of them may not answer in time."""
        shown = self.inside("archive-1", "testbed", "status")
        at_work = r"(?m)^{} +(training|catching up|following)"
        return all(re.search(at_work.format(name), shown) for name in self.containers)

    def _committed(self, name: str) -> int:
        return sum(not line["empty"] for line in self.rounds(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with signals_wait(), ExitStack() as undo:
            # What the image was made from has no name; without its image nothing needs it.
            nameless = "--filter=label=diloco-peer.stage=packages"
            undo.callback(run, "docker", "image", "prune", "--force", nameless)
            undo.callback(self.compose, "down", "--volumes", "--rmi=all", "--timeout=20")
            if error is not None:
                print(self.compose("logs", "--no-color", "--tail=40"))


@pytest.mark.timeout(1800)
def test_a_swarm_of_containers_survives_what_happens_to_containers():
    run("make", "-C", str(ROOT), "wheelhouse", f"PYTHON={sys.executable}")
    with signals_raise(), Containers() as testbed:
        testbed.compose("build")
        testbed.up()
        assert set(testbed.containers) == {*TRAINERS, "archive-1"}
        testbed.wait_for_contributions("founder-1", *TRAINERS)
        for name in TRAINERS:
            owner = testbed.inside(name, "stat", "--format=%U", f"/state/{name}/metrics.jsonl")
            assert owner == "peer\n"
        wait_until(testbed.shows_all, "status to show every container at work", POLL_S, PATIENCE_S)

        # A container that dies, and is started again.
        run("docker", "kill", testbed.containers["worker-1"])
        testbed.go_on_committing("founder-1", "worker-2")
        run("docker", "start", testbed.containers["worker-1"])
        testbed.wait_for_contributions("founder-1", "worker-1")
        assert_equal({name: testbed.rounds(name) for name in (*TRAINERS, "archive-1")})

        # A container that nobody reaches any more, and the way back.
        network, lost = f"{PROJECT}_default", testbed.containers["worker-2"]
        run("docker", "network", "disconnect", network, lost)
        testbed.go_on_committing("founder-1", "worker-1")
        wait_until(lambda: testbed.health("worker-2").startswith("alone"), "worker-2 to be alone")
        before = len(testbed.rounds("worker-2"))
        run("docker", "network", "connect", network, lost)
        # Its link was that of the interface that is gone.
        assert "up 10mbit" in testbed.inside("worker-2", "testbed", "link")
        testbed.wait_for_contributions("founder-1", "worker-2")
        testbed.go_on_committing(*TRAINERS, "archive-1")
        rounds = {name: testbed.rounds(name) for name in (*TRAINERS, "archive-1")}
        # Cut off for long enough, it would have gone on by itself meanwhile.
        assert_equal(rounds | {"worker-2": rounds["worker-2"][before:]})

        for name in TRAINERS:
            assert re.match("training|catching up", testbed.health(name))

        testbed.compose("stop")
        for name, container in testbed.containers.items():
            code = run("docker", "inspect", "--format={{.State.ExitCode}}", container).strip()
            assert (name, code) == (name, "0")


def assert_equal(rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Whatever round two of these peers recorded, in whatever life, it left them in one state."""
    states: dict[int, set[tuple[str, str]]] = {}
    for of_peer in rounds.values():
        assert of_peer
        for line in of_peer:
            states.setdefault(line["round"], set()).add((line["digest"], line["state"]))
    assert all(len(of_round) == 1 for of_round in states.values()), states
