"""Real peers in lockstep against the textbook: every bit of global_params and momentum.

Three processes, a real DHT, real gRPC. The textbook (textbook.py) shares only the model and the
data with the product, and is told the peer_ids, the fragments and the part boundaries.
"""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.processes import SMALL_CORPUS
from peer.identity import Identity
from peer.model import build_model, tensor_specs
from protocol.manifest import Manifest
from tests.processes import textbook
from tests.processes.swarm import Swarm

pytestmark = pytest.mark.processes

MANIFEST = """
name = "bits"
start_peers = 3
mode = "lockstep"
total_steps = {total_steps}
[model]
depth = {depth}
width = 32
head_width = 16
context = 32
[data]
corpus = "{corpus}"
batch_sequences = 2
[inner_optimizer]
warmup_steps = 5
[sync]
sync_every = {sync_every}
num_fragments = {num_fragments}
sync_delay_steps = {tau}
merge_alpha = {alpha}
codec = "{codec}"
[aggregation]
audits = {audits}
[limits]
suspect_after_s = 60.0
[evaluation]
final_batches = 2
"""


@pytest.mark.parametrize(
    ("num_fragments", "tau", "alpha", "codec", "audits"),
    [
        (1, 0, 0.0, "fp32", 0.0),
        (3, 0, 0.0, "fp32", 0.0),
        (3, 5, 0.5, "fp32", 1.5),
        (4, 3, 0.5, "e3m0", 64.0),
    ],
)
def test_three_real_peers_in_lockstep_equal_the_textbook_to_the_bit(
    tmp_path: Path, num_fragments: int, tau: int, alpha: float, codec: str, audits: float
) -> None:
    sync_every = 20
    text = MANIFEST.format(
        total_steps=3 * sync_every + 7,
        depth=3,
        corpus=SMALL_CORPUS,
        sync_every=sync_every,
        num_fragments=num_fragments,
        tau=tau,
        alpha=alpha,
        codec=codec,
        audits=audits,
    )
    manifest = Manifest.from_toml(text)
    names = ("a", "b", "c")
    with Swarm(tmp_path, text) as swarm:
        swarm.found("a")
        swarm.join("b")
        swarm.join("c")
        assert [swarm.wait(name) for name in names] == [0, 0, 0]

    rounds = swarm.rounds("a")
    assert len(rounds) == manifest.schedule.total_rounds
    assert not any(round_["empty"] for round_ in rounds)
    assert all(len(round_["contributors"]) == 3 for round_ in rounds)
    found = [swarm.lines(name, "train_end")[-1]["audits"] for name in names]
    # Who is finished first does not wait until the others have seen what it has.
    assert all("false" not in counts and bool(counts) == bool(audits) for counts in found), found
    assert not audits or all(counts["true"] > 0 for counts in found), found
    assert not any((tmp_path / name / "state" / "verdicts").exists() for name in names)

    fragments = manifest.fragments(tensor_specs(build_model(manifest)))
    expected = textbook.train(
        manifest,
        sorted(Identity.load_or_create(tmp_path / name).peer_id for name in names),
        [[tensor.name for tensor in fragment.tensors] for fragment in fragments],
        [fragment.part_bounds for fragment in fragments],
        manifest.total_steps,
    )
    for name in names:
        saved = load_file(tmp_path / name / "final.safetensors")
        for fragment, (theta, momentum) in zip(fragments, expected, strict=True):
            for kind, flat in (("global_params", theta), ("momentum", momentum)):
                ours = [saved[f"{kind}/{t.name}"].reshape(-1) for t in fragment.tensors]
                np.testing.assert_array_equal(
                    np.concatenate(ours).view(np.uint32), flat.view(np.uint32)
                )
