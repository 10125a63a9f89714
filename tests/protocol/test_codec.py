"""Codecs: docs/protocol.md, "Codecs"."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protocol.codec import CODEC_NAMES, codec_named
from protocol.errors import CodecError
from tests.protocol import exact
from tests.protocol.vectors import VECTORS, cases

E3M0, BF16, FP32 = (codec_named(name) for name in ("e3m0", "bf16", "fp32"))
SCALES = range(8, 255)

any_values = arrays(
    np.float32,
    st.integers(0, 40),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
# Values of like size: with elements drawn at random one of them is so large that E3M0 rounds all
# others to zero.
alike_values = st.builds(
    lambda mantissas, exponent: np.ldexp(np.array(mantissas, np.float32), exponent),
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=40),
    st.integers(-140, 125),
).map(lambda values: values.astype(np.float32))
finite_parts = any_values | alike_values


def fractions_of(values: np.ndarray) -> list[Fraction]:
    return [Fraction(float(value)) for value in values]


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in CODEC_NAMES for case in VECTORS[name]]
)
def test_the_vectors_encode_and_decode_to_the_bit(name, case):
    codec = codec_named(name)
    assert codec.encode(exact.values_of(case["values"])).hex() == case["encoded"]
    decoded = codec.decode(bytes.fromhex(case["encoded"]), len(case["values"]))
    assert exact.bits_of(decoded) == case["decoded"]


@cases("e3m0")
def test_the_vectors_are_what_exact_arithmetic_gives(case):
    values = [exact.fraction_of(pattern) for pattern in case["values"]]
    assert exact.e3m0_bytes(values).hex() == case["encoded"]


@cases("refused")
def test_bytes_that_no_encoder_writes_are_refused(case):
    with pytest.raises(CodecError):
        codec_named(case["codec"]).decode(bytes.fromhex(case["encoded"]), case["count"])


@pytest.mark.parametrize("codec", [E3M0, BF16, FP32], ids=lambda codec: codec.name)
class TestEveryCodec:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_are_refused(self, codec, bad):
        values = np.array([1, bad, 2], dtype=np.float32)
        with pytest.raises(CodecError, match="finite"):
            codec.encode(values)

    @given(values=finite_parts)
    def test_the_size_depends_on_nothing_but_the_count(self, codec, values):
        assert len(codec.encode(values)) == codec.encoded_bytes(values.size)

    @given(values=finite_parts)
    def test_what_was_decoded_encodes_to_the_same_bytes(self, codec, values):
        data = codec.encode(values)
        decoded = codec.decode(data, values.size)
        assert decoded.dtype == np.float32 and decoded.shape == values.shape
        assert np.isfinite(decoded).all()
        assert codec.encode(decoded) == data

    @given(data=st.binary(max_size=9), count=st.integers(0, 16))
    def test_foreign_bytes_are_refused_or_are_the_canonical_ones(self, codec, data, count):
        try:
            decoded = codec.decode(data, count)
        except CodecError:
            return
        assert codec.encode(decoded) == data

    def test_the_decoded_array_is_the_callers_own(self, codec):
        data = codec.encode(np.ones(4, dtype=np.float32))
        codec.decode(data, 4)[:] = 5
        assert codec.decode(data, 4).tolist() == [1, 1, 1, 1]


def test_an_unknown_codec_is_refused_by_name():
    with pytest.raises(CodecError, match="int4"):
        codec_named("int4")


@pytest.mark.parametrize(
    ("name", "count", "size_bytes"),
    [
        ("fp32", 3, 12),
        ("bf16", 3, 6),
        ("e3m0", 0, 1),
        ("e3m0", 1, 2),
        ("e3m0", 2, 2),
        ("e3m0", 3, 3),
    ],
)
def test_sizes(name, count, size_bytes):
    assert codec_named(name).encoded_bytes(count) == size_bytes


class TestE3M0:
    @pytest.mark.parametrize("scale", SCALES)
    def test_every_code_of_every_scale_survives_a_round_trip(self, scale):
        nibbles = [*range(8), *range(9, 16)]
        data = bytes([scale, *(low | high << 4 for low in nibbles for high in nibbles)])
        count = 2 * len(nibbles) ** 2
        decoded = E3M0.decode(data, count)
        for position, nibble in enumerate(
            n for low in nibbles for high in nibbles for n in (low, high)
        ):
            code = nibble & 7
            expected = exact.power(scale - 127 - 7 + code) if code else 0
            assert Fraction(float(decoded[position])) == (-expected if nibble & 8 else expected)
        assert E3M0.encode(decoded) == data

    @given(values=finite_parts)
    def test_it_is_the_nearest_value_by_exact_arithmetic(self, values):
        assert E3M0.encode(values) == exact.e3m0_bytes(fractions_of(values))

    @given(values=finite_parts)
    def test_the_error_is_a_third_of_the_value_or_half_of_the_smallest_code(self, values):
        data = E3M0.encode(values)
        decoded = E3M0.decode(data, values.size)
        if data[0] == 0:
            assert (np.abs(values) < np.float32(2.0**-126)).all() and not decoded.any()
            return
        half_smallest = exact.power(data[0] - 127 - 7)
        saturates_from = exact.power(127) * 3 / 2
        for x, q in zip(fractions_of(values), fractions_of(decoded), strict=True):
            if abs(x) < saturates_from:
                assert abs(x - q) <= max(abs(x) / 3, half_smallest)
            else:
                assert q == exact.power(127) * (1 if x > 0 else -1)

    @given(values=finite_parts)
    def test_the_mirrored_part_has_the_mirrored_values(self, values):
        there = E3M0.decode(E3M0.encode(values), values.size)
        mirrored = E3M0.decode(E3M0.encode(-values), values.size)
        assert np.array_equal(there, -mirrored)

    @pytest.mark.parametrize("exponent", [-120, -3, 0, 1, 90])
    def test_a_tie_rounds_away_from_zero(self, exponent):
        # The first value sets the scale; the second lies in the middle between two codes.
        largest, tie = np.ldexp(np.float32([4, 1.5]), exponent).astype(np.float32)
        below = np.nextafter(tie, np.float32(0))
        decoded = E3M0.decode(E3M0.encode(np.array([largest, tie, -tie, below])), 4)
        assert decoded.tolist() == [largest, tie * 4 / 3, -tie * 4 / 3, tie * 2 / 3]

    @pytest.mark.parametrize("scale", [*range(8), 255])
    def test_a_scale_that_no_encoder_writes_is_refused(self, scale):
        with pytest.raises(CodecError):
            E3M0.decode(bytes([scale, 0x77]), 2)

    @pytest.mark.parametrize("scale", SCALES)
    def test_a_part_of_zeros_has_no_scale(self, scale):
        with pytest.raises(CodecError, match="does not fit"):
            E3M0.decode(bytes([scale, 0]), 2)


class TestBf16:
    @given(values=finite_parts)
    def test_it_rounds_as_torch_does_except_that_it_saturates(self, values):
        ours = BF16.decode(BF16.encode(values), values.size)
        theirs = torch.from_numpy(values).bfloat16().float().numpy()
        largest = np.float32(torch.finfo(torch.bfloat16).max)
        assert exact.bits_of(ours) == exact.bits_of(np.clip(theirs, -largest, largest))

    def test_every_finite_pattern_survives_a_round_trip(self):
        patterns = np.arange(2**16, dtype=np.uint32)
        patterns = patterns[(patterns & 0x7F80) != 0x7F80]
        data = patterns.astype("<u2").tobytes()
        decoded = BF16.decode(data, patterns.size)
        assert np.array_equal(decoded.view(np.uint32), patterns << 16)
        assert BF16.encode(decoded) == data


class TestFp32:
    @given(values=any_values)
    def test_no_bit_changes(self, values):
        decoded = FP32.decode(FP32.encode(values), values.size)
        assert exact.bits_of(decoded) == exact.bits_of(values)
