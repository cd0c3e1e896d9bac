"""Whether numbers are numbers, neither NaN nor infinite."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel


def all_finite(variable: tf.Variable) -> tf.Tensor:
    """Whether a floating variable, or tensor, is finite everywhere: a scalar, in the graph too."""
    return tf.reduce_all(tf.math.is_finite(variable))


def not_finite(adapter: Adapter, model: KerasModel) -> Iterator[str]:
    """The names of the weights that have a NaN or infinite number in them."""
    for variable in model.weights:
        numbers = tf.convert_to_tensor(adapter.tf_variable(variable))
        if numbers.dtype.is_floating and not all_finite(numbers):
            yield adapter.weight_name(variable)
