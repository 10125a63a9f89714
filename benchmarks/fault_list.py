"""The faults of the fault benchmark, one function each.

A fault breaks the swarm and repairs what a person would: it starts what was killed, with the same
command. It yields what was done once everybody is back, and tidies up after the measurement.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.faults_swarm import FOUNDER, NEWCOMER_CAPS, PEERS, Frozen, Peers, Phase, Role
from peer.checkpoint_record import Record
from peer.directory import STATE_FOLDER
from protocol.errors import UnavailableError

FREEZE_S = 20.0
AIMS = 3
"""A moment that was missed is aimed at so often; the decide phase lasts a few milliseconds."""
NEWCOMER = "f"
ON_SMALL_DISK = "e"
DISK_BYTES = 64 * 2**20
FILLING = "filling"


@dataclass(frozen=True, slots=True)
class Broken:
    """What was done, and when."""

    since_s: float
    """Unix time."""
    victims: tuple[str, ...]
    """Peers that the others may have taken for dead."""
    remark: str = ""
    frozen: Frozen | None = None


class SkippedError(Exception):
    """This machine cannot do it; the message says why."""


Fault: TypeAlias = Callable[[Peers], AbstractContextManager[Broken]]


def quiet(for_s: float) -> Fault:
    """Nothing happens to anybody."""

    @contextmanager
    def fault(peers: Peers) -> Iterator[Broken]:
        since_s = time.time()
        time.sleep(for_s)
        yield Broken(since_s, ())

    return fault


# --- killing --------------------------------------------------------------------------------------


def kill(role: Role, phase: Phase) -> Fault:
    """SIGKILL of a peer of that role in that phase of a round."""

    @contextmanager
    def fault(peers: Peers) -> Iterator[Broken]:
        victims = []
        for _ in range(AIMS):
            victim = peers.aim(role, phase)
            since_s = time.time()
            peers.kill(victim)
            victims.append(victim)
            was_hit = peers.was_hit(victim, phase)
            late_s = _go_on_without(peers, victim, since_s)
            peers.come_back(victim)
            if was_hit:
                break
        aim = "" if was_hit else f", the {phase} phase was over"
        yield Broken(since_s, tuple(victims), f"{victim}{aim}; next commit after {late_s:.1f} s")

    return fault


def _go_on_without(peers: Peers, victim: str, since_s: float) -> float:
    """The others commit without it; returns how long that took."""
    peers.live.remove(victim)
    survivors = tuple(peers.live)
    peers.wait_for_commits(*survivors, since_s=since_s, count=1)
    return peers.next_commit_s(survivors, since_s)


@contextmanager
def bootstrap_dies(peers: Peers) -> Iterator[Broken]:
    """The peer whose address everybody else was given."""
    since_s = time.time()
    peers.kill(FOUNDER)
    late_s = _go_on_without(peers, FOUNDER, since_s)
    peers.wait_for_commits(*peers.live, since_s=since_s)
    peers.come_back(FOUNDER)
    yield Broken(since_s, (FOUNDER,), f"next commit after {late_s:.1f} s")


@contextmanager
def all_restart(peers: Peers) -> Iterator[Broken]:
    """Everybody is killed in the middle of an exchange, then started again."""
    peers.aim("owner", "exchange")
    since_s = time.time()
    peers.kill(*PEERS)
    for name in PEERS:
        peers.restart(name)
    peers.wait_for_contribution(*PEERS, since_s=since_s)
    late_s = peers.next_commit_s(PEERS, since_s)
    yield Broken(since_s, PEERS, f"next commit after {late_s:.1f} s, start-up included")


# --- freezing, joining, leaving -------------------------------------------------------------------


@contextmanager
def freeze(peers: Peers) -> Iterator[Broken]:
    """SIGSTOP of an owner in the middle of an exchange, and SIGCONT."""
    victim = peers.aim("owner", "exchange")
    since_s = time.time()
    peers.signal(victim, signal.SIGSTOP)
    stopped_s = time.monotonic()
    time.sleep(FREEZE_S)
    late_s = peers.next_commit_s([name for name in PEERS if name != victim], since_s)
    stood_s = time.monotonic() - stopped_s
    peers.signal(victim, signal.SIGCONT)
    peers.wait_for_contribution(victim, since_s=time.time())
    remark = f"{victim}; next commit after {late_s:.1f} s"
    yield Broken(since_s, (victim,), remark, Frozen(victim, stood_s))


@contextmanager
def join(peers: Peers) -> Iterator[Broken]:
    """A new peer comes while a round is in flight, and leaves when it has contributed."""
    since_s = time.time()
    peers.join(NEWCOMER, *NEWCOMER_CAPS)
    peers.live.append(NEWCOMER)
    peers.wait_for_contribution(NEWCOMER, since_s=since_s)
    yield Broken(since_s, (), f"contributed after {time.time() - since_s:.0f} s")
    peers.live.remove(NEWCOMER)
    leave(peers, NEWCOMER)


def leave(peers: Peers, *names: str) -> None:
    """Ctrl-C for all of them at once; UnavailableError when one does not end well."""
    for name in names:
        peers.signal(name, signal.SIGINT)
    codes = [peers.wait(name) for name in names]
    if any(codes):
        raise UnavailableError(f"{', '.join(names)} ended with {codes} after Ctrl-C")


@contextmanager
def two_leave(peers: Peers) -> Iterator[Broken]:
    """Two of five at once; the others go on to the end of the run."""
    since_s = time.time()
    leave(peers, *PEERS[3:])
    peers.live[:] = PEERS[:3]
    yield Broken(since_s, PEERS[3:])


# --- disks ----------------------------------------------------------------------------------------


@contextmanager
def full_disk(peers: Peers) -> Iterator[Broken]:
    """A peer's disk fills up, and is emptied again after five rounds."""
    directory = peers.path(ON_SMALL_DISK)
    if not directory.is_mount():
        raise SkippedError(f"{directory} is no disk of its own: that needs root")
    since_s = time.time()
    filling = directory / FILLING
    try:
        with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
        peers.wait_for(ON_SMALL_DISK, "make room")
        peers.wait_for_commits(*(set(PEERS) - {ON_SMALL_DISK}), since_s=since_s)
    finally:
        filling.unlink(missing_ok=True)  # whatever went wrong, the next fault finds room again
    emptied_s = time.time()
    peers.wait_for_contribution(ON_SMALL_DISK, since_s=emptied_s)
    peers.wait_for_vote(ON_SMALL_DISK, since_s=emptied_s)
    yield Broken(since_s, (), f"votes again {time.time() - emptied_s:.0f} s after there is room")


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A disk of its own for the one who is to fill it, where that is allowed."""
    directory.mkdir()
    tool = shutil.which("mount")
    is_mounted = False
    if os.geteuid() == 0 and tool is not None:
        options = f"size={DISK_BYTES}"
        command = [tool, "-t", "tmpfs", "-o", options, "diloco-faults", str(directory)]
        is_mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(directory)], check=False)


def torn(tear: Callable[[Path, Record], Path]) -> Fault:
    """A peer is killed, its newest checkpoint damaged, and the peer started again."""

    @contextmanager
    def fault(peers: Peers) -> Iterator[Broken]:
        victim = PEERS[1]
        state = peers.path(victim) / STATE_FOLDER
        peers.wait_until(lambda: len(_checkpoints(state)) > 1, "two checkpoints", victim)
        since_s = time.time()
        peers.kill(victim)
        newest = _checkpoints(state)[-1]
        damaged = tear(state, Record.from_bytes(newest.read_bytes()))
        _go_on_without(peers, victim, since_s)
        peers.come_back(victim, says=r"is not used")
        yield Broken(since_s, (victim,), f"{victim}, {damaged.relative_to(state)}")

    return fault


def _checkpoints(state: Path) -> list[Path]:
    """Oldest first."""
    return sorted((state / "checkpoints").glob("[0-9]*.json"))


def flip_a_bit(state: Path, checkpoint: Record) -> Path:
    """In the middle of the fragment that the newest checkpoint alone has."""
    newest = max(checkpoint.fragments, key=lambda fragment: fragment.version)
    path = state / "fragments" / f"{newest.root}.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def truncate(state: Path, checkpoint: Record) -> Path:
    """The checkpoint's own file ends in its middle."""
    path = _checkpoints(state)[-1]
    os.truncate(path, path.stat().st_size // 2)
    return path


ROLES: tuple[tuple[Role, str], ...] = (
    ("contributor", "a contributor"),
    ("owner", "an owner"),
    ("coordinator", "the coordinator"),
)
PHASES: tuple[Phase, ...] = ("ready", "exchange", "decide")
QUICK: Mapping[str, Fault] = {
    "SIGKILL of an owner, exchange": kill("owner", "exchange"),
    "SIGSTOP for 20 s, then SIGCONT": freeze,
    "all 5 restart": all_restart,
    "a bit of a checkpoint is flipped": torn(flip_a_bit),
    "a disk fills up": full_disk,
}
FULL: Mapping[str, Fault] = {
    **{
        f"SIGKILL of {name}, {phase}": kill(role, phase) for role, name in ROLES for phase in PHASES
    },
    "the bootstrap peer dies": bootstrap_dies,
    "one joins in flight": join,
    **QUICK,
    "a checkpoint is cut off": torn(truncate),
}
LAST = "2 of 5 leave at once, the run ends"
