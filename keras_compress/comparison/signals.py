"""How much of each layer's signal survives in a quantized file, in decibels; TensorFlow is not
needed.

Two files of one network are run on the same data, and the tensors that the same layer computed are
compared. The converter names a tensor after the nodes it was computed by, and in files of this
package a node's name begins with the path of its layer; so names tell which belong together.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from keras_compress._shared.tensor_names import CALL, INNER, ROUNDING
from keras_compress.reports.comparison import LayerSignal
from keras_compress.reports.inspection import CONVERTING, MOVING
from keras_compress.specs.detection import OP
from keras_compress.tflite.file.flatbuffer import end_names, pack, scale_of, text, unpack
from keras_compress.tflite.file.inspect import op_name
from keras_compress.tflite.file.schema import TensorT
from keras_compress.tflite.litert.model import TFLiteModel, real_numbers


def layer_signals(
    reference: bytes, quantized: bytes, x: Mapping[str, np.ndarray]
) -> tuple[list[LayerSignal], tuple[str, ...]]:
    """Compares two files of one network, layer by layer.

    Args:
        reference: a float file.
        quantized: a file of the same network that takes as many rows at once.
        x: name of an input of `reference` -> real values, as many rows in each. In a last batch
            that is not full the last row counts more than once.

    Returns:
        The layers with the lowest `own_db` first, and the names of the tensors that the quantized
        file computes without a counterpart in the other.

    Raises:
        ValueError: the files have more or fewer inputs or outputs or take different numbers of rows
            at once, the reference is no float file, or `x` does not fit.
    """
    theirs, ours = _File(reference), _File(quantized)
    if theirs.runner.batch_size != ours.runner.batch_size:
        raise ValueError(
            "layer_signals: `quantized` must take as many rows at once as `reference`, "
            f"{theirs.runner.batch_size}. Received: {ours.runner.batch_size}"
        )
    inputs = _same_ends("inputs", [*theirs.inputs], [*ours.inputs])
    outputs = _same_ends("outputs", [*theirs.outputs], [*ours.outputs])
    integers = sorted(theirs.name(index) for index in theirs.computed if theirs.is_integer(index))
    if integers:
        raise ValueError(
            "layer_signals: `reference` must be a float file. "
            f"Received: one with integers in {integers[0]!r}"
        )
    pairs = _partners(theirs, ours, outputs)
    # The op that makes detections leaves in memory what was there behind those that count.
    partners = {own: other for own, other in pairs.items() if ours.computed[other] != OP}
    fed = _Fed(reference, list(partners))
    ratios = {index: (_Ratio(), _Ratio()) for index in partners}
    for batch in _batches(x, ours.runner.batch_size):
        theirs.runner.predict(batch)
        ours.runner.predict({inputs[name]: values for name, values in batch.items()})
        numbers = {index: ours.numbers(partner) for index, partner in partners.items()}
        given = {theirs.inputs[name]: ours.numbers(ours.inputs[inputs[name]]) for name in inputs}
        alone = fed.compute(given, numbers)
        for index, (whole, own) in ratios.items():
            whole.add(theirs.numbers(index), numbers[index])
            own.add(alone[index], numbers[index])
    found = [
        LayerSignal(
            theirs.layers(index),
            ours.computed[partner],
            ours.name(partner),
            *(ratio.decibels for ratio in ratios[index]),
        )
        for index, partner in partners.items()
    ]
    found.sort(key=lambda each: -math.inf if math.isnan(each.own_db) else each.own_db)
    unpaired = [index for index in ours.computed if index not in pairs.values()]
    return found, tuple(map(ours.name, unpaired))


def _same_ends(what: str, theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Names of one file -> those of the other: the same, or else in the same order."""
    if len(theirs) != len(ours):
        raise ValueError(
            f"layer_signals: `quantized` must have the {what} of `reference`, {list(theirs)}. "
            f"Received: {list(ours)}"
        )
    order = theirs if set(theirs) == set(ours) else ours
    return dict(zip(theirs, order, strict=True))


def _batches(x: Mapping[str, np.ndarray], rows: int) -> Iterator[dict[str, np.ndarray]]:
    count = len(next(iter(x.values())))
    for start in range(0, count, rows):
        yield {name: values[start : start + rows] for name, values in x.items()}


class _Ratio:
    """Signal to noise over all that is added."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def add(self, reference: np.ndarray, quantized: np.ndarray) -> None:
        expected = reference.astype(np.float64).ravel()
        difference = expected - quantized.ravel()
        self._signal += float(expected @ expected)
        self._noise += float(difference @ difference)

    @property
    def decibels(self) -> float:
        if self._noise == 0:
            return math.inf
        if self._signal == 0:
            return -math.inf
        return 10 * math.log10(self._signal / self._noise)


class _File:
    """A file, run so that every number inside can be asked for.

    Attributes:
        computed: index of a tensor -> the op that computes it and does not only move or round
            numbers, in order of execution.
        inputs: name -> index.
        outputs: name -> index of what is computed, before a last change of its type.
    """

    def __init__(self, data: bytes) -> None:
        model = unpack(data, "layer_signals")
        graph = model.subgraphs[0]
        self._tensors = graph.tensors
        self.runner = TFLiteModel(data, keep_all=True)
        self.computed: dict[int, str] = {}
        source: dict[int, int] = {}
        for operator in graph.operators or []:
            op = op_name(model.operatorCodes[operator.opcodeIndex])
            if op in CONVERTING:
                source[int(operator.outputs[0])] = int(operator.inputs[0])
            elif op not in MOVING:
                self.computed.update((int(index), op) for index in operator.outputs)
        for index in list(self.computed):
            if not (self.is_integer(index) or _is_float(self._tensors[index])):
                del self.computed[index]  # shapes, indices, truth values
        inputs, outputs = end_names(model)
        self.inputs: dict[str, int] = dict(zip(inputs, map(int, graph.inputs), strict=True))
        ends = [int(index) for index in graph.outputs]
        self.outputs = dict(zip(outputs, (source.get(i, i) for i in ends), strict=True))

    def name(self, index: int) -> str:
        return text(self._tensors[index].name)

    def size(self, index: int) -> int:
        return math.prod(map(int, self._tensors[index].shape))

    def is_integer(self, index: int) -> bool:
        """Whether a tensor has integers that stand for real numbers, with one scale."""
        return scale_of(self._tensors[index]) is not None

    def layers(self, index: int) -> tuple[str, ...]:
        """The paths of the layers that compute a tensor, as far as its name tells."""
        parts = self.name(index).removesuffix(INNER).split(";")
        computing = [part for part in parts if not part.split("/")[-1].startswith(ROUNDING)]
        scopes = dict.fromkeys(map(_scope, computing or parts))
        # A layer names its last node first.
        return tuple(
            scope
            for scope in reversed(scopes)
            if not any(scope.startswith(f"{other}/") for other in scopes)
        )

    def numbers(self, index: int) -> np.ndarray:
        """The real numbers of a tensor, after the last run."""
        values = self.runner.tensor(index)
        scale = scale_of(self._tensors[index])
        if scale is None:
            return values
        return real_numbers(values, *scale)


def _is_float(tensor: TensorT) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    return bool(tensor.type == schema.TensorType.FLOAT32)


def _scope(part: str) -> str:
    """The path of the layer that a node's name begins with: without the node itself, the number of
    the call, the scope that batch norm opens and what tfmot's wrappers are called.
    """
    scope = part.rpartition("/")[0] or part
    scope = re.sub(rf"(?<=.)/({CALL}\d+|batchnorm)(/.*)?$", "", scope)
    return re.sub(r"(^|/)(quant|prune_low_magnitude)_", r"\1", scope)


def _partners(theirs: _File, ours: _File, outputs: Mapping[str, str]) -> dict[int, int]:
    """Index of a tensor of one file -> that of the other, in order of execution.

    Outputs belong together as `outputs` says; other tensors if the same layers computed them and
    they have the same size, in order of execution. Of a layer that computes more of them in one
    file than in the other the last ones belong together, which its answer is among.
    """
    ends = {theirs.outputs[name]: ours.outputs[other] for name, other in outputs.items()}
    ends = {
        index: partner
        for index, partner in ends.items()
        if index in theirs.computed
        and partner in ours.computed
        and theirs.size(index) == ours.size(partner)
    }

    def groups(file: _File, taken: Sequence[int]) -> dict[tuple[frozenset[str], int], list[int]]:
        found = defaultdict(list)
        for index in file.computed:
            if index not in taken:
                found[frozenset(file.layers(index)), file.size(index)].append(index)
        return found

    mine = groups(ours, list(ends.values()))
    partners = dict(ends)
    for key, indices in groups(theirs, list(ends)).items():
        partners.update(zip(reversed(indices), reversed(mine[key]), strict=False))
    return {index: partners[index] for index in theirs.computed if index in partners}


class _Fed:
    """A float file whose layers compute on numbers that are given, not on one another's.

    Every tensor in `indices` is computed as before, and whoever reads it reads a new input of the
    file instead.
    """

    def __init__(self, data: bytes, indices: Sequence[int]) -> None:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        model = unpack(data, "layer_signals")
        graph = model.subgraphs[0]
        self._copies = {}
        for index in indices:
            original = graph.tensors[index]
            copy = schema.TensorT(
                shape=original.shape, type=original.type, name=f"given_{index}", hasRank=True
            )
            graph.tensors.append(copy)
            self._copies[index] = len(graph.tensors) - 1
        for operator in graph.operators or []:
            operator.inputs = [self._copies.get(int(i), int(i)) for i in operator.inputs]
        graph.inputs = [*map(int, graph.inputs), *self._copies.values()]
        model.signatureDefs = []
        self._interpreter = Interpreter(
            model_content=pack(model, len(data)),
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()

    def compute(
        self, inputs: Mapping[int, np.ndarray], given: Mapping[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        """What each tensor is, by index, where the file's inputs and its inner tensors, by index
        too, are these.
        """
        for index, values in {**inputs, **{self._copies[i]: v for i, v in given.items()}}.items():
            detail = self._interpreter.get_tensor(index)
            self._interpreter.set_tensor(index, values.reshape(detail.shape).astype(detail.dtype))
        self._interpreter.invoke()
        return {index: np.array(self._interpreter.get_tensor(index)) for index in self._copies}
