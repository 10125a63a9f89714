"""`diloco-peer plan`, as it is typed and as it is read."""

import json
import math
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.main import main
from peer.planning import link_warning
from protocol.manifest import Manifest
from protocol.plan import Swarm

SIZE = ("--parameters", "1B", "--step-time", "1s", "--peers", "8")
TINY = """
start_peers = 3
[model]
depth = 3
width = 32
head_width = 16
context = 32
"""

Says = Callable[..., str]


@pytest.fixture
def says(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Says]:
    """Runs `diloco-peer plan` in 80 columns, and gives what it printed."""
    interrupt = signal.getsignal(signal.SIGINT)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["diloco-peer", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
        said = capfd.readouterr()
        assert leaving.value.code == 0, said.err
        return said.out

    yield run
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.toml"
    path.write_text(TINY)
    return path


def test_a_table_in_eighty_columns_and_what_to_do(says: Says) -> None:
    said = says(*SIZE, "--up", "50mbit", "--rtt", "100ms")
    assert max(map(len, said.splitlines())) <= 80
    assert "defaults  recommended" in said
    for words in ("sync_every", "num_fragments", "codec", "utilization", "flat rate", "peak"):
        assert words in said
    assert "Link-bound: H is effectively 200 where sync_every = 100" in " ".join(said.split())


def test_a_link_with_room_is_said_to_have_it(says: Says) -> None:
    said = " ".join(says(*SIZE, "--up", "1gbit").split())
    assert "The link carries the run: 96mbit would be enough." in said


def test_json_is_one_object_with_units_in_its_keys(says: Says) -> None:
    found = json.loads(says(*SIZE, "--up", "50mbit", "--down", "1gbit", "--json"))
    assert found["up_bytes_per_s"] == 6_250_000 and found["step_s"] == 1.0
    assert found["defaults"]["limited_by"] == "uplink"
    assert found["defaults"]["utilization"] < 0.95 <= found["recommended"]["utilization"]
    assert "--up" in found["next_step"] and "--down" not in found["next_step"]
    assert found["data_parallel_bytes_per_s"] > 100 * found["defaults"]["needed_bytes_per_s"]


def test_a_peer_alone_has_no_infinite_numbers_in_its_json(says: Says) -> None:
    text = says(*SIZE, "--up", "50mbit", "--peers", "1", "--json")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["next_step"] is None
    assert "One peer alone" in says(*SIZE, "--up", "50mbit", "--peers", "1")


def test_a_manifest_whose_step_is_measured_here(says: Says, manifest: Path) -> None:
    found = json.loads(says("--manifest", manifest, "--up", "20mbit", "--json", "--threads", "1"))
    assert found["peers"] == 3
    assert 0 < found["step_s"] < 5 and not math.isnan(found["step_s"])
    assert found["manifest"]["sync_every"] == 100


def test_a_recommended_manifest_is_one_that_is_accepted(says: Says, manifest: Path) -> None:
    flags = ("--manifest", manifest, "--step-time", "20ms", "--rtt", "5ms", "--up", "1mbit")
    better = json.loads(says(*flags, "--json"))["recommended"]
    keys = ("sync_every", "num_fragments", "sync_delay_steps")
    sync = "".join(f"{key} = {better[key]}\n" for key in keys) + f'codec = "{better["codec"]}"\n'
    manifest.write_text(f"{TINY}[sync]\n{sync}")
    again = json.loads(says(*flags, "--json"))["manifest"]
    assert again["utilization"] == pytest.approx(better["utilization"])


def test_where_h_grows_the_plan_is_of_the_shortest(says: Says, manifest: Path) -> None:
    """With (0.02 / 0.003)^2 = 44 at the peak rate that is more than the least."""
    flags = ("--manifest", manifest, "--step-time", "20ms", "--up", "1gbit")
    manifest.write_text(TINY + "[sync]\nsync_every = 30\nqsr_alpha = 0.02\n")
    growing = json.loads(says(*flags, "--json"))["manifest"]
    assert growing["sync_every"] == 44 and growing["longest_sync_every"] == 500
    assert "44, growing to 500" in says(*flags)
    manifest.write_text(TINY + "[sync]\nsync_every = 44\n")
    fixed = json.loads(says(*flags, "--json"))["manifest"]
    assert growing == {**fixed, "longest_sync_every": 500}


def test_a_picture(says: Says, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    assert str(picture) in says(*SIZE, "--up", "50mbit", "--plot", picture).replace("\n", "")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_peer_that_joins_is_warned_by_the_same_arithmetic(says: Says, manifest: Path) -> None:
    flags = ("--manifest", manifest, "--step-time", "20ms", "--rtt", "0ms")
    swarm = Swarm(peers=3, step_s=0.02, up_bytes_per_s=125e3, down_bytes_per_s=125e3, rtt_s=0.0)
    run = Manifest.from_toml(TINY + "[sync]\nsync_every = 8\nsync_delay_steps = 0\n")
    manifest.write_text(TINY + "[sync]\nsync_every = 8\nsync_delay_steps = 0\n")
    warning = link_warning(run, swarm)
    assert warning and "H is effectively" in warning
    assert json.loads(says(*flags, "--up", "1mbit", "--json"))["next_step"] == warning
