"""Magnitude pruning in the graph: masks equal to tfmot's, found without sorting the kernel.

A mask keeps the k largest magnitudes, k = max(round(size * (1 - sparsity)), 1), and every tie with
the smallest of them, as `tfmot.sparsity.keras.prune_low_magnitude` does [1]. All arithmetic that
decides k is float32 in tfmot's order, so that the masks are equal and not nearly so.

References:
    [1] Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_compress.engines.masks import Pruner, Target, sparsity_at
from keras_compress.frameworks.finite import all_finite
from keras_compress.specs.pruning import Pruning

_DIGITS = (11, 10, 10)
"""How the 31 bits of a non-negative float32 are read, from the top: bins enough to need few passes,
and few enough that a small kernel is not all bins.
"""


def threshold(magnitudes: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """The k-th largest of non-negative float32 numbers, to the last bit.

    A radix selection: the bit patterns of non-negative floats order as integers do, so a histogram
    of the upper bits finds those of the number wanted, and one of each lower part, among those that
    agree so far, the rest.
    """
    bits = tf.bitcast(tf.reshape(magnitudes, [-1]), tf.int32)
    remaining = sum(_DIGITS)
    found: tf.Tensor | None = None  # the upper digits, once there are some
    for width in _DIGITS:
        remaining -= width
        bins = 1 << width
        digits = tf.bitwise.right_shift(bits, remaining) if remaining else bits
        if found is not None:
            found = tf.bitwise.left_shift(found, width)
            # What differs further up is put into no bin: negative numbers are large unsigned ones.
            digits = tf.minimum(tf.bitcast(digits - found, tf.uint32), tf.constant(bins, tf.uint32))
            digits = tf.bitcast(digits, tf.int32)
        counts = tf.raw_ops.DenseBincount(
            input=digits, size=bins, weights=tf.constant([], tf.int32), binary_output=False
        )
        above = tf.cumsum(counts, reverse=True, exclusive=True)  # how many are in higher bins
        digit = tf.reduce_sum(tf.cast(above >= k, tf.int32))
        k -= tf.gather(above, digit)
        found = digit if found is None else found + digit
    return tf.bitcast(found, tf.float32)


def magnitude_mask(weights: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
    """Bool, True for the weights to keep; `sparsity` is a float32 scalar in [0, 1)."""
    magnitudes = tf.abs(tf.cast(weights, tf.float32))
    size = tf.cast(weights.shape.num_elements(), tf.float32)
    k = tf.cast(tf.maximum(tf.round(size * (1 - sparsity)), 1), tf.int32)
    return magnitudes >= threshold(magnitudes, k)


def block_mask(
    weights: tf.Tensor, sparsity: tf.Tensor, block: Sequence[int], pooling: str
) -> tf.Tensor:
    """Bool mask that keeps or drops whole blocks of a rank-2 kernel by their mean or largest
    magnitude.

    A block cut off by the kernel's edge counts with the elements it has.
    """
    height, width = weights.shape
    pooled = tf.abs(tf.cast(weights, tf.float32))[None, None]  # (1, 1, height, width)
    # In two steps, rows then columns, like tfmot: another order of summation gives other last bits,
    # and other ties.
    pooled = tf.nn.pool(pooled, [1, block[0]], pooling, strides=[1, block[0]], padding="SAME")
    pooled = tf.transpose(pooled, [0, 1, 3, 2])
    pooled = tf.nn.pool(pooled, [1, block[1]], pooling, strides=[1, block[1]], padding="SAME")
    pooled = tf.transpose(pooled, [0, 1, 3, 2])[0, 0]
    mask = magnitude_mask(pooled, sparsity)
    return tf.repeat(tf.repeat(mask, block[0], axis=0), block[1], axis=1)[:height, :width]


def m_by_n_mask(weights: tf.Tensor, zeros: int, group: int) -> tf.Tensor:
    """Bool mask with `zeros` dropped of every `group` consecutive elements along the axis that
    TFLite stores last.

    That is the input channel, for kernels (in, out) and (height, width, in, out).
    """
    rank = weights.shape.rank
    order = [rank - 1, *range(rank - 1)]
    rows = tf.transpose(tf.abs(tf.cast(weights, tf.float32)), order)
    shape = rows.shape
    rows = tf.pad(tf.reshape(rows, (-1, shape[-1])), [[0, 0], [0, -shape[-1] % group]])
    groups = tf.reshape(rows, (-1, group))
    # Among equal magnitudes the first ones stay, as top_k has it.
    kept = tf.math.top_k(groups, k=group - zeros).indices
    mask = tf.reduce_any(tf.one_hot(kept, group, on_value=True, off_value=False), axis=1)
    mask = tf.reshape(mask, rows.shape)[:, : shape[-1]]
    return tf.transpose(tf.reshape(mask, shape), np.argsort(order))


class MagnitudePruner(Pruner):
    """Masks from the magnitudes of the kernels, by our own threshold."""

    def __init__(self, spec: Pruning, targets: list[Target]):
        super().__init__(targets, by_begin_step=spec.sparsity_m_by_n is not None)
        self.spec = spec

    def before_step(self, step: tf.Tensor) -> None:
        """Change the masks that are due, then apply all.

        The unmasked weights of the last update decide, so a pruned weight that grew comes back.
        """
        active = self.active

        def renew(targets: list[Target]) -> None:
            for target in targets:
                self.update(target, step)
            self.measure()

        self.renew_when_due(active, step, renew)
        self.apply(active)

    def apply(self, targets: list[Target] | None = None) -> None:
        """Zero every weight that its mask drops."""
        for target in self.targets if targets is None else targets:
            kernel = tf.convert_to_tensor(target.kernel)
            target.kernel.assign(kernel * tf.cast(target.mask, kernel.dtype))  # faster than `where`

    def threshold(self, target: Target) -> float | None:
        """Of the weights as they are now: they have moved since the mask was made of them."""
        if self.spec.sparsity_m_by_n is not None or self.spec.block_size != (1, 1):
            return None
        magnitudes = tf.abs(tf.cast(tf.convert_to_tensor(target.kernel), tf.float32))
        kept = tf.convert_to_tensor(target.mask)
        return float(tf.reduce_min(tf.where(kept, magnitudes, np.inf)))

    def update(self, target: Target, step: tf.Tensor) -> None:
        weights = tf.convert_to_tensor(target.kernel)
        sparsity = sparsity_at(target.schedule, step)
        spec = self.spec
        if spec.sparsity_m_by_n is not None:
            mask = m_by_n_mask(weights, *spec.sparsity_m_by_n)
        elif spec.block_size != (1, 1):
            mask = block_mask(weights, sparsity, spec.block_size, spec.block_pooling_type)
        else:
            mask = magnitude_mask(weights, sparsity)
        # Of NaN nobody can tell which are the smallest.
        target.mask.assign(tf.where(all_finite(weights), mask, tf.convert_to_tensor(target.mask)))
