"""Which weights of a model are NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel


def not_finite(adapter: Adapter, model: KerasModel) -> Iterator[str]:
    """The names of the weights that have a NaN in them, or, of those that are trained, an infinite
    number: what is not may be a mask.
    """
    for variable in model.weights:
        numbers = tf.convert_to_tensor(adapter.tf_variable(variable))
        if not numbers.dtype.is_floating:
            continue
        broken = tf.math.is_nan(numbers)
        if variable.trainable:
            broken |= tf.math.is_inf(numbers)
        if tf.reduce_any(broken):
            yield adapter.weight_name(variable)
