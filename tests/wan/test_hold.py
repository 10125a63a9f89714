"""Held verdicts: what is delayed and lost, exactly, and that nothing is left of it."""

import math
import shutil
import signal
import struct
import subprocess
import sys
from itertools import islice, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wan.lab import Lab
from benchmarks.wan.namespaces import run
from docker import hold
from docker.hold import DelayLine, losses, parse_duration_s, parse_share, unwrapped
from tests.wan.echo import fastest_answer_s, start_echo
from tests.wan.kernel import HOLD, QUEUES, no_hold

needs_hold = pytest.mark.skipif(no_hold() is not None, reason=f"skipped, because {no_hold()}")

# Numbered datagrams: argv is the receiver's address, and how long it waits or how many are sent.
RECEIVE = """
import socket, sys
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
line.bind((sys.argv[1], 7000))
print("listening", flush=True)
line.settimeout(float(sys.argv[2]))
while True:
    try:
        print(line.recv(64).decode(), flush=True)
    except TimeoutError:
        break
"""
SEND = """
import socket, sys
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(1, int(sys.argv[2]) + 1):
    line.sendto(str(number).encode(), (sys.argv[1], 7000))
"""


@given(
    st.lists(st.tuples(st.floats(0.0, 0.1), st.integers(0, 50)), max_size=60),
    st.floats(0.0, 0.2),
    st.floats(0.0, 0.05),
)
def test_nobody_is_early_nobody_overtakes_and_everybody_comes(arrivals, delay_s, jitter_s):
    line, now_s, newest = DelayLine(delay_s, jitter_s), 0.0, 0
    came_s, gone = {}, 0
    for gap_s, packets in arrivals:
        now_s += gap_s
        came_s |= dict.fromkeys(range(newest + 1, newest + packets + 1), now_s)
        newest += packets
        assert line.arrived(newest, now_s) == []
        if (number := line.due(now_s)) is not None:
            assert number > gone
            assert all(now_s >= came_s[n] + delay_s - jitter_s for n in range(gone + 1, number + 1))
            gone = number
    last = line.due(now_s + delay_s + jitter_s)
    assert (gone if last is None else last) == newest and line.empty


@given(st.integers(0, 2**32), st.floats(0.001, 1.0))
def test_losses_are_those_of_the_seed_and_every_packet_has_its_turn(seed, loss):
    numbers = list(islice(losses(loss, seed), 50))
    assert numbers == list(islice(losses(loss, seed), 50))
    assert numbers == sorted(set(numbers)) and numbers[0] >= 1


@pytest.mark.parametrize("loss", [0.005, 0.1, 0.9])
def test_as_many_are_lost_as_were_asked_for(loss):
    packets = 200_000
    lost = len(list(takewhile(lambda number: number <= packets, losses(loss, 1))))
    assert abs(lost - loss * packets) < 5 * math.sqrt(loss * (1 - loss) * packets)


def test_no_loss_and_nothing_but_loss():
    assert DelayLine(0.0, loss=0.0).arrived(10_000, 0.0) == []
    assert DelayLine(0.0, loss=1.0).arrived(4, 0.0) == [1, 2, 3, 4]


def test_what_is_lost_does_not_depend_on_how_packets_are_counted():
    once, often = DelayLine(0.0, loss=0.1, seed=3), DelayLine(0.0, loss=0.1, seed=3)
    lost = [number for newest in range(1, 501) for number in often.arrived(newest, 0.0)]
    assert lost == once.arrived(500, 0.0) and often.lost == once.lost == len(lost) > 0


@given(st.integers(0, 2**40), st.integers(0, 2**32 - 1))
def test_a_counter_of_32_bits_is_followed_over_its_end(before, more):
    assert unwrapped(before, (before + more) % 2**32) == before + more


@pytest.mark.parametrize(
    ("text", "value"), [("20ms", 0.02), ("0.5s", 0.5), ("250us", 0.00025), ("0ms", 0.0)]
)
def test_durations(text, value):
    assert parse_duration_s(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["20", "ms", "-1ms", "1e3ms", "20 m", "", "nan", "2min"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration_s(text)


def test_shares():
    assert parse_share("0.5%") == pytest.approx(0.005) and parse_share("100%") == 1.0
    for text in ("0.5", "101%", "-1%", "%", "half"):
        with pytest.raises(ValueError, match="is no loss"):
            parse_share(text)


def test_a_netlink_answer_with_several_acknowledgements():
    def acknowledged(code: int) -> bytes:
        content = struct.pack("=i", -code) + bytes(16)
        return struct.pack("=IHHII", 16 + len(content), 2, 0, 0, 0) + content

    other = struct.pack("=IHHII", 18, 99, 0, 0, 0) + b"xx\0\0"
    assert hold.errors_of(acknowledged(0) + other + acknowledged(13)) == [0, 13]
    assert hold.errors_of(b"") == hold.errors_of(b"short") == []


def start(lab: Lab, host: int, source: str, *arguments: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", source, *map(str, arguments)]
    return lab.popen(host, argv, stdout=subprocess.PIPE, text=True)


def start_hold(lab: Lab, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, HOLD, "eth0", *arguments]
    process = lab.popen(1, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout.readline() == "holding eth0\n"
    return process


def queues(lab: Lab) -> str:
    return run("ip", "netns", "exec", lab.namespace(1), "cat", QUEUES)


def numbers_that_arrive(lab: Lab, packets: int) -> list[int]:
    with start(lab, 1, RECEIVE, lab.address(1), 5.0) as receiving:
        assert receiving.stdout.readline() == "listening\n"
        start(lab, 0, SEND, lab.address(1), packets).communicate(timeout=60)
        return [int(line) for line in receiving.communicate(timeout=60)[0].split()]


@needs_hold
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_packets_come_later_while_it_runs_and_not_afterwards(number):
    with Lab(hosts=2) as lab:
        start_echo(lab, 1)
        holding = start_hold(lab, "--delay", "200ms", "--jitter", "10ms")
        assert fastest_answer_s(lab, 0, 1) >= 0.19
        assert len(queues(lab).splitlines()) == 1
        holding.send_signal(number)
        holding.communicate(timeout=30)
        assert holding.returncode == (-number if number == signal.SIGKILL else 0)
        assert queues(lab) == ""
        assert fastest_answer_s(lab, 0, 1) < 0.19


@needs_hold
def test_exactly_the_packets_of_the_seed_are_lost():
    with Lab(hosts=2) as lab:
        holding = start_hold(lab, "--delay", "5ms", "--loss", "20%", "--seed", "7")
        arrived = numbers_that_arrive(lab, 300)
        holding.terminate()
        said, _ = holding.communicate(timeout=30)
    lost = set(takewhile(lambda number: number <= 300, losses(0.2, 7)))
    assert arrived == [number for number in range(1, 301) if number not in lost]
    assert said == f"300 packets, {len(lost)} lost, 0 because of a full queue\n"


@needs_hold
def test_what_comes_while_the_queue_is_full_is_lost_and_counted():
    with Lab(hosts=2) as lab:
        holding = start_hold(lab, "--delay", "3s", "--queue", "20")
        assert numbers_that_arrive(lab, 50) == list(range(1, 21))
        holding.terminate()
        assert holding.communicate(timeout=30)[0].endswith(" 30 because of a full queue\n")


@needs_hold
def test_what_is_held_at_the_end_is_let_go():
    with Lab(hosts=2) as lab:
        holding = start_hold(lab, "--delay", "60s")
        receiving = start(lab, 1, RECEIVE, lab.address(1), 60.0)
        receiving.stdout.readline()
        start(lab, 0, SEND, lab.address(1), 3).communicate(timeout=60)
        holding.terminate()
        assert holding.wait(30) == 0
        assert [receiving.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
        receiving.kill()
        receiving.communicate()


@needs_hold
def test_it_ends_when_its_interface_is_gone():
    with Lab(hosts=2) as lab:
        holding = start_hold(lab, "--delay", "5ms")
        run("ip", "-n", lab.namespace(1), "link", "delete", "eth0")
        assert holding.wait(30) == 0
        holding.stdout.close()


@needs_hold
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["eth9", "--delay", "5ms"], 2, "there is no interface 'eth9'"),
        (["eth0", "--delay", "soon"], 2, "'soon' is no duration"),
        (["eth0", "--loss", "200%"], 2, "'200%' is no loss"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, code, said):
    with Lab(hosts=1) as lab:
        argv = ["ip", "netns", "exec", lab.namespace(0), sys.executable, HOLD, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert said in done.stderr and done.stderr.count("\n") == 1


@needs_hold
def test_two_cannot_hold_the_same_packets():
    with Lab(hosts=2) as lab:
        start_hold(lab, "--delay", "5ms")
        argv = [sys.executable, HOLD, "eth0", "--delay", "5ms"]
        second = lab.popen(1, argv, stderr=subprocess.PIPE, text=True)
        assert "another process holds the packets of eth0" in second.communicate(timeout=30)[1]
        assert second.returncode == 1


@needs_hold
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="skipped, because there is no setpriv")
def test_without_the_capability_it_says_so():
    with Lab(hosts=1) as lab:
        less = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
        argv = [*less, sys.executable, HOLD, "eth0", "--delay", "5ms"]
        refused = lab.popen(0, argv, stderr=subprocess.PIPE, text=True)
        assert "needs root, or the capability NET_ADMIN" in refused.communicate(timeout=30)[1]
        assert refused.returncode == 1
