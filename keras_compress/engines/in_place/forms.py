"""Other ways to compute what a layer computes, with room for the quantizers that its integer kernel
needs.

Each gives the layer's own numbers but for the rounding. `exporting` forms only choose other
TensorFlow ops for the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a patched operation. `quantize(role, tensor)` is the quantizer of that role
    inside it.
    """

    operation: Any
    original: Callable
    args: tuple
    kwargs: dict
    quantize: Callable[[str, tf.Tensor], tf.Tensor]
    exporting: bool
    folded: bool
    """Dense: a batch norm follows and becomes part of it. BatchNormalization: it is part of what
    stands before.
    """

    def run(self) -> Any:
        return self.original(*self.args, **self.kwargs)


Form = Callable[[Call], Any]


def dense(call: Call) -> Any:
    """In the file, a Dense with batch norm behind it is a 1x1 convolution.

    The integer fully-connected op has one scale per tensor, and batch norm spreads the channels too
    far apart for one.
    """
    if not (call.exporting and call.folded):
        return call.run()
    layer = call.operation
    (inputs,) = call.args
    kernel = tf.convert_to_tensor(layer.kernel)  # of an export: (1, 1, in, out)
    rows = tf.reshape(inputs, (inputs.shape[0], -1, 1, inputs.shape[-1]))
    outputs = tf.nn.conv2d(rows, kernel, strides=1, padding="VALID")
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
    outputs = tf.reshape(outputs, (*inputs.shape[:-1], outputs.shape[-1]))
    return outputs if layer.activation is None else layer.activation(outputs)


def batch_normalization(call: Call) -> Any:
    """In the file, a batch norm that no convolution takes in is a depthwise 1x1 convolution.

    Written out it is a product and a sum, with a tensor between them that would need a scale of its
    own.
    """
    if call.folded or not call.exporting:
        return call.run()
    layer, inputs = call.operation, call.args[0]
    factor = tf.math.rsqrt(tf.convert_to_tensor(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        factor *= tf.convert_to_tensor(layer.gamma)
    offset = -tf.convert_to_tensor(layer.moving_mean) * factor
    if layer.center:
        offset += tf.convert_to_tensor(layer.beta)
    channels = inputs.shape[-1]
    rows = inputs
    if inputs.shape.rank != 4:
        rows = tf.reshape(inputs, (inputs.shape[0], -1, 1, channels))
    # One number per channel: a symmetric range of its own magnitude holds it exactly.
    magnitude = tf.maximum(tf.abs(factor), 1e-9)
    kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        tf.reshape(factor, (1, 1, channels)), -magnitude, magnitude, narrow_range=True
    )
    outputs = tf.nn.depthwise_conv2d(
        rows, tf.reshape(kernel, (1, 1, channels, 1)), strides=(1, 1, 1, 1), padding="VALID"
    )
    return tf.reshape(tf.nn.bias_add(outputs, offset), inputs.shape)


def separable_convolution(call: Call) -> Any:
    """Depthwise, rounded, then pointwise: two integer ops, where the layer computes both in one."""
    layer = call.operation
    (inputs,) = call.args
    strides = (1, *layer.strides, 1)
    padding = layer.padding.upper()
    depthwise = tf.nn.depthwise_conv2d(
        inputs,
        tf.convert_to_tensor(layer.depthwise_kernel),
        strides=strides,
        padding=padding,
        dilations=layer.dilation_rate,
    )
    between = call.quantize("between", depthwise)
    outputs = tf.nn.conv2d(
        between, tf.convert_to_tensor(layer.pointwise_kernel), strides=1, padding="VALID"
    )
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
    return outputs if layer.activation is None else layer.activation(outputs)


def add(call: Call) -> Any:
    """A sum of more than two, rounded after each addition, as the integer op takes two."""
    if len(call.args) != 1 or len(call.args[0]) <= 2:
        return call.run()
    first, *others, last = call.args[0]
    total = first
    for i, other in enumerate(others, start=1):
        total = call.quantize(f"sum{i}", total + other)
    return total + last


def silu(inputs: tf.Tensor, quantize: Callable[[str, tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """x * sigmoid(x), with the sigmoid rounded between: the integer file has no op for both."""
    return inputs * quantize("gate", tf.sigmoid(inputs))
