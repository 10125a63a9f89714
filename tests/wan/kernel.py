"""What tests of shaped links need of this machine, and why they are skipped without it."""

import os
import shutil
from pathlib import Path

from benchmarks.wan.namespaces import unavailable

ROOT = Path(__file__).parents[2]
SHAPE, HOLD = str(ROOT / "docker" / "shape"), str(ROOT / "docker" / "hold.py")
QUEUES = "/proc/net/netfilter/nfnetlink_queue"


def no_links() -> str | None:
    """Why no link can be shaped here."""
    if reason := unavailable():
        return reason
    return None if shutil.which("tc") else "the command 'tc' (iproute2) is not installed"


def no_hold() -> str | None:
    """Why hold.py cannot work here."""
    if reason := no_links():
        return reason
    return None if Path(QUEUES).exists() else "this kernel has no NFQUEUE"


def no_delay() -> str | None:
    """Why nothing can be delayed here, neither by netem nor by hold.py."""
    modules = Path("/lib/modules", os.uname().release)
    if no_hold() is None or (no_links() is None and any(modules.rglob("sch_netem.ko*"))):
        return None
    return f"{no_hold()}, and no netem either"


def holders(*namespaces: int) -> list[str]:
    """Command lines of hold.py in network namespaces, given by inode."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if HOLD in argv and os.stat(process / "ns/net").st_ino in namespaces:
                found.append(" ".join(argv))
        except OSError:  # it has ended meanwhile
            continue
    return found
