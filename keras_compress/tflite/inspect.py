"""What a `.tflite` file consists of: ops, tensors, sizes, zeros, and what in it is float."""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_compress.tflite.flatbuffer import read_bytes, text, unpack

_FLOATS = ("float32", "float16", "float64", "bfloat16")
# What only moves or picks numbers.
MOVING = {
    "EXPAND_DIMS", "MAX_POOL_2D", "PAD", "PADV2", "REDUCE_MAX", "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE",
}  # fmt: skip
_BITS = {"int4": 4, "uint4": 4, "int2": 2, "bool": 8, "bfloat16": 16}


@dataclasses.dataclass(frozen=True)
class OpReport:
    """One op: its name in the TFLite schema and the dtypes it takes and gives.

    `output` names its (first) output tensor; in files of this package it begins with the path of
    the layer it came from, those of fused ops joined with ";".
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output: str


@dataclasses.dataclass(frozen=True)
class FloatOp:
    """An op that computes in float: its name and its (first) output tensor's.

    `beside` names the output tensors of the other float ops that share a float tensor with it: for
    a QUANTIZE or DEQUANTIZE those on whose account it is there.
    """

    op: str
    tensor: str
    beside: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def converts(self) -> bool:
        """Whether it only leads from integers to floats or back."""
        return self.op in ("QUANTIZE", "DEQUANTIZE")

    @property
    def moves(self) -> bool:
        """Whether it only moves or picks numbers, which the converter does on either side of a
        QUANTIZE.
        """
        return self.op in MOVING


@dataclasses.dataclass(frozen=True)
class TensorReport:
    """One tensor.

    Attributes:
        bits: of one element; 4 for int4.
        scales, zero_points: one for the tensor or one per channel; empty when not quantized.
        axis: the channel axis of `scales` when there are several, else None.
        bytes: what it takes in the file, 0 for a tensor that is computed.
        zeros: fraction in [0, 1] of a constant's elements that mean 0.0; None when computed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bits: int
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None
    bytes: int
    zeros: float | None

    @property
    def constant(self) -> bool:
        """Whether its values stand in the file."""
        return self.zeros is not None


@dataclasses.dataclass(frozen=True)
class FileReport:
    """What `inspect_tflite` found.

    Attributes:
        ops: in the order of execution.
        float_ops: every op with a float input or output, but for the QUANTIZE and DEQUANTIZE that
            stand directly at a float input or output of the file. In a float file that is every op.
        output_scales: the step between two values of each output, in the order of `outputs`; None
            where it computes in float. A float output that a DEQUANTIZE gives has that one's step.
        bytes, zipped_bytes: size as it is, and as the only entry of a zip at level 9.
    """

    ops: tuple[OpReport, ...]
    tensors: tuple[TensorReport, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_scales: tuple[float | None, ...]
    float_ops: tuple[FloatOp, ...]
    bytes: int
    zipped_bytes: int
    _values: dict[str, np.ndarray] = dataclasses.field(repr=False, compare=False)

    @property
    def all_integer(self) -> bool:
        """Whether no op computes in float."""
        return not self.float_ops

    @functools.cached_property
    def op_counts(self) -> dict[str, int]:
        """How often each op occurs, most frequent first."""
        return dict(collections.Counter(op.name for op in self.ops).most_common())

    def tensor(self, name: str) -> TensorReport:
        """The tensor of that name; KeyError if there is none."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(f"no tensor {name!r}; there are {[t.name for t in self.tensors]}")

    def kernel(self, name: str) -> np.ndarray:
        """The stored numbers of a constant tensor, int4 unpacked to int8.

        Raises:
            KeyError: there is no constant of that name.
        """
        if name not in self._values:
            raise KeyError(f"no constant {name!r}; there are {sorted(self._values)}")
        return self._values[name]


def inspect_tflite(source: str | os.PathLike[str] | bytes) -> FileReport:
    """Reads a `.tflite` file, given as path or as bytes, without running it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TFLite file, or a damaged one.
    """
    data = read_bytes(source, "inspect_tflite")
    model = unpack(data, "inspect_tflite")
    values: dict[str, np.ndarray] = {}
    ops: list[OpReport] = []
    tensors: list[TensorReport] = []
    found: list[FloatOp] = []
    for position, graph in enumerate(model.subgraphs):
        reports = [_tensor(tensor, model.buffers, values) for tensor in graph.tensors]
        tensors += reports
        main = position == 0
        float_ops: list[tuple[FloatOp, set[int]]] = []  # with its float tensors
        for operator in graph.operators or []:
            taken = [int(i) for i in _indices(operator.inputs) if i >= 0]
            given = [int(i) for i in _indices(operator.outputs) if i >= 0]
            op = OpReport(
                name=op_name(model.operatorCodes[operator.opcodeIndex]),
                inputs=tuple(reports[i].dtype for i in taken),
                outputs=tuple(reports[i].dtype for i in given),
                output=reports[given[0]].name if given else "",
            )
            ops.append(op)
            # A float input is followed by its QUANTIZE, a float output preceded by its DEQUANTIZE.
            first = op.name == "QUANTIZE" and main and taken[0] in graph.inputs
            last = op.name == "DEQUANTIZE" and main and given[0] in graph.outputs
            floats = [d in _FLOATS for d in (op.outputs if first else op.inputs if last else ())]
            if not (first or last):
                floats = [d in _FLOATS for d in op.inputs + op.outputs]
            if any(floats):
                own = {i for i in taken + given if reports[i].dtype in _FLOATS}
                float_ops.append((FloatOp(op.name, op.output), own))
        found += _with_neighbours(float_ops)
    main_graph = model.subgraphs[0]
    return FileReport(
        ops=tuple(ops),
        tensors=tuple(tensors),
        inputs=tuple(text(main_graph.tensors[i].name) for i in main_graph.inputs),
        outputs=tuple(text(main_graph.tensors[i].name) for i in main_graph.outputs),
        output_scales=tuple(_output_scales(model)),
        float_ops=tuple(found),
        bytes=len(data),
        zipped_bytes=zipped_size(data),
        _values=values,
    )


def _with_neighbours(ops: list[tuple[FloatOp, set[int]]]) -> Iterator[FloatOp]:
    """The float ops with `beside` filled in; each comes with its float tensors, in and out."""
    sharing: dict[int, list[FloatOp]] = collections.defaultdict(list)
    for op, floats in ops:
        for index in floats:
            sharing[index].append(op)
    for op, floats in ops:
        others = [other for index in sorted(floats) for other in sharing[index] if other is not op]
        beside = dict.fromkeys(other.tensor for other in others if not other.converts)
        yield dataclasses.replace(op, beside=tuple(beside))


def _output_scales(model: Any) -> Iterator[float | None]:
    graph = model.subgraphs[0]
    source = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in graph.operators or []
        if op_name(model.operatorCodes[operator.opcodeIndex]) == "DEQUANTIZE"
    }
    for index in map(int, graph.outputs):
        quantization = graph.tensors[source.get(index, index)].quantization
        scales = [] if quantization is None else _indices(quantization.scale)
        yield float(scales[0]) if len(scales) else None


def zipped_size(data: bytes) -> int:
    """Bytes of a zip (deflate, level 9) that holds this one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(zipfile.ZipInfo("model.tflite"), data, zipfile.ZIP_DEFLATED, 9)
    return buffer.getbuffer().nbytes


def _indices(values: Any) -> Any:
    return [] if values is None else values


@functools.cache
def _names_of(enumeration: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    members = vars(getattr(schema, enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def op_name(code: Any) -> str:
    # Old files keep the code in a byte of its own; whichever is larger is the true one.
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _names_of("BuiltinOperator").get(builtin, f"BUILTIN_{builtin}")
    return text(code.customCode) if name == "CUSTOM" else name


def _tensor(tensor: Any, buffers: Any, values: dict[str, np.ndarray]) -> TensorReport:
    name = text(tensor.name)
    dtype = _names_of("TensorType").get(tensor.type, f"type_{tensor.type}").lower()
    bits = _BITS.get(dtype) or _bits_of(dtype)
    shape = tuple(int(size) for size in _indices(tensor.shape))
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis = None
    quantization = tensor.quantization
    if quantization is not None and len(_indices(quantization.scale)):
        scales = tuple(float(scale) for scale in quantization.scale)
        zero_points = tuple(int(zero) for zero in _indices(quantization.zeroPoint))
        axis = int(quantization.quantizedDimension) if len(scales) > 1 else None
    raw = buffers[tensor.buffer].data
    zeros = None
    if raw is not None and len(raw):
        numbers = _unpack_values(np.asarray(raw, np.uint8), dtype, shape)
        if numbers is not None:
            values[name] = numbers
            zero = zero_points[0] if len(set(zero_points)) == 1 else 0
            zeros = float(np.mean(numbers == zero)) if numbers.size else 0.0
        else:
            zeros = 0.0
    size = 0 if raw is None else len(raw)
    return TensorReport(name, dtype, shape, bits, scales, zero_points, axis, size, zeros)


def _bits_of(dtype: str) -> int:
    try:
        return np.dtype(dtype).itemsize * 8
    except TypeError:
        return 0  # strings, resources, variants


def _unpack_values(raw: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The numbers of a buffer; None for kinds that are no plain numbers, or sparse ones."""
    count = int(np.prod(shape, dtype=np.int64))
    if dtype in ("int4", "int2"):
        bits = _BITS[dtype]
        shifts = np.arange(0, 8, bits, dtype=np.uint8)  # the lowest bits come first
        fields = ((raw[:, None] >> shifts) & (2**bits - 1)).reshape(-1)[:count].astype(np.int8)
        numbers = np.where(fields >= 2 ** (bits - 1), fields - 2**bits, fields).astype(np.int8)
    else:
        try:
            numbers = raw.view(np.dtype(dtype))
        except (TypeError, ValueError):
            return None
    return numbers.reshape(shape) if numbers.size == count else None
