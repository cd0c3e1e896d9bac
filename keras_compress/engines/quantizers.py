"""What the quantizers of every engine have in common: when they watch, round and stand still.

Ranges follow a moving average whose decay rises with the number of updates seen, min(0.999, n /
(n + 10)), so that the first batch counts in full and no start value has to be outgrown.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model import save_context

from keras_compress.engines.state import Phase, State
from keras_compress.frameworks.protocols import KerasOperation

Tensors = TypeVar("Tensors")
"""A tensor, or a tuple of them."""

OnRounded = Callable[[str, str, float, tf.Tensor], tf.Tensor]
"""(path, role, step, rounded tensor) -> the tensor to go on with. The role is "output", "before"
the activation of the operation, or one inside its form; the step is the real value of an integer.
"""


STALE = (
    "Compress.step: a compiled step must be traced anew when the phase changes; give "
    "`compress.phase` to your `tf.function` as an argument. Received: one traced in another phase"
)


@dataclasses.dataclass
class Mode:
    """What the patches do while the next graph is traced; a change takes effect at the next trace.

    It is plain Python, so that a network whose quantization is off has not one op more.
    """

    phase: Phase = Phase.OFF
    updating: bool = False
    """A training step is being traced, so ranges move."""
    decay: tf.Tensor | tf.Variable | None = None
    """The share of the old range that stays, in this step."""
    phase_now: tf.Variable | None = None
    """The phase, where a graph may be run in another than that it was traced in."""
    calls: int = 0
    """Counts how often the network was traced, or run eagerly."""
    trace: int = 0
    """Counts training steps traced (or run eagerly), to tell calls of one step from the next's."""
    constants: bool = False
    """Ranges are written into the graph as numbers, for a graph that leaves the process."""
    exporting: bool = False
    """The graph becomes a TFLite file."""

    @property
    def moves(self) -> bool:
        """Whether what is traced moves the ranges."""
        return self.updating and self.phase.follows

    @property
    def active(self) -> bool:
        """Whether the patches do anything. A SavedModel of tf_keras is the plain model, unless
        `export` writes it, which holds the ranges as numbers.
        """
        leaves_plain = save_context.in_save_context() and not self.constants
        return self.phase is not Phase.OFF and not leaves_plain

    def called_with(self, inputs: Any) -> Any:
        """Note a call of the network with these nested tensors. They come back behind a check where
        somebody may run the graph in another phase than that it is traced in: there it fails.
        """
        self.calls += 1
        if self.phase_now is None or tf.executing_eagerly():
            return inputs
        traced_in = list(Phase).index(self.phase)
        check = tf.debugging.assert_equal(self.phase_now, traced_in, message=STALE)
        with tf.control_dependencies([check]):
            return tf.nest.map_structure(tf.identity, inputs)

    def number(self, compute: Callable[[], Tensors]) -> Tensors:
        """What `compute` gives, a tensor or several: as ops of the graph, or as constants in one
        that leaves, where they are computed once, and sooner than as many ops are made.
        """
        if not self.constants:
            return compute()
        with tf.init_scope():
            return cast(Tensors, tf.nest.map_structure(_constant, compute()))


def _constant(tensor: tf.Tensor) -> tf.Tensor:
    return tf.constant(tensor.numpy())


def moving_decay(observed: tf.Tensor) -> tf.Tensor:
    """The share of the old range that stays: 0 at first, 0.999 after many `observed` updates."""
    n = tf.cast(observed, tf.float32)
    return tf.minimum(0.999, n / (n + 10.0))


class Quantizers(abc.ABC):
    """All quantizers of one model."""

    def __init__(self) -> None:
        self.mode = Mode()
        self.observed = tf.Variable(0, dtype=tf.int64, trainable=False, name="observed")
        """How many updates have moved the ranges."""
        self._decay = tf.Variable(0.0, trainable=False, name="decay")
        self._phase_now = tf.Variable(0, trainable=False, name="phase")

    @property
    def calls_of_model(self) -> int | None:
        """How often the model itself was traced, or run eagerly; None where nobody counts."""
        return None

    @property
    def planned_by_ops(self) -> list[KerasOperation]:
        """What is quantized inside by its TensorFlow ops."""
        return []

    def twins(self) -> dict[str, str]:
        """Range -> the first of those that are given the very same tensors, in training too, and so
        are equal whatever is trained.
        """
        return {}

    @abc.abstractmethod
    def rounded_by(self) -> dict[str, str]:
        """Path of every layer that is rounded -> what does it, in words."""

    @abc.abstractmethod
    def patch(self) -> None:
        """Put the quantizers into the model's operations."""

    @abc.abstractmethod
    def unpatch(self) -> None:
        """Give every operation its own `call` back."""

    @contextlib.contextmanager
    def training_step(self, compiled_inside: bool = False) -> Iterator[None]:
        """Everything traced inside is a training step: ranges follow while the phase says so.

        `compiled_inside`: what is inside may have been traced in an earlier step.
        """
        mode = self.mode
        mode.trace += 1
        mode.updating = True
        if mode.phase.follows:
            mode.decay = moving_decay(self.observed)
            if compiled_inside:  # where a number of this step would stand for ever
                self._decay.assign(mode.decay)
                mode.decay = self._decay
            self.observed.assign_add(1)
        if compiled_inside:
            self._phase_now.assign(list(Phase).index(mode.phase))
            mode.phase_now = self._phase_now
        try:
            yield
        finally:
            mode.updating = False
            mode.decay = mode.phase_now = None

    @contextlib.contextmanager
    def leaving_the_process(self, exporting: bool = False) -> Iterator[None]:
        """Graphs traced inside hold the ranges as numbers."""
        before = (self.mode.constants, self.mode.exporting)
        self.mode.constants, self.mode.exporting = True, exporting
        try:
            yield
        finally:
            self.mode.constants, self.mode.exporting = before

    @abc.abstractmethod
    def showing(self, on_rounded: OnRounded) -> contextlib.AbstractContextManager[None]:
        """While inside, a model that is called eagerly shows every tensor rounded in or behind an
        operation.
        """

    @abc.abstractmethod
    def enter(self, phase: Phase) -> None:
        """Do by `phase` from the next trace on."""

    @abc.abstractmethod
    def settle(self) -> None:
        """Bring what is read off the kernels up to date with them."""

    @abc.abstractmethod
    def kernels_by_path(self) -> Iterator[tuple[str, str, tf.Variable]]:
        """(path, kernel, variable) of every rounded kernel."""

    def kernel_scale(self, kernel: tf.Variable) -> np.ndarray | None:
        """The step between two integers of a rounded kernel, () or (channels,); None where it is
        not known.
        """
        return None

    def kernel_bits(self, kernel: tf.Variable) -> int | None:
        """The bits of one rounded kernel; None where those of the spec hold."""
        return None

    @abc.abstractmethod
    def ranges(self) -> dict[str, np.ndarray]:
        """Key -> (minimum, maximum) of every activation whose range is followed."""

    @abc.abstractmethod
    def paths_of_ranges(self) -> dict[str, str]:
        """Key of a range -> the path of its layer and its role there, as "dense/output"; of a flat
        input its key.
        """

    @abc.abstractmethod
    def write_to(self, state: State) -> None:
        """Put ranges and kernels into a state."""

    @abc.abstractmethod
    def read_from(self, state: State) -> None:
        """Take the ranges of a state."""

    @abc.abstractmethod
    def input_range(self, position: int) -> tuple[float, float] | None:
        """The watched range of a flat input; None for one that is not rounded."""

    @abc.abstractmethod
    def set_input_range(self, position: int, limits: tuple[float, float]) -> None:
        """Give a flat input that is rounded another range."""
