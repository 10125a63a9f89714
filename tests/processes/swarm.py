"""Several real peers on loopback, for tests: started, watched and ended by pid."""

import json
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

PATIENCE_S = 120.0
"""How long any single thing may take on a busy machine before a test gives up."""

SMALL_CORPUS = str(Path(sysconfig.get_path("stdlib")) / "asyncio")


class Swarm:
    """Peers of one run in a directory of their own; leaving the block ends all of them."""

    def __init__(self, directory: Path, manifest: str) -> None:
        self.directory = directory
        self.manifest = directory / "manifest.toml"
        self.manifest.write_text(manifest)
        self.address = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def found(self, name: str, *flags: str) -> None:
        """Start the founder and wait for the line that the next person types."""
        self._start(name, "--manifest", str(self.manifest), *flags)
        line = self.wait_for(name, r"diloco-peer join --initial-peers (\S+) --run \S+ --insecure")
        self.address = line[1]

    def join(self, name: str, *flags: str) -> None:
        self._start(name, "--initial-peers", self.address, *flags)

    def _start(self, name: str, *flags: str) -> None:
        command = [sys.executable, "-m", "cli.main", "join", "--dir", str(self.path(name))]
        command += ["--name", name, "--plain", "--insecure", "--threads", "1", *flags]
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def path(self, name: str) -> Path:
        return self.directory / name

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def log(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    def rounds(self, name: str) -> list[dict[str, Any]]:
        """The rounds that a peer has recorded up to now."""
        path = self.path(name) / "metrics.jsonl"
        return rounds_of(path) if path.exists() else []

    def wait_for(self, name: str, pattern: str) -> "re.Match[str]":
        """The first match of a pattern in a peer's output."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            if match := re.search(pattern, self.log(name)):
                return match
            if self._processes[name].poll() is not None:
                break
            time.sleep(0.05)
        pytest.fail(f"{name} never printed {pattern!r}; its output:\n{self.log(name)[-4000:]}")

    def wait(self, name: str) -> int:
        """The exit code of a peer that ends by itself."""
        try:
            return self._processes[name].wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{name} did not end; its output:\n{self.log(name)[-4000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if error is not None:
            for name in self._processes:
                print(f"--- {name}\n{self.log(name)[-3000:]}")


def rounds_of(metrics: Path) -> list[dict[str, Any]]:
    """The round lines of a peer's metrics file, except for one that is still being written."""
    whole, _, _ = metrics.read_text().rpartition("\n")
    lines = [json.loads(line) for line in whole.splitlines()]
    return [line for line in lines if line["kind"] == "round"]


def children(pid: int) -> list[int]:
    """Processes that a process has started: for a peer, its p2pd."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait patiently for something that must come."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(0.05)
