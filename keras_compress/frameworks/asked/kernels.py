"""What is asked about kernels: which variable is one, and where a layer keeps it."""

from __future__ import annotations

import abc
from typing import cast

import tensorflow as tf

from keras_compress.frameworks.asked.one_keras import OneKeras
from keras_compress.frameworks.protocols import KerasOperation, KerasVariable

# The names under which the two Keras keep a canonical kernel on a layer.
STORAGE_NAMES = {
    "kernel": ("_kernel", "kernel"),
    "depthwise_kernel": ("depthwise_kernel", "kernel"),
    "pointwise_kernel": ("pointwise_kernel",),
    "embeddings": ("_embeddings", "embeddings"),
}

MADE_OF_OTHERS = "is made of other weights when it is used (LoRA, or Keras' own quantization)"
"""Why a kernel is not one variable; its name goes before."""


class Kernels(OneKeras):
    """One Keras, asked about kernels."""

    own_weights: str
    """The attribute of a layer that lists the trainable weights it made itself (private in both
    Keras; the public list has those of its sublayers too, and is empty when the layer is frozen).
    """

    def own_kernel(self, layer: KerasOperation, kernel: str) -> KerasVariable | None:
        """The variable that is a kernel; None where the layer computes with another, made of it: by
        LoRA, or by a quantization of Keras' own.
        """
        if getattr(layer, "quantization_mode", None) is not None:
            return None
        for key in STORAGE_NAMES.get(kernel, (kernel,)):
            if key in layer.__dict__:
                own = cast(KerasVariable, layer.__dict__[key])
                return own if getattr(layer, key.removeprefix("_"), None) is own else None
        return None

    def storage(self, layer: KerasOperation, kernel: str) -> str:
        """The key in the layer's `__dict__` that holds a kernel while `call` runs."""
        key, *_ = (key for key in STORAGE_NAMES[kernel] if key in layer.__dict__)
        return key

    @abc.abstractmethod
    def tf_variable(self, variable: KerasVariable) -> tf.Variable:
        """The TensorFlow variable behind a Keras variable, free of any autocast scope."""

    def weight_name(self, variable: KerasVariable) -> str:
        return getattr(variable, "path", variable.name)
