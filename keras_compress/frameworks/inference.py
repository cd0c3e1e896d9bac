"""A network as one TensorFlow function that can leave the process."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.naming import Naming
from keras_compress.frameworks.protocols import KerasModel

Shapes = Sequence[int] | Mapping[str, Sequence[int]] | None
"""The shape of the only input without the batch, or those of some by their names."""


def inference_function(
    adapter: Adapter,
    model: KerasModel,
    batch_size: int,
    output_names: list[str] | None = None,
    input_shape: Shapes = None,
    floats: Collection[int] = (),
) -> tf.types.experimental.ConcreteFunction:
    """The model in inference, as a ConcreteFunction of its flat inputs that returns name -> tensor.

    Every shape is fixed, the batch to `batch_size`, what else is free to `input_shape`; names and
    order are the model's own, but for `output_names` where they are given. It computes in float32
    whatever the policy of the model is. `floats`: the inputs that it takes as float32, whatever
    they are to the model.

    Raises:
        ValueError: nobody knows what the model takes, an input has a free dimension besides the
            batch, or `input_shape` does not fit it.
    """
    specs = [
        tf.TensorSpec(spec.shape, "float32" if i in floats else spec.dtype, spec.name)
        for i, spec in enumerate(input_specs(adapter, model, batch_size, input_shape))
    ]
    output_names = output_names or adapter.flat_names(model)[1]

    def answer(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = adapter.call_flat(model, list(inputs))
        return dict(zip(output_names, outputs, strict=True))

    with adapter.in_float32(model), Naming(adapter, model).scoped():
        return tf.function(answer, autograph=False).get_concrete_function(*specs)


def input_specs(
    adapter: Adapter, model: KerasModel, batch_size: int, input_shape: Shapes = None
) -> list[tf.TensorSpec]:
    """The flat inputs of that function. Raises ValueError as it does."""
    if not adapter.has_ends(model):
        raise ValueError(
            "Export: the model must be built, so that its inputs are known; a subclassed one is by "
            "calling it on a batch of data, as one argument. "
            f"Received: model={type(model).__name__}"
        )
    given = adapter.input_specs(model)
    shapes = _by_name(input_shape, [spec.name for spec in given])
    specs = []
    for spec in given:
        own = tuple(spec.shape[1:])
        shape = shapes.get(spec.name, own)
        fits = len(shape) == len(own)
        if not fits or any(b not in (None, a) for a, b in zip(shape, own, strict=True)):
            raise ValueError(
                f"Export: `input_shape` must fit the model's input {spec.name!r} of shape "
                f"{tuple(spec.shape)}, without the batch. Received: input_shape={input_shape!r}"
            )
        if None in shape:
            raise ValueError(
                "Export: every dimension of an input but the batch must be fixed; give its shape "
                f"with `input_shape={{{spec.name!r}: shape}}`. "
                f"Received: input {spec.name!r} of shape {tuple(spec.shape)}"
            )
        specs.append(tf.TensorSpec((batch_size, *shape), spec.dtype, spec.name))
    return specs


def _by_name(input_shape: Shapes, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Name of an input -> the shape given for it."""
    if input_shape is None:
        return {}
    if isinstance(input_shape, Mapping):
        if not set(input_shape) <= set(names):
            raise ValueError(
                f"Export: `input_shape` must be for inputs of the model, {names}. "
                f"Received: input_shape={input_shape!r}"
            )
        return {name: tuple(shape) for name, shape in input_shape.items()}
    if len(names) != 1:
        raise ValueError(
            "Export: `input_shape` must be a dict of input name -> shape for a model of several "
            f"inputs, {names}. Received: input_shape={input_shape!r}"
        )
    return {names[0]: tuple(input_shape)}
