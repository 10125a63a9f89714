"""Many seeds, or one to read: `python -m tests.sim --seeds 200`, `python -m tests.sim --seed 7`."""

import argparse
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.sim.scenario import MANY, Result, Scenario
from tests.sim.transcript import Transcript

MANY_EVERY = 100
"""One seed in so many has 40 peers."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run this one and print its transcript")
    what.add_argument("--seeds", type=int, help="run this many")
    parser.add_argument("--first", type=int, default=0, help="the first of --seeds")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args(arguments)
    if args.seed is not None:
        return _show(args.seed)
    return _run_many(range(args.first, args.first + args.seeds), args.jobs)


def scenario(seed: int) -> Scenario:
    return Scenario(seed, peers=MANY if seed % MANY_EVERY == MANY_EVERY - 1 else None)


def run_seed(seed: int) -> Result:
    return scenario(seed).run()


def _show(seed: int) -> int:
    transcript = Transcript()
    peers = MANY if seed % MANY_EVERY == MANY_EVERY - 1 else None
    result = Scenario(seed, [transcript], peers=peers).run()
    print(transcript.text, end="")
    for violation in result.violations:
        print(f"VIOLATED {violation}")
    print(result)
    return 1 if result.violations else 0


def _run_many(seeds: range, jobs: int) -> int:
    with ProcessPoolExecutor(jobs) as pool:
        results = list(_watched(pool.map(run_seed, seeds, chunksize=5)))
    committed, empty = sum(r.committed for r in results), sum(r.empty for r in results)
    forced, forked = sum(r.forced for r in results), sum(r.forked for r in results)
    print(f"{committed} entries, {empty} empty ones, {forced} forced terms, {forked} peers forked")
    totals = {
        "seeds": len(results),
        "events": sum(result.events for result in results),
        "violations": sum(len(result.violations) for result in results),
    }
    print(json.dumps(totals))
    return 1 if totals["violations"] else 0


def _watched(results: Iterable[Result]) -> Iterable[Result]:
    """The same results; violations are shown as they are found."""
    for result in results:
        for violation in result.violations[:3]:
            print(f"seed {result.seed}: {violation}", flush=True)
        yield result


if __name__ == "__main__":
    sys.exit(main())
