"""Runs on a host while its link is measured; plain Python, told what to do line by line.

probe.py ADDRESS        what it understands on stdin, each answered by one line of JSON:

exchange HOST N         N times one byte there and back by TCP -> [seconds, ...]
load HOST               send by TCP as fast as it goes, and let HOST send too -> true
rest                    stop that -> true
datagrams HOST N        how many of N datagrams come back from HOST's sink -> N
"""

import json
import socket
import struct
import sys
import threading
import time

ECHO, SINK, SOURCE, COUNT = 7, 9, 19, 10
PATIENCE_S = 20.0
DATAGRAM_GAP_S = 0.0005


def serve(port: int, handle) -> None:
    server = socket.create_server((sys.argv[1], port))

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=quietly, args=(handle, connection), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def quietly(handle, connection: socket.socket) -> None:
    with connection:
        try:
            handle(connection)
        except OSError:  # the other side has gone, which is how a measurement ends
            return


def echo(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while said := connection.recv(64):
        connection.sendall(said)


def drain(connection: socket.socket) -> None:
    while connection.recv(1 << 20):
        pass


def pour(connection: socket.socket) -> None:
    while True:
        connection.sendall(bytes(1 << 16))


def count(port: int) -> None:
    """Tells who asks ('?') how many datagrams came from it since it asked last."""
    counted: dict = {}
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    server.bind((sys.argv[1], port))
    while True:
        said, sender = server.recvfrom(2048)
        if said == b"?":
            server.sendto(str(counted.get(sender, 0)).encode(), sender)
        else:
            counted[sender] = counted.get(sender, 0) + 1


def connect(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=PATIENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exchange(host: str, times: int) -> list:
    taken_s = []
    with connect(host, ECHO) as connection:
        for _ in range(times):
            began_s = time.monotonic()
            connection.sendall(b"x")
            assert connection.recv(1)
            taken_s.append(time.monotonic() - began_s)
    return taken_s


def load(host: str) -> list:
    out, back = connect(host, SINK), connect(host, SOURCE)
    for handle, connection in ((pour, out), (drain, back)):
        connection.settimeout(None)
        threading.Thread(target=quietly, args=(handle, connection), daemon=True).start()
    return [out, back]


def datagrams(host: str, number: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.connect((host, COUNT))
        for _ in range(number):
            line.send(b"x" * 64)
            time.sleep(DATAGRAM_GAP_S)
        line.settimeout(1.0)
        for _ in range(int(PATIENCE_S)):  # a question can be lost as well
            line.send(b"?")
            try:
                came = int(line.recv(64))
            except TimeoutError:
                continue
            return came
    raise TimeoutError(f"{host} does not say how many datagrams came")


def main() -> None:
    for port, handle in ((ECHO, echo), (SINK, drain), (SOURCE, pour)):
        serve(port, handle)
    threading.Thread(target=count, args=(COUNT,), daemon=True).start()
    loads: list = []
    print(json.dumps(True), flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        answer: object = True
        if command == "exchange":
            answer = exchange(arguments[0], int(arguments[1]))
        elif command == "load":
            loads += load(arguments[0])
        elif command == "rest":
            for connection in loads:
                # What still waits in the socket is thrown away and not sent after the end.
                at_once = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                connection.shutdown(socket.SHUT_RDWR)
            loads.clear()
        elif command == "datagrams":
            answer = datagrams(arguments[0], int(arguments[1]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
