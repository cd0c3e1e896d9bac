"""Which weights of a model are NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel


def is_finite(variable: tf.Variable) -> bool:
    """Whether no number of a variable is NaN or infinite."""
    numbers = tf.convert_to_tensor(variable)
    return not numbers.dtype.is_floating or bool(tf.reduce_all(tf.math.is_finite(numbers)))


def not_finite(adapter: Adapter, model: KerasModel) -> Iterator[str]:
    """The names of the weights that have a NaN or infinite number in them."""
    for variable in model.weights:
        if not is_finite(adapter.tf_variable(variable)):
            yield adapter.weight_name(variable)
