"""Fake quantization: numbers rounded in training as the integer file will round them.

Activations and kernels go through TensorFlow's own `fake_quant` [1], whose gradient passes straight
through inside the range; biases onto the grid of the integer sum they are added to, so that the
network and the file differ by rounding ties only.

References:
    [1] Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2017, arXiv:1712.05877.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place import rounding
from keras_compress.engines.in_place.followed_ranges import FollowedRange
from keras_compress.engines.in_place.rounding import Ends, NudgedEnds
from keras_compress.engines.in_place.rows import Fixed, Granularity
from keras_compress.engines.quantizers import Mode
from keras_compress.frameworks.devices import under_xla, whole_float32

LARGEST_BIAS = 2.0**30
"""Of the steps of its integer sum, which is an int32."""

_SMALL = 1 << 16
"""Weights of a kernel of which a copy costs less than another two ops."""

_ABOVE_ZERO = 1e-30
"""A magnitude whose share, and a step of it, are no zero either."""

FAINTEST = 1e-4
"""The smallest magnitude of a channel, as a share of its kernel's."""


def on_grid(values: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """`values` rounded to multiples of `step`; the gradient passes straight through."""
    return values + tf.stop_gradient(tf.round(values / step) * step - values)


class ActivationQuantizer:
    """Rounds a tensor to integers over a range that follows it, or over a fixed one."""

    def __init__(self, mode: Mode, bits: int, over: Fixed | FollowedRange):
        self._mode = mode
        self._bits = bits
        self._over = over
        self._seen: tuple[int, Ends, Ends] | None = None

    @property
    def range(self) -> FollowedRange | None:
        """None where it is fixed."""
        return None if isinstance(self._over, Fixed) else self._over

    def __call__(self, tensor: tf.Tensor, shares: bool = False) -> tf.Tensor:
        """`shares`: what the tensor was computed of has this range, and was seen before."""
        if not tensor.dtype.is_floating:
            return tensor
        numbers = tf.cast(tensor, tf.float32)
        ends = None
        # Whoever shares a range sees numbers that were rounded over it, up to half a step further
        # out, and would push it on and on.
        if not shares:
            ends = self._follow(numbers)
        if not self._mode.phase.rounds:
            return tensor
        low, high = ends = ends or self._ends()
        # A file has no gradients.
        nudged_ends = None if self._mode.exporting else self._nudged_ends(ends)
        rounded = rounding.rounded(numbers, low, high, self._bits, nudged_ends)
        return tf.cast(rounded, tensor.dtype)

    def relu(self, tensor: tf.Tensor, limit: float, of: tf.Tensor | None = None) -> tf.Tensor:
        """What `self(relu(tensor))` gives, and its gradient, in half the passes over memory; the
        tensor must be nonnegative behind a ReLU that ends at `limit`.

        `of`: what it holds the largest numbers of. It is all of these that the range is followed
        of: a max pooling hides NaN.
        """
        numbers = tf.cast(tensor, tf.float32)
        seen = numbers if of is None else tf.cast(of, tf.float32)
        ends = self._follow(seen, limit) or self._ends()
        rounded = rounding.rounded_relu(
            numbers, limit, ends[1], self._bits, self._nudged_ends(ends)
        )
        return tf.cast(rounded, tensor.dtype)

    def breaking_ties(self, tensor: tf.Tensor) -> tf.Tensor:
        """`tensor`, moved so that halves round away from the int8 zero, as integer means do."""
        low, high = self._ends()
        scale = (high - low) / (2.0**self._bits - 1)
        zero_point = tf.round(-low / scale) - 2.0 ** (self._bits - 1)
        away = tf.sign(tensor / scale + zero_point)  # of the integer that it becomes
        return tensor + tf.stop_gradient(away * scale * 1e-3)

    @property
    def limits(self) -> tuple[float, float]:
        """The range as it is now, as numbers."""
        if isinstance(self._over, Fixed):
            return self._over.minimum, self._over.maximum
        low, high = self._over.numpy()
        return float(low), float(high)

    @property
    def seen_in_graph(self) -> bool:
        """Whether what it has seen in this step is known in a graph under trace only."""
        here = tf.compat.v1.get_default_graph()
        return self._seen is not None and getattr(self._seen[2][1], "graph", None) is here

    @property
    def seen(self) -> tuple[tf.Tensor, ...]:
        """The range before this step, and that of what it has seen in it: four scalars."""
        _, old, batch = cast(tuple[int, Ends, Ends], self._seen)
        return *old, *batch

    def see(self, seen: Sequence[tf.Tensor]) -> None:
        """Take the numbers of `seen`, from outside of the graph that they were known in."""
        old_low, old_high, low, high = seen
        self._seen = (self._mode.trace, (old_low, old_high), (low, high))

    def forget_seen(self) -> None:
        """What it has seen in its last step, with the graph of that step behind it."""
        self._seen = None

    def scale(self) -> tf.Tensor:
        """The step between two integers, a scalar."""
        low, high = self._ends()
        return (high - low) / (2.0**self._bits - 1)

    def _ends(self) -> Ends:
        if isinstance(self._over, Fixed):
            return tf.constant(self._over.minimum), tf.constant(self._over.maximum)
        return self._over.ends()

    def _nudged_ends(self, ends: Ends) -> NudgedEnds:
        if isinstance(self._over, Fixed):
            bits = self._bits
            return lambda: rounding.nudged(*ends, bits)
        return self._over.nudged_ends(ends)

    def _follow(self, numbers: tf.Tensor, limit: float = math.inf) -> Ends | None:
        """The range, moved towards numbers that end at `limit`; None where it does not move."""
        if isinstance(self._over, Fixed) or not self._mode.moves:
            return None
        numbers = tf.stop_gradient(numbers)
        # Zero is always inside: the integer kernels pad with it.
        is_nonnegative = self._over.nonnegative
        low = tf.constant(0.0) if is_nonnegative else tf.minimum(tf.reduce_min(numbers), 0.0)
        high = tf.maximum(tf.reduce_max(numbers), 0.0)
        if limit != math.inf:
            high = tf.minimum(high, limit)
        old = self._over.now()
        seen = self._seen
        if seen is not None and seen[0] == self._mode.trace and _is_known(seen[2][1]):
            # The same range meets a second tensor in this step (a shared layer, the inputs of a
            # Concatenate): it covers both.
            _, old, earlier = seen
            low = low if is_nonnegative else tf.minimum(low, earlier[0])
            high = tf.maximum(high, earlier[1])
        self._seen = (self._mode.trace, old, (low, high))
        return self._over.move(old, (low, high))


def _is_known(tensor: tf.Tensor) -> bool:
    """Whether a tensor can be used here: a `tf.function` of the user's that makes variables is
    traced twice in its first step, and what the first trace saw is no number in the second.
    """
    own = getattr(tensor, "graph", None)
    here = tf.compat.v1.get_default_graph()
    while own is not None and here is not None and here is not own:
        here = getattr(here, "outer_graph", None)
    return own is None or here is not None


class KernelQuantizer:
    """Rounds a kernel symmetrically over its own magnitude, so that zero stays zero."""

    def __init__(self, mode: Mode, bits: int, granularity: Granularity, variable: tf.Variable):
        self._mode = mode
        self._bits = bits
        self._granularity = granularity
        self.variable = variable
        self.frozen: tf.Variable | None = None
        """The magnitude from `freeze_step` on; before, it is read off the kernel, so that it can
        never be stale.
        """
        self.least: Callable[[], tf.Tensor] | None = None
        """What the magnitude must not fall below, per channel, for the sake of the bias."""

    def __call__(self, dtype: tf.DType, lifts: int = 0) -> tf.Tensor:
        """The rounded kernel, with so many axes of length 1 in front."""
        kernel = tf.cast(tf.convert_to_tensor(self.variable), tf.float32)
        for _ in range(lifts):  # before the rounding: scales by channel cannot be reshaped
            kernel = kernel[None]
        return tf.cast(self._rounded(kernel, self._mode.number(self.magnitude)), dtype)

    def _rounded(self, kernel: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        if not self._mode.updating:
            return self._as_in_file(kernel, magnitude)
        if self._granularity is Granularity.DEPTHWISE:
            magnitude = tf.reshape(magnitude, kernel.shape[-2:])
        clips = self.frozen is not None
        return rounding.rounded_symmetrically(kernel, magnitude, self._bits, clips)

    def _as_in_file(self, kernel: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
        """With the ops that the converter makes integers of. Of a million weights some ten lie so
        near to the middle of two integers that other arithmetic takes the other one.
        """
        if self._granularity is Granularity.TENSOR:
            return tf.quantization.fake_quant_with_min_max_vars(
                kernel, -magnitude, magnitude, num_bits=self._bits, narrow_range=True
            )
        flat = self._channels(kernel)
        rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            flat, -magnitude, magnitude, num_bits=self._bits, narrow_range=True
        )
        return tf.reshape(rounded, kernel.shape)

    @property
    def rank(self) -> int:
        return int(self.variable.shape.rank)

    def scale(self) -> tf.Tensor:
        """The step between two integers, () or (channels,)."""
        return self.magnitude() / (2.0 ** (self._bits - 1) - 1)

    def magnitude(self) -> tf.Tensor:
        """The largest magnitude, () or (channels,)."""
        if self.frozen is not None:
            return tf.convert_to_tensor(self.frozen)
        magnitude = self._magnitude_of(tf.convert_to_tensor(self.variable))
        if self.least is None or self._mode.updating:  # no training step rounds its bias
            return magnitude
        least = self.least()
        if self._granularity is Granularity.TENSOR:
            least = tf.reduce_max(least)
        return tf.maximum(magnitude, least)

    def least_for(self, bias: tf.Tensor, input_scale: tf.Tensor) -> tf.Tensor:
        """The magnitude at which a bias still has room in an int32, with as much beside it."""
        return tf.abs(bias) / (LARGEST_BIAS * input_scale) * (2.0 ** (self._bits - 1) - 1)

    def _magnitude_of(self, kernel: tf.Tensor) -> tf.Tensor:
        numbers = self._channels(tf.cast(tf.stop_gradient(kernel), tf.float32))
        axes = None
        if self._granularity is not Granularity.TENSOR:
            axes = list(range(len(numbers.shape) - 1))
        size = kernel.shape.num_elements()
        if under_xla() or (size is not None and size <= _SMALL):
            channels = tf.reduce_max(tf.abs(numbers), axes)
        else:  # the absolute values would be a copy of the kernel
            channels = tf.maximum(tf.reduce_max(numbers, axes), -tf.reduce_min(numbers, axes))
        overall = tf.reduce_max(channels)
        if self._mode.updating:
            # In fewer ops: whichever scale they have, zeros, and what no float32 sum would notice,
            # are rounded to zeros.
            overall = tf.maximum(overall, _ABOVE_ZERO)
            if self._granularity is Granularity.TENSOR:
                return overall
            return tf.maximum(channels, FAINTEST * overall)
        # A kernel of nothing but zeros still needs a scale.
        overall = tf.where(overall > 0.0, overall, 1.0)
        if self._granularity is Granularity.TENSOR:
            return overall
        # A dead channel takes the kernel's magnitude, and a faint one keeps a share of it: the
        # int32 bias is in steps of input scale x kernel scale, which must not come near zero.
        return tf.where(channels > 0.0, tf.maximum(channels, FAINTEST * overall), overall)

    def freeze(self) -> None:
        """Keep the magnitude of this moment."""
        if self.frozen is None:
            magnitude = self._magnitude_now()
            self.frozen = tf.Variable(magnitude, trainable=False, name="kernel_range")

    def _magnitude_now(self) -> tf.Tensor:
        """Of a kernel that a layer computes too, as its file will have it."""
        with whole_float32():
            return self.magnitude()

    def keep(self, key: str, magnitude: np.ndarray) -> None:
        """Keep this magnitude from now on; `key` is the kernel's, for the error.

        Raises:
            ValueError: it has another shape, or is no magnitude.
        """
        frozen = cast(tf.Variable, self.frozen)
        if frozen.shape != magnitude.shape or not (magnitude > 0).all():
            raise ValueError(
                f"load_state: `kernel_ranges/{key}` must be numbers above 0 of the shape "
                f"{tuple(frozen.shape)}. Received: {magnitude!r}"
            )
        frozen.assign(magnitude)

    def renew(self) -> None:
        """Where a magnitude is kept, keep that of this moment instead, in the same variable."""
        if self.frozen is not None:
            frozen, self.frozen = self.frozen, None
            frozen.assign(self._magnitude_now())
            self.frozen = frozen

    def by_weight(self, magnitude: np.ndarray) -> np.ndarray:
        """The magnitudes of channels, at each weight: of the kernel's shape."""
        shape = tuple(self.variable.shape)
        if self._granularity is Granularity.DEPTHWISE:
            magnitude = magnitude.reshape(shape[-2:])
        return np.broadcast_to(magnitude, shape)

    def by_channel(self, each: np.ndarray) -> np.ndarray:
        """The other way round."""
        axes = 2 if self._granularity is Granularity.DEPTHWISE else 1
        magnitude: np.ndarray = each.reshape(-1, *each.shape[-axes:])[0].reshape(-1)
        return magnitude

    def _channels(self, kernel: tf.Tensor) -> tf.Tensor:
        if self._granularity is Granularity.DEPTHWISE:
            return tf.reshape(kernel, (*kernel.shape[:-2], kernel.shape[-2] * kernel.shape[-1]))
        return kernel
