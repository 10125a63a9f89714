"""The model: initial values, parameter list, causality and position."""

import math

import pytest
import torch

from peer.model import (
    GPT,
    build_model,
    loss,
    rms_norm,
    rotary_tables,
    rotate,
    tensor_specs,
)
from protocol.digest import digest
from protocol.manifest import Manifest, Model

SMALL = Model(depth=2, width=64, head_width=16, context=24)
TIED = SMALL.model_copy(update={"tied_embedding": True})
WITHOUT_QK_NORM = SMALL.model_copy(update={"qk_norm": False})
VOCABULARY = 256


def tokens(seed: int, batch: int = 2, count: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (batch, count), generator=generator)


@pytest.mark.parametrize("model", [SMALL, TIED])
def test_two_builds_have_the_same_bits_whatever_was_drawn_before(model: Model) -> None:
    manifest = Manifest(model=model)
    torch.manual_seed(1)
    first = build_model(manifest)
    torch.manual_seed(2)
    second = build_model(manifest)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_initial_values_are_those_of_every_machine() -> None:
    """Pinned: a peer that starts with other bits than the founder contradicts its genesis."""
    model = build_model(Manifest(model=SMALL))
    values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert digest(values.numpy().astype("<f4").tobytes()) == (
        "b80246a812d6b8fafd187b43fb7c8b0223b510af4af1d046390cb262e7530c25"
    )


def test_every_bit_of_the_seed_counts() -> None:
    builds = [build_model(Manifest(model=SMALL, seed=seed)) for seed in (1, 1 + 2**32, 2)]
    first_values = {model.head.weight[0, 0].item() for model in builds}
    assert len(first_values) == 3


def test_initial_values_have_the_scale_that_keeps_the_stream_even() -> None:
    manifest = Manifest(model=SMALL)
    model = build_model(manifest)
    assert model.blocks[0].attention.qkv.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert model.blocks[0].attention.out.weight.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert loss(model, tokens(1), tokens(2)).item() == pytest.approx(math.log(VOCABULARY), rel=0.02)


@pytest.mark.parametrize("model", [SMALL, TIED])
def test_specs_list_every_parameter_once(model: Model) -> None:
    gpt = GPT(model, VOCABULARY)
    specs = tensor_specs(gpt)
    by_name = dict(gpt.named_parameters(remove_duplicate=False))
    stored = {by_name[spec.name].data_ptr() for spec in specs}
    assert len(stored) == len(specs)
    assert stored == {parameter.data_ptr() for parameter in by_name.values()}
    assert sum(spec.values for spec in specs) == sum(p.numel() for p in gpt.parameters())
    assert [s.edge for s in specs if s.block is None] == (
        ["embedding"] if model.tied_embedding else ["embedding", "head"]
    )
    assert {s.block for s in specs if s.edge is None} == set(range(model.depth))


@pytest.mark.parametrize(
    ("num_fragments", "edges"), [(1, "own"), (2, "own"), (3, "own"), (1, "spread"), (2, "spread")]
)
@pytest.mark.parametrize("model", [SMALL, TIED])
def test_fragments_cover_the_model(model: Model, num_fragments: int, edges: str) -> None:
    sync = {"num_fragments": num_fragments, "edges": edges}
    manifest = Manifest.model_validate({"model": model, "sync": sync})
    gpt = GPT(model, VOCABULARY)
    fragments = manifest.fragments(tensor_specs(gpt))
    names = [spec.name for fragment in fragments for spec in fragment.tensors]
    assert sorted(names) == sorted(name for name, _ in gpt.named_parameters())


def test_a_large_model_can_be_planned_without_its_memory() -> None:
    with torch.device("meta"):
        model = GPT(Model(depth=27, head_width=64), VOCABULARY)
    assert 0.9e9 < sum(spec.values for spec in tensor_specs(model)) < 1.2e9


@pytest.mark.parametrize("model", [SMALL, WITHOUT_QK_NORM])
def test_a_later_token_changes_no_earlier_logit(model: Model) -> None:
    gpt = build_model(Manifest(model=model))
    before = tokens(1)
    after = before.clone()
    after[:, 10] = (after[:, 10] + 1) % VOCABULARY
    with torch.no_grad():
        difference = (gpt(before) - gpt(after)).abs().amax(dim=(0, 2))
    assert difference[:10].max() < 1e-5
    assert difference[10:].min() > 1e-4


def test_a_shorter_sequence_has_the_same_logits() -> None:
    gpt = build_model(Manifest(model=SMALL))
    with torch.no_grad():
        assert torch.allclose(gpt(tokens(1))[:, :7], gpt(tokens(1)[:, :7]), atol=1e-5)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 1, 16, generator=generator)
    cosine, sine = rotary_tables(context=40, head_width=16)
    queries = rotate(query.expand(40, 16), cosine, sine)
    keys = rotate(key.expand(40, 16), cosine, sine)
    products = queries @ keys.T
    for distance in range(-39, 40):
        along = products.diagonal(distance)
        assert torch.allclose(along, along[0].expand_as(along), atol=1e-4)
    assert products.diagonal(0)[0] != pytest.approx(float(products.diagonal(5)[0]), abs=1e-3)
    assert torch.allclose(queries.norm(dim=1), query.norm(), atol=1e-4)


def test_norm_has_root_mean_square_one_at_any_scale() -> None:
    values = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    for scale in (1e-2, 1.0, 1e4):
        square = rms_norm(scale * values).square().mean(dim=-1)
        assert torch.allclose(square, torch.ones(3), atol=1e-2)


@pytest.mark.parametrize("model", [SMALL, TIED, WITHOUT_QK_NORM])
def test_it_learns(model: Model) -> None:
    gpt = build_model(Manifest(model=model))
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=3e-3)
    sequence = tokens(1, batch=1, count=25)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(gpt, sequence[:, :-1], sequence[:, 1:])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0]
