"""Which parameters are synchronized together, and how a fragment is cut into parts.

Fragments are whole transformer blocks (arXiv 2501.18512, section 2.2): strided by default, since
that keeps up-to-date layers spread over the depth, or sequential. The embedding and the head get
fragments of their own, or join the smallest ones, as the manifest says. Everything here is a pure
function of the manifest and of the model's parameter list, so all peers cut alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from protocol.errors import ManifestError

Pattern = Literal["strided", "sequential"]
Edges = Literal["own", "spread"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter tensor of the model. A tied tensor is listed once."""

    name: str
    values: int
    block: int | None
    """Index of its transformer block; None for the edges: embedding, final norm, head."""
    edge: Literal["embedding", "head"] | None = None
    """Which edge it belongs to, when it is in no block. The final norm goes with the head."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A set of tensors; its flat form is their values one after another in this order."""

    fragment_id: int
    tensors: tuple[TensorSpec, ...]
    part_values: int
    """Values per part; the last part of a fragment may be shorter."""

    @property
    def values(self) -> int:
        return sum(tensor.values for tensor in self.tensors)

    @property
    def part_bounds(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of every part within the flat fragment."""
        return tuple(
            (start, min(start + self.part_values, self.values))
            for start in range(0, self.values, self.part_values)
        )


def cut_fragments(
    tensors: Sequence[TensorSpec],
    *,
    num_fragments: int,
    pattern: Pattern,
    edges: Edges,
    part_values: int,
    start_peers: int,
) -> tuple[Fragment, ...]:
    """Cut a model into exactly `num_fragments` fragments.

    A part has at most `part_values` values, and few enough that each fragment has at least
    4 x start_peers parts: ownership hands out whole parts, and with fewer the shares of unequal
    links could not be matched. (A fragment of fewer values than that has one value a part.)

    Raises:
        ManifestError: the model has too few blocks for so many fragments.
    """
    names = [tensor.name for tensor in tensors]
    assert len(set(names)) == len(names), "a tied tensor must be listed once"
    # It would be in no fragment: trained by every peer, averaged by none.
    assert all((t.block is None) != (t.edge is None) for t in tensors), "in a block or at an edge"
    groups = _group_tensors(tensors, num_fragments, pattern, edges)
    return tuple(
        Fragment(
            fragment_id,
            tuple(group),
            part_values=max(1, min(part_values, sum(t.values for t in group) // (4 * start_peers))),
        )
        for fragment_id, group in enumerate(groups)
    )


def _group_tensors(
    tensors: Sequence[TensorSpec], num_fragments: int, pattern: Pattern, edges: Edges
) -> list[list[TensorSpec]]:
    if num_fragments == 1:
        return [list(tensors)]
    embedding = [t for t in tensors if t.edge == "embedding"]
    head = [t for t in tensors if t.edge == "head"]
    blocks: dict[int, list[TensorSpec]] = {}
    for tensor in tensors:
        if tensor.block is not None:
            blocks.setdefault(tensor.block, []).append(tensor)
    # With a tied embedding, or with two fragments, the edges share one: the head is then only the
    # final norm, and a fragment of a few hundred values would spend a round on nothing.
    head_is_small = sum(t.values for t in head) < sum(t.values for t in embedding) // 2
    if edges == "spread":
        own: list[list[TensorSpec]] = []
    elif num_fragments == 2 or head_is_small:
        own = [embedding + head]
    else:
        own = [embedding, head]
    for_blocks = num_fragments - len(own)
    if not 1 <= for_blocks <= len(blocks):
        raise ManifestError(
            f"sync.num_fragments = {num_fragments} does not fit: the model has {len(blocks)} blocks"
            f" and {len(own)} fragments hold the embedding and the head; choose a number from"
            f" {1 + len(own)} to {len(blocks) + len(own)}"
        )
    groups: list[list[TensorSpec]] = [[] for _ in range(for_blocks)]
    for position, block in enumerate(sorted(blocks)):
        if pattern == "strided":
            target = position % for_blocks
        else:
            target = position * for_blocks // len(blocks)
        groups[target].extend(blocks[block])
    if edges == "spread":
        for edge in sorted((embedding, head), key=lambda ts: -sum(t.values for t in ts)):
            smallest = min(groups, key=lambda group: sum(t.values for t in group))
            smallest.extend(edge)
        return groups
    return [own[0], *groups, *own[1:]]
