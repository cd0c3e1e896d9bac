"""Single weights of the channels that are left, pruned by their magnitude besides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from keras_compress.engines.in_place.channels.hanging import HangingWeight
from keras_compress.engines.in_place.selection import kth_largest
from keras_compress.engines.masks import Target, sparsity_at
from keras_compress.engines.prunable_kernels import PruningPlan, make_targets
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.finite import all_finite


@dataclasses.dataclass(eq=False)
class RemainingWeights(Target):
    """A kernel whose single weights are pruned, of those channels that are left."""

    channels: HangingWeight | None = None
    """The same kernel, where it hangs on channels that are pruned."""

    def renew(self, step: tf.Tensor) -> None:
        """Make the mask anew from the kernel, at the sparsity of `step`."""
        weights = tf.convert_to_tensor(self.kernel)
        kept = tf.ones(weights.shape, tf.bool)
        if self.channels is not None:
            kept = tf.convert_to_tensor(self.channels.mask)
        mask = remaining_mask(weights, kept, sparsity_at(self.schedule, step))
        # Of NaN nobody can tell which are the smallest.
        self.mask.assign(tf.where(all_finite(weights), mask, tf.convert_to_tensor(self.mask)))


def remaining_mask(weights: tf.Tensor, kept: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
    """Bool, False for the smallest of the weights that are `kept`, so many as `sparsity` says of
    these; True for all others, which have a mask already. Ties as in `magnitude_mask`.
    """
    magnitudes = tf.where(kept, tf.abs(tf.cast(weights, tf.float32)), 0.0)
    size = tf.cast(tf.math.count_nonzero(kept), tf.float32)
    k = tf.cast(tf.maximum(tf.round(size * (1 - sparsity)), 1), tf.int32)
    return (magnitudes >= kth_largest(magnitudes, k).value) | ~kept


def remaining(
    adapter: Adapter, plan: PruningPlan, hanging: Sequence[HangingWeight]
) -> list[RemainingWeights]:
    """What is pruned of single weights, with the channels that it hangs on."""
    by_kernel = {id(weight.kernel): weight for weight in hanging}
    found = []
    for target in make_targets(adapter, plan):
        channels = by_kernel.get(id(target.kernel))
        found.append(
            RemainingWeights(
                f"weights/{target.key}",
                f"{target.path} (weights)",
                target.kernel_name,
                target.layer,
                target.variable,
                target.kernel,
                target.schedule,
                target.mask,
                listed=channels is None,
                channels=channels,
            )
        )
    return found
