"""The lab itself: hosts that reach each other, counters that are right, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.wan.lab import Lab
from benchmarks.wan.namespaces import NAMESPACES, unavailable
from protocol.errors import UnavailableError

pytestmark = pytest.mark.skipif(
    unavailable() is not None, reason=f"skipped, because {unavailable()}"
)

SENT_BYTES = 4_000_000

RECEIVE = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    while connection.recv(65536):
        pass
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000)) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def left_behind(pid: int) -> list[str]:
    """What labs of a process have not removed."""
    names = os.listdir(NAMESPACES) if NAMESPACES.exists() else []
    return [name for name in names if name.startswith(f"diloco-dl{pid}-")]


def test_what_one_host_sends_another_receives_and_both_are_counted():
    with Lab(hosts=2) as lab:
        before = [lab.counters(host) for host in range(2)]
        receiver = lab.popen(
            1, [sys.executable, "-c", RECEIVE, lab.address(1)], stdout=subprocess.PIPE
        )
        assert receiver.stdout.readline() == b"listening\n"
        sender = lab.popen(0, [sys.executable, "-c", SEND, lab.address(1), str(SENT_BYTES)])
        assert sender.wait(30) == 0 and receiver.wait(30) == 0
        receiver.stdout.close()
        after = [lab.counters(host) for host in range(2)]
        (sent, acknowledged), (answered, received) = (
            (now[0] - then[0], now[1] - then[1]) for then, now in zip(before, after, strict=True)
        )
        assert left_behind(os.getpid())
    # A frame of 1514 bytes carries 1448: headers are counted as they would be on a real card.
    assert sent == pytest.approx(SENT_BYTES * 1514 / 1448, rel=0.02)
    assert received == pytest.approx(sent, rel=0.01)
    assert acknowledged == pytest.approx(answered, rel=0.01)
    assert acknowledged < 0.05 * sent
    assert left_behind(os.getpid()) == []


def test_a_shaped_link_carries_its_rate_in_both_directions():
    with Lab(hosts=2, rate_mbit=20) as lab:
        assert "shaped to 20 mbit out and in by tbf" in lab.links
        receiver = lab.popen(
            1, [sys.executable, "-c", RECEIVE, lab.address(1)], stdout=subprocess.PIPE
        )
        receiver.stdout.readline()
        (_, before), began_s = lab.counters(1), time.monotonic()
        sender = lab.popen(0, [sys.executable, "-c", SEND, lab.address(1), str(SENT_BYTES)])
        assert sender.wait(30) == 0 and receiver.wait(30) == 0
        (_, after), ended_s = lab.counters(1), time.monotonic()
        receiver.stdout.close()
    # 1.6 s for 4 MB, and what the processes take to start and end.
    assert 12.0 < (after - before) * 8e-6 / (ended_s - began_s) < 21.0
    assert left_behind(os.getpid()) == []


@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_link_that_does_not_carry_its_rate_is_refused(monkeypatch, direction):
    real = Lab.totals

    def slow(lab: Lab) -> list[tuple[int, int]]:
        (sent, received), *others = real(lab)
        less = (sent * 4 // 5, received) if direction == "out" else (sent, received * 4 // 5)
        return [less, *others]

    monkeypatch.setattr(Lab, "totals", slow)
    with pytest.raises(UnavailableError, match=rf"host 0 .* 50 mbit and carries .* {direction}$"):
        Lab(hosts=2, rate_mbit=50).__enter__()
    assert left_behind(os.getpid()) == []


def test_without_a_shaper_it_says_so(monkeypatch):
    monkeypatch.setattr("benchmarks.wan.links.SHAPE", "/nowhere/shape")
    with pytest.raises(UnavailableError, match=r"failed: .*/nowhere/shape"):
        Lab(hosts=2, rate_mbit=50).__enter__()
    assert left_behind(os.getpid()) == []


def test_two_labs_at_once_do_not_meet():
    with Lab(hosts=1) as one, Lab(hosts=1) as other:
        assert one.address(0) != other.address(0)
        assert one.namespace(0) != other.namespace(0)
    assert left_behind(os.getpid()) == []


def test_an_error_in_the_block_leaves_nothing_behind():
    processes = []

    def fail() -> None:
        with Lab(hosts=3) as lab:
            processes.append(lab.popen(2, SLEEP))
            raise RuntimeError("of ours")

    with pytest.raises(RuntimeError, match="of ours"):
        fail()
    (process,) = processes
    assert process.poll() == -signal.SIGTERM
    assert left_behind(os.getpid()) == []


def test_a_process_that_ignores_the_signal_is_killed(monkeypatch):
    monkeypatch.setattr("benchmarks.wan.lab.STOP_S", 0.2)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    with Lab(hosts=1) as lab:
        argv = [sys.executable, "-c", f"{stubborn}; time.sleep(600)"]
        process = lab.popen(0, argv, stdout=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
    assert process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(number):
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    script = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from benchmarks.wan.lab import Lab
with Lab(hosts=2) as lab:
    print(lab.popen(0, {SLEEP!r}).pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as maker:
        inside = int(maker.stdout.readline())
        assert left_behind(maker.pid)
        maker.send_signal(number)
        assert maker.wait(30) != 0
    assert left_behind(maker.pid) == []
    assert not Path(f"/proc/{inside}").exists()


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Lab(hosts=1):
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
