"""Magnitude pruning in the graph: masks equal to tfmot's, on a CPU without sorting the kernel.

A mask keeps the k largest magnitudes, k = max(round(size * (1 - sparsity)), 1), and every tie with
the smallest of them, as `tfmot.sparsity.keras.prune_low_magnitude` does [1]. All arithmetic that
decides k is float32 in tfmot's order, so that the masks are equal and not nearly so.

References:
    [1] Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.selection import Selected, kth_largest
from keras_compress.engines.masks import Pruner, Target, apply_masks, count_kept, sparsity_at
from keras_compress.frameworks.devices import only_cpus
from keras_compress.frameworks.finite import all_finite
from keras_compress.specs.pruning import Pruning

_AT_ONCE = 1 << 18
"""Weights of the masks that are made side by side. What a mask takes while it is made is several
times what it takes afterwards, and of all kernels at once it would be more than a training does.
"""


def magnitude_mask(weights: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
    """Bool, True for the weights to keep; `sparsity` is a float32 scalar in [0, 1)."""
    magnitudes, selected = _selected(weights, sparsity)
    return magnitudes >= selected.value


def _selected(weights: tf.Tensor, sparsity: tf.Tensor) -> tuple[tf.Tensor, Selected]:
    """The magnitudes, and the smallest of them to keep."""
    magnitudes = tf.abs(tf.cast(weights, tf.float32))
    size = tf.cast(weights.shape.num_elements(), tf.float32)
    k = tf.cast(tf.maximum(tf.round(size * (1 - sparsity)), 1), tf.int32)
    return magnitudes, kth_largest(magnitudes, k)


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
        self.renew_when_due(active, step, self._renew)
        apply_masks(active)

    def _renew(self, targets: list[Target], step: tf.Tensor) -> None:
        kept: dict[int, tf.Tensor] = {}
        for some in _in_turn(targets):
            with tf.control_dependencies(kept.values()):
                kept |= {id(target): self._update(target, step) for target in some}
        self.measure(kept)

    def threshold(self, target: Target) -> float | None:
        """Of the weights as they are now: they have moved since the mask was made of them."""
        if self.spec.sparsity_m_by_n is not None or self.spec.block_size != (1, 1):
            return None
        magnitudes = tf.abs(tf.cast(tf.convert_to_tensor(target.kernel), tf.float32))
        kept = tf.convert_to_tensor(target.mask)
        return float(tf.reduce_min(tf.where(kept, magnitudes, np.inf)))

    def update(self, target: Target, step: tf.Tensor) -> None:
        self._update(target, step)

    def _update(self, target: Target, step: tf.Tensor) -> tf.Tensor:
        """`update`; how many weights are kept."""
        weights = tf.convert_to_tensor(target.kernel)
        sparsity = sparsity_at(target.schedule, step)
        spec = self.spec
        kept = None
        if spec.sparsity_m_by_n is None and spec.block_size == (1, 1):
            magnitudes, selected = _selected(weights, sparsity)
            finite, kept = selected.finite, selected.at_least

            def made() -> tf.Tensor:
                return magnitudes >= selected.value
        else:
            finite = all_finite(weights)

            def made() -> tf.Tensor:
                if spec.sparsity_m_by_n is not None:
                    return m_by_n_mask(weights, *spec.sparsity_m_by_n)
                return block_mask(weights, sparsity, spec.block_size, spec.block_pooling_type)

        # Of NaN nobody can tell which are the smallest.
        if not only_cpus():  # without a condition: the step would wait until the GPU has told
            mask = tf.where(finite, made(), tf.convert_to_tensor(target.mask))
            return count_kept(target.mask.assign(mask))

        def new() -> tf.Tensor:
            mask = target.mask.assign(made())
            return count_kept(mask) if kept is None else kept

        return tf.cond(finite, new, lambda: count_kept(target.mask))


def _in_turn(targets: list[Target]) -> Iterator[list[Target]]:
    """Those whose masks are made at once, and then the next ones."""
    some: list[Target] = []
    for target in targets:
        some.append(target)
        if sum(each.kernel.shape.num_elements() for each in some) >= _AT_ONCE:
            yield some
            some = []
    yield some
