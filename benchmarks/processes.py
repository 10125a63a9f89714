"""Real processes, started, watched and ended by pid: on this machine, or on the hosts of a lab.

    with Swarm(folder, manifest) as swarm:
        swarm.found("a", "--up", "20mbit")
        swarm.join("b")
        swarm.signal("b", signal.SIGKILL)
        print(swarm.rounds("a"))

Benchmarks and tests of real peers share this; nothing here knows about training or rounds.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.wan.lab import Lab
from peer.metrics import METRICS_FILE
from protocol.errors import UnavailableError

SMALL_CORPUS = str(Path(sysconfig.get_path("stdlib")) / "asyncio")
"""Some text that is on every machine and read in no time."""
COMMAND = [sys.executable, "-c", "from cli.main import main; main()"]
PATIENCE_S = 120.0
"""How long any single thing may take on a busy machine before it is given up."""
STOP_S = 10.0
POLL_S = 0.05
PORT = 7000
"""Where a peer on a host of a lab listens; its DHT takes the next port."""
PORTS = range(20_000, 32_000, 2)
TAIL_LINES = 15


class Processes:
    """Named processes, with a log each in a folder; leaving the block ends all of them.

    In a lab each new name gets the next host, and keeps it when it is started again. A log keeps
    what every life of a process printed.
    """

    patience_s = PATIENCE_S

    def __init__(self, folder: Path, lab: Lab | None = None) -> None:
        self.folder = folder
        self.lab = lab
        self._hosts: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[Sequence[str], dict[str, str]]] = {}
        self._log_begins: dict[str, int] = {}
        """Where the newest life begins in each log."""

    def start(self, name: str, argv: Sequence[str], **environment: str) -> None:
        """Start a process, with the environment of this one and what is added."""
        host = self.host(name)
        self._commands[name] = (argv, environment)
        with self._log(name).open("ab") as log:
            self._log_begins[name] = log.tell()
            options: dict[str, Any] = {
                "stdin": subprocess.DEVNULL,
                "stdout": log,
                "stderr": subprocess.STDOUT,
                "env": os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            }
            if self.lab is None:
                self._processes[name] = subprocess.Popen(argv, **options)
            else:
                self._processes[name] = self.lab.popen(host, argv, **options)

    def restart(self, name: str) -> None:
        """The same command once more, when the process before has ended."""
        argv, environment = self._commands[name]
        self.start(name, argv, **environment)

    def host(self, name: str) -> int:
        """The number of its host in the lab."""
        return self._hosts.setdefault(name, len(self._hosts))

    def address(self, name: str) -> str:
        return "127.0.0.1" if self.lab is None else self.lab.address(self.host(name))

    @property
    def running(self) -> list[subprocess.Popen[bytes]]:
        """The newest process of each name, ended ones included."""
        return list(self._processes.values())

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def is_running(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def signal(self, name: str, number: signal.Signals) -> None:
        self._processes[name].send_signal(number)

    def kill(self, *names: str) -> None:
        """SIGKILL, and wait until they and what they have started are gone."""
        family = [child for name in names for child in children(self.pid(name))]
        for name in names:
            self.signal(name, signal.SIGKILL)
        for name in names:
            self.wait(name)
        self.wait_until(
            lambda: not any(map(is_alive, family)), "the children of a killed peer to end"
        )

    def log(self, name: str) -> str:
        """All that it has printed since it was started last."""
        printed = self._log(name).read_bytes()[self._log_begins[name] :]
        return printed.decode("utf-8", errors="replace")

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def tails(self) -> str:
        """The last lines of every process, for a reader who has to find out what went wrong."""
        return "\n".join(
            f"{name}: {line}"
            for name in self._processes
            for line in self.log(name).splitlines()[-TAIL_LINES:]
        )

    def wait(self, name: str) -> int:
        """The exit code of a process that ends by itself; UnavailableError if it does not."""
        try:
            return self._processes[name].wait(self.patience_s)
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{name} did not end within {self.patience_s:.0f} s") from None

    def wait_for(self, name: str, pattern: str) -> "re.Match[str]":
        """The first match of a pattern in what a process prints.

        Raises:
            UnavailableError: it ended, or never printed it.
        """
        self.wait_until(
            lambda: re.search(pattern, self.log(name)) is not None,
            f"{name} to print {pattern!r}",
            name,
        )
        found = re.search(pattern, self.log(name))
        assert found
        return found

    def wait_until(
        self,
        holds: Callable[[], bool],
        what: str,
        *names: str,
        poll_s: float = POLL_S,
        patience_s: float | None = None,
    ) -> None:
        """Wait for something that must come while the processes of these names live.

        Raises:
            UnavailableError: one ended, or it never came.
        """

        def holds_now() -> bool:
            if holds():
                return True
            for name in names:
                if (code := self._processes[name].poll()) is not None:
                    raise UnavailableError(f"{name} ended with {code}")
            return False

        try:
            wait_until(
                holds_now, what, poll_s, self.patience_s if patience_s is None else patience_s
            )
        except TimeoutError as error:
            raise UnavailableError(str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process, also a frozen one, and one that does not want to."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        deadline_s = time.monotonic() + STOP_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Swarm(Processes):
    """Peers of one run: `diloco-peer join`, as a person types it."""

    def __init__(self, folder: Path, manifest: str, lab: Lab | None = None) -> None:
        super().__init__(folder, lab)
        self._manifest = folder / "manifest.toml"
        self._manifest.write_text(manifest, encoding="utf-8")
        self.entrance = ""
        """What others give as --initial-peers."""
        self._records: dict[str, Record] = {}

    def found(self, name: str, *flags: str) -> None:
        """Start the founder and wait for the line that the next person types."""
        self._join(name, "--manifest", str(self._manifest), *flags)
        line = self.wait_for(name, r"diloco-peer join --initial-peers (\S+) --run \S+")
        self.entrance = line[1]

    def join(self, name: str, *flags: str) -> None:
        self._join(name, "--initial-peers", self.entrance, *flags)

    def _join(self, name: str, *flags: str) -> None:
        argv = [*COMMAND, "join", "--dir", str(self.path(name)), "--name", name, "--threads", "1"]
        # Always the same port: a peer that comes back is looked for where it was.
        port = PORT if self.lab is not None else free_ports()
        argv += ["--listen", f"{self.address(name)}:{port}"]
        self.start(name, [*argv, *flags, "--plain"])

    def path(self, name: str) -> Path:
        """The peer's directory."""
        return self.folder / name

    def lines(self, name: str, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind that a peer has recorded up to now (docs/operating.md)."""
        record = self._records.setdefault(name, Record(self.path(name) / METRICS_FILE))
        return record.lines(kind)

    def rounds(self, name: str) -> list[dict[str, Any]]:
        return self.lines(name, "round")


class Record:
    """A metrics file that is still being written; each line is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._lines: dict[str, list[dict[str, Any]]] = {}

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """Whole lines of a kind up to now; a file that is not there yet has none."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read_bytes += len(whole + newline)
            for line in map(json.loads, whole.splitlines()):
                self._lines.setdefault(line["kind"], []).append(line)
        return list(self._lines.get(kind, ()))


def wait_until(
    holds: Callable[[], bool],
    what: str,
    poll_s: float = POLL_S,
    patience_s: float = PATIENCE_S,
) -> None:
    """Wait patiently for something that must come; raises TimeoutError if it never does."""
    deadline_s = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"waited {patience_s:.0f} s for {what}")
        time.sleep(poll_s)


def is_alive(pid: int) -> bool:
    """False also for a zombie, which holds neither ports nor files."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_ports() -> int:
    """A port of loopback that nobody uses, and neither the one after it.

    Not one of those that the system gives to outgoing connections: while a peer is down, any
    process could get its port.
    """
    while True:
        port = random.choice(PORTS)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def children(pid: int) -> list[int]:
    """Processes that a process has started: for a peer, its p2pd."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
