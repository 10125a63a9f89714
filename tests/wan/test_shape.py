"""docker/shape on a cable between two namespaces: what holds, what is shown, what is left."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from itertools import count
from pathlib import Path

import pytest

from benchmarks.wan.namespaces import NAMESPACES, inside, ip, quiet, run
from tests.wan.kernel import HOLD, SHAPE, holders, no_delay, no_hold, no_links

pytestmark = pytest.mark.skipif(no_links() is not None, reason=f"skipped, because {no_links()}")
needs_delay = pytest.mark.skipif(no_delay() is not None, reason=f"skipped, because {no_delay()}")
needs_hold = pytest.mark.skipif(no_hold() is not None, reason=f"skipped, because {no_hold()}")

NUMBERS = count()
NEAR, FAR = "10.78.0.1", "10.78.0.2"
# Prints how long bytes took from one end to the other; argv is the receiver's address, how many.
RECEIVE = """
import socket, sys, time
with socket.create_server((sys.argv[1], 7000)) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    began_s, left = time.monotonic(), int(sys.argv[2])
    while left > 0:
        left -= len(connection.recv(65536))
    print(time.monotonic() - began_s, flush=True)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000)) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""
# A shell starts background jobs with SIGINT ignored, and children inherit that.
HEEDFUL = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass
class Cable:
    """Two namespaces, and a cable between them whose ends are called eth0."""

    near: str
    far: str

    @property
    def enter(self) -> list[str]:
        return ["ip", "netns", "exec", self.near, sys.executable]

    def shape(self, *arguments: str, code: int = 0) -> str:
        """What `shape` says in the near one: its line, or its complaint."""
        argv = [*self.enter, SHAPE, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stderr
        assert (done.stdout + done.stderr).count("\n") == 1
        return (done.stderr if code else done.stdout).strip()

    def takes_s(self, sender: str, receiver: str, address: str, size_bytes: int) -> float:
        """How long a transfer takes."""
        ends = []
        for namespace, source in ((receiver, RECEIVE), (sender, SEND)):
            argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", source]
            options = {"stdout": subprocess.PIPE, "text": True}
            ends.append(subprocess.Popen([*argv, address, str(size_bytes)], **options))
            if len(ends) == 1:
                assert ends[0].stdout.readline() == "listening\n"
        taken, _ = [end.communicate(timeout=60)[0] for end in ends]
        return float(taken)

    def leftovers(self) -> list[str]:
        """Everything in the near namespace that shape could have made and not removed."""
        devices = [name for _, name in inside(self.near, socket.if_nameindex)]
        left = [name for name in devices if name not in ("lo", "eth0", "eth1")]
        queues = run("tc", "-n", self.near, "qdisc", "show").splitlines()
        left += [line for line in queues if not line.startswith("qdisc noqueue 0:")]
        return left + holders(os.stat(NAMESPACES / self.near).st_ino)

    def plug_in(self, name: str = "eth0") -> None:
        """Connect the two; a cable that was there before must be gone."""
        other_end = ["peer", "name", "eth0", "netns", self.far]
        ip("-n", self.near, "link", "add", name, "type", "veth", *other_end)
        for namespace, interface, address in ((self.near, name, NEAR), (self.far, "eth0", FAR)):
            inside(namespace, quiet)
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", interface)
            ip("-n", namespace, "link", "set", interface, "up")


@pytest.fixture
def cable() -> Iterator[Cable]:
    prefix = f"diloco-shape{os.getpid()}-{next(NUMBERS)}"
    ends = Cable(f"{prefix}-near", f"{prefix}-far")
    with ExitStack() as undo:
        for name in (ends.near, ends.far):
            ip("netns", "add", name)
            undo.callback(ip, "netns", "delete", name)
        ends.plug_in()
        undo.callback(subprocess.run, [*ends.enter, SHAPE, "eth0", "--clear"], check=False)
        yield ends


def test_out_and_in_are_set_shown_and_removed(cable):
    before = cable.leftovers()
    assert cable.shape("eth0", "--show") == "eth0 is not shaped"
    said = cable.shape("eth0", "--up", "10mbit", "--down", "2.5mbit")
    assert said == (
        "eth0: up 10mbit (tbf, burst 64 KiB, queue 200 ms),"
        " down 2.5mbit (tbf, burst 64 KiB, queue 200 ms)"
    )
    assert cable.shape("eth0", "--show") == said
    assert cable.leftovers() != before
    assert cable.shape("eth0", "--clear") == "eth0 is not shaped"
    assert cable.leftovers() == before == []


@needs_delay
def test_delay_and_loss_are_set_shown_and_removed(cable):
    said = cable.shape("eth0", "--down", "20mbit", "--delay", "30ms", "--loss", "1.5%")
    assert "down 20mbit" in said and "delay 30ms, loss 1.5% (" in said
    assert ("(netem)" in said) is not ("(held verdicts, hold.py, pid " in said)
    assert cable.shape("eth0", "--show") == said
    cable.shape("eth0", "--clear")
    assert cable.leftovers() == []


def test_netem_is_given_room_and_shown():
    loader = SourceFileLoader("shape", SHAPE)
    shape = module_from_spec(spec_from_loader("shape", loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(SHAPE).parent))
        patch.setitem(sys.modules, "shape", shape)  # where its dataclass looks itself up
        loader.exec_module(shape)
    # 50 mbit hold 917 frames in the 20 ms of the way and the 200 ms of the queue, 200 mbit 3667.
    delayed = shape.Link(down_mbit=50.0, delay_s=0.02)
    assert shape.netem(delayed) == ["netem", "limit", "1000", "delay", "20ms"]
    lossy = shape.Link(down_mbit=200.0, delay_s=0.02, loss=0.005)
    assert shape.netem(lossy)[1:3] + shape.netem(lossy)[5:] == ["limit", "3667", "loss", "0.5%"]
    # What tc of iproute2 6.1 prints for it.
    options = {"limit": 1000, "delay": {"delay": 0.02, "jitter": 0}}
    options["loss-random"] = {"loss": 0.00499999989, "correlation": 0}
    shown = shape.netem_of({"kind": "netem", "handle": "d110:", "root": True, "options": options})
    assert shown == "delay 20ms, loss 0.5% (netem)"


@pytest.mark.parametrize("way", ["--up", "--down"])
def test_a_transfer_takes_as_long_as_the_rate_says(cable, way):
    size_bytes, rate_bytes_per_s, bucket_bytes = 1_500_000, 1e6, 65_536
    cable.shape("eth0", way, "8mbit")
    there, back = (cable.near, cable.far, FAR), (cable.far, cable.near, NEAR)
    shaped, free = (there, back) if way == "--up" else (back, there)
    least_s = (size_bytes - bucket_bytes) / rate_bytes_per_s
    assert cable.takes_s(*shaped, size_bytes) > least_s
    assert cable.takes_s(*free, size_bytes) < least_s
    cable.shape("eth0", "--clear")
    assert cable.takes_s(*shaped, size_bytes) < least_s


@needs_delay
def test_every_call_sets_the_whole(cable):
    cable.shape("eth0", "--up", "10mbit", "--delay", "30ms")
    said = cable.shape("eth0", "--down", "5mbit", "--loss", "2%")
    assert "up " not in said and "30ms" not in said
    assert "down 5mbit" in said and "delay 0ms, loss 2%" in said
    said = cable.shape("eth0", "--up", "3mbit")
    assert said == "eth0: up 3mbit (tbf, burst 64 KiB, queue 200 ms)"
    assert len(cable.leftovers()) == 1


@needs_delay
@pytest.mark.parametrize("name", ["eth0", "eth1"])
def test_an_interface_that_went_and_came_back_is_shaped_again(cable, name):
    settings = ("--up", "10mbit", "--down", "20mbit", "--delay", "30ms")
    before = cable.shape("eth0", *settings)
    ip("-n", cable.near, "link", "delete", "eth0")
    cable.plug_in(name)
    said = cable.shape(name, *settings)
    assert said.partition(" pid ")[0] == before.partition(" pid ")[0].replace("eth0", name)
    devices = [device for _, device in inside(cable.near, socket.if_nameindex)]
    assert len(devices) == 3, "lo, the interface, and one ifb"
    cable.shape(name, "--clear")
    assert cable.leftovers() == []


def test_what_somebody_else_has_set_is_left_alone(cable):
    run("tc", "-n", cable.near, "qdisc", "add", "dev", "eth0", "root", "pfifo", "limit", "77")
    (theirs,) = cable.leftovers()
    said = cable.shape("eth0", "--up", "10mbit", code=1)
    assert "somebody else (pfifo); 'tc qdisc delete dev eth0 root' removes it" in said
    assert cable.shape("eth0", "--clear") == cable.shape("eth0", "--show") == "eth0 is not shaped"
    assert cable.leftovers() == [theirs]


@needs_hold
def test_what_fails_half_way_leaves_nothing(cable, tmp_path):
    disguised = tmp_path / "other.py"  # shape ends only what it can have started
    disguised.symlink_to(HOLD)
    argv = [*cable.enter, str(disguised), "eth0", "--delay", "5ms"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"holding eth0\n"
        settings = ("--up", "1mbit", "--down", "1mbit", "--delay", "5ms")
        said = cable.shape("eth0", *settings, code=1)
        assert "another process holds the packets of eth0" in said
        assert cable.leftovers() == []
        other.terminate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(cable, tmp_path, number):
    # A tc that never comes back from its last step, and says on a pipe that it is there.
    os.mkfifo(tmp_path / "reached")
    slow = f"""#!/bin/sh
if [ "$1" = filter ]; then echo x > {tmp_path}/reached; exec sleep 600; fi
exec {shutil.which("tc")} "$@"
"""
    (tmp_path / "tc").write_text(slow)
    (tmp_path / "tc").chmod(0o755)
    argv = [*cable.enter, "-c", HEEDFUL, SHAPE, "eth0", "--up", "1mbit", "--down", "1mbit"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    with subprocess.Popen(argv, env=os.environ | {"PATH": path}) as shaping:
        assert (tmp_path / "reached").read_text() == "x\n"
        assert len(cable.leftovers()) > 2
        shaping.send_signal(number)
        assert shaping.wait(60) == 128 + number
    assert cable.leftovers() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "which interface?"),
        (("eth0",), "give settings"),
        (("eth0", "--show", "--clear"), "give settings"),
        (("eth0", "--up", "10mbit", "--clear"), "give settings"),
        (("eth0", "--up", "10"), "'10' is no rate"),
        (("eth0", "--up", "0mbit"), "'0mbit' is no rate"),
        (("eth0", "--down", "fast"), "'fast' is no rate"),
        (("eth0", "--delay", "20"), "'20' is no duration"),
        (("eth0", "--loss", "0.5"), "'0.5' is no loss"),
        (("eth0", "--sideways", "1mbit"), "unrecognized arguments"),
        (("eth7", "--show"), "no interface 'eth7' here; there are lo, eth0"),
        (("--container", "no-such-container", "--show"), "container"),
    ],
)
def test_bad_input_is_refused_in_one_line(cable, arguments, said):
    assert said in cable.shape(*arguments, code=1 if _no_docker(arguments) else 2)
    assert cable.leftovers() == []


def _no_docker(arguments: tuple[str, ...]) -> bool:
    return "--container" in arguments and shutil.which("docker") is None
