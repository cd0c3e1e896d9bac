"""A graph of TensorFlow's as the source of a file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_compress.export.float_ops import LayersOf
from keras_compress.export.source import Range
from keras_compress.specs.detection import DetectionPostProcess
from keras_compress.tflite.conversion.graph_defs import (
    FAKE_QUANT,
    asymmetric_kernels,
    every_node,
    inputs_of,
    node_of,
    range_of,
    release,
    remove_nodes,
)


class GraphSource:
    """A graph without variables.

    Args:
        graph: a GraphDef. Its fake-quant ops, if it has any, say how it is to be rounded.
        inputs, outputs: name -> tensor ("image:0"); an input may lie inside the graph.
        shapes: input name -> shape, where the graph does not say or says otherwise.
        detections: what stood behind the two outputs.

    Raises:
        ValueError: a tensor that the graph does not have.
    """

    keras = None
    engine = attached = network = None

    def __init__(
        self,
        graph: tf.compat.v1.GraphDef,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        shapes: Mapping[str, Sequence[int | None]],
        detections: DetectionPostProcess | None = None,
    ):
        self._graph = graph
        self._inputs, self._outputs = dict(inputs), dict(outputs)
        release(graph)
        tensors = _tensors(graph, [*inputs.values(), *outputs.values()])
        self._specs = {
            name: tf.TensorSpec(
                shapes.get(name, tensors[tensor].shape), tensors[tensor].dtype, name
            )
            for name, tensor in inputs.items()
        }
        self.detections = detections
        self.rounds = any(node.op.startswith(FAKE_QUANT) for node in every_node(graph))
        self.asymmetric = bool(asymmetric_kernels(graph))
        sizes = {spec.shape[0] if spec.shape.rank else None for spec in self._specs.values()}
        self.rows: int | None = sizes.pop() if len(sizes) == 1 else None
        self._given: dict[int, Range] = {}

    def specs(self, batch_size: int) -> list[tf.TensorSpec]:
        return [_fixed(spec, batch_size) for spec in self._specs.values()]

    def function(
        self, batch_size: int, *, quantized: bool, for_file: bool = True
    ) -> tf.types.experimental.ConcreteFunction:
        graph = tf.compat.v1.GraphDef()
        graph.CopyFrom(self._graph)
        if not quantized:
            _round_nothing(graph)
        taken = {node_of(tensor) for tensor in self._inputs.values()}
        remove_nodes(graph, taken)
        for node in graph.node:
            # What only waits for an input need not.
            read = [name for name in node.input if not (name[0] == "^" and name[1:] in taken)]
            del node.input[:]
            node.input.extend(read)

        def answer(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            given = {}
            for position, (tensor, value) in enumerate(
                zip(self._inputs.values(), inputs, strict=True)
            ):
                places = [tensor]
                if quantized and position in self._given:
                    low, high = self._given[position]
                    value = tf.quantization.fake_quant_with_min_max_args(value, low, high)
                    # What rounds the input already gives way: two in a row are one too many.
                    places += [f"{name}:0" for name in _rounding(graph, node_of(tensor))]
                given.update(dict.fromkeys(places, value))
            used = _read_by(graph)
            found = tf.graph_util.import_graph_def(
                graph,
                input_map={place: value for place, value in given.items() if place in used},
                return_elements=list(self._outputs.values()),
                name="",
            )
            return dict(zip(self._outputs, found, strict=True))

        specs = self.specs(batch_size)
        try:
            return tf.function(answer, autograph=False).get_concrete_function(*specs)
        except ValueError as error:
            raise ValueError(
                "export_tflite: the graph must take inputs of these shapes; give the `batch_size` "
                "that it was made for, or other shapes with `inputs={name: shape}`. Received: "
                f"{ {spec.name: spec.shape.as_list() for spec in specs} } "
                f"({str(error).strip().splitlines()[0]})"
            ) from error

    def masked(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def not_finite(self) -> str | None:
        for node in every_node(self._graph):
            # Not what is infinite: a mask may be.
            if node.op == "Const" and tf.as_dtype(node.attr["dtype"].type).is_floating:
                numbers = tf.make_ndarray(node.attr["value"].tensor)
                if np.isnan(numbers.astype("float32")).any():
                    return str(node.name)
        return None

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        return None

    def layers_of(self, outputs: Sequence[str], quantized: bool) -> LayersOf:
        return lambda tensor: []  # a graph has no layers

    def input_range(self, position: int) -> Range | None:
        if position in self._given:
            return self._given[position]
        return _range_of(self._graph, node_of(list(self._inputs.values())[position]))

    @contextlib.contextmanager
    def rounding_inputs(self, ranges: Mapping[int, Range]) -> Iterator[None]:
        before, self._given = self._given, dict(ranges)
        try:
            yield
        finally:
            self._given = before


def _tensors(graph_def: tf.compat.v1.GraphDef, names: Sequence[str]) -> dict[str, tf.Tensor]:
    """Name -> tensor of a graph.

    Raises:
        ValueError: it has no such tensor.
    """
    with tf.Graph().as_default() as graph:
        try:
            tf.graph_util.import_graph_def(graph_def, name="")
        except (tf.errors.NotFoundError, ValueError) as error:
            unknown = re.search(r"Op type not registered '(\w+)'", str(error))
            if unknown is None:
                raise
            raise ValueError(
                "export_tflite: `outputs` must be computed by ops that TensorFlow knows, or be "
                "those of TFLite_Detection_PostProcess; choose some before the others. "
                f"Received: outputs={names} of an op {unknown[1]!r}"
            ) from None
        found = {}
        for name in names:
            try:
                found[name] = graph.get_tensor_by_name(name)
            except (KeyError, ValueError) as error:
                raise ValueError(
                    "export_tflite: `inputs` and `outputs` must be names of tensors of the graph. "
                    f"Received: {name!r} ({error})"
                ) from error
        return found


def _fixed(spec: tf.TensorSpec, batch_size: int) -> tf.TensorSpec:
    """The same with a batch of that size.

    Raises:
        ValueError: another dimension is free.
    """
    if spec.shape.rank is None or None in spec.shape.as_list()[1:]:
        raise ValueError(
            "export_tflite: every dimension of an input but the batch must be fixed; give its "
            f"shape with `inputs={{{spec.name!r}: shape}}`. "
            f"Received: input {spec.name!r} of shape {spec.shape}"
        )
    return tf.TensorSpec([batch_size, *spec.shape.as_list()[1:]], spec.dtype, spec.name)


def _read_by(graph: tf.compat.v1.GraphDef) -> set[str]:
    return {tensor for node in graph.node for tensor in inputs_of(node)}


def _rounding(graph: tf.compat.v1.GraphDef, name: str) -> Iterator[str]:
    """The fake-quant nodes that read a node, perhaps behind what only passes it on."""
    for node in graph.node:
        if f"{name}:0" in inputs_of(node)[:1]:
            if node.op.startswith(FAKE_QUANT):
                yield node.name
            elif node.op == "Identity":
                yield from _rounding(graph, node.name)


def _range_of(graph: tf.compat.v1.GraphDef, name: str) -> Range | None:
    """The range over which a graph rounds one of its inputs; None where it does not, or where the
    range is no constant.
    """
    nodes = {node.name: node for node in graph.node}
    found = (range_of(nodes, nodes[rounding]) for rounding in _rounding(graph, name))
    return next((limits for limits in found if limits is not None), None)


def _round_nothing(graph: tf.compat.v1.GraphDef) -> None:
    """Let every fake-quant op pass its input on."""
    for node in every_node(graph):
        if node.op.startswith(FAKE_QUANT):
            first = node.input[0]
            del node.input[:]
            node.input.append(first)
            node.op = "Identity"
            node.attr.clear()
            node.attr["T"].type = tf.float32.as_datatype_enum
