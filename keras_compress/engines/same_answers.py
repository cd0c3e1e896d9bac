"""That the network which ships answers as the model does: asked where it is made."""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel

ROWS = 2
SPAN = 1.0
"""Numbers are drawn from -SPAN to SPAN."""
CLOSE = 1e-4
"""The largest difference, as a share of the largest number: float32 and another order of sums. A
channel in the wrong place is further off by orders of magnitude.
"""


def check_same(adapter: Adapter, engine: Engine, small: KerasModel) -> None:
    """Refuse a smaller network whose float outputs are not those of the masked model. Where the
    model leaves shapes free, nobody knows on what to ask.

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
    """The largest difference of any output, as a share of that output's largest number."""
    inputs = _drawn(adapter, engine.model)
    if inputs is None:
        return None
    with engine.readers.masked(), engine.in_float():
        expected = _answers(adapter, engine.model, inputs)
    found = _answers(adapter, small, inputs)
    difference = 0.0
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape:
            return np.inf
        largest = max(float(np.abs(one).max(initial=0.0)), 1e-30)
        difference = max(difference, float(np.abs(one - other).max(initial=0.0)) / largest)
    return difference


def _answers(adapter: Adapter, model: KerasModel, inputs: list[tf.Tensor]) -> list[np.ndarray]:
    layers = [model, *(layer for _, layer in adapter.layers(model))]
    with contextlib.ExitStack() as stack:
        stack.enter_context(adapter.traceless(layers))
        stack.enter_context(adapter.in_float32(model))
        return [np.asarray(each, np.float64) for each in adapter.call_flat(model, inputs)]


def _drawn(adapter: Adapter, model: KerasModel) -> list[tf.Tensor] | None:
    generator = np.random.default_rng(0)
    drawn = []
    for spec in adapter.input_specs(model):
        sizes = [ROWS, *spec.shape[1:]]
        if None in sizes:
            return None
        if spec.dtype.is_floating:
            drawn.append(tf.constant(generator.uniform(-SPAN, SPAN, sizes), tf.float32))
        elif spec.dtype.is_integer:
            drawn.append(tf.constant(generator.integers(0, 2, sizes), spec.dtype))
        else:
            return None
    return drawn
