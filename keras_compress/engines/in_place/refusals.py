"""What of a kind cannot be done: each gives the reason, or None."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_compress.engines.in_place.forms.call import bound
from keras_compress.engines.in_place.graph import Node


def channels_first(layer: Any) -> str | None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "data_format is not channels_last"
    return None


def inner_axes(layer: Any) -> str | None:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    return None if axes == [-1] else f"axis {axes} is not the last"


def inner_axis(layer: Any) -> str | None:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)  # tf_keras: a list
    last = layer.input_spec.ndim - 1
    return None if axes in ([-1], [last]) else f"axis {axes} is not the last"


def upsampling_by_curves(layer: Any) -> str | None:
    if layer.interpolation not in ("nearest", "bilinear"):
        return f"interpolation {layer.interpolation!r} is not 'nearest' or 'bilinear'"
    return channels_first(layer)


def resizing_otherwise(layer: Any) -> str | None:
    if layer.interpolation not in ("nearest", "bilinear"):
        return f"interpolation {layer.interpolation!r} is not 'nearest' or 'bilinear'"
    for name in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if getattr(layer, name, False):
            return f"{name} is set"
    return channels_first(layer)


def padding_with_numbers(node: Node) -> str | None:
    arguments = bound(node.operation.call, *node.arguments(node.inputs))
    for name in ("constant_values", "value"):
        value = arguments.get(name, getattr(node.operation, name, None))
        if value not in (None, 0):
            return f"{name}={value} is not 0"
    return None


def casting_to_others(node: Node) -> str | None:
    arguments = bound(node.operation.call, *node.arguments(node.inputs))
    dtype = tf.as_dtype(arguments.get("dtype", getattr(node.operation, "dtype", None)))
    return None if dtype is tf.float32 else f"dtype {dtype.name} is not float32"


def _by_constant(node: Node) -> str | None:
    return None if len(node.inputs) == 1 else "there is no integer division of tensors"


def _numerator(node: Node) -> str | None:
    """Divided by a constant, not a constant by it."""
    (args, kwargs) = node.arguments([_PLACE])
    values = [each for each in (*args, *kwargs.values()) if each is not None]
    return None if values and values[0] is _PLACE else "there is no integer reciprocal"


_PLACE = object()


def division(node: Node) -> str | None:
    return _by_constant(node) or _numerator(node)


def inversion(layer: Any) -> str | None:
    return "invert is set" if getattr(layer, "invert", False) else None


def statistics_along_inner_axes(node: Node) -> str | None:
    """Of a normalization by constants: only along the last axis."""
    layer: Any = node.operation
    axis = layer.axis
    axes = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    last = len(node.shapes[0][0]) - 1
    return None if axes in ((), (-1,), (last,)) else f"axis {axes} is not the last"


def inner_groups(layer: Any) -> str | None:
    return None if layer.axis in (-1,) else f"axis {layer.axis} is not the last"


def layer_norm_options(layer: Any) -> str | None:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if getattr(layer, "rms_scaling", False):
        return "rms_scaling is set"
    return None if axes else "no axis"
