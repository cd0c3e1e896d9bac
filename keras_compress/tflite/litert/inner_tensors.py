"""The numbers between a file's ops, as LiteRT computes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_compress.reports.inspection import MOVING
from keras_compress.tflite.file.flatbuffer import scale_of, text, unpack
from keras_compress.tflite.file.inspect import op_name
from keras_compress.tflite.file.schema import OperatorT, SubGraphT
from keras_compress.tflite.litert.model import TFLiteModel, real_numbers


@dataclasses.dataclass(frozen=True)
class ComputedTensor:
    """An integer tensor with one scale that an op of a file computes, and does not only move.

    Attributes:
        name: what the converter made of the names of the nodes behind it.
        scale: real value of one integer step.
        values: real values, float32, all rows along the first axis; the other axes are the file's,
            which need not be those of the network.
    """

    name: str
    scale: float
    values: np.ndarray


def computed_tensors(
    data: bytes, rows: Sequence[Mapping[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], list[ComputedTensor]]:
    """What a file computes on some inputs: the inputs as it rounds them, and its integer tensors.

    Args:
        data: the file.
        rows: dicts of input name -> exactly one batch of the file.

    Returns:
        Name -> real values of the inputs, and the tensors in order of execution.
    """
    model = unpack(data, "computed_tensors")
    graph = model.subgraphs[0]
    file = TFLiteModel(data, keep_all=True)
    scales: dict[int, tuple[float, int]] = {}
    for operator in graph.operators or []:
        if op_name(model.operatorCodes[operator.opcodeIndex]) in MOVING:
            continue
        for index in map(int, operator.outputs):
            own = scale_of(graph.tensors[index])
            if own is not None and not _is_relabelled(graph, operator, index):
                scales[index] = own
    inputs: dict[str, list[np.ndarray]] = {info.name: [] for info in file.inputs}
    found: dict[int, list[np.ndarray]] = {index: [] for index in scales}
    for batch in rows:
        file.predict(batch)
        for info, index in zip(file.inputs, graph.inputs, strict=True):
            values = file.tensor(int(index))
            if info.scale is not None and info.zero_point is not None:
                values = real_numbers(values, info.scale, info.zero_point)
            inputs[info.name].append(values)
        for index, (scale, zero_point) in scales.items():
            try:
                values = file.tensor(index)
            except ValueError:  # one that LiteRT has let go, as beside a loop
                continue
            if values.dtype.kind in "iu":
                found[index].append(np.atleast_1d(real_numbers(values, scale, zero_point)))
    return (
        {name: np.concatenate(parts) for name, parts in inputs.items()},
        [
            ComputedTensor(text(graph.tensors[index].name), scales[index][0], np.concatenate(parts))
            for index, parts in found.items()
            if parts
        ],
    )


def _is_relabelled(graph: SubGraphT, operator: OperatorT, index: int) -> bool:
    """Whether an output of the file only has another integer type than the tensor inside."""
    sources = [graph.tensors[int(i)] for i in operator.inputs]
    return (
        index in graph.outputs
        and len(sources) == 1
        and scale_of(sources[0]) is not None
        and sources[0].type != graph.tensors[index].type
    )
