"""Activation functions that have no integer op of their own, or one with conditions."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.forms.call import ActivationCall, Call


def parametric_relu(call: Call) -> tf.Tensor:
    """relu(x) - alpha relu(-x), in the one way that the converter takes for a PRELU."""
    x = call.input
    alpha = call.constant(call.operation.alpha, by_converter=True)
    return tf.nn.relu(x) + -alpha * tf.nn.relu(-x)


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
    slope = -call.at(-1.0)
    slopes = tf.fill((1,) * (call.x.shape.rank - 1), -slope)  # negated, as the converter wants it
    return tf.nn.relu(call.x) + slopes * tf.nn.relu(-call.x)


def limited_leaky_relu(call: ActivationCall) -> tf.Tensor:
    """Likewise; the upper limit is where the integers end."""
    return leaky_relu(call) if call.exporting else call.function(call.x)


def limited_relu(call: ActivationCall) -> tf.Tensor:
    """In the file, a plain one: its integers end where the range does, which is the limit."""
    return tf.nn.relu(call.x) if call.exporting else call.function(call.x)


def hard_sigmoid(call: ActivationCall) -> tf.Tensor:
    """relu6(x + 3) / 6."""
    return call.clipped("clip", call.x + call.constant(3.0), 0.0, 6.0) * call.constant(1 / 6)


def steep_hard_sigmoid(call: ActivationCall) -> tf.Tensor:
    """What tf_keras calls so: 0.2 x + 0.5, cut off at 0 and 1."""
    return call.clipped("clip", call.x + call.constant(2.5), 0.0, 5.0) * call.constant(0.2)


def elu(call: ActivationCall) -> tf.Tensor:
    """a relu(x) + b (exp(min(x, 0) / c) - 1), of which ELU, SELU and CELU are cases: there is no
    integer op for any of them.
    """
    a, b = call.at(1.0), -call.at(-1e4)
    is_celu = not np.isclose(call.at(-1.0), b * np.expm1(-1.0), rtol=1e-5)
    c = b / a if is_celu else 1.0
    positive = call.quantize("positive", tf.nn.relu(call.x))
    negative = call.quantize("negative", call.x - positive)
    if c != 1.0:
        negative = call.quantize("slower", negative * call.constant(1.0 / c))
    below = call.quantize("below", call.quantize("exp", tf.exp(negative)) - call.constant(1.0))
    if b != 1.0:
        below = call.quantize("times", below * call.constant(b))
    if a != 1.0:
        positive = call.quantize("scaled", positive * call.constant(a))
    return positive + below


def softplus(call: ActivationCall) -> tf.Tensor:
    """relu(x) - log(sigmoid(|x|)), which is log(1 + exp(x)) without large numbers."""
    positive = call.quantize("positive", tf.nn.relu(call.x))
    size = call.quantize("size", tf.abs(call.x))
    gate = call.quantize("gate", tf.sigmoid(size))
    return positive - call.quantize("log", tf.math.log(gate))


def mish(call: ActivationCall) -> tf.Tensor:
    """x tanh(softplus(x))."""
    bent = call.quantize("softplus", softplus(call))
    return call.x * call.quantize("tanh", tf.tanh(bent))


def hard_tanh(call: ActivationCall) -> tf.Tensor:
    """x, cut off at -1 and 1. Both ranges have steps of 1/128, so that no number is a tie."""
    return call.clipped("clip", call.x + call.constant(1.0), 0.0, 2.0) - call.constant(1.0)
