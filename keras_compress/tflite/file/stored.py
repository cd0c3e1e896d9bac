"""The numbers that a `.tflite` file stores: less than a byte wide, sparse, or as they are."""

from __future__ import annotations

import math

import numpy as np

from keras_compress.tflite.file.schema import IndexVectorT, SparsityT

# Narrower than a byte: bits, and whether there is a sign. The lowest bits of a byte come first.
_NARROW = {"int4": (4, True), "uint4": (4, False), "int2": (2, True)}
_BITS = {"bfloat16": 16, "bool": 8, "float8_e4m3fn": 8, "float8_e5m2": 8}
_DENSE = 0
"""Of the schema's `DimensionType`."""


def bits_of(dtype: str) -> int:
    """Bits of one element; 0 for strings, resources and variants."""
    if dtype in _NARROW:
        return _NARROW[dtype][0]
    try:
        return _BITS.get(dtype) or np.dtype(dtype).itemsize * 8
    except TypeError:
        return 0


def numbers_of(
    raw: np.ndarray, dtype: str, shape: tuple[int, ...], sparsity: SparsityT | None
) -> np.ndarray | None:
    """The numbers of a tensor in its dense shape; None for kinds that are no plain numbers.

    Numbers narrower than a byte come as int8, bfloat16 as float32.

    Args:
        raw: the bytes of its buffer.
        sparsity: the schema's `SparsityParametersT`, None for a dense tensor.

    Raises:
        ValueError, IndexError: bytes, shape and `sparsity` do not fit each other.
    """
    count = math.prod(shape)
    numbers: np.ndarray
    if dtype in _NARROW:
        # Sparse ones fill whole bytes too: there can be more numbers than the tensor has.
        numbers = _widened(raw, *_NARROW[dtype])[: count if sparsity is None else None]
    elif dtype == "bfloat16":
        numbers = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        try:
            kind = np.dtype(dtype)
        except TypeError:
            return None
        numbers = raw.view(kind)
    if sparsity is None:
        return numbers.reshape(shape)
    return _dense(numbers, shape, sparsity)


def _widened(raw: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields: np.ndarray = ((raw[:, None] >> shifts) & (2**bits - 1)).reshape(-1).astype(np.int8)
    if not signed:
        return fields
    return np.where(fields >= 2 ** (bits - 1), fields - 2**bits, fields).astype(np.int8)


def _dense(numbers: np.ndarray, shape: tuple[int, ...], sparsity: SparsityT) -> np.ndarray:
    """What TFLite's sparse format means: a tree with one level for each axis, in the order of the
    traversal, blocks as further axes below; the stored numbers are its leaves from left to right.
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    order = [int(axis) for axis in sparsity.traversalOrder]
    levels = list(sparsity.dimMetadata)
    blocks = [] if sparsity.blockMap is None else [int(axis) for axis in sparsity.blockMap]
    # From a place along an axis to the next one, in elements of the dense tensor.
    steps = strides + [strides[axis] for axis in blocks]
    for position, axis in enumerate(blocks):
        steps[axis] *= levels[order.index(len(shape) + position)].denseSize
    places = np.zeros(1, np.int64)
    for axis, level in zip(order, levels, strict=True):
        if level.format == _DENSE:
            along = np.arange(level.denseSize) * steps[axis]
            places = (places[:, None] + along).reshape(-1)
        else:
            children: np.ndarray = np.diff(_vector(level.arraySegments).astype(np.int64))
            along = _vector(level.arrayIndices).astype(np.int64) * steps[axis]
            places = np.repeat(places, children) + along
    if places.size and places.min() < 0:
        raise IndexError(f"a sparse tensor has a number at {places.min()}")
    dense = np.zeros(math.prod(shape), numbers.dtype)
    dense[places] = numbers[: len(places)]
    return dense.reshape(shape)


def index_bytes(sparsity: SparsityT | None) -> int:
    """Bytes that the file stores to say where the numbers of a sparse tensor belong."""
    levels = [] if sparsity is None else sparsity.dimMetadata or []
    return sum(
        _vector(v).nbytes for each in levels for v in (each.arraySegments, each.arrayIndices)
    )


def _vector(vector: IndexVectorT | None) -> np.ndarray:
    """The schema leaves out a vector of a dense level, and the values of an empty one."""
    values = None if vector is None else vector.values
    return np.zeros(0, np.uint8) if values is None else np.asarray(values)
