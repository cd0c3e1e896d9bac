"""What is asked of the objects of either Keras, as types, since neither Keras brings any.

A member stands here if this package asks both Keras for it. What one Keras alone has is its
adapter's business, and what one kind of layer has (`kernel`, `activation`) that of whoever knows
the kind; both take it as `Any`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

Method = Callable[..., Any]
"""A method of an object of Keras, whatever its arguments, which another one calls in its place."""


class KerasTensor(Protocol):
    """A symbolic tensor: one that flows through a functional graph."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> Sequence[int | None]: ...

    @property
    def dtype(self) -> object:
        """A string in Keras 3, a `tf.DType` in tf_keras."""


class KerasVariable(Protocol):
    """A weight; `Adapter.tf_variable` gives TensorFlow's own behind it."""

    trainable: bool

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> Sequence[int]: ...

    def assign(self, value: object) -> object: ...

    def numpy(self) -> np.ndarray: ...


class KerasOperation(Protocol):
    """What a node of a functional graph calls: a layer, or a bare function that Keras wrapped."""

    @property
    def name(self) -> str: ...

    @property
    def call(self) -> Method: ...


class KerasLayer(KerasOperation, Protocol):
    """A layer, a model or one of tfmot's wrappers included."""

    trainable: bool

    @property
    def built(self) -> bool: ...

    @property
    def weights(self) -> Sequence[KerasVariable]:
        """Those that are trained first."""

    @property
    def trainable_variables(self) -> Sequence[KerasVariable]: ...

    @property
    def dtype_policy(self) -> object: ...

    def finalize_state(self) -> None:
        """Make anew what is kept of the weights besides; not every layer has it."""

    def get_weights(self) -> list[np.ndarray]: ...

    def set_weights(self, weights: Sequence[np.ndarray]) -> None: ...

    def get_config(self) -> dict[str, Any]: ...

    def _flatten_layers(
        self, include_self: bool = True, recursive: bool = True
    ) -> Iterable[KerasLayer]:
        """Private in both Keras, with one signature: all that is below, whatever holds it."""


class KerasOptimizer(Protocol):
    """What counts the updates of a model."""

    @property
    def iterations(self) -> KerasVariable: ...


class Named(Protocol):
    """What is told from others by its name: a metric, a hyperparameter."""

    @property
    def name(self) -> str: ...


class Compiled(Protocol):
    """What the last `compile` of a model was given."""

    @property
    def config(self) -> Mapping[str, Any]: ...


class KerasModel(KerasLayer, Protocol):
    """A model. The graph members are those of a functional one, or of a Sequential that is built.

    `train_function` and its like are what the two Keras trace for `fit`, `evaluate` and `predict`,
    None before.
    """

    train_function: object
    test_function: object
    predict_function: object
    jit_compile: object
    _compile_config: Compiled
    """Private in both Keras; the public way would serialise it."""
    _nodes_by_depth: Mapping[int, Sequence[Any]]
    """Private in both Keras, with nodes of its own in each."""

    @property
    def layers(self) -> Sequence[KerasLayer]: ...

    @property
    def inputs(self) -> Sequence[KerasTensor]: ...

    @property
    def outputs(self) -> Sequence[KerasTensor]: ...

    @property
    def metrics(self) -> Sequence[Named]: ...

    @property
    def optimizer(self) -> KerasOptimizer | None: ...

    @property
    def distribute_strategy(self) -> Strategy: ...

    def __call__(self, inputs: object, *, training: bool | None = None) -> object: ...

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self: ...

    def get_layer(self, name: str) -> KerasLayer: ...

    def build(self, input_shape: object) -> object: ...

    def get_build_config(self) -> dict[str, Any] | None: ...

    def build_from_config(self, config: dict[str, Any]) -> None: ...

    def train_step(self, data: object) -> object: ...

    def make_train_function(self, force: bool = False) -> object: ...

    def compile(self, **arguments: object) -> None: ...

    def fit(self, *args: object, **kwargs: object) -> object: ...

    def predict(self, x: object, *, verbose: int = 1) -> object: ...

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, Any]:
        """With `return_dict=True`, as it is asked here."""

    def count_params(self) -> int: ...

    def save_weights(self, filepath: str) -> None: ...


class Strategy(Protocol):
    """A `tf.distribute.Strategy`: where variables are made."""

    extended: Any
    num_replicas_in_sync: int

    def scope(self) -> contextlib.AbstractContextManager[object]: ...


class KerasCallback(Protocol):
    """A member of a `CallbackList`."""

    def set_model(self, model: KerasModel) -> None: ...


class KerasCallbackList(Protocol):
    """What a `fit` calls, and what calls the callbacks in turn."""

    callbacks: list[KerasCallback]
    params: Mapping[str, Any]
