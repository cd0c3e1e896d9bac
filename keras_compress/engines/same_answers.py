"""That the network which ships answers as the model does: asked where it is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.frameworks.reviving import deriving

ROWS = 2
SPAN = 1.0
"""Numbers are drawn from -SPAN to SPAN."""
FREE_SIZES = (32, 96, 224)
"""What the dimensions that a model leaves free may be, in turn: some nets need many places."""
CLOSE = 1e-4
"""The largest difference, as a share of the largest number: float32 and another order of sums. A
channel in the wrong place is further off by orders of magnitude.
"""
SMALLEST = 1e-6
"""The share by which weights are changed to see what float32 alone can make of a network."""
TIMES = 10
"""How many times as far off as that counts as float32 too."""


def check_same(adapter: Adapter, engine: Engine, small: KerasModel) -> None:
    """Refuse a smaller network whose float outputs are not those of the masked model.

    Raises:
        ValueError: they differ, and by how much.
    """
    difference = largest_difference(adapter, engine, small)
    if difference is not None and not difference <= CLOSE:
        raise ValueError(
            "strip: the network without the dropped channels must answer as the masked one; a row "
            "of the channel table is wrong for a layer of this model, please report it, and leave "
            "that layer out by `Pruning(layers=...)`. Received: a difference of "
            f"{difference:.2g} of the largest output"
        )


def largest_difference(adapter: Adapter, engine: Engine, small: KerasModel) -> float | None:
    """The largest difference of any output, as a share of that output's largest number; 0 where it
    is no larger than what rounding does to the network itself. None where nobody knows on what
    to ask: inputs that are no numbers, or free shapes of which it takes none that is likely.
    """
    asked = _asked(adapter, engine)
    if asked is None:
        return None
    inputs, expected = asked
    difference = _furthest(expected, _answers(adapter, small, inputs))
    if CLOSE < difference < np.inf and difference <= TIMES * _by_rounding(adapter, small, inputs):
        return 0.0
    return difference


def _by_rounding(adapter: Adapter, small: KerasModel, inputs: list[tf.Tensor]) -> float:
    """How far off a network is from itself with other last digits: where large numbers cancel,
    another order of sums does as much.
    """
    generator = np.random.default_rng(0)
    before = _answers(adapter, small, inputs)
    weights = small.get_weights()
    try:
        shares = (1 + SMALLEST * generator.uniform(-1, 1, weight.shape) for weight in weights)
        small.set_weights(
            [
                weight * share if weight.dtype.kind == "f" else weight
                for weight, share in zip(weights, shares, strict=True)
            ]
        )
        return _furthest(before, _answers(adapter, small, inputs))
    finally:
        small.set_weights(weights)


@contextlib.contextmanager
def drawn_weights(adapter: Adapter, model: KerasModel) -> Iterator[None]:
    """While inside, a model has weights from which its answers hear of every channel. Through those
    that it begins with they often do not: a large net of zero biases says the same to everything.
    """
    generator = np.random.default_rng(0)
    # What these are given, their layers would not hear of.
    kept = {id(own) for layer in deriving(adapter, model) for own in layer.weights}
    variables = [adapter.tf_variable(own) for own in model.weights if id(own) not in kept]
    floats = [own for own in variables if own.dtype.is_floating]
    before = [own.numpy() for own in floats]
    try:
        for own in floats:
            shape = own.shape.as_list()
            if len(shape) < 2:  # above zero: a variance, a scale, a bias that keeps a ReLU open
                value = generator.uniform(0.5, 1.5, shape)
            else:
                value = generator.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
            own.assign(tf.cast(value, own.dtype))
        yield
    finally:
        for own, value in zip(floats, before, strict=True):
            own.assign(value)


def _furthest(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Where the expected number is none, of a training that has diverged, any other is as good."""
    furthest = 0.0
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return np.inf
        numbers = np.isfinite(one)
        largest = max(float(np.abs(one[numbers]).max(initial=0.0)), 1e-30)
        apart = np.nan_to_num(np.abs(one[numbers] - other[numbers]), nan=np.inf)
        furthest = max(furthest, float(apart.max(initial=0.0)) / largest)
    return furthest


def _asked(adapter: Adapter, engine: Engine) -> tuple[list[tf.Tensor], list[np.ndarray]] | None:
    """Inputs, and what the masked model answers to them."""
    specs = adapter.input_specs(engine.model)
    if not any(None in spec.shape[1:] for spec in specs):
        inputs = _drawn(specs)
        return None if inputs is None else (inputs, _masked_answers(adapter, engine, inputs))
    for size in FREE_SIZES:
        inputs = _drawn(specs, size)
        if inputs is None:
            return None
        try:
            return inputs, _masked_answers(adapter, engine, inputs)
        except Exception:  # too small, or sizes that do not fit one another: any layer may refuse
            continue
    return None


def _masked_answers(adapter: Adapter, engine: Engine, inputs: list[tf.Tensor]) -> list[np.ndarray]:
    with engine.readers.masked(), engine.in_float():
        return _answers(adapter, engine.model, inputs)


def _answers(adapter: Adapter, model: KerasModel, inputs: list[tf.Tensor]) -> list[np.ndarray]:
    layers = [model, *(layer for _, layer in adapter.layers(model))]
    with contextlib.ExitStack() as stack:
        stack.enter_context(adapter.traceless(layers))
        stack.enter_context(adapter.in_float32(model))
        return [np.asarray(each, np.float64) for each in adapter.call_flat(model, inputs)]


def _drawn(specs: list[tf.TensorSpec], free: int = 1) -> list[tf.Tensor] | None:
    """Inputs of these shapes, with `free` for what is open; None for what are no numbers."""
    generator = np.random.default_rng(0)
    drawn = []
    for spec in specs:
        open_or_not: list[int | None] = spec.shape.as_list()[1:]
        sizes = [ROWS, *(free if size is None else size for size in open_or_not)]
        if spec.dtype.is_floating:
            drawn.append(tf.constant(generator.uniform(-SPAN, SPAN, sizes), tf.float32))
        elif spec.dtype.is_integer:
            drawn.append(tf.constant(generator.integers(0, 2, sizes), spec.dtype))
        else:
            return None
    return drawn
