"""Encodings of one part of a pseudo-gradient: fp32, bf16 and E3M0.

The tables of docs/protocol.md ("Codecs") fix every bit: scale, ties, underflow, zero part and
subnormals. Both legs of a round use the same codec, and the owner of a part applies what it
decodes from the bytes it sent, so that every peer works with the same numbers (I1).

All arithmetic is numpy on the CPU. A fragment is encoded once a round, which a
round has seconds for.
"""

from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from protocol.errors import CodecError

Values = npt.NDArray[np.float32]
"""fp32 values of one part or of one whole fragment, flat, on the CPU."""


class Codec(Protocol):
    """Encodes a flat fp32 array into bytes and back."""

    @property
    def name(self) -> str: ...

    def encoded_bytes(self, count: int) -> int:
        """Size of `count` encoded values; it depends on nothing else."""
        ...

    def encode(self, values: Values) -> bytes:
        """Encode values of shape (count,).

        Raises:
            CodecError: a value is NaN or infinite.
        """
        ...

    def decode(self, data: bytes, count: int) -> Values:
        """Decode into a new array of shape (count,).

        Raises:
            CodecError: wrong size, a value that is not finite, or not the canonical encoding.
        """
        ...


def _refuse_size(name: str, data: bytes, expected_bytes: int) -> None:
    if len(data) != expected_bytes:
        raise CodecError(f"{name}: {len(data)} bytes where {expected_bytes} were expected")


def _refuse_non_finite(name: str, values: Values) -> None:
    if not np.isfinite(values).all():
        raise CodecError(f"{name}: a value is not finite")


class Fp32:
    """Little-endian IEEE 754 single precision. No loss; 32 bits a value."""

    name: Final = "fp32"

    def encoded_bytes(self, count: int) -> int:
        return 4 * count

    def encode(self, values: Values) -> bytes:
        _refuse_non_finite(self.name, values)
        return values.astype("<f4").tobytes()

    def decode(self, data: bytes, count: int) -> Values:
        _refuse_size(self.name, data, self.encoded_bytes(count))
        values = np.frombuffer(data, dtype="<f4").astype(np.float32)
        _refuse_non_finite(self.name, values)
        return values


class Bf16:
    """The upper half of fp32, rounded to nearest, ties to even, saturating. 16 bits a value."""

    name: Final = "bf16"
    _LARGEST: Final = 0x7F7F

    def encoded_bytes(self, count: int) -> int:
        return 2 * count

    def encode(self, values: Values) -> bytes:
        _refuse_non_finite(self.name, values)
        bits = values.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16
        # A finite value must not become infinite: the receivers would refuse the whole part.
        sign, magnitude = rounded & 0x8000, rounded & 0x7FFF
        encoded: bytes = (sign | np.minimum(magnitude, self._LARGEST)).astype("<u2").tobytes()
        return encoded

    def decode(self, data: bytes, count: int) -> Values:
        _refuse_size(self.name, data, self.encoded_bytes(count))
        bits = np.frombuffer(data, dtype="<u2").astype(np.uint32) << np.uint32(16)
        values = bits.view(np.float32)
        _refuse_non_finite(self.name, values)
        return values


class E3M0:
    """Sign and 3-bit exponent: 0 and ±2^(e-6) .. ±2^e, with one power of two e per part.

    The paper's wire format (arXiv 2501.18512, section 3.1; eXmY, arXiv 2405.13938). 4 bits a value
    and one scale byte a part: the biased fp32 exponent of the largest magnitude, 0 for a part of
    zeros. Values pair up low nibble first; nibble = sign << 3 | code; code 0 is zero, code k is
    2^(e-7+k).
    """

    name: Final = "e3m0"
    _SMALLEST_SCALE: Final = 8
    """Biased. The underflow limit 2^(e-7) is then the smallest normal number, so subnormals
    never appear on either side of the wire."""
    _LARGEST_SCALE: Final = 254

    def encoded_bytes(self, count: int) -> int:
        return 1 + (count + 1) // 2

    def encode(self, values: Values) -> bytes:
        _refuse_non_finite(self.name, values)
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        magnitude = bits & np.uint32(0x7FFFFFFF)
        # Adding half of the implicit bit rounds the mantissa into the exponent: to the nearer
        # power of two, ties (exactly 1.5 * 2^k) away from zero.
        exponent = ((magnitude + np.uint32(0x00400000)) >> np.uint32(23)).astype(np.int32)
        largest = int(exponent.max(initial=0))
        scale = min(max(largest, self._SMALLEST_SCALE), self._LARGEST_SCALE)
        kept = magnitude >= np.uint32((scale - 7) << 23)
        if largest == 0 or not kept.any():
            return bytes(self.encoded_bytes(values.size))
        code = np.where(kept, np.clip(exponent - (scale - 7), 1, 7), 0).astype(np.uint8)
        sign = (bits >> np.uint32(28)).astype(np.uint8) & np.uint8(8)
        nibbles = np.zeros(values.size + values.size % 2, dtype=np.uint8)
        nibbles[: values.size] = code | np.where(kept, sign, np.uint8(0))
        return bytes([scale]) + (nibbles[0::2] | nibbles[1::2] << np.uint8(4)).tobytes()

    def decode(self, data: bytes, count: int) -> Values:
        _refuse_size(self.name, data, self.encoded_bytes(count))
        scale, packed = data[0], np.frombuffer(data, dtype=np.uint8, offset=1)
        if scale == 0:
            if packed.any():
                raise CodecError("e3m0: a zero part with values in it")
            return np.zeros(count, dtype=np.float32)
        if not self._SMALLEST_SCALE <= scale <= self._LARGEST_SCALE:
            raise CodecError(f"e3m0: scale {scale} is not one that an encoder writes")
        if ((packed & 0x0F) == 8).any() or ((packed >> 4) == 8).any():
            raise CodecError("e3m0: negative zero is not a code")
        if count % 2 and packed[-1] >> 4:
            raise CodecError("e3m0: the padding is not zero")
        # The scale is that of the largest value, so that value has code 7. Only the smallest scale
        # also stands for smaller values, down to code 1.
        largest = int(np.maximum(packed & 0x07, packed >> 4 & 0x07).max(initial=0))
        if largest < (1 if scale == self._SMALLEST_SCALE else 7):
            raise CodecError(f"e3m0: scale {scale} does not fit the values")
        codes = np.arange(16)
        value = np.ldexp(np.float32(1.0), scale - 127 - 7 + (codes & 7)).astype(np.float32)
        value = np.where(codes & 7, np.where(codes & 8, -value, value), 0).astype(np.float32)
        pairs = np.stack([np.tile(value, 16), np.repeat(value, 16)], axis=1)
        # Looked up as one number of 8 bytes, which is ten times faster than as a pair.
        decoded: Values = np.take(pairs.view(np.uint64), packed).view(np.float32)[:count]
        return decoded


_CODECS: Final[dict[str, Codec]] = {c.name: c for c in (Fp32(), Bf16(), E3M0())}
CODEC_NAMES: Final = tuple(_CODECS)


def codec_named(name: str) -> Codec:
    """The codec that a manifest names.

    Raises:
        CodecError: there is no codec of that name.
    """
    if name not in _CODECS:
        raise CodecError(f"unknown codec {name!r}; there are {', '.join(CODEC_NAMES)}")
    return _CODECS[name]
