"""Why a layer whose kind passes channels on stops them all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_compress.engines.in_place.graph import Node


def channels_first(operation: Any) -> str | None:
    """A channel is a place along the last axis."""
    if getattr(operation, "data_format", None) == "channels_first":
        return 'data_format="channels_first"'
    return None


def of_convolution(operation: Any) -> str | None:
    groups = getattr(operation, "groups", 1)
    if groups not in (None, 1):
        return f"its kernel is in groups={groups}"
    return channels_first(operation)


def other_axis(node: Node) -> str | None:
    axis = getattr(node.operation, "axis", -1)
    (axis,) = axis if isinstance(axis, list | tuple) else (axis,)
    rank = len(node.shapes[0][0])
    return None if axis in (-1, rank - 1) else f"axis={axis} of {rank}"


def shared_slopes(operation: Any) -> str | None:
    """Slopes that are one for all channels need not be known, but they are read by all of them."""
    alpha = getattr(operation, "alpha", None)
    if alpha is not None and len(alpha.shape) and alpha.shape[-1] == 1:
        return "its slopes are shared by all channels"
    return None


def scales_by_channel(operation: Any) -> str | None:
    for name in ("scale", "offset"):
        if np.size(getattr(operation, name, 0.0)) > 1:
            return f"it has a {name} for each channel"
    return None


def constant_sizes(operation: Any) -> str | None:
    """A function keeps the sizes that it was called with; those of a layer stand in its config."""
    if "target_shape" in operation.get_config():
        return None
    return "its sizes are numbers that stay, as those of a `Reshape` layer would not"


def constants(node: Node) -> str | None:
    """An operand that is no tensor of the graph keeps its size."""
    args, kwargs = node.arguments([None] * len(node.inputs))
    if any(np.size(each) > 1 for each in _flat([args, kwargs]) if not isinstance(each, str)):
        return "one of its operands is a constant with many numbers"
    return None


def _flat(value: Any) -> Iterator[Any]:
    """What an argument holds, tensors' places (None) left out."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    elif value is not None:
        yield value


def quotients(node: Node) -> str | None:
    """Of two dropped channels there is none."""
    if len(node.inputs) > 1:
        return "it divides one channel by another"
    return constants(node)
