"""Replica: what an entry does to the shared state, and how the local parameters follow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from peer.inner import InnerOptimizer
from peer.replica import Replica
from protocol.codec import CODEC_NAMES
from protocol.digest import digest
from protocol.log import Entry, Part
from protocol.manifest import Manifest
from protocol.outer import pseudo_gradient
from tests.protocol.makers import entry

ME = "me"


def manifest_of(codec: str = "fp32") -> Manifest:
    return Manifest.from_toml(
        f"""
        total_steps = 100
        [model]
        depth = 2
        width = 32
        head_width = 16
        context = 16
        [sync]
        sync_every = 12
        num_fragments = 3
        sync_delay_steps = 1
        codec = "{codec}"
        """
    )


def replica_of(manifest: Manifest) -> Replica:
    return Replica(manifest, torch.device("cpu"))


def entry_of(
    replica: Replica, fragment_id: int, parts: tuple[bytes | None, ...], tokens: int
) -> Entry:
    return entry(
        round=fragment_id,
        fragment_id=fragment_id,
        members=(ME, "you"),
        parts=tuple(data and Part(digest(data), (tokens, 7)) for data in parts),
    )


def random_parts(replica: Replica, manifest: Manifest, fragment_id: int, seed: int) -> list[bytes]:
    draw = np.random.default_rng(seed)
    return [
        manifest.codec.encode(draw.normal(0, 1e-3, stop - start).astype(np.float32))
        for start, stop in replica.fragments[fragment_id].part_bounds
    ]


def apply(replica: Replica, of: Entry, parts: tuple[bytes | None, ...]) -> None:
    advance(replica, of, parts)
    replica.fold_in()


def advance(replica: Replica, of: Entry, parts: tuple[bytes | None, ...]) -> None:
    replica.advance(replica.outer_step(of, parts, of.contributed_parts(ME)))


def train_a_little(replica: Replica, manifest: Manifest) -> InnerOptimizer:
    optimizer = InnerOptimizer(manifest, replica.model)
    tokens = torch.arange(64).view(4, 16)
    for position in range(3):
        optimizer.step(position, tokens, tokens + 1)
    return optimizer


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_replaying_entries_without_training_leaves_every_pseudo_gradient_unchanged(
    codec: str,
) -> None:
    manifest = manifest_of(codec)
    replica = replica_of(manifest)
    train_a_little(replica, manifest)
    before = [pseudo_gradient(replica.global_params[f], replica.local_params(f)) for f in range(3)]
    for seed in range(12):
        fragment_id = seed % 3
        parts = tuple(random_parts(replica, manifest, fragment_id, seed))
        apply(replica, entry_of(replica, fragment_id, parts, tokens=0), parts)
    for fragment_id in range(3):
        after = pseudo_gradient(
            replica.global_params[fragment_id], replica.local_params(fragment_id)
        )
        np.testing.assert_allclose(after, before[fragment_id], rtol=0, atol=2e-6)
        assert np.abs(before[fragment_id]).max() > 1e-4


@pytest.mark.parametrize("tokens", [5, 0])
def test_what_is_read_before_the_model_follows_is_what_it_follows_to(tokens: int) -> None:
    """Two outer steps of one fragment and one of another, all before the next boundary."""
    manifest = manifest_of()
    replica = replica_of(manifest)
    train_a_little(replica, manifest)
    in_the_model = [tensor.clone() for tensor in replica.model.parameters()]
    for seed, fragment_id in enumerate((1, 2, 1)):
        parts = tuple(random_parts(replica, manifest, fragment_id, seed))
        advance(replica, entry_of(replica, fragment_id, parts, tokens), parts)
    before = replica.save_local()
    for was, tensor in zip(in_the_model, replica.model.parameters(), strict=True):
        assert torch.equal(was, tensor), "nothing changes under a step that is under way"
    replica.fold_in()
    replica.fold_in()
    for name, local in replica.save_local().items():
        np.testing.assert_array_equal(local, before[name])


def test_a_step_that_takes_many_rounds_is_followed_in_bounded_memory() -> None:
    manifest = manifest_of()
    replica = replica_of(manifest)
    train_a_little(replica, manifest)
    own = replica.local_params(1) - replica.global_params[1]
    merged_at = 20
    for seed in range(40):
        before = replica.global_params[1]
        parts = tuple(random_parts(replica, manifest, 1, seed))
        tokens = 5 if seed == merged_at else 0
        advance(replica, entry_of(replica, 1, parts, tokens), parts)
        if seed == merged_at:
            # Rebases keep the way from global_params; the merge halves it, from the new ones.
            expected = (own + before - replica.global_params[1]) / 2
    assert sum(map(len, replica._unfolded)) == 3, "rebases, the merge, rebases"
    replica.fold_in()
    assert replica.is_folded
    after = replica.local_params(1) - replica.global_params[1]
    np.testing.assert_allclose(after, expected, rtol=0, atol=2e-6)


def test_another_state_keeps_what_was_trained_before_the_model_followed() -> None:
    manifest = manifest_of()
    replica = replica_of(manifest)
    train_a_little(replica, manifest)
    parts = tuple(random_parts(replica, manifest, 1, seed=1))
    advance(replica, entry_of(replica, 1, parts, tokens=0), parts)
    own = replica.local_params(1) - replica.global_params[1]
    elsewhere = [(g + np.float32(0.25), m) for g, m in replica.states]
    replica.adopt(elsewhere)
    replica.fold_in()
    after = replica.local_params(1) - replica.global_params[1]
    np.testing.assert_allclose(after, own, rtol=0, atol=1e-6)
    assert np.abs(own).max() > 1e-4


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("is_there", [False, True], ids=["absent", "not to be decoded"])
def test_a_part_that_moves_nothing_leaves_its_slice_of_all_three_untouched(
    codec: str, is_there: bool
) -> None:
    """An owner that has bytes decided which nobody can decode must not end the run of everybody."""
    manifest = manifest_of(codec)
    replica = replica_of(manifest)
    train_a_little(replica, manifest)
    warm = tuple(random_parts(replica, manifest, 1, seed=1))
    apply(replica, entry_of(replica, 1, warm, tokens=5), warm)
    before = (replica.global_params[1], replica.momentum[1], replica.local_params(1))
    first, *others = random_parts(replica, manifest, 1, seed=2)
    parts = (b"\xff" * len(first) if is_there else None, *others)
    apply(replica, entry_of(replica, 1, parts, tokens=5), parts)
    after = (replica.global_params[1], replica.momentum[1], replica.local_params(1))
    start, stop = replica.fragments[1].part_bounds[0]
    for old, new in zip(before, after, strict=True):
        assert old[start:stop].tobytes() == new[start:stop].tobytes()
        assert (old[stop:] != new[stop:]).any()


def test_a_contributed_part_is_merged_with_alpha() -> None:
    manifest = manifest_of()
    replica = replica_of(manifest)
    train_a_little(replica, manifest)
    local = replica.local_params(1)
    parts = tuple(random_parts(replica, manifest, 1, seed=3))
    apply(replica, entry_of(replica, 1, parts, tokens=5), parts)
    half = np.float32(0.5)
    np.testing.assert_array_equal(
        replica.local_params(1), local * half + replica.global_params[1] * half
    )


def test_a_merge_never_touches_the_inner_optimizers_state() -> None:
    manifest = manifest_of()
    replica = replica_of(manifest)
    optimizer = train_a_little(replica, manifest)
    before = optimizer.save()
    parts = tuple(random_parts(replica, manifest, 0, seed=4))
    apply(replica, entry_of(replica, 0, parts, tokens=5), parts)
    after = optimizer.save()
    assert before and before.keys() == after.keys()
    for name, moment in before.items():
        np.testing.assert_array_equal(moment, after[name])


def test_two_replicas_that_apply_the_same_bytes_have_one_digest() -> None:
    manifest = manifest_of("e3m0")
    trained, fresh = replica_of(manifest), replica_of(manifest)
    train_a_little(trained, manifest)
    parts = tuple(random_parts(trained, manifest, 2, seed=5))
    apply(trained, entry_of(trained, 2, parts, tokens=5), parts)
    apply(fresh, entry_of(fresh, 2, parts, tokens=0), parts)
    assert trained.state_digest() == fresh.state_digest()
    assert trained.local_params(2).tobytes() != fresh.local_params(2).tobytes()


def test_what_is_encoded_is_what_a_peer_moved() -> None:
    manifest = manifest_of()
    replica = replica_of(manifest)
    train_a_little(replica, manifest)
    local = replica.local_params(0)
    data = b"".join(replica.encode(0, local))
    np.testing.assert_array_equal(np.frombuffer(data, np.float32), replica.global_params[0] - local)


def test_final_file_holds_every_parameter_in_its_shape(tmp_path: Path) -> None:
    manifest = manifest_of()
    replica = replica_of(manifest)
    replica.save(tmp_path / "final.safetensors")
    saved = load_file(tmp_path / "final.safetensors")
    for name, parameter in replica.model.named_parameters():
        np.testing.assert_array_equal(saved[f"global_params/{name}"], parameter.detach().numpy())
        assert not saved[f"momentum/{name}"].any()
    assert [path.name for path in tmp_path.iterdir()] == ["final.safetensors"]


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    replica = replica_of(manifest_of())
    with pytest.raises(OSError, match="No such file"):
        replica.save(tmp_path / "nowhere" / "final.safetensors")
