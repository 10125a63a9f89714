"""Whatever is typed wrong gives one line that says what is wrong and what to do, and code 2."""

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from benchmarks.processes import SMALL_CORPUS
from cli.main import main
from peer.admission import Membership
from peer.directory import claim
from peer.discovery import DhtDiscovery
from peer.identity import Identity
from peer.sealed import seal
from protocol.log import Genesis
from protocol.manifest import MAX_MANIFEST_BYTES, Manifest
from protocol.wire import diloco_pb2 as pb
from protocol.wire import diloco_pb2_grpc as stubs
from tests.peer.people import contact, security

MANIFEST = f"""
name = "typed"
start_peers = 2
[model]
depth = 3
width = 32
head_width = 16
context = 32
[data]
corpus = "{SMALL_CORPUS}"
"""

Refused = Callable[..., str]


@pytest.fixture
def refused(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Refused]:
    """Runs a command line that must be refused, and gives the line that says why."""
    interrupt = signal.getsignal(signal.SIGINT)
    # What is not refused in time makes its default directory where it is.
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["diloco-peer", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
        said = capfd.readouterr()
        assert leaving.value.code == code, said.err
        assert said.err.startswith("diloco-peer: ") and said.err.count("\n") == 1, said.err
        assert "Traceback" not in said.out
        return said.err

    yield run
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "peer"


# --- the command line itself ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", ["No such command 'nonsense'", "diloco-peer --help"]),
        ("join --nonsense", ["--nonsense", "diloco-peer join --help"]),
        ("new", ["Missing argument", "diloco-peer new --help"]),
        ("new a b", ["unexpected extra argument", "diloco-peer new --help"]),
        ("report", ["Missing argument", "diloco-peer report --help"]),
        ("status", ["--initial-peers", "--invite"]),
        ("join --up", ["--up", "--help"]),
        ("archive", ["nothing to join", "--initial-peers"]),
        ("archive --initial-peers x --log-size much", ["--log-size 'much'", "1GB"]),
        ("archive --initial-peers x --up 5", ["--up '5'", "20mbit"]),
        ("archive --device cuda", ["--device", "diloco-peer archive --help"]),
        ("archive --steps 5", ["--steps", "diloco-peer archive --help"]),
        ("join --manifest x --log-size 1", ["--log-size"]),
        ("join --manifest x --keep-checkpoints 0", ["--keep-checkpoints", "1"]),
        ("log", ["--initial-peers", "directory"]),
        ("log here --initial-peers x", ["--initial-peers", "directory"]),
        ("log here --last 0", ["--last", "diloco-peer log --help"]),
        ("log /nowhere", ["no log in /nowhere", "--dir"]),
        ("plan", ["--up", "diloco-peer plan --help"]),
        ("plan --up 20mbit", ["--manifest", "--parameters 1B"]),
        ("plan --up 20mbit --parameters 1B --manifest x", ["--manifest", "--parameters"]),
        ("plan --up 20mbit --parameters 1B", ["--step-time 0.8s", "--manifest"]),
        ("plan --up 20 --parameters 1B --step-time 1s", ["--up '20'", "20mbit"]),
        ("plan --up 0mbit --parameters 1B --step-time 1s", ["--up 0mbit", "more than nothing"]),
        ("plan --up 1mbit --down 0kbit --parameters 1B --step-time 1s", ["--down 0kbit"]),
        ("plan --up 1mbit --parameters one --step-time 1s", ["--parameters 'one'", "1B"]),
        ("plan --up 1mbit --parameters 1B --step-time 1", ["--step-time '1'", "50ms"]),
        ("plan --up 1mbit --parameters 1B --step-time 0s", ["--step-time 0s", "correct it"]),
        ("plan --up 1mbit --parameters 1B --step-time 1s --rtt 5", ["--rtt '5'", "50ms"]),
        ("plan --up 1mbit --parameters 1B --step-time 1s --peers 0", ["--peers", "--help"]),
        ("plan --up 1mbit --parameters 1B --step-time 1s --target 95", ["--target", "--help"]),
        ("plan --up 1mbit --parameters 9 --step-time 1s", ["9 parameters", "--parameters"]),
        ("plan --up 1mbit --manifest x --step-time 1s", ["cannot read the manifest x"]),
        ("plan --up 1mbit --manifest x --threads 0", ["--threads 0", "at least 1"]),
        ("join --steps many", ["--steps", "integer", "diloco-peer join --help"]),
        ("join", ["nothing to join", "--initial-peers", "--manifest", "diloco-peer new"]),
        ("join --manifest x --insecure --listen 1.2.3.4:7000", ["1.2.3.4", "twice"]),
        ("join --invite x --insecure", ["invitation", "leave --insecure out"]),
        ("join --invite /nowhere", ["cannot read the invitation /nowhere"]),
        ("invite /nowhere anna", ["cannot read the manifest", "diloco-peer new"]),
        ("invite /nowhere anna --expires 5", ["--expires '5'", "30d"]),
        ("invite /nowhere anna --role king", ["--role", "diloco-peer invite --help"]),
        ("revoke /nowhere anna", ["cannot read the manifest", "diloco-peer new"]),
        ("join --manifest x --up 20", ["--up '20'", "20mbit"]),
        ("join --manifest x --down fast", ["--down 'fast'", "20mbit"]),
        ("join --manifest x --up 1kbit", ["--up", "at least 1mbit"]),
        ("join --manifest x --listen a:b", ["--listen 'a:b'", "0.0.0.0:7000"]),
        ("join --manifest x --listen 0.0.0.0:7", ["--listen 0.0.0.0", "--announce"]),
        ("join --manifest x --steps 0", ["--steps 0", "at least 1"]),
        ("join --manifest x --tokens -5", ["--tokens -5", "at least 1"]),
        ("join --manifest x --threads 0", ["--threads 0", "at least 1"]),
        (f"join --manifest x --name {'n' * 65}", ["--name", "shorten"]),
    ],
)
def test_a_slip_in_the_command_line(refused: Refused, line: str, words: list[str]) -> None:
    why = refused(*line.split())
    assert all(word in why for word in words), why


def test_no_arguments_at_all_are_answered_with_the_help(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["diloco-peer"])
    with pytest.raises(SystemExit) as leaving:
        main()
    signal.signal(signal.SIGINT, interrupt)
    assert leaving.value.code == 0
    said = capfd.readouterr()
    assert "Usage: diloco-peer" in said.out and not said.err


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"name = ", ["not valid TOML"]),
        (b"\xff\xfe\x00", ["not a text file"]),
        (b"nmae = 'x'", ["unknown key 'nmae'"]),
        (b"[model]\nlayers = 3", ["unknown key 'model.layers'"]),
        (b"[sync]\nsync_every = 2\nnum_fragments = 4", ["num_fragments"]),
        (b"total_steps = '2000'", ["total_steps", "integer"]),
        (b"start_peers = 0", ["start_peers", "greater than or equal to 1"]),
    ],
)
def test_a_garbled_manifest(
    refused: Refused, manifest: Path, home: Path, text: bytes, words: list[str]
) -> None:
    manifest.write_bytes(text)
    why = refused("join", "--manifest", manifest, "--dir", home)
    assert all(word in why for word in [*words, str(manifest)]), why


def test_a_manifest_whose_end_nobody_would_read(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(f"# {'x' * MAX_MANIFEST_BYTES}\nseed = 7\n")
    why = refused("join", "--manifest", path)
    assert str(path) in why and "larger than" in why


def test_a_manifest_that_is_not_there(refused: Refused, tmp_path: Path, home: Path) -> None:
    missing = tmp_path / "no" / "manifest.toml"
    why = refused("join", "--manifest", missing, "--dir", home)
    assert str(missing) in why and "No such file" in why and "diloco-peer new" in why


def test_a_directory_that_already_has_a_manifest(refused: Refused, manifest: Path) -> None:
    why = refused("new", manifest.parent)
    assert str(manifest) in why and "choose another directory" in why


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--name", "two words"], ["name", "pattern"]),
        (["--start-peers", "0"], ["start_peers", "greater than or equal to 1"]),
        (["--corpus", "/no/such/corpus"], ["/no/such/corpus", "python-stdlib"]),
        (["--corpus", 'quoted"'], ['quoted"', "python-stdlib"]),
    ],
)
def test_a_manifest_that_cannot_be_made(
    refused: Refused, tmp_path: Path, flags: list[str], words: list[str]
) -> None:
    why = refused("new", tmp_path / "run", *flags)
    assert all(word in why for word in words), why
    assert not (tmp_path / "run").exists()


def test_a_corpus_that_cannot_be_read(refused: Refused, manifest: Path, home: Path) -> None:
    flags = ("--dir", home, "--corpus", "/no/such/corpus")
    why = refused("join", "--manifest", manifest, *flags)
    assert "/no/such/corpus" in why and "correct the path" in why


def test_a_report_on_a_directory_where_nobody_has_trained(refused: Refused, home: Path) -> None:
    home.mkdir()
    why = refused("report", home)
    assert str(home) in why and "name the directory of a peer" in why


def test_a_directory_that_another_peer_has(refused: Refused, manifest: Path, home: Path) -> None:
    with claim(home):
        why = refused("join", "--manifest", manifest, "--dir", home)
    assert str(home) in why and "another peer is running" in why and "--dir" in why


def test_a_directory_that_is_a_file(refused: Refused, manifest: Path) -> None:
    why = refused("join", "--manifest", manifest, "--dir", manifest)
    assert str(manifest) in why and "--dir" in why


def test_a_directory_of_another_run(refused: Refused, manifest: Path, home: Path) -> None:
    home.mkdir()
    (home / "cursor.json").write_bytes(seal({"run_id": "0" * 64, "next_cursor": 7}))
    why = refused("join", "--manifest", manifest, "--dir", home)
    assert "another run" in why and "--dir" in why


def test_an_identity_that_is_torn(refused: Refused, manifest: Path, home: Path) -> None:
    home.mkdir()
    (home / "identity.key").write_bytes(b"torn")
    why = refused("join", "--manifest", manifest, "--dir", home)
    assert "identity.key" in why and "move it away" in why


def test_a_picture_that_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    line = "plan --up 1mbit --parameters 1M --step-time 1s --plot"
    picture = tmp_path / "no" / "plan.png"
    why = refused(*line.split(), picture)
    assert str(picture) in why and "No such file" in why
    assert "there is no link" in refused(*line.split(), tmp_path / "p.png", "--peers", "1")


def test_a_manifest_whose_model_cannot_be_cut(refused: Refused, manifest: Path) -> None:
    manifest.write_text(MANIFEST + "[sync]\nnum_fragments = 9\n")
    why = refused("plan", "--up", "1mbit", "--manifest", manifest, "--step-time", "1s")
    assert "sync.num_fragments = 9 does not fit" in why


# --- this machine --------------------------------------------------------------------------------


def test_a_device_that_is_not_there(refused: Refused, manifest: Path, home: Path) -> None:
    flags = ("--dir", home, "--device", "nonsense")
    why = refused("join", "--manifest", manifest, *flags)
    assert "--device nonsense" in why and "say cpu" in why


@pytest.mark.parametrize("distance", [0, 1])
def test_a_port_in_use(refused: Refused, manifest: Path, home: Path, distance: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ("--dir", home, "--listen", f"127.0.0.1:{port - distance}")
        why = refused("join", "--manifest", manifest, *flags)
    assert f"127.0.0.1:{port}" in why and "in use" in why and "choose another" in why


def test_an_address_that_is_not_this_machines(refused: Refused, manifest: Path, home: Path) -> None:
    flags = ("--dir", home, "--listen", "192.0.2.1:7000")
    why = refused("join", "--manifest", manifest, *flags)
    assert "192.0.2.1:7000" in why and "choose another" in why


# --- other peers ---------------------------------------------------------------------------------


class Bootstrap:
    """An initial peer with a DHT alone, in a thread of its own; and servers that answer hellos."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[grpc.aio.Server] = []

    def __enter__(self) -> "Bootstrap":
        self._thread.start()
        self._dht = self._do(
            DhtDiscovery.start(
                initial_peers=(),
                listen_host="127.0.0.1",
                listen_port=0,
                announce_host=None,
                directory=None,
            )
        )
        (self.address,) = self._do(self._dht.addresses())
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            self._do(server.stop(0))
        self._do(self._dht.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def announce(self, run_id: str, address: str = "127.0.0.1:9") -> None:
        self._do(self._dht.announce(run_id, contact("stranger", run_id, address)))

    def answer(self, run_id: str, reply: pb.HelloReply) -> None:
        """Announce a peer of the run that answers every hello like this."""
        self._do(self._answer(run_id, reply))

    async def _answer(self, run_id: str, reply: pb.HelloReply) -> None:
        class Servicer(stubs.PeerServicer):
            async def Hello(self, request: pb.HelloRequest, context: object) -> pb.HelloReply:
                return reply

        server = grpc.aio.server()
        stubs.add_PeerServicer_to_server(Servicer(), server)
        port = security("stranger", run_id).bind(server, "127.0.0.1:0")
        await server.start()
        self._servers.append(server)
        await self._dht.announce(run_id, contact("stranger", run_id, f"127.0.0.1:{port}"))

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@pytest.fixture
def bootstrap() -> Iterator[Bootstrap]:
    with Bootstrap() as started:
        yield started


RUN = Manifest.from_toml(MANIFEST)
OTHER = Manifest.from_toml(MANIFEST.replace("typed", "other"))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nonsense", ["nonsense is not an address", "copy the line"]),
        ("/ip4/127.0.0.1/tcp/9", ["is not an address", "copy the line"]),
        (
            "/ip4/127.0.0.1/tcp/9/p2p/QmcsFCaKmz4T3tMzNTBRcWFQnQR5aeqGPUaUBxhFa6LFNy",
            ["no initial peer answers", "check that it is running"],
        ),
    ],
)
@pytest.mark.parametrize("command", ["join", "status"])
def test_an_initial_peer_that_is_not_there(
    refused: Refused, home: Path, command: str, address: str, words: list[str]
) -> None:
    flags = ("--dir", home) if command == "join" else ()
    why = refused(command, "--initial-peers", address, *flags)
    assert all(word in why for word in [*words, address]), why


def test_an_initial_peer_that_announces_no_run(
    refused: Refused, home: Path, bootstrap: Bootstrap
) -> None:
    why = refused("join", "--initial-peers", bootstrap.address, "--dir", home)
    assert "no run is announced" in why and "--manifest" in why


def test_a_wrong_run_id_and_several_runs(
    refused: Refused, home: Path, bootstrap: Bootstrap
) -> None:
    flags = ("--initial-peers", bootstrap.address, "--dir", home)
    bootstrap.announce(RUN.run_id)
    why = refused("join", *flags, "--run", "f00d")
    assert "--run f00d" in why and RUN.run_id in why and "correct it" in why

    bootstrap.announce(OTHER.run_id)
    why = refused("join", *flags)
    assert "several runs" in why and "--run" in why
    assert RUN.run_id in why and OTHER.run_id in why


def test_a_run_whose_peers_cannot_be_reached(
    refused: Refused, home: Path, bootstrap: Bootstrap
) -> None:
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    bootstrap.announce(RUN.run_id, address=address)
    why = refused("join", "--initial-peers", bootstrap.address, "--dir", home)
    assert address in why and "cannot be reached" in why and "check that" in why


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (OTHER.to_bytes(), ["the manifest of run", OTHER.run_id[:12], "tampered"]),
        (RUN.to_bytes().replace(b'"seed":1,', b'"seed":2,'), ["tampered"]),
        (RUN.to_bytes() + b" ", ["wrong manifest", "canonical"]),
        (b"\x00nonsense", ["wrong manifest", "garbled"]),
        (b'{"nmae":"x"}', ["wrong manifest", "nmae"]),
        (b"[" * 60_000, ["wrong manifest"]),
        (b" " * 70_000, ["wrong manifest", "larger"]),
    ],
)
def test_a_tampered_manifest(
    refused: Refused, home: Path, bootstrap: Bootstrap, sent: bytes, words: list[str]
) -> None:
    assert sent != RUN.to_bytes()
    bootstrap.answer(RUN.run_id, pb.HelloReply(run_id=RUN.run_id, manifest=sent))
    why = refused("join", "--initial-peers", bootstrap.address, "--dir", home)
    assert all(word in why for word in [*words, "join through another"]), why


def test_a_lockstep_run_that_has_begun(
    refused: Refused, home: Path, bootstrap: Bootstrap, tmp_path: Path
) -> None:
    run = RUN.model_copy(update={"mode": "lockstep"})
    founder = Identity.load_or_create(tmp_path / "founder")
    voters = tuple(sorted([founder.peer_id, "b" * 52]))
    genesis = Genesis(
        run_id=run.run_id,
        founder=founder.peer_id,
        voters=voters,
        incarnations=("0", "1"),
        tie_breaker=founder.peer_id,
        state_digest="0" * 64,
    )
    reply = pb.HelloReply(
        run_id=run.run_id,
        manifest=run.to_bytes(),
        genesis=founder.sign_genesis(
            genesis, Membership.of_open_run(founder, run.run_id).certificate
        ),
    )
    bootstrap.answer(run.run_id, reply)
    why = refused("join", "--initial-peers", bootstrap.address, "--dir", home)
    assert "has begun with 2 peers" in why and "nobody can join later" in why


def test_a_directory_without_a_run(refused: Refused, home: Path) -> None:
    why = refused("join", "--dir", home)
    assert "nothing to join" in why and "--initial-peers" in why


def test_an_elastic_run_that_is_joined_in_lockstep(
    refused: Refused, home: Path, bootstrap: Bootstrap
) -> None:
    bootstrap.answer(RUN.run_id, pb.HelloReply(run_id=RUN.run_id, manifest=RUN.to_bytes()))
    flags = ("--initial-peers", bootstrap.address, "--dir", home, "--lockstep")
    why = refused("join", *flags)
    assert "not in lockstep mode" in why and "leave --lockstep out" in why


def test_a_refusal_cannot_write_to_the_terminal(
    refused: Refused, home: Path, bootstrap: Bootstrap
) -> None:
    reply = pb.HelloReply(
        run_id=RUN.run_id, manifest=RUN.to_bytes(), refusal="\x1b[2Jgo\naway" + "!" * 10_000
    )
    bootstrap.answer(RUN.run_id, reply)
    why = refused("join", "--initial-peers", bootstrap.address, "--dir", home)
    assert "go away!" in why and "\x1b" not in why and len(why) < 500
