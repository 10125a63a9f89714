"""Network namespaces: what is asked of the kernel and of iproute2, in one place."""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from protocol.errors import UnavailableError

COMMAND_S = 60.0
"""How long one command may take on a busy machine."""
NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_Result = TypeVar("_Result")


def unavailable() -> str | None:
    """Why no namespaces can be made here; None when nothing speaks against it."""
    if not sys.platform.startswith("linux"):
        return "network namespaces exist on Linux only"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the command 'ip' (iproute2) is not installed"
    return None


def run(*command: str) -> str:
    """What a command prints; raises UnavailableError with the last line of its complaint."""
    said = ""
    try:
        # A session of its own: Ctrl-C is for us, who then end it or let it clear away.
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
            start_new_session=True,
        )
        said = done.stderr.strip().rpartition("\n")[2]
        if done.returncode == 0:
            return done.stdout
    except subprocess.TimeoutExpired:
        said = f"not done after {COMMAND_S:.0f} s"
    raise UnavailableError(f"'{' '.join(command[:6])}' failed: {said}")


def ip(*arguments: str) -> None:
    run("ip", *arguments)


def inside(namespace: str, action: Callable[[], _Result]) -> _Result:
    """Do something in another namespace: in a thread that goes there and ends there.

    /proc/sys/net is then that of the namespace, and a socket that was made there stays there.
    """
    results: list[_Result] = []
    errors: list[OSError] = []

    def there() -> None:
        try:
            with (NAMESPACES / namespace).open() as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
            results.append(action())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    if errors:
        raise UnavailableError(f"namespace {namespace} cannot be used: {errors[0]}")
    return results[0]


def quiet() -> None:
    """In this namespace: no IPv6, whose solicitations would be counted as a host's traffic, and
    no firewall for bridged frames (Docker's FORWARD policy drops them where it applies)."""
    for switch, value in (
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-arptables", "0"),
    ):
        path = Path("/proc/sys/net", switch)
        if path.exists():
            path.write_text(value)
