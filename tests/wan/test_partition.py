"""A real network that falls apart and comes together again: cables are pulled between hosts."""

import pytest

from benchmarks.wan.lab import Lab
from benchmarks.wan.namespaces import unavailable
from tests.processes.swarm import Swarm
from tests.processes.test_faults import (
    CAPS,
    ENDLESS,
    MANIFEST,
    go_on_committing,
    wait_for_contributions,
)

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(unavailable() is not None, reason=f"skipped, because {unavailable()}"),
]
LONELY_S = 12


def test_who_was_cut_off_goes_on_alone_and_comes_over_to_the_log_of_the_majority(tmp_path):
    manifest = MANIFEST % (3, ENDLESS)
    manifest = manifest.replace("[limits]", f"[limits]\nlonely_after_s = {LONELY_S}.0")
    with Lab(hosts=3) as lab, Swarm(tmp_path, manifest, lab) as swarm:
        swarm.found("a", *CAPS)
        swarm.join("b", *CAPS)
        swarm.join("c", *CAPS)
        wait_for_contributions(swarm, "a", "a", "b", "c")

        lab.unplug(swarm.host("c"))
        go_on_committing(swarm, "a", "b")
        swarm.wait_for("c", r"(?m)^alone: ")
        swarm.wait_for("c", rf"forces a new term after {LONELY_S} s of no quorum: with 1 of")
        go_on_committing(swarm, "c", "a", "b")

        lab.plug(swarm.host("c"))
        swarm.wait_for("c", r"the log of \w+ goes on from round \d+, and wins")
        came_over = len(swarm.rounds("c"))
        wait_for_contributions(swarm, "a", "c")
        go_on_committing(swarm, "a", "b", "c")
        after = {r["round"]: (r["digest"], r["state"]) for r in swarm.rounds("c")[came_over:]}
        for name in "ab":
            theirs = {r["round"]: (r["digest"], r["state"]) for r in swarm.rounds(name)}
            shared = after.keys() & theirs.keys()
            assert shared and all(after[r] == theirs[r] for r in shared)
            assert "forces a new term" not in swarm.log(name), "the majority was never alone"
