"""A network as one TensorFlow function that can leave the process."""

from __future__ import annotations

import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.naming import Naming
from keras_compress.frameworks.protocols import KerasModel


def inference_function(
    adapter: Adapter, model: KerasModel, batch_size: int, output_names: list[str] | None = None
) -> tf.types.experimental.ConcreteFunction:
    """The model in inference, as a ConcreteFunction of its flat inputs that returns name -> tensor.

    Every shape is fixed, the batch to `batch_size`; names and order are the model's own, but for
    `output_names` where they are given. It computes in float32 whatever the policy of the model is.

    Raises:
        ValueError: the model is subclassed, or an input has a free dimension besides the batch.
    """
    specs = input_specs(adapter, model, batch_size)
    output_names = output_names or adapter.flat_names(model)[1]

    def answer(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = adapter.call_flat(model, list(inputs))
        return dict(zip(output_names, outputs, strict=True))

    with adapter.in_float32(model), Naming(adapter, model).scoped():
        return tf.function(answer, autograph=False).get_concrete_function(*specs)


def input_specs(adapter: Adapter, model: KerasModel, batch_size: int) -> list[tf.TensorSpec]:
    """The flat inputs of that function. Raises ValueError as it does."""
    if adapter.functional(model) is None:
        raise ValueError(
            "Export: the model must be Sequential or functional, and built, so that its inputs are "
            f"known. Received: model={type(model).__name__}"
        )
    specs = []
    for spec in adapter.input_specs(model):
        shape = (batch_size, *spec.shape[1:])
        if None in shape:
            raise ValueError(
                "Export: every dimension of an input but the batch must be fixed. "
                f"Received: input {spec.name!r} of shape {tuple(spec.shape)}"
            )
        specs.append(tf.TensorSpec(shape, spec.dtype, spec.name))
    return specs
