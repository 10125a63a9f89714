"""How long an answer takes between two hosts of a lab: seen by programs that know nothing of it."""

import subprocess
import sys

from benchmarks.wan.lab import Lab

ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 7001)) as server:
    print("listening", flush=True)
    while True:
        connection, _ = server.accept()
        while said := connection.recv(64):
            connection.sendall(said)
"""
ASK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7001)) as connection:
    taken_s = []
    for _ in range(5):
        began_s = time.monotonic()
        connection.sendall(b"x")
        connection.recv(1)
        taken_s.append(time.monotonic() - began_s)
print(min(taken_s))
"""


def start_echo(lab: Lab, host: int) -> None:
    """From now on this host answers. The lab ends it."""
    argv = [sys.executable, "-c", ECHO, lab.address(host)]
    echo = lab.popen(host, argv, stdout=subprocess.PIPE, text=True)
    with echo.stdout as said:
        assert said.readline() == "listening\n"


def fastest_answer_s(lab: Lab, here: int, there: int) -> float:
    """What the fastest of five answers took."""
    argv = [sys.executable, "-c", ASK, lab.address(there)]
    with lab.popen(here, argv, stdout=subprocess.PIPE, text=True) as asking:
        return float(asking.communicate(timeout=60)[0])
