"""docs/protocol.md, "State": chunks, their list, the root."""

import json
import struct

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.digest import digest
from protocol.state import (
    CHUNK_BYTES,
    chunk,
    chunk_bytes_of,
    chunk_count,
    chunk_digests,
    list_bytes,
    list_of,
    parse_list,
    root_of,
    state_bytes,
)

CHUNK_VALUES = CHUNK_BYTES // 4


def state_of(values: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return (draw.random(values, dtype=np.float32), draw.random(values, dtype=np.float32))


def test_a_small_state_by_hand():
    global_params, momentum = [1.0, -0.5, 3e-45], [0.0, -0.0, 2.0]
    data = struct.pack("<6f", *global_params, *momentum)
    chunk_list = '["' + blake3(data).hexdigest() + '"]'
    assert root_of(
        chunk_digests(np.array(global_params, np.float32), np.array(momentum, np.float32))
    ) == (blake3(chunk_list.encode()).hexdigest())


# Around the sizes where a chunk, and where the seam between the two arrays, begins and ends.
@settings(max_examples=30)
@given(
    st.sampled_from([0, CHUNK_VALUES // 2, CHUNK_VALUES, 3 * CHUNK_VALUES // 2]),
    st.integers(-2, 3),
)
def test_the_chunks_are_the_state(about, more):
    values = max(0, about + more)
    global_params, momentum = state_of(values)
    chunks = [chunk(global_params, momentum, index) for index in range(chunk_count(values))]
    assert b"".join(chunks) == global_params.tobytes() + momentum.tobytes()
    assert [len(data) for data in chunks] == [
        chunk_bytes_of(values, index) for index in range(chunk_count(values))
    ]
    assert all(len(data) == CHUNK_BYTES for data in chunks[:-1])
    assert sum(map(len, chunks)) == state_bytes(values)
    digests = chunk_digests(global_params, momentum)
    assert digests == tuple(digest(data) for data in chunks)
    assert json.loads(list_of(digests)) == list(digests)
    assert len(list_of(digests)) == list_bytes(values)


@pytest.mark.parametrize("index", [-1, 1])
def test_a_chunk_that_is_not_there_is_refused(index):
    with pytest.raises(IndexError):
        chunk(*state_of(7), index)


def test_one_flipped_bit_anywhere_changes_the_root():
    global_params, momentum = state_of(CHUNK_VALUES)
    root = root_of(chunk_digests(global_params, momentum))
    for flat, position in ((global_params, 0), (momentum, CHUNK_VALUES - 1)):
        flat.view(np.uint32)[position] ^= 1
        assert root_of(chunk_digests(global_params, momentum)) != root
        flat.view(np.uint32)[position] ^= 1
    assert root_of(chunk_digests(global_params, momentum)) == root


def test_what_the_machine_calls_its_byte_order_does_not_matter():
    global_params, momentum = state_of(5)
    assert chunk_digests(global_params.astype(">f4"), momentum.astype(">f4")) == chunk_digests(
        global_params, momentum
    )


def test_a_chunk_list_comes_back():
    digests = chunk_digests(*state_of(CHUNK_VALUES))
    assert parse_list(list_of(digests), CHUNK_VALUES) == digests


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"7",
        b"[" * 5000,
        b"\xff\xff\xff",
        b"[]",
        b'["x"]',
        list_of([digest(b"")] * 2).replace(b",", b", "),
        list_of([digest(b""), "A" * 64]),
        list_of([digest(b"")] * 3),
        b'["' + b"0" * 64 + b'",7]',
    ],
)
def test_something_else_is_no_chunk_list(data):
    with pytest.raises(ValueError, match=r"chunk list|ascii"):
        parse_list(data, CHUNK_VALUES)
