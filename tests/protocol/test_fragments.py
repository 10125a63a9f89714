"""How the model is cut: docs/protocol.md, "Fragments and parts"."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.errors import ManifestError
from protocol.fragments import Fragment, TensorSpec, cut_fragments
from tests.protocol.vectors import cases


def gpt(blocks: int, *, block_values: int = 300, edge_values: int = 640, tied: bool = False):
    """The parameters of a small model, in its order."""
    tensors = [TensorSpec("embedding", edge_values, None, "embedding")]
    for block in range(blocks):
        tensors.append(TensorSpec(f"blocks.{block}.attention", block_values // 3, block))
        tensors.append(TensorSpec(f"blocks.{block}.mlp", block_values - block_values // 3, block))
    tensors.append(TensorSpec("norm", 10, None, "head"))
    if not tied:
        tensors.append(TensorSpec("head", edge_values, None, "head"))
    return tensors


def cut(tensors, num_fragments, **options) -> tuple[Fragment, ...]:
    defaults = {"pattern": "strided", "edges": "own", "part_values": 64, "start_peers": 1}
    return cut_fragments(tensors, num_fragments=num_fragments, **(defaults | options))


def blocks_of(fragment: Fragment) -> list[int]:
    return sorted({t.block for t in fragment.tensors if t.block is not None})


@cases("fragments")
def test_the_vectors_hold(case):
    fragments = cut_fragments(
        [TensorSpec(*row) for row in case["tensors"]],
        num_fragments=case["num_fragments"],
        pattern=case["pattern"],
        edges=case["edges"],
        part_values=case["part_values"],
        start_peers=case["start_peers"],
    )
    assert [f.fragment_id for f in fragments] == list(range(case["num_fragments"]))
    assert [[t.name for t in f.tensors] for f in fragments] == case["names"]
    assert [f.values for f in fragments] == case["sizes"]
    assert [len(f.part_bounds) for f in fragments] == case["parts"]


@given(
    blocks=st.integers(1, 12),
    block_values=st.integers(3, 500),
    edge_values=st.integers(1, 2000),
    tied=st.booleans(),
    num_fragments=st.integers(1, 14),
    pattern=st.sampled_from(["strided", "sequential"]),
    edges=st.sampled_from(["own", "spread"]),
    part_values=st.integers(1, 300),
    start_peers=st.integers(1, 20),
)
def test_every_value_is_in_exactly_one_fragment_and_one_part(
    blocks, block_values, edge_values, tied, num_fragments, pattern, edges, part_values, start_peers
):
    tensors = gpt(blocks, block_values=block_values, edge_values=edge_values, tied=tied)
    try:
        fragments = cut(
            tensors,
            num_fragments,
            pattern=pattern,
            edges=edges,
            part_values=part_values,
            start_peers=start_peers,
        )
    except ManifestError:
        assume(False)
    assert len(fragments) == num_fragments
    names = [t.name for fragment in fragments for t in fragment.tensors]
    assert sorted(names) == sorted(t.name for t in tensors)
    for fragment in fragments:
        bounds = fragment.part_bounds
        covered = [value for start, stop in bounds for value in range(start, stop)]
        assert covered == list(range(fragment.values))
        assert all(stop - start <= part_values for start, stop in bounds)
        assert len({stop - start for start, stop in bounds[:-1]}) <= 1
        assert len(bounds) >= min(4 * start_peers, fragment.values)


@given(
    blocks=st.integers(1, 24), data=st.data(), pattern=st.sampled_from(["strided", "sequential"])
)
def test_the_fragments_of_blocks_differ_by_at_most_one_block(blocks, data, pattern):
    num_fragments = data.draw(st.integers(3, blocks + 2))
    fragments = cut(gpt(blocks), num_fragments, pattern=pattern)[1:-1]
    counts = [len(blocks_of(fragment)) for fragment in fragments]
    assert sum(counts) == blocks
    assert max(counts) - min(counts) <= 1


def test_strided_takes_every_nth_block_and_sequential_takes_neighbours():
    assert [blocks_of(f) for f in cut(gpt(6), 4)] == [[], [0, 2, 4], [1, 3, 5], []]
    sequential = cut(gpt(6), 4, pattern="sequential")
    assert [blocks_of(f) for f in sequential] == [[], [0, 1, 2], [3, 4, 5], []]


def test_spread_edges_join_the_smallest_fragments():
    fragments = cut(gpt(5), 3, edges="spread")
    assert [blocks_of(f) for f in fragments] == [[0, 3], [1, 4], [2]]
    with_edges = [f.fragment_id for f in fragments if any(t.edge for t in f.tensors)]
    assert with_edges == [0, 2]


def test_a_tied_head_leaves_the_final_norm_with_the_embedding():
    first, *_ = cut(gpt(4, tied=True), 3)
    assert [t.name for t in first.tensors] == ["embedding", "norm"]


def test_two_fragments_are_the_edges_and_the_blocks():
    edges, blocks = cut(gpt(4), 2)
    assert {t.block for t in edges.tensors} == {None}
    assert blocks_of(blocks) == [0, 1, 2, 3]


def test_a_fragment_of_fewer_values_than_parts_has_one_value_a_part():
    (fragment,) = cut([TensorSpec("tiny", 3, 0)], 1, start_peers=8)
    assert fragment.part_bounds == ((0, 1), (1, 2), (2, 3))


@pytest.mark.parametrize(
    ("num_fragments", "options", "allowed"),
    [
        (7, {"edges": "own"}, "from 3 to 6"),
        (5, {"edges": "spread"}, "from 1 to 4"),
    ],
)
def test_more_fragments_than_blocks_are_refused_with_the_numbers_that_fit(
    num_fragments, options, allowed
):
    with pytest.raises(ManifestError, match=f"num_fragments = {num_fragments}.*{allowed}"):
        cut(gpt(4), num_fragments, **options)


def test_a_tied_tensor_listed_twice_is_a_bug():
    with pytest.raises(AssertionError, match="tied"):
        cut([*gpt(2), gpt(2)[0]], 3)


def test_a_tensor_that_no_fragment_would_hold_is_a_bug():
    with pytest.raises(AssertionError, match="edge"):
        cut([*gpt(2), TensorSpec("stray", 5, None)], 3)
