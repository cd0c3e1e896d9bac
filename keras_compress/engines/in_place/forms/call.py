"""What a form is given: one call of a layer, an operator or an activation function."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasVariable, Method


class Constant(Protocol):
    """Rounds a number, an array of them or a weight over its own range, zero included."""

    def __call__(
        self, value: object, shape: Sequence[int] | None = None, by_converter: bool = False
    ) -> tf.Tensor:
        """`shape`: to give it first. `by_converter`: in the graph of a file it stays as it is, as
        the converter rounds it itself, symmetrically.
        """


def number(adapter: Adapter, value: object, shape: Sequence[int] | None) -> tf.Tensor:
    """What a `Constant` rounds, as it is."""
    if not isinstance(value, int | float | np.ndarray | np.number):
        value = adapter.tf_variable(cast(KerasVariable, value))
    own = tf.cast(tf.convert_to_tensor(value), tf.float32)
    return own if shape is None else tf.reshape(own, shape)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a patched operation, and what its form may ask of the patches."""

    operation: Any
    """Of the kind that the form is for."""
    original: Method
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    exporting: bool
    """The graph becomes a file."""
    moves: bool
    """The ranges follow what they are given."""
    quantize: Callable[[str, tf.Tensor], tf.Tensor]
    """The quantizer of a role inside the operation."""
    folded: bool
    """Dense: a batch norm follows and becomes part of it. BatchNormalization: it is such a one."""
    constant: Constant
    rescales: dict[int, int]
    """The inputs that come with a range of their own, and a number for each, from 1 over the model.
    """
    offset_on_grid: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    """(factor, offset) of a batch norm -> the offset that its integers can hold."""
    of_weights: Callable[[Callable[[], tuple[tf.Tensor, ...]]], tuple[tf.Tensor, ...]]
    """What is computed of nothing but weights: as ops, or in a graph that leaves as numbers."""

    def run(self) -> tf.Tensor:
        return self.original(*self.args, **self.kwargs)

    @functools.cached_property
    def inputs(self) -> list[tf.Tensor]:
        """The tensors that it is called on, in order, however they were passed."""
        return [value for value in self._data() if tf.is_tensor(value)]

    @property
    def input(self) -> tf.Tensor:
        """The one tensor that it is called on."""
        (only,) = self.inputs
        return only

    @property
    def operands(self) -> list[Any]:
        """The tensors and the numbers that an operator is called on, in order."""
        numbers = (int, float, np.ndarray, np.number)
        return [
            value
            for value in self._data()
            if tf.is_tensor(value) or (isinstance(value, numbers) and not isinstance(value, bool))
        ]

    def run_on(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """What the operation itself computes of other tensors in the place of `inputs`."""
        others = iter(inputs)
        args, kwargs = with_data(self.args, self.kwargs, lambda own: next(others))
        return self.original(*args, **kwargs)

    def argument(self, name: str) -> Any:
        """An argument by its name, however it was passed; None where it was not."""
        return bound(self.original, self.args, self.kwargs).get(name)

    def _data(self) -> Iterator[Any]:
        data = {name: value for name, value in self.kwargs.items() if name not in NOT_DATA}
        yield from tf.nest.flatten((self.args, data))


NOT_DATA = ("mask", "training", "name")
"""Arguments that say how to compute, not on what."""


def with_data(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another tensor in the place of each that it is called on."""
    data = {name: value for name, value in kwargs.items() if name not in NOT_DATA}
    changed, others = tf.nest.map_structure(
        lambda value: change(value) if tf.is_tensor(value) else value, (args, data)
    )
    return changed, {**kwargs, **others}


def bound(
    original: Method, args: tuple[object, ...], kwargs: dict[str, object]
) -> dict[str, object]:
    """The arguments of a call by name, as far as the signature names them."""
    try:
        return dict(inspect.signature(original).bind(*args, **kwargs).arguments)
    except TypeError:  # the call itself will say what is wrong with them
        return dict(kwargs)


Form = Callable[[Call], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ActivationCall:
    """One call of an activation function, as part of a layer or on its own."""

    x: tf.Tensor
    function: Callable[[tf.Tensor], tf.Tensor]
    """The activation itself."""
    quantize: Callable[[str, tf.Tensor], tf.Tensor]
    constant: Constant
    exporting: bool

    def at(self, x: float) -> float:
        """The value of the function at one place, which tells its parameters."""
        with tf.init_scope():
            return float(np.asarray(self.function(tf.constant([[x]], tf.float32)))[0, 0])

    def clipped(self, role: str, x: tf.Tensor, low: float, high: float) -> tf.Tensor:
        """`x` cut off at both ends of the range that the role has: in the file, by the integers."""
        return self.quantize(role, x if self.exporting else tf.clip_by_value(x, low, high))


ActivationForm = Callable[[ActivationCall], tf.Tensor]
