"""The measuring part of the caps benchmark, against a sender whose rate is known."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from benchmarks import caps, processes
from benchmarks.caps import MANIFEST, WIDTHS, Row, measure, rows_of, table_of
from benchmarks.wan.lab import Lab
from benchmarks.wan.namespaces import unavailable
from benchmarks.wan.sampler import MBIT_BYTES, Traffic
from protocol.errors import UnavailableError
from protocol.manifest import Manifest

needs_lab = pytest.mark.skipif(
    unavailable() is not None, reason=f"skipped, because {unavailable()}"
)

# Both ways at once over one connection: argv is role, address, bytes per 10 ms.
PACED = """
import socket, sys, threading, time
role, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
if role == "listen":
    connection, _ = socket.create_server((address, 7000)).accept()
else:
    while True:
        try:
            connection = socket.create_connection((address, 7000))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
def drain():
    while connection.recv(65536):
        pass
threading.Thread(target=drain, daemon=True).start()
due_s = time.monotonic()
while True:
    connection.sendall(bytes(size))
    due_s += 0.01
    time.sleep(max(0.0, due_s - time.monotonic()))
"""


def test_rows_take_the_mean_over_training_and_the_peaks_over_everything():
    times_s = np.arange(0.0, 10.05, 0.1)
    steady_bytes = times_s * 4.0 * MBIT_BYTES
    joining = np.minimum(times_s, 2.0) * MBIT_BYTES * 9.0  # 9 mbit for two seconds
    totals = np.zeros((len(times_s), 2, 2))
    totals[:, 0, 0] = totals[:, 1, 1] = steady_bytes
    totals[:, 1, 0] = totals[:, 0, 1] = joining + np.maximum(times_s - 2.0, 0) * MBIT_BYTES * 2.0
    up, down = rows_of(Traffic(times_s, totals), 5.0, 10.0)
    assert up == Row("up", 10.0, 3.0, 9.0, 9.0)
    assert down == Row("down", 10.0, 3.0, 9.0, 9.0)


@needs_lab
def test_a_paced_sender_is_measured_at_its_rate(tmp_path):
    with Lab(hosts=2) as lab:

        def start() -> list[subprocess.Popen[bytes]]:
            address, size = lab.address(0), str(10_000)  # 8 mbit
            return [
                lab.popen(host, [sys.executable, "-c", PACED, role, address, size])
                for host, role in enumerate(("listen", "connect"))
            ]

        rows = measure(lab, 10.0, 3.0, start)
    # 7 frames carry 10 kB: 4.6 % of headers, and an acknowledgement for every other frame.
    on_the_wire = 8.0 * (1 + 7 * 66 / 10_000) * 1.01
    assert [row.direction for row in rows] == ["up", "down"]
    for row in rows:
        assert row.mean_mbit == pytest.approx(on_the_wire, rel=0.05)
        # No upper bound: a sender that had to wait for the processor makes up for it.
        assert row.mean_mbit <= row.max_1s_mbit <= row.max_100ms_mbit


@needs_lab
def test_a_process_that_ends_ends_the_measuring():
    with Lab(hosts=1) as lab, pytest.raises(UnavailableError, match="peer 0 ended with 3"):
        measure(
            lab, 10.0, 3.0, lambda: [lab.popen(0, [sys.executable, "-c", "raise SystemExit(3)"])]
        )


@needs_lab
def test_an_idle_link_is_given_up(monkeypatch):
    monkeypatch.setattr(caps, "START_S", 0.5)
    idle = [sys.executable, "-c", "import time; time.sleep(60)"]
    with Lab(hosts=1) as lab, pytest.raises(UnavailableError, match="exchange nothing"):
        measure(lab, 10.0, 3.0, lambda: [lab.popen(0, idle)])


# Stands in for the peer's command line: the founder prints the line that others type, and both
# then send at 4 mbit.
STANDING_IN = f"""
import sys
sys.argv[1] == "join" or sys.exit("not join")
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
host = options["--listen"].rpartition(":")[0]
if "--manifest" in options:
    print("founded", open(options["--manifest"]).readline(), flush=True)
    print(f"diloco-peer join --initial-peers /ip4/{{host}}/tcp/7001/p2p/Qm --run R",
          flush=True)
    sys.argv = ["", "listen", host, "5000"]
else:
    sys.argv = ["", "connect", options["--initial-peers"].split("/")[2], "5000"]
exec({PACED!r})
"""


@needs_lab
def test_the_whole_benchmark_with_peers_that_stand_in(monkeypatch, capsys):
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, "-c", STANDING_IN])
    assert caps.run(10, 2, 1.0)[0].mean_mbit == pytest.approx(4.2, rel=0.1)

    monkeypatch.setattr(processes, "COMMAND", [sys.executable, "-c", "print('oh no'); exit(4)"])
    monkeypatch.setattr(sys, "argv", ["caps", "--quick"])
    assert caps.main() == 1
    said = capsys.readouterr().out
    assert "peer0: oh no" in said
    assert json.loads(said.splitlines()[-1]) == {"rows": [], "failed": "peer0 ended with 4"}


def test_without_namespaces_it_says_why_and_exits_with_0(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.wan.lab.unavailable", lambda: "network namespaces need root")
    monkeypatch.setattr(sys, "argv", ["caps"])
    assert caps.main() == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "skipped, because network namespaces need root"
    assert json.loads(last) == {"rows": [], "skipped": "network namespaces need root"}


@pytest.mark.parametrize("cap_mbit", WIDTHS)
def test_the_manifests_are_valid(cap_mbit):
    manifest = Manifest.from_toml(MANIFEST.format(peers=2, width=WIDTHS[cap_mbit]))
    assert manifest.codec.name == "fp32"


def test_the_table_marks_a_second_in_which_the_cap_did_not_hold():
    out = io.StringIO()
    rows = [Row("up", 2.0, 1.7, 2.1, 3.0), Row("down", 2.0, 1.7, 1.9, 2.5)]
    console = Console(width=80, file=out, force_terminal=True, color_system="standard")
    console.print(table_of(rows, 2))
    assert "\x1b[1;31m2.10" in out.getvalue()
    assert "31m1.90" not in out.getvalue()
