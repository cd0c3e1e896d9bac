"""tfmot's pruning, driven from the train step by our count and our schedules.

`pruning_impl.Pruning` computes and applies the masks. Inside a `PruneLowMagnitude` wrapper it is
the wrapper that calls it; on kernels that are quantized, or not wrapped, we do.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import tensorflow as tf

from keras_compress.engines.masks import Pruner, Target, sparsity_at
from keras_compress.engines.tfmot.library import PruneWrapper, tfmot
from keras_compress.frameworks.finite import all_finite
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.schedules import ConstantSparsity, PolynomialDecay


@dataclasses.dataclass(eq=False)
class TfmotTarget(Target):
    """One kernel, and the variables in which tfmot prunes it."""

    threshold: tf.Variable = None
    wrapper: PruneWrapper | None = None
    """The `PruneLowMagnitude` around its layer, if there is one."""
    computing: Any = None
    """The `pruning_impl.Pruning` of this kernel's wrapper, or of the kernel alone."""

    @property
    def _changed(self) -> tuple[tf.Variable, ...]:
        return (self.mask, self.threshold)


class TfmotPruner(Pruner):
    """Masks by tfmot's own code."""

    targets: list[TfmotTarget]

    def __init__(self, spec: Pruning, targets: list[TfmotTarget], wrappers: list[PruneWrapper]):
        super().__init__(targets, by_begin_step=spec.sparsity_m_by_n is not None)
        self.spec = spec
        self._wrappers = wrappers
        """All `PruneLowMagnitude` of the model: those that prune nothing count too."""
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="pruning_step")
        self._forced: Target | None = None
        groups: dict[int, list[TfmotTarget]] = {}
        for target in targets:
            groups.setdefault(id(target.wrapper) if target.wrapper else id(target), []).append(
                target
            )
        for group in groups.values():
            computing = self._computing(group)
            for target in group:
                target.computing = computing
            if group[0].wrapper is not None:
                group[0].wrapper.pruning_obj = computing

    def _computing(self, group: list[TfmotTarget]) -> Any:
        target, spec, pruner = group[0], self.spec, self

        class Schedule(tfmot().schedules.PruningSchedule):  # type: ignore[misc]  # untyped
            """Ours, asked by tfmot: our own count and grid, the last update at `end_step` too."""

            def __init__(self) -> None:
                pass

            def __call__(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                step = tf.convert_to_tensor(pruner._step)
                if pruner._forced is target:
                    due = tf.constant(True)
                elif not target.trainable:
                    due = tf.constant(False)
                else:
                    due = pruner.due(target.schedule, step)
                    due = tf.cond(due, lambda: finite(group), lambda: tf.constant(False))
                return due, sparsity_at(target.schedule, step)

            def get_config(self) -> dict[str, Any]:
                raise NotImplementedError("the wrapper keeps the schedule that is saved")

        def training_step() -> tf.Tensor:
            if spec.sparsity_m_by_n is None:
                return tf.convert_to_tensor(pruner._step)
            # m by n ignores the schedule: it is computed when the step is 1.
            return tf.cast(schedule(None)[0], tf.int64)

        schedule = Schedule()
        return tfmot().Pruning(
            training_step_fn=training_step,
            pruning_vars=[(t.kernel, t.mask, t.threshold) for t in group],
            pruning_schedule=schedule,
            block_size=spec.block_size,
            block_pooling_type=spec.block_pooling_type,
            sparsity_m_by_n=spec.sparsity_m_by_n,
        )

    def resolve(self, schedules: dict[str, PolynomialDecay | ConstantSparsity]) -> None:
        super().resolve(schedules)
        for target in self.targets:
            if target.wrapper is not None:  # what a saved wrapper says
                target.wrapper.pruning_schedule = as_tfmot(target.schedule)

    def before_step(self, step: tf.Tensor) -> None:
        self._step.assign(step)
        for wrapper in self._wrappers:
            wrapper.pruning_step.assign(step - 1)  # it counts by itself when it is called
        for target in self.targets:
            if target.wrapper is None:
                target.computing.conditional_mask_update()
                target.computing.weight_mask_op()

    def after_step(self, step: tf.Tensor) -> None:
        due = tf.constant(False)
        for schedule in {target.schedule for target in self.active}:
            due |= self.due(schedule, step)

        def measure() -> tf.Tensor:
            self.measure()
            return tf.constant(True)

        tf.cond(due, measure, lambda: tf.constant(False))

    def update(self, target: Target, step: tf.Tensor) -> None:
        self._step.assign(step)
        self._forced = target
        try:
            cast(TfmotTarget, target).computing.conditional_mask_update()
        finally:
            self._forced = None

    def threshold(self, target: Target) -> float | None:
        """tfmot's own, of when the mask was made; for blocks, of what was pooled."""
        if self.spec.sparsity_m_by_n is not None:
            return None
        return float(cast(TfmotTarget, target).threshold.numpy())


def finite(targets: list[TfmotTarget]) -> tf.Tensor:
    """Whether the kernels are such as masks can be made of."""
    return tf.reduce_all([all_finite(target.kernel) for target in targets])


def as_tfmot(schedule: PolynomialDecay | ConstantSparsity) -> object:
    """tfmot's schedule of the same fields; one at its target while fractions are unresolved."""
    schedules = tfmot().schedules
    if schedule.has_fractions:
        return schedules.ConstantSparsity(schedule.target, begin_step=0)
    if isinstance(schedule, ConstantSparsity):
        return schedules.ConstantSparsity(
            schedule.target_sparsity, schedule.begin_step, schedule.end_step, schedule.frequency
        )
    return schedules.PolynomialDecay(
        schedule.initial_sparsity,
        schedule.final_sparsity,
        schedule.begin_step,
        schedule.end_step,
        schedule.power,
        schedule.frequency,
    )
