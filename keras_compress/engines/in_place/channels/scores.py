"""What a channel is worth, and how many are kept: free functions in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def powers(weights: tf.Tensor, axis: int, score: str) -> tf.Tensor:
    """Per place along `axis`, the sum over all others of squares ("l2"), or of magnitudes."""
    numbers = tf.cast(weights, tf.float32)
    each = tf.square(numbers) if score == "l2" else tf.abs(numbers)
    return tf.reduce_sum(each, [other for other in range(each.shape.rank) if other != axis])


def kept_count(size: int, sparsity: tf.Tensor, multiple_of: int = 1) -> tf.Tensor:
    """How many of `size` channels are kept: the multiple that is nearest to `size * (1 - sparsity)`
    (halves go to the even one, as in elementwise masks), at least `multiple_of`; all of them while
    nothing is to be dropped.
    """
    wanted = tf.cast(size, tf.float32) * (1 - sparsity) / multiple_of
    times = tf.clip_by_value(tf.round(wanted), 1.0, float(size // multiple_of))
    kept = tf.cast(times, tf.int32) * multiple_of
    return tf.where(sparsity > 0.0, kept, size)


def highest(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Bool, True for the `count` highest scores; of equal ones the first."""
    order = tf.argsort(scores, direction="DESCENDING", stable=True)
    ranks = tf.argsort(order, stable=True)
    return ranks < count


def highest_of_all(
    scores: Sequence[tf.Tensor], sparsity: tf.Tensor, multiple_of: int = 1
) -> list[tf.Tensor]:
    """Masks of several groups, of which the highest scores are kept wherever they are.

    A score counts as a share of its group's mean, as groups differ in the size of their weights.
    The best `multiple_of` of each group are kept in any case, and what is kept of a group is the
    nearest multiple, so that the sum may be off by as much.
    """
    sizes = [int(each.shape[0]) for each in scores]
    shares = []
    for each in scores:
        mean = tf.reduce_mean(each)
        share = each / tf.where(mean > 0.0, mean, 1.0)
        shares.append(tf.where(highest(each, tf.constant(multiple_of)), float("inf"), share))
    kept = highest(tf.concat(shares, 0), kept_count(sum(sizes), sparsity))
    masks = []
    for each, own in zip(scores, tf.split(kept, sizes), strict=True):
        count = tf.reduce_sum(tf.cast(own, tf.int32))
        dropped = 1.0 - tf.cast(count, tf.float32) / float(each.shape[0])
        masks.append(highest(each, kept_count(int(each.shape[0]), dropped, multiple_of)))
    return masks
