"""What does a swarm lose by a peer at a tenth of the speed, or behind a tenth of the bandwidth?

    python -m benchmarks.uneven            # three seeds of each case: 20 minutes
    python -m benchmarks.uneven --quick    # one seed of each, short ones; says nothing of noise

Four real peers train one small model on real text, each inner step in a fixed time (an emulated
accelerator: benchmarks/uneven_peer.py), on links of 10 mbit where this machine lets us make network
namespaces (root), else under caps of 10 mbit. Cases: all alike; one at a tenth of the steps per
second; one behind a tenth of the bandwidth. Every case is trained for about as many tokens, and
ends with the held-out loss of global_params.

Prints a table and, as the last line, JSON:

    {"rows": [{"case", "tokens_per_s", "sum_alone_tokens_per_s", "loss", "loss_even", ...}]}

`sum_alone_tokens_per_s` adds up what each of the peers trained by itself, measured with the same
program and no others there; `loss` and `loss_even` are means over the seeds, `loss_even_spread`
largest minus smallest of the case in which all are alike. `tokens` is what the log has averaged by
the end.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.join import pace
from benchmarks.processes import PORT, SMALL_CORPUS, Swarm, free_ports
from benchmarks.wan.lab import Lab, lab_or_loopback
from protocol.errors import UnavailableError

ROOT = Path(__file__).parents[1]
PEERS = 4
STEP_S, SLOW_STEP_S = 0.15, 1.5
CAP_MBIT, NARROW_MBIT = 10.0, 1.0
STEPS, QUICK_STEPS = 600, 90
"""Of the schedule where all are alike."""
SEEDS = (1, 2, 3)
ALONE_S = 15.0
"""For so long a peer that trains by itself is watched."""
WARM_UP_S = 3.0
"""Of every measurement of a pace: everybody has just begun."""
RUN_PATIENCE_S = 600.0

MANIFEST = f"""
name = "uneven"
seed = {{seed}}
start_peers = {{peers}}
total_steps = {{steps}}
[model]
depth = 2
context = 64
[data]
corpus = "{SMALL_CORPUS}"
batch_sequences = 2
[inner_optimizer]
warmup_steps = 20
[sync]
sync_every = 30
num_fragments = 2
sync_delay_steps = 0
edges = "spread"
[evaluation]
every_rounds = 1000
final_batches = 128
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Four peers, and what the last of them is like."""

    name: str
    last_step_s: float = STEP_S
    last_mbit: float = CAP_MBIT

    @property
    def steps_s(self) -> tuple[float, ...]:
        return (STEP_S,) * (PEERS - 1) + (self.last_step_s,)

    @property
    def caps_mbit(self) -> tuple[float, ...]:
        return (CAP_MBIT,) * (PEERS - 1) + (self.last_mbit,)

    def total_steps(self, even_steps: int) -> int:
        """A schedule in which they train as many tokens as four equal ones in theirs."""
        return round(even_steps * PEERS * STEP_S / sum(STEP_S**2 / s for s in self.steps_s))


EVEN = Case(name="all alike")
CASES = (
    EVEN,
    Case(name="one at a tenth of the pace", last_step_s=SLOW_STEP_S),
    Case(name="one at a tenth of the bandwidth", last_mbit=NARROW_MBIT),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one swarm came to."""

    tokens_per_s: float
    tokens: float
    loss: float
    share_of_last: float
    """Of the tokens that the log has averaged, the last peer's."""
    sync_every_in_effect: float
    """Mean over the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table: the means over the seeds."""

    case: str
    tokens_per_s: float
    sum_alone_tokens_per_s: float
    loss: float
    loss_even: float
    loss_even_spread: float
    tokens: float
    share_of_last: float
    sync_every_in_effect: float
    seeds: int


class Peers(Swarm):
    """Peers that run benchmarks.uneven_peer in place of the command line."""

    def __init__(
        self,
        folder: Path,
        manifest: str,
        lab: Lab | None,
        steps_s: Sequence[float],
        caps_mbit: Sequence[float],
    ) -> None:
        super().__init__(folder, manifest, lab)
        self.names = tuple(f"peer{number}" for number in range(len(steps_s)))
        self._flags = {
            name: ("--step-s", str(step_s), "--cap-mbit", str(cap_mbit))
            for name, step_s, cap_mbit in zip(self.names, steps_s, caps_mbit, strict=True)
        }

    def start_all(self) -> None:
        """Founder first; returns when training has begun."""
        self.found(self.names[0])
        for name in self.names[1:]:
            self.join(name)
        self.wait_until(
            lambda: all(self.lines(name, "train_begin") for name in self.names),
            "training to begin",
            *self.names,
        )

    def _join(self, name: str, *flags: str) -> None:
        port = PORT if self.lab is not None else free_ports()
        argv = [sys.executable, "-m", "benchmarks.uneven_peer", "--dir", str(self.path(name))]
        argv += ["--listen", f"{self.address(name)}:{port}", *self._flags[name], *flags]
        self.start(name, argv, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")

    def tokens_per_s(self, from_s: float, to_s: float) -> float:
        """Of all together, between two moments."""
        records = [self.lines(name, "steps") for name in self.names]
        return sum(pace([(line["t"], line["tokens"]) for line in r], from_s, to_s) for r in records)

    @property
    def began_s(self) -> float:
        """When the last one did, and was warm."""
        return max(self.lines(name, "train_begin")[0]["t"] for name in self.names) + WARM_UP_S


def alone(step_s: float) -> float:
    """Tokens per second of a peer that trains by itself; raises UnavailableError."""
    manifest = MANIFEST.format(seed=1, peers=1, steps=10_000)
    with (
        tempfile.TemporaryDirectory(prefix="uneven-") as folder,
        Peers(Path(folder), manifest, None, [step_s], [CAP_MBIT]) as peers,
    ):
        peers.start_all()
        until_s = peers.began_s + ALONE_S
        peers.wait_until(
            lambda: any(line["t"] > until_s for line in peers.lines("peer0", "steps")),
            "a peer to train",
            "peer0",
        )
        return peers.tokens_per_s(peers.began_s, until_s)


def train(
    seed: int, steps: int, steps_s: Sequence[float], caps_mbit: Sequence[float], lab: Lab | None
) -> Run:
    """One run from the founding to the last round.

    Raises:
        UnavailableError: a peer ended, or did not do what it has to; with the end of their output.
    """
    manifest = MANIFEST.format(seed=seed, peers=len(steps_s), steps=steps)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uneven-")))
        peers = stack.enter_context(Peers(folder, manifest, lab, steps_s, caps_mbit))
        try:
            peers.start_all()
            peers.wait_until(
                lambda: all(peers.lines(name, "heldout") for name in peers.names),
                "the run to end",
                poll_s=0.5,
                patience_s=RUN_PATIENCE_S,
            )
        except UnavailableError as error:
            raise UnavailableError(f"{error}\n{peers.tails()}") from error
        return _come_to(peers)


def _come_to(peers: Peers) -> Run:
    names = peers.names
    to_s = min(peers.lines(name, "train_end")[0]["t"] for name in names) - 1.0
    weights = {peers.lines(name, "start")[0]["peer_id"]: 0 for name in names}
    rounds = [line for line in peers.rounds(names[0]) if not line["empty"]]
    for line in rounds:
        for peer_id, tokens in line["tokens"].items():
            weights[peer_id] += tokens
    stretched = [line["sync_every_in_effect"] for line in rounds if line["sync_every_in_effect"]]
    final = peers.lines(names[0], "heldout")[-1]
    return Run(
        tokens_per_s=peers.tokens_per_s(peers.began_s, to_s),
        tokens=final["tokens"],
        loss=final["loss"],
        share_of_last=list(weights.values())[-1] / sum(weights.values()),
        sync_every_in_effect=sum(stretched) / len(stretched) if stretched else 0.0,
    )


def row_of(
    case: Case, runs: Sequence[Run], even: Sequence[Run], by_itself: dict[float, float]
) -> Row:
    """The means of a case, next to what its peers trained by themselves and to the even swarm."""

    def mean(values: Sequence[float], digits: int) -> float:
        return round(sum(values) / len(values), digits)

    losses = [run.loss for run in even]
    return Row(
        case=case.name,
        tokens_per_s=mean([run.tokens_per_s for run in runs], 1),
        sum_alone_tokens_per_s=round(sum(by_itself[step_s] for step_s in case.steps_s), 1),
        loss=mean([run.loss for run in runs], 4),
        loss_even=mean(losses, 4),
        loss_even_spread=round(max(losses) - min(losses), 4),
        tokens=mean([run.tokens for run in runs], 0),
        share_of_last=mean([run.share_of_last for run in runs], 4),
        sync_every_in_effect=mean([run.sync_every_in_effect for run in runs], 1),
        seeds=len(runs),
    )


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(
        title="Four peers, one of them different",
        caption="tokens/s of the swarm, and of its peers one by one, added up; held-out loss in"
        " nats per byte, mean over the seeds, next to that of four equal peers (spread: largest"
        " minus smallest); what the log has averaged, the last peer's share of it; H in effect.",
        box=None,
        min_width=80,
    )
    for name in ("", "tokens/s", "alone", "ratio", "loss", "even", "spread", "tokens", "share"):
        table.add_column(name, justify="right" if name else "left")
    table.add_column("H", justify="right")
    for row in rows:
        table.add_row(
            row.case,
            f"{row.tokens_per_s:,.0f}",
            f"{row.sum_alone_tokens_per_s:,.0f}",
            f"{row.tokens_per_s / row.sum_alone_tokens_per_s:.1%}",
            f"{row.loss:.3f}",
            f"{row.loss_even:.3f}",
            f"{row.loss_even_spread:.3f}" if row.seeds > 1 else "-",
            f"{row.tokens / 1e3:,.0f}k",
            f"{row.share_of_last:.1%}",
            f"{row.sync_every_in_effect:.0f}",
        )
    return table


def measure(seeds: Sequence[int], even_steps: int) -> list[Row]:
    """All cases; raises UnavailableError when a run does not come to its end."""
    by_itself = {}
    for step_s in (STEP_S, SLOW_STEP_S):
        by_itself[step_s] = alone(step_s)
        print(f"alone, {step_s:g} s a step: {by_itself[step_s]:.1f} tokens/s", flush=True)
    runs: dict[Case, list[Run]] = {}
    for case in CASES:
        with lab_or_loopback(PEERS, case.caps_mbit) as lab:
            for seed in seeds:
                steps = case.total_steps(even_steps)
                run = train(seed, steps, case.steps_s, case.caps_mbit, lab)
                runs.setdefault(case, []).append(run)
                print(
                    f"{case.name}, seed {seed}: {run.tokens_per_s:.0f} tokens/s,"
                    f" loss {run.loss:.4f} after {run.tokens / 1e3:.0f}k tokens,"
                    f" H in effect {run.sync_every_in_effect:.0f}",
                    flush=True,
                )
    return [row_of(case, runs[case], runs[EVEN], by_itself) for case in CASES]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.uneven", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one seed, short runs")
    arguments = parser.parse_args()
    try:
        rows = measure(*((SEEDS[:1], QUICK_STEPS) if arguments.quick else (SEEDS, STEPS)))
    except UnavailableError as error:
        print(f"failed: {error}")
        print(json.dumps({"rows": [], "failed": 1}))
        return 1
    Console().print(table_of(rows))
    print(json.dumps({"rows": [asdict(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
