"""Feeds what nobody honest says or writes to everything that reads it.

`python -m tests.fuzz --inputs 1000000`; one seam: `--target contact`; an input again, as a finding
names it: `--target contact --seed 1 --replay 1234`. The last line is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence

from tests.fuzz import files, folders, meeting, members, streams, trust, wire
from tests.fuzz.fuzzing import Tally, fuzz, peak_rss_mb, try_input, watched
from tests.fuzz.target import Target

MODULES = (wire, meeting, trust, members, streams, files, folders)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="only this one")
    parser.add_argument("--replay", type=int, metavar="PLACE", help="feed one input of --target")
    args = parser.parse_args(arguments)
    with watched():
        targets = chosen(args.target)
        if not targets:
            names = ", ".join(target.name for target in chosen(None))
            parser.error(f"there is no target {args.target}; there are {names}")
        try:
            if args.replay is not None:
                return replay(targets[0], args.seed, args.replay)
            return run(targets, args.seed, args.inputs)
        finally:
            for target in targets:
                target.close()


def chosen(name: str | None) -> list[Target]:
    """Every target, or those of a name."""
    targets = [make() for module in MODULES for make in module.TARGETS]
    return [target for target in targets if name in (None, target.name)]


def replay(target: Target, seed: int, place: int) -> int:
    data = target.input(seed, place)
    outcome, why = try_input(target, data)
    print(f"{target.name}, seed {seed}, input {place}: {data!r}")
    print(f"{outcome} {why}")
    return 0 if outcome in ("accepted", "refused") else 1


def run(targets: Sequence[Target], seed: int, inputs: int) -> int:
    """Feed so many inputs to all of them, and say what was found."""
    print(f"seed {seed}, {inputs} inputs to {len(targets)} targets", flush=True)
    tallies = []
    for target, count in zip(targets, shares(targets, inputs), strict=True):
        began_s = time.monotonic()
        tally = fuzz(target, seed, count)
        tallies.append(tally)
        print(row(tally, time.monotonic() - began_s), flush=True)
        for finding in tally.findings:
            print(finding.text(seed), flush=True)
    totals = {
        "inputs": sum(tally.inputs for tally in tallies),
        "crashes": sum(tally.counts["crash"] for tally in tallies),
        "hangs": sum(tally.counts["hang"] for tally in tallies),
        "wrongly_accepted": sum(tally.counts["wrong"] for tally in tallies),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "grown_mb": round(max(tally.grown_mb for tally in tallies), 1),
    }
    print(json.dumps(totals))
    return 1 if any(tally.counts for tally in tallies) else 0


def shares(targets: Sequence[Target], inputs: int) -> list[int]:
    """How many inputs each target gets; they sum to `inputs`."""
    whole = sum(target.share for target in targets)
    counts = [int(inputs * target.share / whole) for target in targets]
    counts[0] += inputs - sum(counts)
    return counts


def row(tally: Tally, took_s: float) -> str:
    """One line of the table: what became of a target's inputs."""
    return (
        f"{tally.target:<18} {tally.inputs:>8} inputs  {tally.accepted:>7} accepted"
        f"  {tally.refused.total():>8} refused for {len(tally.refused):>3} reasons"
        f"  {tally.counts.total():>4} findings  {tally.grown_mb:>5.1f} MB more"
        f"  {tally.inputs / max(took_s, 1e-9):>7.0f}/s"
    )


if __name__ == "__main__":
    sys.exit(main())
