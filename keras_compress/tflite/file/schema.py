"""What is asked of the objects of the schema library, as types, since it brings none.

`ai_edge_litert.schema_py_generated` unpacks a file into objects of these names. All of their fields
may be missing in a damaged file, which `refusing_damage` is for; None stands here where a whole
file leaves something out.
"""
# ruff: noqa: N815  (fields are called as in the schema)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Integers = Sequence[int] | np.ndarray
Numbers = Sequence[float] | np.ndarray
"""An array where a file was read, a list where it is written."""

Text = bytes | str | None
"""Bytes where a file was read, a string where it is written."""


class QuantizationT(Protocol):
    """`QuantizationParametersT`: how the integers of a tensor stand for real numbers."""

    min: Numbers | None
    max: Numbers | None
    scale: Numbers | None
    zeroPoint: Integers
    quantizedDimension: int


class IndexVectorT(Protocol):
    """`Int32VectorT` and its narrower kin."""

    values: Integers | None


class DimensionT(Protocol):
    """`DimensionMetadataT`: one level of a sparse tensor."""

    format: int
    denseSize: int
    arraySegments: IndexVectorT | None
    arrayIndices: IndexVectorT | None


class SparsityT(Protocol):
    """`SparsityParametersT`: where the stored numbers of a tensor belong."""

    traversalOrder: Integers
    blockMap: Integers | None
    dimMetadata: Sequence[DimensionT]


class TensorT(Protocol):
    """One tensor of a graph."""

    name: Text
    type: int
    shape: Integers
    shapeSignature: Integers | None
    buffer: int
    isVariable: bool
    quantization: QuantizationT | None
    sparsity: SparsityT | None


class OperatorT(Protocol):
    """One op of a graph; inputs and outputs are indices of tensors, -1 for none."""

    opcodeIndex: int
    inputs: Integers
    outputs: Integers
    builtinOptions: Any
    """Of the kind of the op."""


class OperatorCodeT(Protocol):
    """One kind of op."""

    builtinCode: int
    deprecatedBuiltinCode: int
    customCode: Text
    version: int


class SubGraphT(Protocol):
    """One graph: tensors, and ops in the order of execution."""

    tensors: list[TensorT]
    operators: Sequence[OperatorT] | None
    inputs: Integers
    outputs: Integers


class BufferT(Protocol):
    """The bytes of a constant."""

    data: Integers | None


class TensorMapT(Protocol):
    """One end of a graph, by the name that a signature has for it."""

    name: Text
    tensorIndex: int


class SignatureDefT(Protocol):
    """The ends of a graph by name."""

    inputs: Sequence[TensorMapT] | None
    outputs: Sequence[TensorMapT] | None
    subgraphIndex: int


class MetadataT(Protocol):
    """What somebody has added to a file."""

    name: Text
    buffer: int


class ModelT(Protocol):
    """The whole file."""

    subgraphs: Sequence[SubGraphT]
    operatorCodes: list[OperatorCodeT]
    buffers: list[BufferT]
    metadata: Sequence[MetadataT] | None
    signatureDefs: Sequence[SignatureDefT] | None

    def Pack(self, builder: object) -> int: ...  # noqa: N802  (the library's name)
