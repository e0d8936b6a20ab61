"""Arrays as the bytes of a safetensors file, the same as those of the library.

The library's own writer takes its memory in Rust: where there is too little, it ends the process instead of raising
MemoryError, and a checkpoint that finds no room must not cost the training. What was written here is read with the
library.
"""

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.trainer.options import Json

_TYPES = ("U64", "I64", "F64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8", "BOOL")
"""In the order in which a file holds them."""


def save_tensors(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The bytes of a safetensors file. Raises MemoryError, and ValueError for a type that has no name there."""
    kinds = {name: _kind(name, array.dtype) for name, array in tensors.items()}
    arrays: list[NDArray[np.generic]] = []
    head: dict[str, Json] = {}
    at = 0
    for name in sorted(tensors, key=lambda name: (_TYPES.index(kinds[name]), name)):
        array = tensors[name]
        arrays.append(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")))
        head[name] = {
            "dtype": kinds[name],
            "shape": [*array.shape],
            "data_offsets": [at, at := at + array.nbytes],
        }
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, *(array.data for array in arrays)])


def _kind(name: str, dtype: np.dtype[np.generic]) -> str:
    kind = "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{dtype.itemsize * 8}"
    if kind not in _TYPES:
        raise ValueError(f"tensor {name!r}: {dtype} cannot be written as safetensors")
    return kind
