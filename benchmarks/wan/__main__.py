"""Four systems side by side on the same slow links: ours, torchft, hivemind, and DDP.

    python -m benchmarks.wan             # all of it, under an hour; keep it in benchmarks/results/
    python -m benchmarks.wan --quick     # one rate, ours and the best rival, under eight minutes

Four peers on links of 10, 50 and 200 mbit with 40 ms of round trip; the same model, text, H, and
fragments where a system has them. First, with an emulated accelerator (benchmarks/wan/work.py) and
10 M parameters: compute utilization, tokens per second, bytes, and how flat the traffic is. Then,
training for real with 1.9 M: the time to a held-out loss that is fixed beforehand, what unthrottled
DDP has at half of the tokens. An inner step moves the parameters 0.1 s after it began, in all of
them. Bytes are those of the network cards. Of each rival the better of two settings is shown; which
one, is decided at 50 mbit. Prints a table and, as the last line, JSON:

    {"rows": [{"system", "version", "rate_mbit", "emulated", "utilization", "bytes_per_peer",
               "bytes_per_token", "peak_mbit", "mean_mbit", "peak_over_mean", "time_to_loss_s",
               ...}], "counted_steps", "target_loss", "others"}

(benchmarks/wan/rows.py says what each means; "others" are the settings that are not shown). Needs
root and iproute2, and for torchft `make torchft-venv`; says what is missing and goes on without.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.wan.ddp import DDP
from benchmarks.wan.hivemind import Hivemind
from benchmarks.wan.lab import Lab
from benchmarks.wan.ours import Ours
from benchmarks.wan.report import draw_losses, draw_traffic, json_of, remarks, table_of
from benchmarks.wan.run import FIRST_SEED, RTT_MS, Limits, Run
from benchmarks.wan.system import HOSTS, ROOT, System
from benchmarks.wan.torchft import Torchft
from protocol.errors import UnavailableError

SYSTEMS: tuple[type[System], ...] = (Ours, Torchft, Hivemind, DDP)
RATES_MBIT = (50.0, 10.0, 200.0)
"""The first decides which setting of a rival is shown."""
NOISE_RATE_MBIT = 200.0
MORE_SEEDS = (2, 3)
"""With which ours and the fastest rival train, too, at that rate."""
FULL = Limits(alone_s=10.0, traffic_s=75.0, steady_s=25.0, loss_s=95.0)
QUICK = Limits(alone_s=5.0, traffic_s=60.0, steady_s=10.0, loss_s=92.0)


def measure_all(run: Run, rates_mbit: Sequence[float], has_losses: bool) -> None:
    """Every cell, rate after rate. A lab whose links are not what they should be is left out."""

    def compare(lab: Lab, rate_mbit: float) -> None:
        run.traffic(lab, rate_mbit)
        seeds = (FIRST_SEED, *(MORE_SEEDS if rate_mbit == NOISE_RATE_MBIT else ()))
        for seed in seeds if has_losses else ():
            run.losses(lab, rate_mbit, seed)

    _in_lab(None, run.alone)
    if has_losses:
        run.fix_target()
    for rate_mbit in rates_mbit:
        _in_lab(rate_mbit, lambda lab, rate=rate_mbit: compare(lab, rate))


def _in_lab(rate_mbit: float | None, work: Callable[[Lab], None]) -> None:
    try:
        with Lab(HOSTS, rate_mbit, 0.0 if rate_mbit is None else RTT_MS) as lab:
            print(lab.links, flush=True)
            work(lab)
    except UnavailableError as error:
        where = "no limits" if rate_mbit is None else f"{rate_mbit:g} mbit"
        print(f"{where}: skipped, because {error}", flush=True)


def versions_of(systems: Sequence[type[System]]) -> dict[str, str]:
    """What is installed, by name; what is not is said."""
    versions = {}
    for system in systems:
        try:
            versions[system.name] = system.version()
            print(f"{system.name}: {versions[system.name]}")
        except UnavailableError as error:
            print(f"{system.name}: skipped, because {error}")
    return versions


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wan", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one rate, ours and the best rival")
    parser.add_argument("--no-loss", action="store_true", help="only utilization and traffic")
    parser.add_argument("--rates", help="other ones, in mbit: 10,50")
    parser.add_argument("--systems", help="only these: diloco-peer,torchft,hivemind,DDP")
    parser.add_argument("--plots", type=Path, help="folder for wan-traffic.png and wan-loss.png")
    parser.add_argument(
        "--torchft-venv",
        type=Path,
        default=ROOT / ".venv-torchft",
        help="where torchft is installed (default: .venv-torchft in the repository)",
    )
    arguments = parser.parse_args()
    Torchft.venv = arguments.torchft_venv
    systems: Sequence[type[System]] = (Ours, Torchft) if arguments.quick else SYSTEMS
    if arguments.systems:
        systems = [s for s in SYSTEMS if s.name in arguments.systems.split(",")]
    rates_mbit = RATES_MBIT[:1] if arguments.quick else RATES_MBIT
    if arguments.rates:
        rates_mbit = tuple(float(rate) for rate in arguments.rates.split(","))
    versions = versions_of(systems)
    present = [system for system in systems if system.name in versions]
    run = Run(present, versions, QUICK if arguments.quick else FULL)
    if arguments.quick:
        run.choose(Torchft, Torchft.settings[-1])
    measure_all(run, rates_mbit, has_losses=not arguments.no_loss)
    if arguments.plots:
        draw_traffic(run.traffic_cells, arguments.plots / "wan-traffic.png")
        if run.curves and run.target is not None:
            draw_losses(run.curves, run.target, arguments.plots / "wan-loss.png")
    Console(width=160).print(table_of(run.rows))
    print("\n".join(remarks(run.rows)))
    others = [row.to_json() for row in run.others]
    print(json.dumps(json_of(run.rows, target_loss=run.target, others=others)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
