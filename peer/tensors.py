"""safetensors files, written piece by piece: no state is held a second time to be saved.

The library can only build a whole file in memory or write it to a path of its own; what is written
here is read by it (and by every other reader of the format) as if it had written it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

PIECE_BYTES: Final = 1024 * 1024
MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
_NAMES: Final = {
    "f8": "F64",
    "f4": "F32",
    "f2": "F16",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
    "b1": "BOOL",
}
"""The format's name of each numpy type, by kind and size."""

Array = npt.NDArray[Any]


def pieces_of(tensors: Mapping[str, Array]) -> Iterator[bytes]:
    """A whole file, in pieces of at most 1 MiB; equal arrays give equal bytes.

    Raises:
        KeyError: an array has a type that the format does not know.
    """
    # Widest first, so that every tensor begins at a multiple of its item size; then by name.
    ordered = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    yield header({name: (tensors[name].dtype, tensors[name].shape) for name in ordered}, {})
    for name in ordered:
        array = tensors[name]
        flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
        step = max(1, PIECE_BYTES // array.itemsize)
        for start in range(0, flat.size, step):
            yield flat[start : start + step].tobytes()


def header(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """What stands before the data: tensors of these types and shapes, in this order."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        fields[name] = {
            "dtype": _NAMES[f"{dtype.kind}{dtype.itemsize}"],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
