"""The ranges of a network that follow its tensors: one variable, which a call of the network reads
once and writes once.

What a step of a small network costs is the number of its ops, and half of those that move a range
would only fetch two numbers and put them back. So a call of the network holds all of them as loose
numbers: each tensor moves its own and is rounded over what came of it, and at the end of the call
they go back together. Elsewhere, in the graph of a loop or of a function inside of the call, or
where a layer is called by itself, a range is read and written by itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place import rounding
from keras_compress.engines.in_place.rounding import Ends, NudgedEnds
from keras_compress.engines.quantizers import Mode
from keras_compress.frameworks.devices import under_xla

UNSEEN = (-6.0, 6.0)
"""A range before the first batch: ReLU6's, mirrored, or without what is below zero."""

NARROWEST = 1e-6
"""What is narrower counts as (0, 1): nothing but zeros still needs a scale."""


class FollowedRanges:
    """All ranges of one network.

    `nonnegative`: for each, whether its numbers never fall below zero, so that nobody has to look
    for the minimum.
    """

    def __init__(self, mode: Mode, nonnegative: Sequence[bool], bits: int):
        self.mode = mode
        self.bits = bits
        self.nonnegative = nonnegative
        starts = [(0.0 if each else UNSEEN[0], UNSEEN[1]) for each in nonnegative]
        numbers = np.asarray(starts, np.float32).reshape(-1, 2)
        self.variable = tf.Variable(numbers, trainable=False, name="ranges")
        """(ranges, 2): minimum and maximum, zero inside."""
        self._under_way = _UnderWay()
        self._apart: set[int] = set()
        """Those that were ever met in another graph than that of a call: a function that was traced
        there meets them again without anybody being told.
        """

    def __getitem__(self, row: int) -> FollowedRange:
        return FollowedRange(self, row)

    @contextlib.contextmanager
    def call_of_model(self) -> Iterator[None]:
        """While inside, numbers are moved that go back at the end; one call inside of another is
        part of it.
        """
        mode, here = self.mode, self._under_way
        is_needed = mode.phase.rounds or mode.moves
        if here.call is not None or mode.constants or not is_needed or not self.nonnegative:
            yield
            return
        here.call = call = _Call(self)
        try:
            yield
        finally:
            here.call = None
        call.finish()

    def call_with(self, row: int) -> _Call | None:
        """The call under way, if it holds the numbers of a range in the graph that is being traced;
        None where the variable does.
        """
        call = self._under_way.call
        if call is None:
            return None
        if call.is_here and row not in self._apart:
            return call
        call.give_back(row)
        self._apart.add(row)
        return None

    def move_apart(self, row: int, ends: Ends) -> None:
        """Write one range by itself."""
        if not tf.executing_eagerly():
            self._apart.add(row)
        self.write({row: ends})

    def write(self, moved: dict[int, Ends]) -> None:
        """Write some of them, in a step."""
        rows = tf.constant([[row] for row in moved])
        pairs = tf.reshape(tf.stack([end for ends in moved.values() for end in ends]), (-1, 2))
        now = tf.convert_to_tensor(self.variable)
        # No scattered update of the variable, which some strategies refuse.
        self.variable.assign(tf.tensor_scatter_nd_update(now, rows, pairs))

    def assign(self, row: int, limits: Sequence[float] | np.ndarray) -> None:
        """Give one another minimum and maximum, between two steps."""
        numbers = np.array(self.variable.numpy())  # what it gives may be its own memory
        numbers[row] = limits
        self.variable.assign(numbers)  # as a whole: all replicas of a strategy get it


class _UnderWay(threading.local):
    """The call under way, of each thread for itself, as the replicas of a strategy are traced in
    several.
    """

    def __init__(self) -> None:
        self.call: _Call | None = None


class _Call:
    """All ranges in one call of the network."""

    def __init__(self, ranges: FollowedRanges):
        self._ranges = ranges
        self._graph = _graph_here()
        self._moved: dict[int, Ends] = {}
        self._nudged: list[Ends] = []
        numbers = tf.convert_to_tensor(ranges.variable)
        self._kept: list[Ends] = []
        self.is_wide = not ranges.mode.moves
        """Whether no range is too narrow to have a scale: who moves them needs them as they are."""
        if ranges.mode.moves:
            self.shares = _shares(ranges.mode)
            self._kept = _loose(self.shares[0] * numbers)
        else:
            lows, highs = tf.unstack(numbers, axis=1)
            numbers = tf.stack(_widened(lows, highs), 1)
        self._numbers = _loose(numbers)

    @property
    def is_here(self) -> bool:
        """Whether its numbers are those of the graph that is being traced."""
        return self._graph is _graph_here()

    def ends(self, row: int) -> Ends:
        """A range as it is now."""
        return self._moved.get(row, self._numbers[row])

    def kept(self, row: int, old: Ends) -> Ends | None:
        """What stays of a range in this step, if these ends are those that it had before; else
        None.
        """
        return self._kept[row] if self._kept and old is self._numbers[row] else None

    def move(self, row: int, ends: Ends) -> None:
        self._moved[row] = ends

    def give_back(self, row: int) -> None:
        """Write a range before the end."""
        if row in self._moved:
            ends = self._moved.pop(row)
            with tf.init_scope() if self._graph is None else self._graph.as_default():
                self._ranges.write({row: ends})

    def finish(self) -> None:
        """Write what has been moved, and nudge it for the gradients, all at once."""
        ranges, count = self._ranges, len(self._numbers)
        if self._moved:
            loose = [end for row in range(count) for end in self.ends(row)]
            numbers = tf.reshape(tf.stack(loose), (-1, 2))
            if len(self._moved) == count:
                ranges.variable.assign(numbers)
            else:  # what others have moved meanwhile is theirs
                ranges.write(self._moved)
            if ranges.mode.phase.rounds and not under_xla():
                lows, highs = tf.unstack(numbers, axis=1)
                self._nudged = _loose(tf.stack(rounding.nudged(lows, highs, ranges.bits), 1))
        # TensorFlow keeps the functions of gradients, and so this, for as long as it lives.
        del self._ranges, self._kept, self._numbers

    def nudged(self, row: int, ends: Ends) -> Ends | None:
        """These ends when they are nudged, once the call is over; None if they are not those that
        the range had then.
        """
        if self._nudged and self._moved.get(row) is ends:
            return self._nudged[row]
        return None


class FollowedRange:
    """One of them."""

    def __init__(self, ranges: FollowedRanges, row: int):
        self._ranges = ranges
        self._row = row
        self.nonnegative = ranges.nonnegative[row]

    @property
    def _call(self) -> _Call | None:
        return self._ranges.call_with(self._row)

    def numpy(self) -> np.ndarray:
        """(2,): minimum and maximum."""
        limits: np.ndarray = self._ranges.variable.numpy()[self._row]
        return limits

    def assign(self, limits: Sequence[float] | np.ndarray) -> None:
        """Give it another minimum and maximum, between two steps."""
        self._ranges.assign(self._row, limits)

    def ends(self) -> Ends:
        """As it is now, wide enough to have a scale."""
        call = self._call
        if call is not None and call.is_wide:
            return call.ends(self._row)
        return self._ranges.mode.number(lambda: _widened(*self.now()))

    def now(self) -> Ends:
        """As it is now, before this step moves it or after."""
        call = self._call
        if call is not None:
            return call.ends(self._row)
        low, high = tf.unstack(tf.convert_to_tensor(self._ranges.variable)[self._row])
        return low, high

    def move(self, old: Ends, batch: Ends) -> Ends:
        """Move it from `old` towards `batch`, and give where it is then."""
        call = self._call
        decay, taken = _shares(self._ranges.mode) if call is None else call.shares
        kept = None if call is None else call.kept(self._row, old)
        if kept is None:
            kept = (decay * old[0], decay * old[1])
        low, high = batch
        # A diverged step must not take the range with it; of two ends one is not finite if their
        # difference is not.
        finite = tf.math.is_finite(high if self.nonnegative else high - low)

        def end(which: int) -> tf.Tensor:
            new = kept[which] + taken * batch[which]
            # `tf.where` would take twice as long to broadcast a condition.
            return tf.raw_ops.Select(condition=finite, x=new, y=old[which])

        ends = low if self.nonnegative else end(0), end(1)
        if call is None:
            self._ranges.move_apart(self._row, ends)
        else:
            call.move(self._row, ends)
        return ends

    def nudged_ends(self, ends: Ends) -> NudgedEnds:
        """What gives these ends, where it is now, as they are when they are nudged; for a gradient,
        which is seldom asked for before the call is over.
        """
        call, row, bits = self._call, self._row, self._ranges.bits

        def nudged() -> Ends:
            found = None if call is None else call.nudged(row, ends)
            return rounding.nudged(*ends, bits) if found is None else found

        return nudged


def _shares(mode: Mode) -> tuple[tf.Tensor, tf.Tensor]:
    """What stays of the old range in the step under trace, and what is taken of the new one."""
    decay = tf.convert_to_tensor(mode.decay)
    return decay, 1.0 - decay


def _widened(low: tf.Tensor, high: tf.Tensor) -> Ends:
    """The ends of a range, or of several, wide enough to have a scale."""
    wide = high - low > NARROWEST
    return tf.where(wide, low, 0.0), tf.where(wide, high, 1.0)


def _loose(numbers: tf.Tensor) -> list[Ends]:
    """(ranges, 2) -> scalars."""
    loose = tf.unstack(tf.reshape(numbers, [-1]))
    return list(zip(loose[::2], loose[1::2], strict=True))


def _graph_here() -> tf.Graph | None:
    """The graph under trace; None where ops are run as they are called."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
