"""Operators and merging layers, rounded wherever a number passes between two integer ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.forms.call import Call

SMALLEST_EXCESS = 2.0**-23
"""What the first float32 above 1 has more."""


def add(call: Call) -> tf.Tensor:
    """A sum, rounded after each addition but the last, as the integer op takes two."""
    return _chained(call, "sum", lambda one, other: one + other)


def multiply(call: Call) -> tf.Tensor:
    """A product, likewise."""
    return _chained(call, "product", lambda one, other: one * other)


def _chained(
    call: Call, role: str, combine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    if len(call.inputs) == len(call.operands) == 2:
        return call.run()
    first, *others, last = _with_constants(call)
    total = first
    for i, other in enumerate(others, start=1):
        total = call.quantize(f"{role}{i}", combine(total, other))
    return combine(total, last)


def _with_constants(call: Call) -> list[tf.Tensor]:
    """The operands, those that are no tensors rounded over their own range."""
    return [each if tf.is_tensor(each) else call.constant(each) for each in call.operands]


def layer_scale(call: Call) -> tf.Tensor:
    """inputs * gamma."""
    return call.input * call.constant(call.operation.gamma)


def scaled_residual(call: Call) -> tf.Tensor:
    """The first input, plus a share of the second."""
    first, second = call.inputs
    scale = float(call.operation.scale)
    return first + call.quantize("scaled", second * call.constant(scale))


def subtract(call: Call) -> tf.Tensor:
    if len(call.inputs) == 2:
        return call.run()
    one, other = _with_constants(call)
    return one - other


def divide_by_constant(call: Call) -> tf.Tensor:
    """A product, since there is no integer division."""
    one, other = call.operands
    return one * call.constant(1.0 / np.asarray(other, np.float64))


def negate(call: Call) -> tf.Tensor:
    """A product, since there is no integer negation."""
    return call.input * call.constant(-1.0)


def average(call: Call) -> tf.Tensor:
    """A sum, times the share of each."""
    first, *others = call.inputs
    total = first
    for i, other in enumerate(others, start=1):
        total = call.quantize(f"sum{i}", total + other)
    return total * call.constant(1.0 / len(call.inputs))


def split(call: Call) -> Any:
    """In the file, slices: the op that splits wants every part to be used."""
    parts = call.run()
    if not call.exporting:
        return parts
    whole, begin, slices = call.input, 0, []
    changed = [i for i in range(whole.shape.rank) if parts[0].shape[i] != whole.shape[i]]
    axis = changed[0] if changed else 0
    for part in parts:
        begins = [begin if i == axis else 0 for i in range(whole.shape.rank)]
        slices.append(tf.slice(whole, begins, part.shape))
        begin += part.shape[axis]
    return type(parts)(slices)


def join(call: Call) -> tf.Tensor:
    """Every input rounded over one range, as the integer op takes a single scale."""
    parts = []
    for i, part in enumerate(call.inputs):
        if call.exporting and i in call.rescales:
            # The converter takes two roundings in a row for one. A product keeps them apart; with
            # exactly 1 it would be optimized away, and two equal ones would be merged.
            part = part * (1.0 + call.rescales[i] * SMALLEST_EXCESS)
        parts.append(call.quantize("join", part))
    return call.run_on(parts)
