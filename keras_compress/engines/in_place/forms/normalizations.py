"""Normalizations in ops that have integer kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.forms.call import Call

SMALLEST_GAMMA = 1e-4
"""What a batch norm's gamma counts as when it is (nearly) zero."""


def batch_normalization(call: Call) -> tf.Tensor:
    """Batch norm with the statistics that ship, its offset as the file's int32 bias holds it.

    In the file, one that no convolution takes in is a depthwise 1x1 convolution: written out it is
    a product and a sum, with a tensor between them that would need a scale of its own.
    """
    layer, inputs = call.operation, call.inputs[0]
    if call.argument("training") and layer.trainable:
        return call.run()  # with the batch's own statistics

    def of_weights() -> tuple[tf.Tensor, ...]:
        mean, variance = map(tf.convert_to_tensor, (layer.moving_mean, layer.moving_variance))
        gamma = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones_like(mean)
        beta = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros_like(mean)
        # A gamma of zero gives float ops, and one near it overflows the int32 bias.
        gamma = tf.where(tf.abs(gamma) < SMALLEST_GAMMA, SMALLEST_GAMMA, gamma)
        factor = gamma * tf.math.rsqrt(variance + layer.epsilon)
        unmoved = beta - mean * factor
        offset = call.offset_on_grid(factor, unmoved)
        return mean, variance, gamma, beta + (offset - unmoved), factor, offset

    mean, variance, gamma, beta, factor, offset = call.of_weights(of_weights)
    if not call.exporting or call.folded:
        numbers = tf.cast(inputs, tf.float32)
        outputs = tf.nn.batch_normalization(numbers, mean, variance, beta, gamma, layer.epsilon)
        return tf.cast(outputs, layer.compute_dtype)
    return affine(inputs, factor, offset)


def affine(inputs: tf.Tensor, factor: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """inputs * factor + offset, by channel, as one integer op: a depthwise 1x1 convolution."""
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


def normalization_roles(node: object) -> dict[str, Any]:
    return dict.fromkeys(
        ("mean", "centred", "square", "power", "variance", "inverse", "normalized", "scaled")
    )


def layer_normalization(call: Call) -> tf.Tensor:
    """Mean, squared difference, mean, reciprocal root, product, sum: each has an integer op, which
    the negation in Keras' own has not.
    """
    layer, inputs = call.operation, tf.cast(call.inputs[0], tf.float32)
    rank = inputs.shape.rank
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    axes = sorted(axis % rank for axis in axes)
    outputs = _normalized(call, inputs, axes, layer.epsilon)
    shape = [inputs.shape[axis] if axis in axes else 1 for axis in range(rank)]
    outputs = _scaled(call, outputs, shape, layer.gamma, layer.beta)
    return tf.cast(outputs, layer.compute_dtype)


def group_normalization(call: Call) -> tf.Tensor:
    """The same, over the groups of the last axis."""
    layer, inputs = call.operation, tf.cast(call.inputs[0], tf.float32)
    channels = inputs.shape[-1]
    groups = channels if layer.groups == -1 else layer.groups
    first = inputs.shape[0] if inputs.shape[0] is not None else tf.shape(inputs)[0]
    middle = inputs.shape[1:-1].num_elements()
    # Of rank 4, which integer differences with broadcasting are limited to.
    grouped = tf.reshape(inputs, (first, middle, groups, channels // groups))
    normalized = _normalized(call, grouped, (1, 3), layer.epsilon)
    outputs = tf.reshape(normalized, (first, *inputs.shape[1:]))
    shape = [1] * (inputs.shape.rank - 1) + [channels]
    outputs = _scaled(call, outputs, shape, layer.gamma, layer.beta)
    return tf.cast(outputs, layer.compute_dtype)


def _normalized(call: Call, inputs: tf.Tensor, axes: Sequence[int], epsilon: float) -> tf.Tensor:
    mean = call.quantize("mean", tf.reduce_mean(inputs, axes, keepdims=True))
    centred = call.quantize("centred", inputs - mean)
    square = call.quantize("square", tf.math.squared_difference(inputs, mean))
    return centred * _inverse_root(call, tf.reduce_mean(square, axes, keepdims=True), epsilon)


def _inverse_root(call: Call, power: tf.Tensor, epsilon: float) -> tf.Tensor:
    """1 / root of (power + epsilon), the sum rounded on its own."""
    return _rounded_inverse_root(call, call.quantize("power", power) + call.constant(epsilon))


def _rounded_inverse_root(call: Call, variance: tf.Tensor) -> tf.Tensor:
    """Of what may be rounded to zero, where the integer op gives its largest number, as the range
    does here; an infinite one would have no gradient.
    """
    rounded = call.quantize("variance", variance)
    if call.exporting:
        return call.quantize("inverse", tf.math.rsqrt(rounded))
    inverse = tf.math.rsqrt(tf.maximum(rounded, SMALLEST_VARIANCE))
    if call.moves:
        # The range follows those alone whose variance is no zero among the integers of this batch:
        # the inverse of a zero, a thousand times another, would leave all others in one integer.
        no_zero = variance > tf.maximum(tf.reduce_max(variance) / STEPS, SMALLEST_VARIANCE)
        largest = tf.reduce_max(tf.where(no_zero, tf.math.rsqrt(variance), 0.0))
        inverse = tf.minimum(inverse, tf.stop_gradient(largest))
    return call.quantize("inverse", inverse)


STEPS = 2.0 * 255
"""Half as many make the largest number: what is less than one of them becomes zero."""

SMALLEST_VARIANCE = 1e-12
"""What both Keras take for the smallest square of a length in `UnitNormalization`."""


def _scaled(
    call: Call, outputs: tf.Tensor, shape: Sequence[int], gamma: Any, beta: Any
) -> tf.Tensor:
    """Times gamma, plus beta, where a layer has them."""
    if gamma is not None:
        outputs = call.quantize("normalized", outputs)
        outputs = outputs * call.constant(gamma, shape)
    if beta is not None:
        outputs = call.quantize("scaled", outputs)
        outputs += call.constant(beta, shape)
    return outputs


def root_mean_square_normalization(call: Call) -> tf.Tensor:
    layer, inputs = call.operation, tf.cast(call.inputs[0], tf.float32)
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    square = call.quantize("square", inputs * inputs)
    power = tf.reduce_mean(square, axes, keepdims=True)
    inverse = _inverse_root(call, power, layer.epsilon)
    shape = [1] * (inputs.shape.rank - 1) + [inputs.shape[-1]]
    outputs = _scaled(call, inputs * inverse, shape, layer.scale, None)
    return tf.cast(outputs, layer.compute_dtype)


def unit_normalization(call: Call) -> tf.Tensor:
    layer, inputs = call.operation, tf.cast(call.inputs[0], tf.float32)
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    square = call.quantize("square", inputs * inputs)
    inverse = _rounded_inverse_root(call, tf.reduce_sum(square, axes, keepdims=True))
    return tf.cast(inputs * inverse, layer.compute_dtype)


def rescaling(call: Call) -> tf.Tensor:
    """inputs * scale + offset: one op in the file, which takes the raw numbers."""
    return _by_constants(call, call.operation.scale, call.operation.offset)


def normalization(call: Call) -> tf.Tensor:
    """(inputs - mean) / root of the variance, likewise."""
    with tf.init_scope():
        mean, variance = (
            np.asarray(each, np.float32).reshape(-1)
            for each in (call.operation.mean, call.operation.variance)
        )
    factor = 1.0 / np.maximum(np.sqrt(variance), SMALLEST_DEVIATION)
    return _by_constants(call, factor, -mean * factor)


SMALLEST_DEVIATION = 1e-7
"""What both Keras' `Normalization` takes for a root of the variance that is nearly zero."""


def _by_constants(call: Call, factor: object, offset: object) -> tf.Tensor:
    inputs = call.input
    channels = inputs.shape[-1]
    factors, offsets = (
        tf.constant(np.broadcast_to(np.asarray(each, np.float32), (channels,)))
        for each in (factor, offset)
    )
    offsets = call.offset_on_grid(factors, offsets)
    if call.exporting:
        return affine(inputs, factors, offsets)
    outputs = tf.cast(inputs, tf.float32) * factors + offsets
    return tf.cast(outputs, call.operation.compute_dtype)
