"""What the windows of a pooling hold."""

from __future__ import annotations

from typing import Any

from keras_compress.engines.in_place.graph import Node


def hold_all(node: Node) -> bool:
    """Whether every number is in one of the windows of this call, as far as its shape tells."""
    layer: Any = node.operation
    (shape, _), *_ = node.shapes
    lengths = shape[1:-1]
    sizes, strides = (_for_each(lengths, each) for each in (layer.pool_size, layer.strides))
    if any(stride > size for size, stride in zip(sizes, strides, strict=True)):
        return False
    if layer.padding == "same":
        return True
    return all(
        length is not None and length >= size and (length - size) % stride == 0
        for length, size, stride in zip(lengths, sizes, strides, strict=True)
    )


def _for_each(axes: tuple[Any, ...], given: int | tuple[int, ...]) -> tuple[int, ...]:
    return (given,) * len(axes) if isinstance(given, int) else tuple(given)
