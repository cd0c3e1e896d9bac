"""How much a network computes, counted from the TensorFlow ops that it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.inference import Shapes, inference_function
from keras_compress.frameworks.protocols import KerasModel

_LOOPS = ("While", "StatelessWhile")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def macs(model: KerasModel, *, input_shape: Shapes = None) -> int:
    """The multiply-accumulates of one sample through a model, in inference.

    Counted are convolutions, dense layers and matrix products, whatever layer they are in; what
    computes each number by itself (activations, batch norm, pooling, sums) is not. A model that is
    compressed counts as large as it is; `strip` gives the network that ships.

    Args:
        model: a built Keras 3 or tf_keras model.
        input_shape: of inputs that the model leaves free, as in `Export`.

    Raises:
        TypeError: `model` is no model of either Keras.
        ValueError: nobody knows what it takes, an input has a free dimension besides the batch, or
            there is a loop in it, as in recurrent layers, whose steps nobody knows.
    """
    adapter = adapter_of(model, "macs")
    try:
        with adapter.seeds_kept():
            function = inference_function(adapter, model, 1, input_shape=input_shape)
    except ValueError as error:
        raise ValueError(str(error).replace("Export: ", "macs: ", 1)) from error
    return sum(map(_count, _operations(function.graph)))


def _operations(graph: Any) -> Iterator[tf.Operation]:
    """The ops of a graph, and of the functions that it calls, as often as it does."""
    for operation in graph.get_operations():
        if operation.type in _CALLS:
            # Private: the bodies that a graph under trace has met.
            yield from _operations(graph._get_function(operation.get_attr("f").name).graph)
        elif operation.type in _LOOPS:
            raise ValueError(
                "macs: the model must have no loop, whose steps nobody knows; a recurrent layer "
                f"has none with `unroll=True`. Received: {operation.name!r}"
            )
        else:
            yield operation


def _count(operation: tf.Operation) -> int:
    count = _COUNTED.get(operation.type)
    if count is None:
        return 0
    inputs = [_sizes(operation, each) for each in operation.inputs]
    return count(operation, inputs, math.prod(_sizes(operation, operation.outputs[0])))


def _sizes(operation: tf.Operation, tensor: tf.Tensor) -> list[int]:
    """The shape of a tensor. A function inside may be traced for batches of any size: of 1 here."""
    first, *others = tensor.shape if tensor.shape.rank else (1,)
    if None in others:
        raise ValueError(
            "macs: the shapes inside of the model must be known. "
            f"Received: {operation.name!r} with {tensor.shape}"
        )
    return [first or 1, *others][: tensor.shape.rank]


Sizes = list[list[int]]


def _of_convolution(operation: tf.Operation, inputs: Sizes, outputs: int) -> int:
    return outputs * math.prod(inputs[1][:-1])  # each output: the kernel without its last axis


def _of_depthwise(operation: tf.Operation, inputs: Sizes, outputs: int) -> int:
    return outputs * math.prod(inputs[1][:-2])


def _of_transposed(operation: tf.Operation, inputs: Sizes, outputs: int) -> int:
    # Each number that goes in meets the kernel without the axis that it lies on, the last.
    return math.prod(inputs[2]) * math.prod(inputs[1][:-1])


def _of_product(operation: tf.Operation, inputs: Sizes, outputs: int) -> int:
    attribute = "transpose_a" if operation.type == "MatMul" else "adj_x"
    return outputs * inputs[0][-2 if operation.get_attr(attribute) else -1]


def _of_einsum(operation: tf.Operation, inputs: Sizes, outputs: int) -> int:
    """The product of the sizes of all labels; those that "..." stands for are the first output's,
    as many as there are too many.
    """
    terms = operation.get_attr("equation").decode().partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, own in zip(terms, inputs, strict=True):
        labels = list(term.replace("...", ""))
        if "..." in term:
            front = term.index("...")
            many = len(own) - len(labels)
            # Numbered from the last one, as they are broadcast.
            labels[front:front] = [str(many - i) for i in range(many)]
        for label, size in zip(labels, own, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    return math.prod(sizes.values()) if len(terms) > 1 else 0


_COUNTED: dict[str, Callable[[tf.Operation, Sizes, int], int]] = {
    "Conv2D": _of_convolution,
    "Conv3D": _of_convolution,
    "DepthwiseConv2dNative": _of_depthwise,
    "Conv2DBackpropInput": _of_transposed,
    "Conv3DBackpropInputV2": _of_transposed,
    "MatMul": _of_product,
    "BatchMatMul": _of_product,
    "BatchMatMulV2": _of_product,
    "BatchMatMulV3": _of_product,
    "Einsum": _of_einsum,
    "XlaEinsum": _of_einsum,
}
