"""The masks of one model: when they change, and that they hold, whoever computes them."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import tensorflow as tf

from keras_compress.frameworks.devices import ops_on_a_gpu, under_xla
from keras_compress.frameworks.finite import all_finite
from keras_compress.frameworks.protocols import KerasLayer, KerasVariable
from keras_compress.specs.schedules import ConstantSparsity, PolynomialDecay


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


def count_kept(mask: tf.Variable) -> tf.Tensor:
    """How many weights a mask keeps, int32. `tf.math.count_nonzero` takes 8 bytes for each; 4 are
    still so many that on a CPU they are taken in a graph alone.
    """
    if tf.executing_eagerly():
        return tf.constant(np.count_nonzero(tf.convert_to_tensor(mask)), tf.int32)
    if ops_on_a_gpu():  # where int32 are shapes, whose sum would be made on the CPU
        return tf.math.count_nonzero(mask, dtype=tf.int32)
    return tf.reduce_sum(tf.cast(mask, tf.int32))


def zero_where_dropped(kernel: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    """`kernel`, zero where it is not kept; what is no finite number becomes NaN there, or nobody
    would notice it.
    """
    if under_xla():  # which makes a selection of the product below, and so zeros of NaN
        return tf.where(tf.cast(kept, tf.bool), kernel, kernel - kernel)
    masked = kernel * tf.cast(kept, kernel.dtype)  # faster than `where`
    if tf.executing_eagerly():  # at the end of a fit: zipped, negative zeros cost as numbers do
        masked += tf.zeros((), kernel.dtype)
    return masked


_STAYS_ONE = {"_noinline": True}

Branch = Callable[[tf.Tensor], tf.Tensor]
"""The step -> True, when masks have been made anew."""


@dataclasses.dataclass(eq=False)
class Target:
    """One kernel under pruning."""

    key: str
    """What a state calls it: position, kind of layer, `kernel_name` and shape."""
    path: str
    kernel_name: str
    layer: KerasLayer
    variable: KerasVariable
    """Keras' own variable, whose `trainable` counts."""
    kernel: tf.Variable
    schedule: PolynomialDecay | ConstantSparsity
    mask: tf.Variable
    """The kernel's shape; bool, or 1 and 0 in the kernel's dtype: what is kept."""
    started: bool = False
    """Whether an update saw this kernel trainable; until then it has no mask."""
    listed: bool = True
    """Whether reports have a row for it: a kernel, and not what hangs on its channels."""

    @property
    def trainable(self) -> bool:
        return bool(self.layer.trainable and self.variable.trainable)

    def kept(self) -> np.ndarray:
        """The mask, as bools."""
        kept: np.ndarray = self.mask.numpy().astype(bool, copy=False)
        return kept

    @property
    def is_broken(self) -> bool:
        """Whether the kernel is NaN or infinite somewhere, so that its mask stays as it is."""
        return not bool(all_finite(self.kernel))

    def keep(self, mask: np.ndarray) -> None:
        self.mask.assign(tf.cast(mask, self.mask.dtype))

    @property
    def _changed(self) -> tuple[tf.Variable, ...]:
        """The variables that a new mask changes."""
        return (self.mask,)

    def noted(self) -> list[np.ndarray]:
        """What a new mask changes, for `put_back`."""
        return [variable.numpy() for variable in self._changed]

    def put_back(self, noted: list[np.ndarray]) -> None:
        for variable, value in zip(self._changed, noted, strict=True):
            variable.assign(value)


def apply_masks(targets: Iterable[Target]) -> None:
    """Zero every weight that its own mask drops."""
    for target in targets:
        kernel = tf.convert_to_tensor(target.kernel)
        target.kernel.assign(zero_where_dropped(kernel, target.mask))


class Scheduled(Protocol):
    """What has a mask, or several that change together."""

    schedule: PolynomialDecay | ConstantSparsity

    @property
    def trainable(self) -> bool: ...

    @property
    def started(self) -> bool: ...


Masked = TypeVar("Masked", bound=Scheduled)


def by_schedule(masked: Iterable[Masked]) -> list[list[Masked]]:
    """Those of each schedule."""
    found: dict[PolynomialDecay | ConstantSparsity, list[Masked]] = {}
    for each in masked:
        found.setdefault(each.schedule, []).append(each)
    return list(found.values())


def is_late(masked: Scheduled, step: int) -> bool:
    """Whether its schedule began before it was trainable; a first update has missed nothing, for
    there is no update 0.
    """
    return masked.trainable and not masked.started and step > max(masked.schedule.begin_step, 1)


class Pruner(abc.ABC):
    """The masks of one model."""

    shrinks = False
    """Whether what is dropped is left out of the network that ships."""

    def __init__(self, targets: Sequence[Target], by_begin_step: bool):
        self.targets: Sequence[Target] = targets
        self._by_begin_step = by_begin_step
        """m by n: the masks are made once, at the begin step."""
        self.sparsity = tf.Variable(0.0, trainable=False, name="sparsity")
        """The fraction of zeros over all kernels under pruning, frozen ones included, as the logs
        show it.
        """
        self._branches: dict[object, Branch] = {}
        """What makes masks anew, kept for the steps that are traced later."""

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """While inside, masks may be made anew; afterwards each is as it was. Of one wrapper's
        kernels tfmot makes all masks at once.
        """
        noted = [target.noted() for target in self.targets]
        try:
            yield
        finally:
            for target, before in zip(self.targets, noted, strict=True):
                target.put_back(before)

    @property
    def active(self) -> list[Target]:
        """The targets that this fit may change."""
        return [target for target in self.targets if target.trainable]

    @property
    def paths(self) -> list[str]:
        """Those of the layers that a spec means, each once."""
        return list(dict.fromkeys(target.path for target in self.targets))

    @property
    def schedules(self) -> dict[str, PolynomialDecay | ConstantSparsity]:
        """Path -> schedule."""
        return {target.path: target.schedule for target in self.targets}

    def resolve(self, schedules: dict[str, PolynomialDecay | ConstantSparsity]) -> None:
        """Replace every target's schedule (path -> schedule) by the one with its steps known."""
        for target in self.targets:
            target.schedule = schedules[target.path]
        self._branches.clear()  # which were traced of the old ones

    def due(self, schedule: PolynomialDecay | ConstantSparsity, step: tf.Tensor) -> tf.Tensor:
        """Whether the masks of a schedule change at `step`."""
        if self._by_begin_step:
            return step == max(schedule.begin_step, 1)
        return updates_at(schedule, step)

    def renew_when_due(
        self,
        active: Iterable[Masked],
        step: tf.Tensor,
        renew: Callable[[list[Masked], tf.Tensor], None],
    ) -> None:
        """Let `renew`, a method, make the masks of a schedule anew at the steps that it names. One
        condition per schedule, not per kernel: most models have a single one.
        """
        for group in by_schedule(active):
            branch = functools.partial(self._branch(renew, group), step)
            tf.cond(self.due(group[0].schedule, step), branch, lambda: tf.constant(False))

    def _branch(
        self, renew: Callable[[list[Masked], tf.Tensor], None], group: list[Masked]
    ) -> Branch:
        """A function of the step that renews the masks of a group."""

        def branch(step: tf.Tensor) -> tf.Tensor:
            renew(group, step)
            return tf.constant(True)

        schedule = group[0].schedule
        if tf.executing_eagerly() or schedule.frequency == 1:
            return branch
        # The ops of a branch become ops of the step, and each of them costs a little where the
        # branch is not taken. A function that stays one is a single op, and to call it costs no
        # more than twenty do.
        one_op: Branch = tf.function(branch, autograph=False, experimental_attributes=_STAYS_ONE)
        if tf.distribute.has_strategy():  # of each replica the masks are other variables
            return one_op
        # Every phase traces the step anew, and the masks are made in the same way in all of them.
        key = (renew, under_xla(), *map(id, group))
        return self._branches.setdefault(key, one_op)

    def start(self, step: int) -> None:
        """Give a mask, at the sparsity of `step`, to kernels that become trainable after their
        schedule began, for the first time or again.
        """
        for target in self.targets:
            if not target.trainable:
                target.started = False
                continue
            if is_late(target, step):
                self.update(target, tf.constant(step, tf.int64))
            target.started = True
        self.measure()

    def measure(self, known: Mapping[int, tf.Tensor] | None = None) -> None:
        """Bring `sparsity` up to date with the masks.

        `known`: id of a target -> how many weights its mask keeps, of those that need not be
        counted.
        """
        known = known or {}
        counts = [
            known[id(target)] if id(target) in known else count_kept(target.mask)
            for target in self.targets
        ]
        kept = tf.reduce_sum(tf.cast(tf.stack(counts), tf.int64))
        size = sum(target.mask.shape.num_elements() for target in self.targets)
        self.sparsity.assign(1.0 - tf.cast(kept, tf.float32) / size)

    @abc.abstractmethod
    def before_step(self, step: tf.Tensor) -> None:
        """The part of training step number `step` before the forward pass."""

    def after_step(self, step: tf.Tensor) -> None:  # noqa: B027  (not every pruner has one)
        """The part of a training step after the update of the weights."""

    @abc.abstractmethod
    def update(self, target: Target, step: tf.Tensor) -> None:
        """Make one mask anew from its kernel, at the sparsity of `step`."""

    def update_all(self, when: Callable[[PolynomialDecay | ConstantSparsity], int]) -> None:
        """Make every mask anew that training may change, or has changed, at the step that `when`
        says of its schedule.
        """
        for target in self.targets:
            if target.trainable or target.started:
                self.update(target, tf.constant(when(target.schedule), tf.int64))

    @abc.abstractmethod
    def threshold(self, target: Target) -> float | None:
        """The smallest magnitude that counts as large enough to be kept; None where masks are made
        by no such number.
        """

    def apply(self) -> None:
        """Zero every weight that its mask drops."""
        apply_masks(self.targets)
