"""The k-th largest of many numbers, in the graph and under XLA: found without sorting them."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_DIGITS = (11, 10, 10)
"""How the 31 bits of a non-negative float32 are read, from the top: bins enough to need few passes,
and few enough that a small kernel is not all bins.
"""
_DIGITS_OF_MANY = (16, 15)
_MANY = 1 << 17
"""From so many numbers on one pass over them less is worth bins that the nearest cache cannot hold.
"""
_FEW_BINS = 1 << 12
"""So many are looked through at once: a cumulated sum takes some ns for each."""
_EXPONENT = 0x7F800000
"""The bits of infinity: what has these, or more, is no finite number."""


class Selected(NamedTuple):
    """What `kth_largest` finds."""

    value: tf.Tensor
    """Float32, ()."""
    at_least: tf.Tensor
    """Int32, (): how many numbers are as large or larger, k or, of ties, more."""
    finite: tf.Tensor
    """Bool, (): whether all numbers are finite. If not, `value` means nothing."""


def kth_largest(magnitudes: tf.Tensor, k: tf.Tensor) -> Selected:
    """Of non-negative float32 numbers the k-th largest (int32, from 1), to the last bit.

    A radix selection: the bit patterns of non-negative floats order as integers do, so a histogram
    of the upper bits finds those of the number wanted, and one of each lower part, among those that
    agree so far, the rest.
    """
    bits = tf.bitcast(tf.reshape(magnitudes, [-1]), tf.int32)
    widths = _DIGITS_OF_MANY if bits.shape[0] >= _MANY else _DIGITS
    remaining = sum(widths)
    first = remaining - widths[0]
    found, left, counts = tf.constant(0), k, []
    for width in widths:
        remaining -= width
        # Where the upper bits agree with those found, none of them is left; where they do not, the
        # number is too large for any bin, and so it is not counted.
        digits = tf.bitwise.bitwise_xor(bits, found) if counts else bits
        digits = tf.bitwise.right_shift(digits, remaining) if remaining else digits
        counts.append(
            tf.raw_ops.DenseBincount(
                input=digits,
                size=1 << width,
                weights=tf.constant([], tf.int32),
                binary_output=False,
            )
        )
        digit, left = _bin_of(counts[-1], left)
        found += tf.bitwise.left_shift(digit, remaining)
    return Selected(
        tf.bitcast(found, tf.float32),
        k - left + tf.gather(counts[-1], digit),
        tf.equal(tf.reduce_sum(counts[0][_EXPONENT >> first :]), 0),
    )


def _bin_of(counts: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The bin of the k-th largest, and how many-th largest it is in there."""
    bins = int(counts.shape[0])
    if bins > _FEW_BINS:
        rows = tf.reshape(counts, [1 << bins.bit_length() // 2, -1])
        upper, k = _bin_of(tf.reduce_sum(rows, axis=1), k)
        lower, k = _bin_of(tf.gather(rows, upper), k)
        return upper * rows.shape[1] + lower, k
    above = tf.cumsum(counts, reverse=True, exclusive=True)  # how many are in higher bins
    found = tf.reduce_sum(tf.cast(above >= k, tf.int32))
    return found, k - tf.gather(above, found)
