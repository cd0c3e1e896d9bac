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

from keras_compress.frameworks.protocols import Method


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a patched operation, and what its form may ask of the patches."""

    operation: Any
    """Of the kind that the form is for."""
    original: Method
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    exporting: bool
    """The graph becomes a file."""
    quantize: Callable[[str, tf.Tensor], tf.Tensor]
    """The quantizer of a role inside the operation."""
    folded: bool
    """Dense: a batch norm follows and becomes part of it. BatchNormalization: it is such a one."""
    rescales: dict[int, int]
    """The inputs that come with a range of their own, and a number for each, from 1 over the model.
    """
    offset_on_grid: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    """(factor, offset) of a batch norm -> the offset that its integers can hold."""

    def run(self) -> tf.Tensor:
        return self.original(*self.args, **self.kwargs)


Form = Callable[[Call], tf.Tensor]

SMALLEST_GAMMA = 1e-4
"""What a batch norm's gamma counts as when it is (nearly) zero."""

SMALLEST_EXCESS = 2.0**-23
"""What the first float32 above 1 has more."""


def dense(call: Call) -> tf.Tensor:
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


def batch_normalization(call: Call) -> tf.Tensor:
    """Batch norm with the statistics that ship, its offset as the file's int32 bias holds it.

    In the file, one that no convolution takes in is a depthwise 1x1 convolution: written out it is
    a product and a sum, with a tensor between them that would need a scale of its own.
    """
    layer, inputs = call.operation, call.args[0]
    if call.kwargs.get("training") and layer.trainable:
        return call.run()  # with the batch's own statistics
    mean, variance = map(tf.convert_to_tensor, (layer.moving_mean, layer.moving_variance))
    gamma = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones_like(mean)
    beta = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros_like(mean)
    # A gamma of zero gives float ops, and one near it overflows the int32 bias.
    gamma = tf.where(tf.abs(gamma) < SMALLEST_GAMMA, SMALLEST_GAMMA, gamma)
    factor = gamma * tf.math.rsqrt(variance + layer.epsilon)
    unmoved = beta - mean * factor
    offset = call.offset_on_grid(factor, unmoved)
    if not call.exporting or call.folded:
        beta += offset - unmoved
        numbers = tf.cast(inputs, tf.float32)
        outputs = tf.nn.batch_normalization(numbers, mean, variance, beta, gamma, layer.epsilon)
        return tf.cast(outputs, layer.compute_dtype)
    channels = inputs.shape[-1]
    rows = inputs
    if inputs.shape.rank != 4:
        rows = tf.reshape(inputs, (inputs.shape[0], -1, 1, channels))
    # One number per channel: a symmetric range of its own magnitude holds it exactly.
    magnitude = tf.abs(factor)
    kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        tf.reshape(factor, (1, 1, channels)), -magnitude, magnitude, narrow_range=True
    )
    outputs = tf.nn.depthwise_conv2d(
        rows, tf.reshape(kernel, (1, 1, channels, 1)), strides=(1, 1, 1, 1), padding="VALID"
    )
    return tf.reshape(tf.nn.bias_add(outputs, offset), inputs.shape)


def separable_convolution(call: Call) -> tf.Tensor:
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


def add(call: Call) -> tf.Tensor:
    """A sum of more than two, rounded after each addition, as the integer op takes two."""
    summands = call.args[0]
    # An operator comes with its two tensors apart, the second one perhaps by name.
    if not isinstance(summands, list | tuple) or len(summands) <= 2:
        return call.run()
    first, *others, last = summands
    total = first
    for i, other in enumerate(others, start=1):
        total = call.quantize(f"sum{i}", total + other)
    return total + last


def concatenate(call: Call) -> tf.Tensor:
    """Every input rounded over one range, as the integer op takes a single scale."""
    parts = []
    for i, part in enumerate(call.args[0]):
        if call.exporting and i in call.rescales:
            # The converter takes two roundings in a row for one. A product keeps them apart; with
            # exactly 1 it would be optimized away, and two equal ones would be merged.
            part = part * (1.0 + call.rescales[i] * SMALLEST_EXCESS)
        parts.append(call.quantize("join", part))
    return call.original(parts, *call.args[1:], **call.kwargs)


@dataclasses.dataclass(frozen=True)
class ActivationCall:
    """One call of an activation function, as part of a layer or on its own."""

    x: tf.Tensor
    function: Callable[[tf.Tensor], tf.Tensor]
    """The activation itself."""
    quantize: Callable[[str, tf.Tensor], tf.Tensor]
    exporting: bool


ActivationForm = Callable[[ActivationCall], tf.Tensor]


def silu(call: ActivationCall) -> tf.Tensor:
    """x * sigmoid(x), with the sigmoid rounded between: the integer file has no op for both."""
    return call.x * call.quantize("gate", tf.sigmoid(call.x))


def hard_silu(call: ActivationCall) -> tf.Tensor:
    """x * relu6(x + 3) / 6, in the one way that the converter knows as HARD_SWISH."""
    return call.x * tf.nn.relu6(call.x + 3.0) / 6.0


def leaky_relu(call: ActivationCall) -> tf.Tensor:
    """In the file, a PRELU: LiteRT computes that one exactly, and LEAKY_RELU with 8-bit factors."""
    if not call.exporting:
        return call.function(call.x)
    with tf.init_scope():
        slope = -float(call.function(tf.constant([-1.0]))[0])
    slopes = tf.fill((1,) * (call.x.shape.rank - 1), -slope)  # negated, as the converter wants it
    return tf.nn.relu(call.x) + slopes * tf.nn.relu(-call.x)
