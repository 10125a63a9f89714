"""Many seeds and all mutations: `python -m tests.sim --seeds 200`; one seed to read: `--seed 7`;
one mutation (tests/sim/mutations/): `--mutation promise_ignored`."""

import argparse
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.sim import mutating
from tests.sim.scenario import Result, Scenario
from tests.sim.transcript import Transcript

PROGRESS_SEEDS = 500


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run this one and print its transcript")
    what.add_argument("--seeds", type=int, help="run this many")
    what.add_argument("--mutation", choices=mutating.names(), help="run this one")
    parser.add_argument("--no-mutations", action="store_true", help="only --seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of --seeds")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args(arguments)
    if args.seed is not None:
        return _show(args.seed)
    if args.mutation is not None:
        return _mutate(args.mutation)
    return _run_many(range(args.first, args.first + args.seeds), args.jobs, not args.no_mutations)


def run_seed(seed: int) -> Result:
    return Scenario(seed).run()


def _show(seed: int) -> int:
    transcript = Transcript()
    result = Scenario(seed, [transcript]).run()
    print(transcript.text, end="")
    for violation in result.violations:
        print(f"VIOLATED {violation}")
    print(result)
    return 1 if result.violations else 0


def _mutate(name: str) -> int:
    outcome = mutating.try_out(name)
    print(outcome)
    return 0 if outcome.is_caught else 1


def _run_many(seeds: range, jobs: int, with_mutations: bool) -> int:
    with ProcessPoolExecutor(jobs) as pool:
        results = list(_watched(pool.map(run_seed, seeds, chunksize=5)))
    full, empty = sum(r.full for r in results), sum(r.empty for r in results)
    forced, simulated_s = sum(r.forced for r in results), sum(r.simulated_s for r in results)
    print(f"{full} full entries, {empty} empty ones, {forced} forced terms, {simulated_s:.0f} s")
    outcomes = list(_shown(mutating.try_all(jobs))) if with_mutations else []
    totals = {
        "seeds": len(results),
        "events": sum(result.events for result in results),
        "violations": sum(len(result.violations) for result in results),
        "mutations": len(outcomes),
        "mutations_caught": sum(outcome.is_caught for outcome in outcomes),
    }
    print(json.dumps(totals))
    return 1 if totals["violations"] or totals["mutations_caught"] < len(outcomes) else 0


def _watched(results: Iterable[Result]) -> Iterable[Result]:
    """The same results; violations are shown as they are found, and now and then how far it is."""
    events = 0
    for count, result in enumerate(results, start=1):
        events += result.events
        if count % PROGRESS_SEEDS == 0:
            print(f"{count} seeds, {events} events", file=sys.stderr, flush=True)
        for violation in result.violations[:3]:
            print(f"seed {result.seed}: {violation}", flush=True)
        yield result


def _shown(outcomes: Iterable[mutating.Outcome]) -> Iterable[mutating.Outcome]:
    for outcome in outcomes:
        print(outcome, flush=True)
        yield outcome


if __name__ == "__main__":
    sys.exit(main())
