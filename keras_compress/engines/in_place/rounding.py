"""Rounding and its gradient, in as few passes over memory as a training step can do with.

TensorFlow's own `fake_quant` [1] says which integers numbers become; its gradient is that of the
clipping alone, zero outside of the range and straight through inside. What is done differently here
are the passes: TensorFlow's gradient sums up for the two ends of the range as well, which are not
trained, and a ReLU in front of a range that begins at zero is what the clipping does anyway.

References:
    [1] Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2017, arXiv:1712.05877.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_compress.frameworks.devices import ops_on_a_gpu, under_xla

_SMALLEST = float(np.finfo(np.float32).tiny)
"""Above zero: what is smaller, TensorFlow's threads take for zero."""

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, None, None]]


Ends = tuple[tf.Tensor, tf.Tensor]
"""Minimum and maximum of a range, scalars."""

NudgedEnds = Callable[[], Ends]
"""What gives the ends of a range, nudged, when the gradient is asked for."""


def rounded(
    numbers: tf.Tensor, low: tf.Tensor, high: tf.Tensor, bits: int, nudged_ends: NudgedEnds | None
) -> tf.Tensor:
    """float32 `numbers` as integers over [low, high] hold them; the gradient passes inside.

    `nudged_ends`: None where nobody asks for a gradient.
    """
    if nudged_ends is None:
        return tf.quantization.fake_quant_with_min_max_vars(numbers, low, high, num_bits=bits)
    # XLA leaves out what nobody needs of TensorFlow's gradient, and makes one pass of many.
    if under_xla():
        return _rounded_by_tensorflow(numbers, low, high, bits)

    def rounding(x: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        y = tf.quantization.fake_quant_with_min_max_vars(x, low, high, num_bits=bits)
        return y, lambda gradient: (_inside(gradient, x, *nudged_ends()), None, None)

    outputs: tf.Tensor = tf.custom_gradient(rounding)(numbers, low, high)
    return outputs


def rounded_relu(
    numbers: tf.Tensor, limit: float, high: tf.Tensor, bits: int, nudged_ends: NudgedEnds
) -> tf.Tensor:
    """`rounded(relu(numbers), 0, high, ...)`, with the gradient of both; `limit`: where the ReLU
    ends. One pass forth and one back, as the ReLU by itself.
    """

    def rounding(x: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, Callable[..., object]]:
        y = tf.quantization.fake_quant_with_min_max_vars(x, 0.0, high, num_bits=bits)

        def gradient(gradients: tf.Tensor) -> tuple[tf.Tensor, None]:
            _, end = nudged_ends()
            if limit != math.inf:  # a ReLU passes nothing where it ends
                end = tf.minimum(end, float(np.nextafter(np.float32(limit), np.float32(0.0))))
            return _inside(gradients, x, tf.constant(_SMALLEST), end), None

        return y, gradient

    outputs: tf.Tensor = tf.custom_gradient(rounding)(numbers, high)
    return outputs


def rounded_over_their_own(
    numbers: tf.Tensor, low: tf.Tensor, high: tf.Tensor, narrow_range: bool = False
) -> tf.Tensor:
    """float32 `numbers`, of which [low, high] is the range, as 8 bits hold them; `narrow_range`:
    the lowest integer is left out.
    """
    if not ops_on_a_gpu():
        return _rounded_by_tensorflow(numbers, low, high, 8, narrow_range)

    def rounding(x: tf.Tensor) -> tf.Tensor:
        return tf.quantization.fake_quant_with_min_max_vars(x, low, high, narrow_range=narrow_range)

    # TensorFlow's gradient has no op for a GPU that is deterministic, and is an error there for who
    # asks for those. None of these numbers is outside of the range, so that all of it passes.
    def straight(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return rounding(x), lambda gradients: gradients

    outputs: tf.Tensor = tf.custom_gradient(straight)(numbers)
    return outputs


def _rounded_by_tensorflow(
    numbers: tf.Tensor, low: tf.Tensor, high: tf.Tensor, bits: int, narrow_range: bool = False
) -> tf.Tensor:
    """TensorFlow's op with TensorFlow's gradient, which by itself has none in its turn: a penalty
    on gradients would be left out of a training without a word.
    """
    how = {"num_bits": bits, "narrow_range": narrow_range}

    def rounding(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def inside(gradients: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            passed, *_ = tf.raw_ops.FakeQuantWithMinMaxVarsGradient(
                gradients=gradients, inputs=x, min=low, max=high, **how
            )
            return passed, inside

        def dense(gradients: tf.Tensor) -> tf.Tensor:
            # Those of an embedding's rows come as slices.
            return inside(tf.convert_to_tensor(gradients))

        return tf.quantization.fake_quant_with_min_max_vars(x, low, high, **how), dense

    outputs: tf.Tensor = tf.custom_gradient(rounding)(numbers)
    return outputs


def rounded_symmetrically(
    kernel: tf.Tensor, magnitude: tf.Tensor, bits: int, clips: bool
) -> tf.Tensor:
    """`kernel` as multiples of magnitude / (2 ** (bits - 1) - 1), where `magnitude` is a scalar or
    can be broadcast.

    `clips`: some of it may be larger than `magnitude`; it stays at the last integer, and has no
    gradient. Otherwise the gradient passes straight through, to the largest number too, which
    TensorFlow's own op takes for too large in every other kernel, by an error in the last bit.
    """
    largest = 2.0 ** (bits - 1) - 1

    def rounding(
        x: tf.Tensor, magnitude: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
        scale = magnitude / largest
        integers = tf.round(x / scale)
        if clips:
            integers = tf.clip_by_value(integers, -largest, largest)

        def gradient(gradients: tf.Tensor) -> tuple[tf.Tensor, None]:
            if clips:
                gradients = tf.where(tf.abs(x) <= magnitude, gradients, 0.0)
            return gradients, None

        return integers * scale, gradient

    outputs: tf.Tensor = tf.custom_gradient(rounding)(kernel, tf.stop_gradient(magnitude))
    return outputs


def nudged(low: tf.Tensor, high: tf.Tensor, bits: int) -> Ends:
    """The ends of a range, or of several, moved until zero is an integer, in `fake_quant`'s
    arithmetic.
    """
    largest = 2.0**bits - 1
    # Not `/`, of which TensorFlow makes a multiplication in a graph: another last bit, and the zero
    # of a symmetric range, which lies between two integers, goes to the other one.
    scale = tf.math.divide_no_nan(high - low, largest)
    # Of nothing but zeros the scale is zero, and their gradient passes, as it does in TensorFlow's.
    zero_point = tf.floor(tf.math.divide_no_nan(-low, scale) + 0.5)
    zero_point = tf.clip_by_value(zero_point, 0.0, largest)
    return -zero_point * scale, (largest - zero_point) * scale


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _inside(
    gradients: tf.Tensor, x: tf.Tensor, low: tf.Tensor, high: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None, None, None]]]:
    """The gradients where low <= x <= high, else zero; of all ops that could, this one does it in
    the fewest passes. It has no gradient of its own, which a penalty on gradients asks for.
    """
    inside, *_ = tf.raw_ops.QuantizeAndDequantizeV4Grad(
        gradients=gradients, input=x, input_min=low, input_max=high, axis=-1
    )
    return inside, lambda again: (_inside(again, x, low, high), None, None, None)
