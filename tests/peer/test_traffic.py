"""The kernel's counters against bytes that were really sent, by another process."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from peer import traffic
from peer.traffic import TrafficMeter, TrafficSample, Windows
from protocol.errors import UnavailableError

UP_BYTES = 3_000_000
DOWN_BYTES = 5_000_000

# Told by lines on stdin: "open" connects, "move" transfers, "close" closes the connection. Answers
# with the bytes that it had to send again (tcpi_bytes_retrans): even loopback has some, when the
# other end is slow to get a turn.
CHILD = """
import socket, struct, sys
host, port, up, down = sys.argv[1], *map(int, sys.argv[2:])
for line in sys.stdin:
    again = 0
    match line.strip():
        case "open":
            connection = socket.create_connection((host, port))
            before = 0
        case "move":
            connection.sendall(bytes(up))
            left = down
            while left:
                left -= len(connection.recv(min(left, 65536)))
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 216)
            (total,) = struct.unpack_from("=Q", info, 208)
            again, before = total - before, total
        case "close":
            connection.close()
    print(again, flush=True)
"""


class Child:
    """A process that exchanges bytes with this one on request."""

    def __init__(self, family: socket.AddressFamily) -> None:
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self._listener = socket.create_server((host, 0), family=family)
        threading.Thread(target=self._serve, daemon=True).start()
        port = self._listener.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, host, str(port), str(UP_BYTES), str(DOWN_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.retransmitted_bytes = 0

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                while self._receive(connection, UP_BYTES):
                    connection.sendall(bytes(DOWN_BYTES))

    @staticmethod
    def _receive(connection: socket.socket, left: int) -> bool:
        while left:
            data = connection.recv(min(left, 65536))
            if not data:
                return False
            left -= len(data)
        return True

    def do(self, *orders: str) -> None:
        assert self.process.stdin and self.process.stdout
        for order in orders:
            self.process.stdin.write(order + "\n")
            self.process.stdin.flush()
            self.retransmitted_bytes += int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def start_child() -> Iterator[Callable[[socket.AddressFamily], Child]]:
    children: list[Child] = []

    def start(family: socket.AddressFamily) -> Child:
        children.append(Child(family))
        return children[-1]

    yield start
    for child in children:
        child.stop()


def assert_moved(sample: TrafficSample, times: int, *children: Child) -> None:
    again_bytes = sum(child.retransmitted_bytes for child in children)
    assert sample.sent_bytes - again_bytes == pytest.approx(times * UP_BYTES, rel=0.01)
    assert sample.received_bytes == pytest.approx(times * DOWN_BYTES, rel=0.01)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_bytes_of_a_child_process_are_counted(start_child, family):
    child = start_child(family)
    with TrafficMeter([child.process.pid]) as meter:
        child.do("open", "move")
        sample = meter.sample()
    assert_moved(sample, 1, child)
    assert sample.by_pid == {child.process.pid: (sample.sent_bytes, sample.received_bytes)}


def test_totals_survive_the_sockets_and_the_process(start_child):
    child = start_child(socket.AF_INET)
    with TrafficMeter([child.process.pid]) as meter:
        last = meter.sample()
        for times in (1, 2, 3):
            child.do("open", "move")
            assert_moved(meter.sample(), times, child)
            child.do("close")
            sample = meter.sample()
            assert sample.sent_bytes >= last.sent_bytes
            assert sample.received_bytes >= last.received_bytes
            last = sample
        child.process.kill()
        child.process.wait()
        assert_moved(meter.sample(), 3, child)


def test_a_child_that_was_not_waited_for_is_passed_over(start_child):
    child = start_child(socket.AF_INET)
    with TrafficMeter([child.process.pid]) as meter:
        child.do("open", "move")
        meter.sample()
        child.process.kill()
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
        start_child(socket.AF_INET).do("open")  # an unknown socket makes the meter look into /proc
        assert_moved(meter.sample(), 1, child)


def test_what_came_before_the_meter_does_not_count(start_child):
    child = start_child(socket.AF_INET)
    child.do("open", "move")
    with TrafficMeter([child.process.pid]) as meter:
        assert meter.sample().sent_bytes == 0
        child.retransmitted_bytes = 0
        child.do("move")
        assert_moved(meter.sample(), 1, child)


def test_both_processes_and_a_late_one_are_told_apart(start_child):
    first, late = start_child(socket.AF_INET), start_child(socket.AF_INET6)
    pids = [first.process.pid]
    with TrafficMeter(lambda: pids) as meter:
        first.do("open", "move")
        late.do("open", "move")
        for _ in range(3):  # by now the late one's socket counts as a stranger's
            assert_moved(meter.sample(), 1, first)
        pids.append(late.process.pid)
        sample = meter.sample()
    assert_moved(sample, 2, first, late)
    assert set(sample.by_pid) == set(pids)


def test_other_processes_and_listening_sockets_do_not_count(start_child):
    child = start_child(socket.AF_INET)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        TrafficMeter([os.getpid()]) as meter,
        socket.create_connection(listener.getsockname()) as there,
        listener.accept()[0] as here,
    ):
        there.sendall(bytes(1000))
        assert len(here.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL)) == 1000
        sample = meter.sample()
        assert (sample.sent_bytes, sample.received_bytes) == (1000, 1000)
        child.do("open", "move")  # this process is the other end of it
        sample = meter.sample()
    assert sample.received_bytes == pytest.approx(1000 + UP_BYTES, rel=0.01)


def test_sampling_is_cheap_with_a_hundred_connections():
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        pairs = []
        for _ in range(50):
            pairs.append(socket.create_connection(listener.getsockname()))
            pairs.append(listener.accept()[0])
        with TrafficMeter([os.getpid()]) as meter:
            durations_s = []
            for _ in range(20):
                begin_s = time.perf_counter()
                meter.sample()
                durations_s.append(time.perf_counter() - begin_s)
        for connection in pairs:
            connection.close()
    # The best of them: a busy machine makes some slower, which says nothing about the meter.
    assert min(durations_s) < 0.002


def test_a_kernel_without_the_counters_is_named_in_a_sentence(monkeypatch):
    monkeypatch.setattr(traffic, "_NETLINK_SOCK_DIAG", 31)
    with pytest.raises(UnavailableError, match="traffic of this peer cannot be measured"):
        TrafficMeter([os.getpid()])


def test_an_answer_that_is_a_refusal_is_named_in_a_sentence(monkeypatch):
    monkeypatch.setattr(traffic, "_TCPDIAG_GETSOCK", 63)
    with pytest.raises(UnavailableError, match="does not answer a question"):
        TrafficMeter([os.getpid()])


def cut(*samples: tuple[float, int]) -> list[list[int]]:
    """Bytes sent in the windows of one second that each sample (time, total) completes."""
    first, *others = (TrafficSample(at_s, total, 2 * total, {}) for at_s, total in samples)
    windows = Windows(1.0, first)
    cut_up = [windows.add(sample) for sample in others]
    assert all(abs(received - 2 * sent) <= 2 for ended in cut_up for sent, received in ended)
    return [[sent for sent, _ in ended] for ended in cut_up]


def test_samples_in_time_are_windows():
    assert cut((10.0, 500), (11.0, 600), (12.0, 900)) == [[100], [300]]


def test_a_late_sample_is_spread_over_the_windows_that_it_covers():
    assert cut((0.0, 0), (1.0, 100), (4.5, 800), (5.0, 800)) == [[100], [200, 200, 200], [100]]


def test_samples_that_come_early_add_up():
    assert cut((0.0, 0), (0.4, 40), (0.9, 90), (1.4, 90)) == [[], [], [90]]


def test_windows_add_up_to_the_total():
    samples = [(i * 0.37, i * i * 7) for i in range(1, 200)]
    windows = cut((0.0, 0), *samples)
    whole = sum(map(sum, windows))
    ended = int(samples[-1][0])
    assert sum(map(len, windows)) == ended
    assert whole == pytest.approx(np.interp(ended, *zip(*samples, strict=True)), abs=1)
