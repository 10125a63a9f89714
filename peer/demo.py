"""The demo: four peers on this machine train together; then what that was worth.

The peers are four ordinary `diloco-peer join` processes with caps on; nothing here knows about
training or rounds. Afterwards two baselines are trained on the same text: one peer alone for the
same number of steps, and data-parallel training with four times the batch. The manifest's
hyperparameters come from the search in docs/log.md, which treats all three alike.
"""

import json
import multiprocessing
import queue
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import Progress
from rich.table import Table

from peer.baseline import train_baseline
from peer.data import Corpus
from peer.identity import Identity
from peer.metrics import METRICS_FILE
from peer.report import Summary, draw, summarize, words
from peer.signals import signals_raise, signals_wait
from protocol.errors import DilocoError, InputError
from protocol.manifest import Manifest

PEERS = ("ada", "ben", "cleo", "dov")
CAP_MBIT = 10
ALONE_LEARNING_RATE = 3e-3
DATA_PARALLEL_LEARNING_RATE = 5e-3
"""The best of the same grid for each of the two; the swarm's stands in the manifest."""
START_S = 120.0
SHOW_EVERY_S = 10.0
LEAVE_S = 15.0
"""A peer that joins a run or writes a checkpoint on a busy machine takes seconds to leave; one that
takes longer is killed, and leaves its p2pd to notice that."""
BF16_BYTES = 2

MANIFEST = """\
# The demo's run: small enough for two cores and a few minutes. 'diloco-peer new' writes a manifest
# with every key explained.
name = "demo"
start_peers = 4
total_steps = 500

[model]
depth = 4
width = 128
context = 128

[data]
corpus = "python-stdlib"
batch_sequences = 4
heldout_digest = "{heldout_digest}"

[inner_optimizer]
learning_rate = 5e-3
warmup_steps = 30

[outer_optimizer]
learning_rate = 0.8
momentum = 0.8

[sync]
sync_every = 20
num_fragments = 4
edges = "spread"
sync_delay_steps = 4
merge_alpha = 0.5
codec = "e3m0"

[evaluation]
every_rounds = 12
batches = 32
final_batches = 128
"""


def run_demo(directory: Path, console: Console) -> None:
    """Run everything; writes report.json and report.png into `directory`.

    Ctrl-C, SIGTERM and SIGHUP end it and all its processes.

    Raises:
        InputError: the directory holds something else.
        DilocoError: a peer failed; its log says why.
    """
    with signals_raise():
        _run_demo(directory, console)


def _run_demo(directory: Path, console: Console) -> None:
    _make_room(directory)
    corpus = Corpus.load(Manifest.from_toml(MANIFEST.format(heldout_digest="")))
    text = MANIFEST.format(heldout_digest=corpus.heldout_digest)
    manifest = Manifest.from_toml(text)
    (directory / "manifest.toml").write_text(text)
    console.print(
        f"Four peers, each with a cap of {CAP_MBIT} mbit/s up and down, train one model on the"
        " sources of Python's standard library. Their directories and logs are in"
        f" {directory}.\n"
    )
    with _Peers(directory, console) as peers:
        peers.start()
        _show(peers, manifest, console)
    summary = summarize([directory / name / METRICS_FILE for name in PEERS])
    steps = round(summary.steps / len(PEERS))
    console.print(
        f"\nThe swarm is done. Now the same model without a swarm, for {steps} steps: one peer"
        " alone, and data-parallel with four times the batch ...",
        highlight=False,
        soft_wrap=True,
    )
    alone, data_parallel = _baselines(directory, manifest, steps, console)
    _conclude(directory, manifest, summary, (alone, data_parallel), console)


def _make_room(directory: Path) -> None:
    """Empty the directory if a demo made it; refuse it if anybody else did."""
    marker = directory / ".demo"
    if directory.exists() and any(directory.iterdir()):
        if not marker.exists():
            raise InputError(f"{directory} is not empty and no demo made it: choose another")
        shutil.rmtree(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise InputError(f"cannot write {directory}: {error.strerror}") from error


class _Peers:
    """The four processes; leaving the block ends those that still run, by pid."""

    def __init__(self, directory: Path, console: Console) -> None:
        self.directory = directory
        self._console = console
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tails: dict[str, BinaryIO] = {}
        self._latest: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        founder, *others = PEERS
        self._join(founder, "--manifest", str(self.directory / "manifest.toml"))
        address = self._printed_address(founder)
        for name in others:
            self._join(name, "--initial-peers", address)

    def _join(self, name: str, *flags: str) -> None:
        cap = f"{CAP_MBIT}mbit"
        command = [sys.executable, "-m", "cli.main", "join", "--dir", str(self.directory / name)]
        command += ["--name", name, "--up", cap, "--down", cap, "--threads", "1"]
        command += ["--plain", *flags]
        with self.log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches this process alone, which then lets every peer leave.
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _printed_address(self, name: str) -> str:
        """From the line that the founder prints for the next person."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if found := re.search(r"--initial-peers (\S+)", self.log(name).read_text()):
                return found[1]
            self.all_done()
            time.sleep(0.1)
        raise DilocoError(f"{name} did not start within {START_S:.0f} s; see {self.log(name)}")

    def all_done(self) -> bool:
        """Whether all have ended well; raises DilocoError when one did not."""
        codes = {name: process.poll() for name, process in self._processes.items()}
        for name, code in codes.items():
            if code:
                lines = self.log(name).read_text(errors="replace").strip().splitlines()
                raise DilocoError(f"{name} ended with {code}: {lines[-1] if lines else ''}")
        return all(code == 0 for code in codes.values())

    def latest(self) -> dict[str, dict[str, Any]]:
        """For each peer the newest metrics line of each kind."""
        for name in self._processes:
            path = self.directory / name / METRICS_FILE
            if name not in self._tails and path.exists():
                self._tails[name] = path.open("rb")
            for line in self._tails.get(name, ()):
                if line.endswith(b"\n"):
                    record = json.loads(line)
                    self._latest.setdefault(name, {})[record["kind"]] = record
        return self._latest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for tail in self._tails.values():
            tail.close()
        # make and an impatient person send Ctrl-C again; peers left alone would train on unseen.
        with signals_wait():
            self._end()

    def _end(self) -> None:
        running = [p for p in self._processes.values() if p.poll() is None]
        if not running:
            return
        self._console.print("the peers are leaving ...")
        for process in running:
            process.send_signal(signal.SIGINT)
        until_s = time.monotonic() + LEAVE_S
        for process in running:
            try:
                process.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _show(peers: _Peers, manifest: Manifest, console: Console) -> None:
    """Follow the peers until all are done: a live table, or a line now and then."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            while not peers.all_done():
                live.update(_table(peers.latest(), manifest))
                time.sleep(0.5)
        return
    shown_s = 0.0
    while not peers.all_done():
        if time.monotonic() - shown_s >= SHOW_EVERY_S:
            shown_s = time.monotonic()
            console.print(_line(peers.latest(), manifest), highlight=False, soft_wrap=True)
        time.sleep(0.5)


def _table(latest: dict[str, dict[str, Any]], manifest: Manifest) -> RenderableType:
    table = Table(title=_headline(latest, manifest), title_justify="left", box=None, min_width=78)
    table.add_column("peer")
    for column in ("step", "round", "loss", "tokens/s", "waited", "up mbit/s", "down", "in group"):
        table.add_column(column, justify="right")
    for name in PEERS:
        lines = latest.get(name, {})
        steps, traffic, last = (lines.get(kind) for kind in ("steps", "traffic", "round"))
        table.add_row(
            name,
            f"{steps['step']}" if steps else "starting",
            f"{last['round']}" if last else "-",
            f"{steps['loss']:.3f}" if steps else "-",
            f"{steps['tokens_per_s']:.0f}" if steps else "-",
            f"{steps['waited_s']:.1f} s" if steps else "-",
            _mbit(traffic, "up"),
            _mbit(traffic, "down"),
            f"{len(last['contributors'])}/{manifest.start_peers}" if last else "-",
        )
    return table


def _mbit(traffic: dict[str, Any] | None, direction: str) -> str:
    if traffic is None:
        return "-"
    return f"{sum(traffic[direction]) * 8 / 1e6 / (traffic['interval_s'] * 10):.2f}"


def _headline(latest: dict[str, dict[str, Any]], manifest: Manifest) -> str:
    steps = [lines["steps"]["position"] for lines in latest.values() if "steps" in lines]
    heldout = [lines["heldout"] for lines in latest.values() if "heldout" in lines]
    text = f"step {min(steps, default=0)} of {manifest.total_steps}"
    if heldout:
        text += f", held-out loss of global_params {max(heldout, key=_round_of)['loss']:.3f}"
    return text


def _round_of(line: dict[str, Any]) -> int:
    return int(line["round"])


def _line(latest: dict[str, dict[str, Any]], manifest: Manifest) -> str:
    losses = ", ".join(
        f"{name} {lines['steps']['loss']:.3f}" for name, lines in latest.items() if "steps" in lines
    )
    return f"{_headline(latest, manifest)}; training loss: {losses or 'starting'}"


# --- baselines -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """One baseline: whose batches make up a step, and with which learning rate."""

    name: str
    manifest: Manifest
    learning_rate: float
    peer_ids: tuple[str, ...]


def _baselines(
    directory: Path, manifest: Manifest, steps: int, console: Console
) -> tuple[float, float]:
    """Held-out loss of one peer alone and of data-parallel, trained side by side."""
    peer_ids = tuple(Identity.load_or_create(directory / name).peer_id for name in PEERS)
    manifest = manifest.model_copy(update={"total_steps": steps})
    jobs = (
        _Job("one peer alone", manifest, ALONE_LEARNING_RATE, peer_ids[:1]),
        _Job("data-parallel", manifest, DATA_PARALLEL_LEARNING_RATE, peer_ids),
    )
    spawn = multiprocessing.get_context("spawn")
    news = spawn.Queue()
    processes = [spawn.Process(target=_baseline, args=(job, news), daemon=True) for job in jobs]
    for process in processes:
        process.start()
    losses: dict[str, float] = {}
    with Progress(console=console) as bars:
        tasks = {job.name: bars.add_task(job.name, total=steps) for job in jobs}
        while len(losses) < len(jobs):
            try:
                name, step, loss = news.get(timeout=1.0)
            except queue.Empty:
                if any(process.exitcode for process in processes):
                    raise DilocoError("a baseline ended without a result") from None
                continue
            bars.update(tasks[name], completed=step)
            if loss is not None:
                losses[name] = loss
    return losses[jobs[0].name], losses[jobs[1].name]


def _baseline(job: _Job, news: "multiprocessing.Queue[tuple[str, int, float | None]]") -> None:
    """In a process of its own: every ten steps a word, at the end the loss."""
    # Ctrl-C in a terminal reaches this process, too; the demo ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    update = {"learning_rate": job.learning_rate}
    inner = job.manifest.inner_optimizer.model_copy(update=update)
    manifest = job.manifest.model_copy(update={"inner_optimizer": inner})

    def progress(step: int) -> None:
        if step % 10 == 0:
            news.put((job.name, step, None))

    loss = train_baseline(manifest, Corpus.load(manifest), job.peer_ids, progress)
    news.put((job.name, manifest.total_steps, loss))


# --- the report ----------------------------------------------------------------------------------


def _conclude(
    directory: Path,
    manifest: Manifest,
    summary: Summary,
    baselines: tuple[float, float],
    console: Console,
) -> None:
    alone, data_parallel = baselines
    peers = len(summary.peers)
    start = json.loads((directory / PEERS[0] / METRICS_FILE).open().readline())
    steps = summary.steps / peers
    bytes_per_peer = summary.sent_bytes / peers
    # A ring moves each gradient twice, less the share that a peer keeps (2 V (M-1)/M).
    ring_bytes = 2 * start["parameters"] * BF16_BYTES * (peers - 1) / peers * steps
    assert summary.heldout_loss_last is not None
    report = {
        "heldout_loss_swarm": summary.heldout_loss_last,
        "heldout_loss_alone": alone,
        "heldout_loss_data_parallel": data_parallel,
        "bytes_per_peer": round(bytes_per_peer),
        "times_fewer_bytes": ring_bytes / bytes_per_peer,
        "peak_mbit": summary.peak_mbit,
        "max_1s_mbit": summary.max_1s_mbit,
        "mean_mbit": summary.mean_mbit,
        "cap_mbit": CAP_MBIT,
        "rounds_committed": summary.rounds_committed,
        "rounds_empty": summary.rounds_empty,
        "utilization": summary.utilization,
        "peers": peers,
        "sync_every": manifest.sync.sync_every,
        "outer_steps": summary.rounds_committed // manifest.sync.num_fragments,
        "parameters": start["parameters"],
        "steps_per_peer": steps,
        "train_s": summary.train_s,
        "run_id": summary.run_id,
    }
    (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(
        [directory / name / METRICS_FILE for name in PEERS],
        directory / "report.png",
        {"one peer alone": alone, "data-parallel": data_parallel},
    )
    console.print("\n" + words(summary), highlight=False, soft_wrap=True)
    console.print(_verdict(report), highlight=False, soft_wrap=True)
    console.print(f"\n{directory / 'report.json'}\n{directory / 'report.png'}", highlight=False)


def _verdict(report: dict[str, Any]) -> str:
    swarm, alone = report["heldout_loss_swarm"], report["heldout_loss_alone"]
    data_parallel = report["heldout_loss_data_parallel"]
    times, sent_mb = report["times_fewer_bytes"], report["bytes_per_peer"] / 1e6
    return "\n".join(
        (
            "",
            "Held-out loss, nats per byte (less is better):",
            f"  one peer alone     {alone:.3f}",
            f"  the swarm of four  {swarm:.3f}   {alone - swarm:.3f} below one peer alone",
            f"  data-parallel      {data_parallel:.3f}   four times the batch in every step",
            "",
            f"Each peer sent {sent_mb:.1f} MB, everything counted. A bf16 ring in every step would"
            f" have sent {sent_mb * times:,.0f} MB: {times:.0f} times more.",
            "",
            "Data-parallel stays ahead at toy scale. It takes every step with the gradient of all"
            " four batches; the swarm takes an outer step per fragment only every"
            f" {report['sync_every']} steps, {report['outer_steps']} in all, and an outer optimizer"
            " needs hundreds. The gap closes as runs and models grow (arXiv 2503.09799, four peers:"
            " 2 % behind at 35 M parameters, 0.3 % at 2.4 B).",
        )
    )
