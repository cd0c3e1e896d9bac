"""Magnitude pruning in the graph: masks equal to tfmot's, found without sorting the kernel.

A mask keeps the k largest magnitudes, k = max(round(size * (1 - sparsity)), 1), and every tie with
the smallest of them, as `tfmot.sparsity.keras.prune_low_magnitude` does [1]. All arithmetic that
decides k is float32 in tfmot's order, so that the masks are equal and not nearly so.

References:
    [1] Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.schedules import ConstantSparsity, PolynomialDecay
from keras_compress.specs import Pruning

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
    found = tf.constant(0)
    for width in _DIGITS:
        remaining -= width
        bins = 1 << width
        digits = tf.bitwise.right_shift(bits, remaining) - tf.bitwise.left_shift(found, width)
        # What differs further up is put into no bin.
        digits = tf.where((digits >= 0) & (digits < bins), digits, bins)
        counts = tf.raw_ops.DenseBincount(
            input=digits, size=bins, weights=tf.constant([], tf.int32), binary_output=False
        )
        at_least = tf.cumsum(counts, reverse=True)  # from all to those of the last bin
        digit = tf.reduce_sum(tf.cast(at_least >= k, tf.int32)) - 1
        k -= tf.gather(at_least, digit) - tf.gather(counts, digit)
        found = tf.bitwise.left_shift(found, width) + digit
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


def sparsity_at(schedule: PolynomialDecay | ConstantSparsity, step: tf.Tensor) -> tf.Tensor:
    """`schedule.sparsity(step)` in the graph, in tfmot's float32 arithmetic."""
    if isinstance(schedule, ConstantSparsity):
        return tf.constant(schedule.target_sparsity, tf.float32)
    begin, end = schedule.begin_step, schedule.end_step
    t = tf.math.divide(tf.cast(step - begin, tf.float32), end - begin)
    t = tf.minimum(1.0, tf.maximum(0.0, t))
    span = schedule.initial_sparsity - schedule.final_sparsity
    return tf.math.add(
        tf.math.multiply(span, tf.math.pow(1 - t, schedule.power)), schedule.final_sparsity
    )


def updates_at(schedule: PolynomialDecay | ConstantSparsity, step: tf.Tensor) -> tf.Tensor:
    """`schedule.updates_at(step)` in the graph."""
    begin, end = schedule.begin_step, schedule.end_step
    on_grid = tf.math.floormod(step - begin, schedule.frequency) == 0
    if end < 0:
        return (step >= begin) & on_grid
    return (step >= begin) & (step <= end) & (on_grid | (step == end))


@dataclasses.dataclass(eq=False)
class Target:
    """One kernel under pruning."""

    key: str
    path: str
    layer: Any
    variable: Any
    """Keras' own variable, whose `trainable` counts."""
    kernel: tf.Variable
    schedule: PolynomialDecay | ConstantSparsity
    mask: tf.Variable
    started: bool = False
    """Whether an update saw this kernel trainable; until then it has no mask."""

    @property
    def trainable(self) -> bool:
        return bool(self.layer.trainable and self.variable.trainable)


class Pruner:
    """The masks of one model: when they change, and that they hold."""

    def __init__(self, spec: Pruning, targets: list[Target]):
        self.spec = spec
        self.targets = targets
        self.sparsity = tf.Variable(0.0, trainable=False, name="sparsity")
        """The fraction of zeros over all kernels under pruning, frozen ones included, as the logs
        show it.
        """

    @property
    def active(self) -> list[Target]:
        """The targets that this fit may change."""
        return [target for target in self.targets if target.trainable]

    def resolve(self, schedules: dict[str, PolynomialDecay | ConstantSparsity]) -> None:
        """Replace every target's schedule (path -> schedule) by the one with its steps known."""
        for target in self.targets:
            target.schedule = schedules[target.path]

    def step(self, step: tf.Tensor) -> None:
        """The part of a training step before the forward pass: change the masks that are due, then
        apply all.

        The unmasked weights of the last update decide, so a pruned weight that grew comes back.
        """
        active = self.active
        # One condition per schedule, not per kernel: most models have a single one.
        schedules: list[PolynomialDecay | ConstantSparsity] = []
        for target in active:
            if target.schedule not in schedules:
                schedules.append(target.schedule)
        for schedule in schedules:
            group = [target for target in active if target.schedule == schedule]
            if self.spec.sparsity_m_by_n is not None:
                due = step == max(schedule.begin_step, 1)
            else:
                due = updates_at(schedule, step)

            def update(group: list[Target] = group, schedule: Any = schedule) -> tf.Tensor:
                sparsity = sparsity_at(schedule, step)
                for target in group:
                    target.mask.assign(self._mask(target.kernel, sparsity))
                self.measure()
                return tf.constant(True)

            tf.cond(due, update, lambda: tf.constant(False))
        self.apply(active)

    def start(self, step: int) -> None:
        """Give a mask, at the sparsity of `step`, to kernels that become trainable after their
        schedule began, for the first time or again.
        """
        for target in self.targets:
            if not target.trainable:
                target.started = False
                continue
            # A first update has missed nothing, for there is no update 0.
            if not target.started and step > max(target.schedule.begin_step, 1):
                sparsity = sparsity_at(target.schedule, tf.constant(step, tf.int64))
                target.mask.assign(self._mask(target.kernel, sparsity))
            target.started = True
        self.measure()

    def apply(self, targets: list[Target] | None = None) -> None:
        """Zero every weight that its mask drops."""
        for target in self.targets if targets is None else targets:
            kernel = tf.convert_to_tensor(target.kernel)
            target.kernel.assign(tf.where(target.mask, kernel, tf.zeros([], kernel.dtype)))

    def measure(self) -> None:
        """Bring `sparsity` up to date with the masks."""
        kept = tf.add_n([tf.math.count_nonzero(target.mask) for target in self.targets])
        size = sum(target.mask.shape.num_elements() for target in self.targets)
        self.sparsity.assign(1.0 - tf.cast(kept, tf.float32) / size)

    def _mask(self, kernel: tf.Variable, sparsity: tf.Tensor) -> tf.Tensor:
        weights = tf.convert_to_tensor(kernel)
        spec = self.spec
        if spec.sparsity_m_by_n is not None:
            return m_by_n_mask(weights, *spec.sparsity_m_by_n)
        if spec.block_size != (1, 1):
            return block_mask(weights, sparsity, spec.block_size, spec.block_pooling_type)
        return magnitude_mask(weights, sparsity)
