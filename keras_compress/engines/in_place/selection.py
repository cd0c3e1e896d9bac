"""The k-th largest of many numbers: found without sorting them, but on a GPU without XLA, which has
a sort, and not the ops that the other ways take.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_compress.frameworks.devices import ops_on_a_gpu, under_xla
from keras_compress.frameworks.finite import all_finite

_DIGITS = (11, 10, 10)
"""How the 31 bits of a non-negative float32 are read, from the top: bins enough to need few passes,
and few enough that a small kernel is not all bins.
"""
_DIGITS_OF_MANY = (16, 15)
_MANY = 1 << 17
"""From so many numbers on one pass over them less is worth bins that the nearest cache cannot hold.
"""
_FEW = 1 << 14
"""Up to so many, one op that selects among all costs less than the several that leave most of them
out.
"""
_FEW_BINS = 1 << 12
"""So many are looked through at once: a cumulated sum takes some ns for each."""
_INFINITY = 0x7F800000
"""Its bits: what has these, or more, is no finite number."""


class Selected(NamedTuple):
    """What `kth_largest` finds."""

    value: tf.Tensor
    """Float32, ()."""
    at_least: tf.Tensor
    """Int32, (): how many numbers are as large or larger, k or, of ties, more."""
    finite: tf.Tensor
    """Bool, (): whether all numbers are finite. If not, the others mean nothing."""


def kth_largest(magnitudes: tf.Tensor, k: tf.Tensor) -> Selected:
    """Of non-negative float32 numbers the k-th largest (int32, from 1), to the last bit.

    The bit patterns of non-negative floats order as integers do, and it is these that are looked
    at: of NaN nobody can tell where it stands, and a selection that compares it may go astray.
    """
    numbers = tf.reshape(magnitudes, [-1])
    if ops_on_a_gpu():
        return _by_order(numbers, k)
    bits = tf.bitcast(numbers, tf.int32)
    return _by_digits(bits, k) if under_xla() else _by_candidates(bits, k)


def _by_order(numbers: tf.Tensor, k: tf.Tensor) -> Selected:
    """Of ops that a GPU has, deterministic ones too. Those of int32 it has not: TensorFlow takes
    them for shapes, and computes them on the CPU.
    """
    finite = all_finite(numbers)
    ordered = tf.math.top_k(numbers, numbers.shape[0]).values
    value = tf.gather(ordered, tf.cast(k, tf.int64) - 1)
    at_least = tf.reduce_sum(tf.cast(numbers >= value, tf.int64))
    return Selected(value, tf.cast(at_least, tf.int32), finite)


def _by_digits(bits: tf.Tensor, k: tf.Tensor) -> Selected:
    """A radix selection, of ops that XLA has on every device: a histogram of the upper bits finds
    those of the number wanted, and one of each lower part, among those that agree so far, the rest.
    """
    widths = _DIGITS_OF_MANY if bits.shape[0] >= _MANY else _DIGITS
    remaining = sum(widths)
    found, left = tf.constant(0), k
    counts: list[tf.Tensor] = []
    for width in widths:
        remaining -= width
        # Where the upper bits agree with those found, none of them is left; where they do not, the
        # number is too large for any bin, and so it is not counted.
        digits = tf.bitwise.bitwise_xor(bits, found) if counts else bits
        counts.append(_histogram(digits, remaining, width)[1])
        digit, left = _bin_of(counts[-1], left)
        found += tf.bitwise.left_shift(digit, remaining)
    at_least = k - left + tf.gather(counts[-1], digit)
    return Selected(tf.bitcast(found, tf.float32), at_least, _no_infinity(counts[0]))


def _by_candidates(bits: tf.Tensor, k: tf.Tensor) -> Selected:
    """A histogram of the upper bits, and a selection among the few that agree in them: of ops that
    only a CPU has, and XLA has not.
    """
    left = k
    if bits.shape[0] > _FEW:
        width = 16 if bits.shape[0] >= _MANY else 12
        digits, counts = _histogram(bits, 31 - width, width)
        finite = _no_infinity(counts)
        digit, left = _bin_of(counts, k)
        bits = tf.gather(bits, tf.reshape(tf.where(tf.equal(digits, digit)), [-1]))
    else:
        finite = tf.reduce_max(bits) < _INFINITY
    value = tf.raw_ops.NthElement(input=bits, n=left - 1, reverse=True)
    at_least = k - left + tf.reduce_sum(tf.cast(bits >= value, tf.int32))
    return Selected(tf.bitcast(value, tf.float32), at_least, finite)


def _histogram(bits: tf.Tensor, shift: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The bits above the lowest `shift` ones as a number, and how often there is each that has no
    more than `width` bits.
    """
    digits = tf.bitwise.right_shift(bits, shift) if shift else bits
    none = tf.constant([], tf.int32)
    return digits, tf.raw_ops.DenseBincount(
        input=digits, size=1 << width, weights=none, binary_output=False
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


def _no_infinity(counts: tf.Tensor) -> tf.Tensor:
    """Whether a histogram of all upper bits has nothing that is no finite number."""
    first = _INFINITY >> 31 - (int(counts.shape[0]).bit_length() - 1)
    return tf.equal(tf.reduce_sum(counts[first:]), 0)
