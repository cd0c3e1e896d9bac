"""Layers with kernels, whose integer ops want another rank, or two ops where the layer is one.

The converter cannot reshape scales by channel, so a kernel of rank 3 is lifted to rank 4 before it
is rounded: a convolution along one axis is one of images that are one row high.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_compress.engines.in_place.forms.call import Call


def dense(call: Call) -> tf.Tensor:
    """In the file, a Dense with batch norm behind it is a 1x1 convolution.

    The integer fully-connected op has one scale per tensor, and batch norm spreads the channels too
    far apart for one.
    """
    if not (call.exporting and call.folded):
        return call.run()
    layer = call.operation
    inputs = call.input
    kernel = tf.convert_to_tensor(layer.kernel)  # of an export: (1, 1, in, out)
    rows = tf.reshape(inputs, (inputs.shape[0], -1, 1, inputs.shape[-1]))
    outputs = tf.nn.conv2d(rows, kernel, strides=1, padding="VALID")
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
    outputs = tf.reshape(outputs, (*inputs.shape[:-1], outputs.shape[-1]))
    return outputs if layer.activation is None else layer.activation(outputs)


def separable_convolution(call: Call) -> tf.Tensor:
    """Depthwise, rounded, then pointwise: two integer ops, where the layer computes both in one."""
    layer = call.operation
    inputs = call.input
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


def convolution_1d(call: Call) -> tf.Tensor:
    """In the file, a convolution of images that are one row high."""
    if not call.exporting:
        return call.run()
    layer = call.operation
    outputs = tf.nn.conv2d(
        _row_images(layer, call.input),
        tf.convert_to_tensor(layer.kernel),
        strides=(1, layer.strides[0]),
        padding=_padding(layer),
        dilations=(1, layer.dilation_rate[0]),
    )
    return _finished_rows(layer, outputs)


def depthwise_convolution_1d(call: Call) -> tf.Tensor:
    """Likewise. Strides are the same along both axes, of which one has length 1."""
    if not call.exporting:
        return call.run()
    layer = call.operation
    outputs = _depthwise_rows(layer, call.input, tf.convert_to_tensor(_depthwise_kernel(layer)))
    return _finished_rows(layer, outputs)


def separable_convolution_1d(call: Call) -> tf.Tensor:
    """Depthwise, rounded, then pointwise, likewise."""
    layer = call.operation
    kernel, pointwise = map(tf.convert_to_tensor, (layer.depthwise_kernel, layer.pointwise_kernel))
    if not call.exporting:
        kernel, pointwise = kernel[None], pointwise[None]
    between = call.quantize("between", _depthwise_rows(layer, call.input, kernel))
    return _finished_rows(layer, tf.nn.conv2d(between, pointwise, strides=1, padding="VALID"))


def _row_images(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """(rows, steps, channels) as images one row high, padded in front where `layer` is causal."""
    images = inputs[:, None]
    if layer.padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        images = tf.pad(images, [[0, 0], [0, 0], [before, 0], [0, 0]])
    return images


def _padding(layer: Any) -> str:
    return "VALID" if layer.padding == "causal" else layer.padding.upper()


def _depthwise_kernel(layer: Any) -> Any:
    kernel = getattr(layer, "depthwise_kernel", None)
    return layer.kernel if kernel is None else kernel  # as Keras 3 calls it


def _depthwise_rows(layer: Any, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    stride = layer.strides[0]
    return tf.nn.depthwise_conv2d(
        _row_images(layer, inputs),
        kernel,
        strides=(1, stride, stride, 1),
        padding=_padding(layer),
        dilations=(1, layer.dilation_rate[0]),
    )


def _finished_rows(layer: Any, outputs: tf.Tensor) -> tf.Tensor:
    """What comes behind the convolution, as the layer has it, without the axis of one row."""
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
    outputs = tf.squeeze(outputs, 1)
    return outputs if layer.activation is None else layer.activation(outputs)
