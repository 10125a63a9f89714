"""Many seeds, or one to read: `python -m tests.sim --seeds 200`, `python -m tests.sim --seed 7`."""

import argparse
import json
import sys

from tests.sim.scenario import Scenario
from tests.sim.transcript import Transcript


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run this one and print its transcript")
    what.add_argument("--seeds", type=int, help="run this many")
    parser.add_argument("--first", type=int, default=0, help="the first of --seeds")
    args = parser.parse_args(arguments)
    if args.seed is not None:
        return _show(args.seed)
    return _run_many(range(args.first, args.first + args.seeds))


def _show(seed: int) -> int:
    transcript = Transcript()
    result = Scenario(seed, [transcript]).run()
    print(transcript.text, end="")
    for violation in result.violations:
        print(f"VIOLATED {violation}")
    print(result)
    return 1 if result.violations else 0


def _run_many(seeds: range) -> int:
    results = [Scenario(seed).run() for seed in seeds]
    for result in results:
        for violation in result.violations[:3]:
            print(f"seed {result.seed}: {violation}")
    committed = sum(result.committed for result in results)
    empty = sum(result.empty for result in results)
    forked = sum(result.forked for result in results)
    print(f"{committed} rounds committed, {empty} empty; {forked} peers forked")
    totals = {
        "seeds": len(results),
        "events": sum(result.events for result in results),
        "violations": sum(len(result.violations) for result in results),
    }
    print(json.dumps(totals))
    return 1 if totals["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
