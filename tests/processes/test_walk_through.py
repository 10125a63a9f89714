"""README's walk-through, typed line by line: who is let in, and who is not."""

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.processes import COMMAND, free_ports

pytestmark = pytest.mark.processes
README = Path(__file__).parents[2] / "README.md"
HEADING = "### Who takes part, line by line"
PATIENCE_S = 180.0


@dataclass
class Step:
    """One line that somebody types, and what it answers."""

    who: str
    line: str
    answers: list[str] = field(default_factory=list)


def steps() -> Iterator[Step]:
    """As they stand in README's two blocks."""
    section = README.read_text(encoding="utf-8").split(HEADING)[1].split("\n## ")[0]
    step: Step | None = None
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for line in block.splitlines():
            if typed := re.match(r"(\w+)\$ (.*)", line):
                if step is not None:
                    yield step
                step = Step(typed[1], typed[2].partition(" #")[0].strip())
            elif line and step is not None:
                step.answers.append(line)
    assert step is not None
    yield step


def is_said(answer: str, line: str) -> bool:
    """Whether a line is what README shows, where `...` and white space are anything."""
    parts = (r"\s+".join(map(re.escape, part.split())) for part in answer.split("..."))
    return re.fullmatch(r"\s*.*\s*".join(parts) + r"\s*", line) is not None


def are_said(answers: list[str], output: str) -> bool:
    """Whether all answers stand there, in their order, maybe with others between them."""
    lines = iter(output.splitlines())
    return all(any(is_said(answer, line) for line in lines) for answer in answers)


class People:
    """Everybody's folder, and the peer that each of them has running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = free_ports()
        self._peers: dict[str, subprocess.Popen[bytes]] = {}
        # Three trainers on one machine.
        self._environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def type(self, step: Step) -> str:
        """What the line prints. A peer that runs on says more later."""
        home = self.folder / step.who
        home.mkdir(exist_ok=True)
        if step.line == "fg":
            self._peers.pop(step.who).wait(PATIENCE_S)
            return self.log(step.who)
        line = step.line.replace("7000", str(self._port)).replace("7001", str(self._port + 1))
        if step.line.startswith("mv "):
            for person in ("anna", "bert"):
                (self.folder / person).mkdir(exist_ok=True)
        line = line.replace("diloco-peer", shlex.join(COMMAND)).replace("Qm...", self._dht_id())
        if line.endswith("&"):
            with (home / "log").open("wb") as log:
                self._peers[step.who] = subprocess.Popen(
                    shlex.split(line[:-1]),
                    cwd=home,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                )
            return ""
        done = subprocess.run(
            line,
            shell=True,
            cwd=home,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.stdout + done.stderr

    def _dht_id(self) -> str:
        path = self.folder / "founder" / "book" / "authority" / "way-in.json"
        return re.search(r"p2p/(\w+)", path.read_text())[1] if path.exists() else ""

    def log(self, who: str) -> str:
        return (self.folder / who / "log").read_text()

    def runs(self, who: str) -> bool:
        return who in self._peers

    def leave(self) -> list[int]:
        """Ctrl-C for those that still run; their exit codes."""
        for peer in self._peers.values():
            peer.send_signal(2)
        return [peer.wait(60) for peer in self._peers.values()]

    def end(self) -> None:
        for peer in self._peers.values():
            if peer.poll() is None:
                peer.kill()
                peer.wait()


def test_what_the_readme_says_is_what_people_see(tmp_path: Path) -> None:
    people = People(tmp_path)
    waiting: list[Step] = []
    try:
        for step in steps():
            # Three peers begin together: what each of them answers may take until all are there.
            if step.line.startswith("diloco-peer join") and step.line.endswith("&"):
                people.type(step)
                waiting.append(step)
                if step.who == "founder":
                    await_all(people, waiting)
                continue
            await_all(people, waiting)
            output = people.type(step)
            assert are_said(step.answers, output), f"{step}\n{output}"
        assert are_said(["bert was thrown out of the run"], people.log("anna"))
        assert people.leave() == [0, 0]
    finally:
        people.end()


def await_all(people: People, waiting: list[Step]) -> None:
    def missing() -> list[Step]:
        return [s for s in waiting if not are_said(s.answers, people.log(s.who))]

    since_s = time.monotonic()
    while missing():
        assert time.monotonic() - since_s < PATIENCE_S, [(s, people.log(s.who)) for s in missing()]
        time.sleep(0.2)
    waiting.clear()
