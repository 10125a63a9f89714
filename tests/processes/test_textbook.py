"""The reference itself: it is what it claims to be, and stands on its own."""

import ast
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peer.data import Corpus
from peer.model import build_model, loss, tensor_specs
from protocol.codec import CODEC_NAMES, codec_named
from protocol.manifest import Manifest
from protocol.outer import merge, outer_step, pseudo_gradient, weighted_mean, weights_of
from tests.processes import textbook

SOURCE = Path(textbook.__file__).read_text(encoding="utf-8")
PEER_IDS = ["ant", "bee", "cat"]

State = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Sums over several threads round differently; the reference sets one thread too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus_path(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(24):
        line = f"{number} times {number + 1} is {number * (number + 1)}, as everybody knows.\n"
        (folder / f"{number}.txt").write_text(line * 8)
    return str(folder)


def manifest_of(corpus_path: str, *, total_steps: int = 20, outer=(0.6, 0.9), **sync) -> Manifest:
    defaults = {"sync_every": 6, "num_fragments": 3, "sync_delay_steps": 1, "part_values": 1000}
    return Manifest.model_validate(
        {
            "mode": "lockstep",
            "start_peers": 3,
            "total_steps": total_steps,
            "model": {"depth": 2, "width": 32, "head_width": 16, "context": 16},
            "data": {"corpus": corpus_path, "batch_sequences": 2, "heldout_percent": 20.0},
            "inner_optimizer": {"warmup_steps": 5},
            "outer_optimizer": {"learning_rate": outer[0], "momentum": outer[1]},
            "sync": defaults | sync,
        }
    )


def run_textbook(manifest: Manifest, peer_ids: Sequence[str]) -> State:
    fragments = manifest.fragments(tensor_specs(build_model(manifest)))
    return textbook.train(
        manifest,
        peer_ids,
        [[tensor.name for tensor in fragment.tensors] for fragment in fragments],
        [fragment.part_bounds for fragment in fragments],
        manifest.total_steps,
    )


def flat_params(model: torch.nn.Module, manifest: Manifest) -> list[np.ndarray]:
    params = dict(model.named_parameters())
    return [
        np.concatenate(
            [params[tensor.name].detach().numpy().ravel() for tensor in fragment.tensors]
        )
        for fragment in manifest.fragments(tensor_specs(model))
    ]


def plain_adamw(manifest: Manifest, peer_id: str) -> list[np.ndarray]:
    """The same steps without any synchronization: a loop as one would write it anywhere."""
    model, corpus, inner = build_model(manifest), Corpus.load(manifest), manifest.inner_optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(),
        betas=(inner.beta1, inner.beta2),
        eps=inner.epsilon,
        weight_decay=inner.weight_decay,
    )
    for cursor in range(manifest.total_steps):
        optimizer.param_groups[0]["lr"] = manifest.inner_learning_rate(cursor)
        optimizer.zero_grad()
        loss(model, *corpus.batch(manifest.seed, peer_id, cursor)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), inner.gradient_clip)
        optimizer.step()
    return flat_params(model, manifest)


def assert_close(state: State, expected: Sequence[np.ndarray]) -> None:
    for (global_params, _), values in zip(state, expected, strict=True):
        assert global_params.dtype == np.float32
        np.testing.assert_allclose(global_params, values, rtol=1e-4, atol=1e-5)


def test_the_reference_is_under_150_lines():
    assert len(SOURCE.splitlines()) < 150


def test_the_reference_shares_only_the_model_the_data_and_the_manifest_with_the_product():
    imported = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    ours = {name for name in imported if name.split(".")[0] in ("protocol", "peer", "cli")}
    assert ours == {"peer.data", "peer.model", "protocol.manifest"}
    # The manifest also leads to the product's schedule, codec and fragments.
    used = {node.attr for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Attribute)}
    assert not used & {"schedule", "encode", "decode", "fragments"}


def test_one_peer_at_learning_rate_1_without_momentum_is_plain_adamw(corpus_path):
    manifest = manifest_of(
        corpus_path,
        outer=(1.0, 0.0),
        codec="fp32",
        num_fragments=1,
        sync_delay_steps=0,
        merge_alpha=0.0,
    )
    assert_close(run_textbook(manifest, ["ant"]), plain_adamw(manifest, "ant"))


def test_nothing_that_was_trained_is_left_behind_at_the_end(corpus_path):
    """One peer, alpha = 1: the rounds in flight and those that drain carry all of its steps."""
    manifest = manifest_of(corpus_path, outer=(1.0, 0.0), codec="fp32", merge_alpha=1.0)
    assert manifest.schedule.step_of(7) + 1 > manifest.total_steps  # a round is in flight
    assert_close(run_textbook(manifest, ["ant"]), plain_adamw(manifest, "ant"))


def test_replicas_that_never_listen_end_at_the_mean_of_separate_trainings(corpus_path):
    manifest = manifest_of(corpus_path, outer=(1.0, 0.0), codec="fp32", merge_alpha=1.0)
    separate = [plain_adamw(manifest, peer_id) for peer_id in PEER_IDS]
    means = [np.mean(fragment, axis=0) for fragment in zip(*separate, strict=True)]
    assert_close(run_textbook(manifest, PEER_IDS), means)


def test_the_same_arguments_give_the_same_bits(corpus_path):
    manifest = manifest_of(corpus_path)
    first, second = (run_textbook(manifest, PEER_IDS) for _ in range(2))
    for (a, b), (c, d) in zip(first, second, strict=True):
        assert a.tobytes() == c.tobytes() and b.tobytes() == d.tobytes()


magnitude = st.floats(-4, 4, width=32) | st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("name", CODEC_NAMES)
@given(
    values=st.lists(magnitude, min_size=1, max_size=30),
    exponent=st.integers(-140, 0),
)
def test_its_codecs_and_the_products_are_the_same_function(name, values, exponent):
    part = np.ldexp(np.array(values, dtype=np.float32), exponent)
    codec = codec_named(name)
    theirs = codec.decode(codec.encode(part), part.size)
    assert textbook.quantize(name, part).tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("fp32", {}),
        ("bf16", {}),
        ("e3m0", {}),
        ("e3m0", {"sync_delay_steps": 0, "merge_alpha": 0.0}),
        ("e3m0", {"num_fragments": 1, "sync_delay_steps": 5}),
        ("e3m0", {"sync_every": 7, "num_fragments": 3, "merge_alpha": 0.3}),
    ],
)
def test_the_products_arithmetic_put_together_gives_the_same_bits(corpus_path, codec, options):
    manifest = manifest_of(corpus_path, codec=codec, **options)
    expected = run_textbook(manifest, PEER_IDS)
    for (a, b), (c, d) in zip(expected, run_product_functions(manifest), strict=True):
        assert a.tobytes() == c.tobytes() and b.tobytes() == d.tobytes()


def run_product_functions(manifest: Manifest) -> State:
    """Lockstep mode, from the pure functions that real peers use, round by round."""
    schedule, codec, outer = manifest.schedule, manifest.codec, manifest.outer_optimizer
    corpus = Corpus.load(manifest)
    replicas = [textbook.Replica(manifest, corpus, peer_id) for peer_id in PEER_IDS]
    fragments = manifest.fragments(tensor_specs(replicas[0].model))
    names = [[tensor.name for tensor in fragment.tensors] for fragment in fragments]
    state = [(values, np.zeros_like(values)) for values in map(replicas[0].read, names)]
    weights = weights_of([manifest.tokens_per_step * manifest.sync.sync_every] * len(replicas))

    def exchange(p: int) -> list[np.ndarray]:
        means = []
        for start, stop in fragments[p].part_bounds:
            moved = [
                pseudo_gradient(state[p][0][start:stop], replica.read(names[p])[start:stop])
                for replica in replicas
            ]
            received = [codec.decode(codec.encode(values), stop - start) for values in moved]
            mean = weighted_mean(received, weights)
            means.append(codec.decode(codec.encode(mean), stop - start))
        return means

    def apply(p: int, means: list[np.ndarray]) -> None:
        global_params, momentum = state[p]
        stepped = [
            outer_step(
                global_params[start:stop],
                momentum[start:stop],
                mean,
                learning_rate=outer.learning_rate,
                momentum_decay=outer.momentum,
            )
            for (start, stop), mean in zip(fragments[p].part_bounds, means, strict=True)
        ]
        new_global, new_momentum = (np.concatenate(arrays) for arrays in zip(*stepped, strict=True))
        state[p] = new_global, new_momentum
        for replica in replicas:
            merged = merge(replica.read(names[p]), new_global, manifest.sync.merge_alpha)
            replica.write(names[p], merged)

    step, snapshot_step = 0, dict.fromkeys(range(len(fragments)), 0)
    for round_ in range(schedule.total_rounds):
        fragment_id = schedule.fragment_of(round_)
        if snapshot_step[fragment_id] == schedule.step_of(round_):
            continue  # draining, and nobody trained since: the weights sum to zero
        snapshot_step[fragment_id] = schedule.step_of(round_)
        delay = schedule.sync_delay_steps if round_ < schedule.training_rounds else 0
        apply_at = min(schedule.step_of(round_) + delay, schedule.total_steps)
        while step < schedule.step_of(round_):
            step += 1
            for replica in replicas:
                replica.inner_step(step)
        means = exchange(fragment_id)
        while step < apply_at:
            step += 1
            for replica in replicas:
                replica.inner_step(step)
        apply(fragment_id, means)
    return state
