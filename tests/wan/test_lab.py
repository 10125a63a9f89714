"""The lab itself: hosts that reach each other, counters that are right, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.wan import lab as lab_module
from benchmarks.wan import links
from benchmarks.wan.lab import Lab, lab_or_loopback
from benchmarks.wan.namespaces import NAMESPACES, ip, unavailable
from protocol.errors import UnavailableError
from tests.wan.echo import fastest_answer_s, start_echo
from tests.wan.kernel import SHAPE, holders, no_delay, no_hold

pytestmark = pytest.mark.skipif(
    unavailable() is not None, reason=f"skipped, because {unavailable()}"
)

needs_delay = pytest.mark.skipif(no_delay() is not None, reason=f"skipped, because {no_delay()}")
needs_hold = pytest.mark.skipif(no_hold() is not None, reason=f"skipped, because {no_hold()}")

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


def namespaces_of(lab: Lab) -> list[int]:
    """Inodes of its hosts, the one that only measures included."""
    hosts = [NAMESPACES / lab.namespace(host) for host in range(lab.hosts + 1)]
    return [os.stat(path).st_ino for path in hosts if path.exists()]


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


def test_every_host_has_a_rate_of_its_own():
    with Lab(hosts=3, rate_mbit=(5, 10, 20)) as lab:
        assert "links are shaped to 5, 10, 20 mbit out and in" in lab.links
        assert lab.measured.out_mbit == pytest.approx((5, 10, 20), rel=0.1)
        assert lab.measured.in_mbit == pytest.approx((5, 10, 20), rel=0.1)


@needs_delay
def test_hosts_are_as_far_apart_as_was_asked_for():
    with Lab(hosts=2, rate_mbit=20, delay_ms=60) as lab:
        assert re.search(r"30 ms on every way in \((netem|held verdicts)\)", lab.links)
        for here, there in ((0, 1), (1, 0)):
            start_echo(lab, there)
            assert fastest_answer_s(lab, here, there) >= 0.06
        lab.check_links()
        made = namespaces_of(lab)
    assert left_behind(os.getpid()) == holders(*made) == []


@needs_delay
def test_packets_are_lost_as_was_asked_for():
    with Lab(hosts=2, loss=0.2) as lab:
        assert "20 % loss on every way in" in lab.links
        assert lab.measured.lost == pytest.approx(0.2, abs=0.05)  # eight times the spread


@needs_delay
def test_a_wrong_round_trip_is_refused(monkeypatch):
    made = []
    monkeypatch.setattr(links, "LATE_MS", -100.0)
    real = links.shape

    def remember(lab: Lab, wanted: links.Wanted) -> str:
        made.extend(namespaces_of(lab))
        return real(lab, wanted)

    monkeypatch.setattr(links, "shape", remember)
    with pytest.raises(UnavailableError, match="round trip of host 0 was set to 20 ms"):
        Lab(hosts=2, delay_ms=20).__enter__()
    assert len(made) == 3 and left_behind(os.getpid()) == holders(*made) == []


@needs_hold
def test_a_delay_that_has_gone_is_noticed():
    with Lab(hosts=2, delay_ms=20) as lab:
        ip("netns", "exec", lab.namespace(1), SHAPE, "eth0", "--clear")
        with pytest.raises(UnavailableError, match=f"of {lab.namespace(1)} are gone"):
            lab.check_links()


def test_links_that_carry_their_rate_only_one_by_one_are_taken_and_it_is_said(monkeypatch):
    real = links._loaded_mbit

    def crowded(lab: Lab, probes: list, rates_mbit: tuple, hosts: range | list) -> np.ndarray:
        return real(lab, probes, rates_mbit, hosts) / (2.0 if len(hosts) > 1 else 1.0)

    monkeypatch.setattr(links, "_loaded_mbit", crowded)
    with Lab(hosts=2, rate_mbit=20) as lab:
        assert re.search(r"one loaded after the other \(all at once: \S+ to 1\d\.\d\)", lab.links)
        assert not lab.measured.at_once
        assert lab.measured.out_mbit == pytest.approx((20, 20), rel=0.1)


def test_without_a_shaper_it_says_so(monkeypatch):
    monkeypatch.setattr("benchmarks.wan.links.SHAPE", "/nowhere/shape")
    with pytest.raises(UnavailableError, match=r"failed: .*/nowhere/shape"):
        Lab(hosts=2, rate_mbit=50).__enter__()
    assert left_behind(os.getpid()) == []


def test_a_benchmark_that_can_do_without_is_told_why(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.wan.lab.unavailable", lambda: "network namespaces need root")
    with lab_or_loopback(2, 20.0) as lab:
        assert lab is None
    assert capsys.readouterr().out.startswith("on loopback, ")


def test_what_fails_in_a_lab_that_was_made_is_no_reason_for_loopback(capsys):
    def fail() -> None:
        with lab_or_loopback(1, 20.0) as lab:
            assert lab is not None and capsys.readouterr().out == f"{lab.links}\n"
            raise UnavailableError("of ours")

    with pytest.raises(UnavailableError, match="of ours"):
        fail()
    assert left_behind(os.getpid()) == [] and capsys.readouterr().out == ""


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
@pytest.mark.parametrize("delay_ms", [0.0, pytest.param(10.0, marks=needs_delay)])
def test_a_signal_leaves_nothing_behind(number, delay_ms):
    # A shell starts background jobs with SIGINT ignored, and children inherit that.
    script = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from benchmarks.wan import lab as lab_module
from benchmarks.wan import links
from benchmarks.wan.lab import Lab, lab_or_loopback
with Lab(hosts=2, delay_ms={delay_ms}) as lab:
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
        made = [os.stat(NAMESPACES / name).st_ino for name in left_behind(maker.pid)]
        assert made and len(holders(*made)) in ((0,) if delay_ms == 0.0 else (0, 3))
        maker.send_signal(number)
        assert maker.wait(30) != 0
    assert left_behind(maker.pid) == holders(*made) == []
    assert not Path(f"/proc/{inside}").exists()


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Lab(hosts=1):
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def run_main(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lab", *arguments])
    return lab_module.main()


def test_a_person_can_have_one_measured(monkeypatch, capsys):
    assert run_main(monkeypatch, "--hosts", "2", "--rate", "20") == 0
    assert "2 hosts: links are shaped to 20 mbit" in capsys.readouterr().out
    assert left_behind(os.getpid()) == []


def test_a_person_can_run_a_command_in_one(monkeypatch, capfd):
    assert run_main(monkeypatch, "--hosts", "1", "--", "sh", "-c", "ip -br address; exit 7") == 7
    said = capfd.readouterr().out
    assert re.search(r"eth0\S* +UP +10\.77\.\d+\.1/24", said) and "host 0: 10.77." in said
    assert left_behind(os.getpid()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--hosts", "0"),
        ("--hosts", "2", "--rate", "1,2,3"),
        ("--rate", "fast"),
        ("--rate", "-1"),
        ("--delay", "-1"),
        ("--loss", "100"),
    ],
)
def test_what_makes_no_lab_is_refused(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        run_main(monkeypatch, *arguments)
    assert ended.value.code == 2 and capsys.readouterr().out == ""


def test_without_root_a_person_is_told(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.wan.lab.unavailable", lambda: "network namespaces need root")
    assert run_main(monkeypatch) == 1
    assert capsys.readouterr().err == "no lab, because network namespaces need root\n"
