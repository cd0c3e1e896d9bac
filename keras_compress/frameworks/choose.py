"""Which adapter a model needs, told by the model's own class."""

from __future__ import annotations

from keras_compress.frameworks.adapter import Adapter


def adapter_of(model: object, owner: str) -> Adapter:
    """The adapter for the Keras that a model belongs to; loads only that one. `owner` is whom to
    name in an error.

    Raises:
        TypeError: not a model of either Keras, or of Keras 3 with another backend than TensorFlow.
    """
    modules = {
        base.__module__.partition(".")[0]
        for base in type(model).__mro__
        if base.__name__ == "Model"
    }
    if "tf_keras" in modules:
        from keras_compress.frameworks.tf_keras import TFKeras

        return TFKeras()
    if "keras" in modules:
        import keras

        if keras.backend.backend() != "tensorflow":
            raise TypeError(
                f"{owner}: the model must run on the TensorFlow backend, because it ends as a "
                "TFLite file; set KERAS_BACKEND=tensorflow before importing keras. "
                f"Received: backend={keras.backend.backend()!r}"
            )
        from keras_compress.frameworks.keras3 import Keras3

        return Keras3()
    raise TypeError(
        f"{owner}: the model must be a Keras 3 or tf_keras model. "
        f"Received: model of class {type(model).__module__}.{type(model).__qualname__}"
    )
