"""Plans of real manifests: their fragments, and what their swarms were measured to send."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import caps
from peer.demo import MANIFEST as DEMO
from peer.demo import PEERS
from peer.model import build_model, tensor_specs
from peer.planning import make_plan, shape_of, shape_of_size
from protocol.errors import InputError
from protocol.manifest import Manifest
from protocol.plan import TARGET, Swarm, outlook

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MBIT = 125_000.0
DEFAULTS = Manifest.from_toml("[model]\ndepth = 3\nwidth = 32\nhead_width = 16\ncontext = 32")


def swarm(mbit: float, *, peers: int, step_s: float) -> Swarm:
    rate = mbit * MBIT
    return Swarm(peers=peers, step_s=step_s, up_bytes_per_s=rate, down_bytes_per_s=rate, rtt_s=0.0)


def test_the_fragments_are_those_of_the_model_that_a_peer_builds():
    planned = shape_of(DEFAULTS).setting.fragments
    assert planned == DEFAULTS.fragments(tensor_specs(build_model(DEFAULTS)))


def test_other_numbers_of_fragments_are_cut_as_the_manifest_would():
    shape = shape_of(DEFAULTS)
    cuts = {count: shape.cut(count) for count in shape.counts}
    assert [count for count, fragments in cuts.items() if fragments] == [1, 2, 3, 4, 5]
    assert all(len(fragments) == count for count, fragments in cuts.items() if fragments)


def test_a_model_of_which_only_the_size_is_known():
    shape = shape_of_size(10**9, peers=8, lockstep=False)
    assert shape.setting.parameters == 10**9
    # protocol/manifest: a depth of 27 makes about 1 B.
    assert shape.layers == 27
    with pytest.raises(InputError, match="no model"):
        shape_of_size(999, peers=8, lockstep=False)


@pytest.mark.parametrize("cap_mbit", [2, 10])
def test_the_rates_are_those_that_were_measured_at_the_network_card(cap_mbit: int):
    # At 50 mbit the two cores of that machine were busy, and rounds were later than planned.
    rows = json.loads((RESULTS / "caps.json").read_text())["rows"]
    (row,) = (r for r in rows if (r["direction"], r["cap_mbit"]) == ("up", cap_mbit))
    run = Manifest.from_toml(caps.MANIFEST.format(peers=2, width=caps.WIDTHS[cap_mbit]))
    # The link is what everybody waits for, so the step's exact length does not matter.
    seen = outlook(shape_of(run).setting, swarm(cap_mbit, peers=2, step_s=0.05))
    assert seen.flat_bytes_per_s / MBIT == pytest.approx(row["mean_mbit"], rel=0.05)
    assert seen.peak_bytes_per_s / MBIT == pytest.approx(row["max_1s_mbit"], rel=0.05)


def test_the_bytes_are_those_that_the_demo_sent():
    demo = json.loads((RESULTS / "demo.json").read_text())
    run = Manifest.from_toml(DEMO.format(heldout_digest=""))
    link = swarm(
        demo["cap_mbit"], peers=len(PEERS), step_s=demo["train_s"] / demo["steps_per_peer"]
    )
    sent = outlook(shape_of(run).setting, link).sent_bytes * demo["rounds_committed"]
    assert sent == pytest.approx(demo["bytes_per_peer"], rel=0.1)


def test_what_is_compared_with_is_the_papers_simulator():
    plan = make_plan(shape_of(DEFAULTS), swarm(20, peers=4, step_s=0.02), TARGET)
    diloco, in_step = plan.diloco_bytes_per_s, plan.data_parallel_bytes_per_s
    assert diloco and in_step and diloco < in_step
    # Without any overlap a step and its reduction take a / (a + b); with it, less bandwidth.
    bytes_of_a_step = 2 * 2 * plan.given.setting.parameters * 3 / 4
    assert in_step <= bytes_of_a_step / (plan.swarm.step_s * (1 / TARGET - 1)) * 1.05


def test_a_peer_alone_has_nothing_to_plan():
    plan = make_plan(shape_of(DEFAULTS), swarm(20, peers=1, step_s=0.02), TARGET)
    assert plan.next_step is None and plan.data_parallel_bytes_per_s is None
    assert math.isinf(plan.given.outlook.times_fewer_bytes)
