"""What a `.tflite` file consists of: ops, tensors, sizes, zeros, and what in it is float."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from keras_compress.reports.inspection import FileReport, FloatOp, OpReport, TensorReport
from keras_compress.tflite.file.flatbuffer import (
    is_stored,
    read_bytes,
    refusing_damage,
    text,
    unpack,
)
from keras_compress.tflite.file.schema import (
    BufferT,
    ModelT,
    OperatorCodeT,
    SubGraphT,
    TensorT,
)
from keras_compress.tflite.file.stored import bits_of, index_bytes, numbers_of
from keras_compress.tflite.probe.probing import check_harmless

Item = TypeVar("Item")

_FLOATS = ("float32", "float16", "float64", "bfloat16")
# The inputs of an op that are weights, where they are constants.
_KERNEL_INPUTS = {
    "BATCH_MATMUL": (0, 1),
    "CONV_2D": (1,),
    "CONV_3D": (1,),
    "CONV_3D_TRANSPOSE": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "EMBEDDING_LOOKUP": (1,),
    "FULLY_CONNECTED": (1,),
    "GATHER": (0,),  # what an Embedding becomes
    "LSTM": range(1, 9),
    "RNN": (1, 2),
    "SVDF": (1, 2),
    "TRANSPOSE_CONV": (1,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": range(1, 9),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2),
}
# Weights in another form than the op computes with go through one of these.
_EXPANDING = ("DEQUANTIZE", "DENSIFY")


def inspect_tflite(source: str | os.PathLike[str] | bytes, *, probe: bool = True) -> FileReport:
    """Reads a `.tflite` file, given as path or as bytes, without running it.

    Args:
        probe: read it in a process of its own first, which a damaged file can make crash or run
            out of time or memory in this one's place. Files exported by this package with their
            record beside them are read straight away.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TFLite file, or a damaged one.
    """
    data = read_bytes(source, "inspect_tflite")
    if probe:
        check_harmless(source, data, "inspect", "inspect_tflite")
    return read_report(data)


def read_report(data: bytes) -> FileReport:
    """`inspect_tflite` of these bytes, in this process."""
    model = unpack(data, "inspect_tflite")
    with refusing_damage(data, "inspect_tflite"):
        return _report_of(model, data)


def _report_of(model: ModelT, data: bytes) -> FileReport:
    values: dict[str, np.ndarray] = {}
    ops: list[OpReport] = []
    tensors: list[TensorReport] = []
    found: list[FloatOp] = []
    for position, graph in enumerate(model.subgraphs):
        kernels = _kernels(model, graph)
        reports = [
            _tensor(tensor, model.buffers, index in kernels, values)
            for index, tensor in enumerate(_indices(graph.tensors))
        ]
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
    graph = model.subgraphs[0]
    return FileReport(
        ops=tuple(ops),
        tensors=tuple(tensors),
        inputs=tuple(text(graph.tensors[i].name) for i in _indices(graph.inputs)),
        outputs=tuple(text(graph.tensors[i].name) for i in _indices(graph.outputs)),
        output_scales=tuple(_output_scales(model)),
        float_ops=tuple(found),
        _data=data,
        _values=values,
    )


def _kernels(model: ModelT, graph: SubGraphT) -> set[int]:
    """The constant tensors of a graph that are weights of its ops."""
    expanded: dict[int, int] = {}
    found = set()
    for operator in graph.operators or []:
        name = op_name(model.operatorCodes[operator.opcodeIndex])
        taken = [int(i) for i in _indices(operator.inputs)]
        if name in _EXPANDING:
            expanded[int(operator.outputs[0])] = expanded.get(taken[0], taken[0])
        for position in _KERNEL_INPUTS.get(name, ()):
            if position < len(taken) and taken[position] >= 0:
                index = expanded.get(taken[position], taken[position])
                if is_stored(model, graph.tensors[index]):
                    found.add(index)
    return found


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


def _output_scales(model: ModelT) -> Iterator[float | None]:
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


def _indices(values: Sequence[Item] | np.ndarray | None) -> Sequence[Item] | np.ndarray:
    return [] if values is None else values


@functools.cache
def _names_of(enumeration: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    members = vars(getattr(schema, enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def op_name(code: OperatorCodeT) -> str:
    # Old files keep the code in a byte of its own; whichever is larger is the true one.
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _names_of("BuiltinOperator").get(builtin, f"BUILTIN_{builtin}")
    return text(code.customCode) if name == "CUSTOM" else name


def _raw(tensor: TensorT, buffers: Sequence[BufferT]) -> np.ndarray:
    """The bytes of a tensor in the file, none for one that is computed."""
    data = buffers[tensor.buffer].data
    return np.zeros(0, np.uint8) if data is None else np.asarray(data, np.uint8)


def _tensor(
    tensor: TensorT, buffers: Sequence[BufferT], kernel: bool, values: dict[str, np.ndarray]
) -> TensorReport:
    name = text(tensor.name)
    dtype = _names_of("TensorType").get(tensor.type, f"type_{tensor.type}").lower()
    shape = tuple(int(size) for size in _indices(tensor.shape))
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis = None
    quantization = tensor.quantization
    if quantization is not None and len(_indices(quantization.scale)):
        scales = tuple(float(scale) for scale in _indices(quantization.scale))
        zero_points = tuple(int(zero) for zero in _indices(quantization.zeroPoint))
        axis = int(quantization.quantizedDimension) if len(scales) > 1 else None
    raw = _raw(tensor, buffers)
    numbers = numbers_of(raw, dtype, shape, tensor.sparsity) if len(raw) else None
    zeros = None
    if numbers is not None:
        values[name] = numbers
        zeros = float(np.mean(numbers == _zero(zero_points, axis, shape))) if numbers.size else 0.0
    return TensorReport(
        name=name,
        dtype=dtype,
        shape=shape,
        bits=bits_of(dtype),
        scales=scales,
        zero_points=zero_points,
        axis=axis,
        bytes=len(raw) + index_bytes(tensor.sparsity),
        zeros=zeros,
        kernel=kernel,
        sparse=tensor.sparsity is not None,
    )


def _zero(
    zero_points: tuple[int, ...], axis: int | None, shape: tuple[int, ...]
) -> int | np.ndarray:
    """The numbers that mean 0.0: one, or one for each channel along `axis`."""
    if len(set(zero_points)) < 2 or axis is None:
        return zero_points[0] if zero_points else 0
    return np.reshape(zero_points, [-1 if i == axis else 1 for i in range(len(shape))])
