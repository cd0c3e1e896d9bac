"""Where the channels of an operation that only moves numbers have gone: numbers are moved by it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.graph import Node

FREE = 3
"""What an open dimension counts as: no number of channels that is often met."""


def moved(node: Node) -> np.ndarray | None:
    """What stands at each place of the output, (places, channels): the place of a channel in all
    inputs, one behind the other, counted from 1; 0 where there is none of them. None where it gives
    several tensors, or no place along a last axis.

    Raises:
        Exception: of any kind, where the operation does not run by itself.
    """
    values, before = [], 1
    for shape, dtype in node.shapes:
        sizes = [1, *(FREE if size is None else size for size in shape[1:])]
        numbers = np.arange(before, before + sizes[-1], dtype=np.float32)
        # In float32 whatever the policy is: half of its digits would not do.
        own = tf.float32 if tf.as_dtype(dtype).is_floating else dtype
        values.append(tf.cast(np.broadcast_to(numbers, sizes), own))
        before += sizes[-1]
    args, kwargs = node.arguments(values)
    with tf.init_scope():
        found = node.operation.call(*args, **kwargs)
    if not tf.is_tensor(found) or found.shape.rank < 2:
        return None
    places: np.ndarray = np.rint(tf.cast(found, tf.float64).numpy()).astype(np.int64)
    return places.reshape(-1, places.shape[-1])


def laid_out(places: np.ndarray | None, channels: int) -> bool:
    """Whether an output holds all channels of its input in their order, once or several times."""
    if places is None or places.shape[-1] % channels:
        return False
    expected = np.tile(np.arange(1, channels + 1), places.shape[-1] // channels)
    return bool((places == expected).all())


def joined(places: np.ndarray | None, sizes: list[int]) -> str | None:
    """How an output holds the channels of several inputs: "behind" one another, or "over" one
    another along another axis; None for neither.
    """
    if places is None:
        return None
    total = sum(sizes)
    if places.shape[-1] == total and (places == np.arange(1, total + 1)).all():
        return "behind"
    if set(sizes) != {places.shape[-1]} or not (places > 0).all():
        return None
    return "over" if ((places - 1) % sizes[0] == np.arange(sizes[0])).all() else None
