"""The engine: one model's masks and quantizers, and the wrapped `train_step` that drives them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.base import Engine, remember
from keras_compress.engines.in_place import inference, plan
from keras_compress.engines.in_place.adapter import Adapter, wrap_method
from keras_compress.engines.in_place.patches import Quantizers
from keras_compress.engines.in_place.pruning import Pruner
from keras_compress.report import LayerReport
from keras_compress.schedules import Schedule, schedule_from_config
from keras_compress.specs import Pruning, Quantization
from keras_compress.state import Phase, State

LOG_NAMES = ("sparsity", "quantized")


class InPlace(Engine):
    """Prunes and quantizes the very object the user compiled.

    A Sequential that has no shapes yet is planned and patched by its first training batch, before
    anything is updated.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: Any,
        pruning: Pruning | None,
        quantization: Quantization | None,
    ):
        self.adapter = adapter
        self.model = model
        self.pruning = pruning
        self.quantization = quantization
        self.pruner: Pruner | None = None
        self.quantizers: Quantizers | None = None
        self.left_out: dict[str, dict[str, str]] = {"pruning": {}, "quantization": {}}
        """Per spec: path -> the reason why this one was left alone."""
        self.schedules: dict[str, Schedule] = {}
        """Path -> schedule, with every fraction resolved once the first fit has begun."""
        self.delay: int | None = None
        self.freeze_step: int | None = None
        self.switched_at: int | None = None
        """The first update whose forward pass was rounded."""
        self.on_placed: Callable[[], None] = lambda: None
        """Called once a model without shapes is planned, for what can only be refused then."""
        self._phase = Phase.OFF
        self._undo: list[Callable[[], None]] = []
        self._wrapped: set[str] = set()
        self._traced_trainable: tuple[bool, ...] | None = None

    # --- attaching

    @property
    def is_placed(self) -> bool:
        """Whether the plan is made; false only before the first batch of a model without shapes."""
        return self.pruner is not None or self.quantizers is not None or not self._wants_anything

    @property
    def _wants_anything(self) -> bool:
        return self.pruning is not None or self.quantization is not None

    def attach(self) -> None:
        model = self.model
        with model.distribute_strategy.scope():
            self._counter = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        try:
            if model.built:
                self._place()
            self._undo.append(wrap_method(model, "train_step", self._patched_train_step))
            if hasattr(model, "export"):
                self._undo.append(wrap_method(model, "export", self._patched_export))
            remember(model, self)
            self.adapter.retrace(model)
        except BaseException:  # Ctrl-C too must leave no patch that nobody knows of
            self.detach()
            raise

    def _place(self) -> None:
        adapter, model = self.adapter, self.model
        pruning = quantization = None
        if self.pruning is not None:
            pruning = plan.plan_pruning(adapter, model, self.pruning)
            self.left_out["pruning"] = pruning.left_out
        if self.quantization is not None:
            quantization = plan.plan_quantization(adapter, model, self.quantization)
            self.left_out["quantization"] = quantization.left_out
        with model.distribute_strategy.scope():
            if pruning is not None:
                self.pruner = Pruner(self.pruning, plan.make_targets(adapter, pruning))
                self.schedules = {target.path: target.schedule for target in self.pruner.targets}
            if quantization is not None:
                self.quantizers = Quantizers(
                    adapter,
                    model,
                    quantization,
                    self.quantization.weight_bits,
                    self.quantization.activation_bits,
                )
                self.quantizers.mode.phase = self._phase
                self.quantizers.patch()

    def wrap_once(self, name: str, make: Callable[[Callable], Callable]) -> None:
        """Wrap a method of the model, the first time this is asked for; `detach` gives it back."""
        if name not in self._wrapped:
            self._wrapped.add(name)
            self._undo.append(wrap_method(self.model, name, make))

    def detach(self) -> None:
        if self.quantizers is not None:
            self.quantizers.unpatch()
        while self._undo:
            self._undo.pop()()
        remember(self.model, None)
        self.adapter.retrace(self.model)

    # --- the training step

    def _patched_train_step(self, original: Callable) -> Callable:
        @functools.wraps(original)
        def train_step(data: Any) -> Any:
            if not self.is_placed:
                self._place_with(data)
            with contextlib.ExitStack() as following:
                # A dataset of unknown length ends in a step without a batch, which must not count.
                with tf.control_dependencies(_tensors(data)):
                    self._count()
                    if self.quantizers is not None:
                        following.enter_context(self.quantizers.training_step())
                logs = original(data)
            return self._with_ours(logs)

        return train_step

    def _count(self) -> None:
        if self.pruner is None:
            # Not read: while off, this one op is all that is added to the plain graph.
            self._counter.assign_add(1, read_value=False)
        else:
            self.pruner.step(self._counter.assign_add(1))
            self._traced_trainable = self._trainable()

    def _with_ours(self, logs: Any) -> Any:
        if not isinstance(logs, dict):  # a user's train_step may return anything
            return logs
        zero = tf.constant(0.0)
        sparsity = zero if self.pruner is None else tf.convert_to_tensor(self.pruner.sparsity)
        quantized = tf.constant(1.0 if self.phase.rounds else 0.0)
        values = (self.adapter.log_value(sparsity), self.adapter.log_value(quantized))
        return {**logs, **dict(zip(LOG_NAMES, values, strict=True))}

    def _place_with(self, data: Any) -> None:
        """Give a model without shapes those of the first batch, and place everything before its
        first update.
        """
        inputs = data[0] if isinstance(data, tuple | list) else data
        self.adapter.build_like(self.model, inputs)
        with tf.init_scope():
            try:
                self._place()
                self.load_steps()
                self.on_placed()
            except BaseException:
                self.detach()  # as if it had never been asked
                raise
            self.begin_fit()

    def _patched_export(self, original: Callable) -> Callable:
        @functools.wraps(original)
        def export(*args: Any, **kwargs: Any) -> Any:
            if self.quantizers is None:
                return original(*args, **kwargs)
            with self.quantizers.leaving_the_process():
                return original(*args, **kwargs)

        return export

    def named(self, spec: Any) -> Any:
        """A spec with the names of what a callable `layers` chooses in this model."""
        return plan.named(self.adapter, self.model, spec) if self.is_placed else spec

    # --- the life of a fit

    @property
    def step(self) -> int:
        """Updates done since compression first saw this model."""
        return int(self._counter.numpy())

    @property
    def phase(self) -> Phase:
        return self._phase

    def set_phase(self, phase: Phase) -> None:
        if phase is self._phase:
            return
        self._phase = phase
        if self.quantizers is not None:
            self.quantizers.mode.phase = phase
            if phase is Phase.FROZEN:
                for quantizer in self.quantizers.kernels.values():
                    quantizer.freeze()
            self.adapter.retrace(self.model)

    def resolve(self, start: int, updates: int) -> None:
        """Turn every fraction into an update of the fit of `updates` steps that begins after update
        `start`.
        """
        self._resolved = (start, updates)
        self.load_steps()

    _resolved: tuple[int, int] | None = None

    def load_steps(self) -> None:
        """Bring schedules and phase edges to where the last `resolve` put them."""
        if self._resolved is None:
            return
        if self.pruner is not None:
            self.schedules = {
                path: schedule.resolve(*self._resolved) for path, schedule in self.schedules.items()
            }
            self.pruner.resolve(self.schedules)
        if self.quantization is not None and self.delay is None:
            resolved = self.quantization.resolve(*self._resolved)
            self.delay, self.freeze_step = resolved.delay, resolved.freeze_step

    @property
    def has_fractions(self) -> bool:
        """Whether some step is not yet an update."""
        unresolved = any(schedule.has_fractions for schedule in self.schedules.values())
        if not self.is_placed and self.pruning is not None:
            unresolved = self.pruning.has_fractions and self._resolved is None
        if self.quantization is not None and self.delay is None:
            unresolved = unresolved or self.quantization.has_fractions
        return unresolved

    def begin_fit(self) -> None:
        """What must be so before the first update of any fit."""
        if self.pruner is not None and self._resolved is not None:
            self.pruner.start(self.step + 1)
            if self._traced_trainable not in (None, self._trainable()):
                self.adapter.retrace(self.model)  # a kernel thawed or froze since

    def apply_masks(self) -> None:
        """Make the masks hold exactly, whatever wrote to the weights."""
        if self.pruner is not None:
            self.pruner.apply()

    def _trainable(self) -> tuple[bool, ...]:
        return tuple(target.trainable for target in self.pruner.targets)

    @property
    def has_unseen_ranges(self) -> bool:
        """Whether the model is, or is about to be, rounded over ranges that no update has set."""
        return self.quantizers is not None and int(self.quantizers.observed.numpy()) == 0

    # --- report

    @property
    def sparsity(self) -> float:
        """The fraction of zeros over all kernels under pruning."""
        return 0.0 if self.pruner is None else float(self.pruner.sparsity.numpy())

    def layer_reports(self) -> list[LayerReport]:
        """One row for every kernel that is pruned or quantized."""
        rows: dict[int, LayerReport] = {}

        def row(path: str, name: str, kernel: tf.Variable) -> LayerReport:
            if id(kernel) not in rows:
                zeros = 1.0 - np.count_nonzero(kernel.numpy()) / kernel.shape.num_elements()
                rows[id(kernel)] = LayerReport(path, name, tuple(kernel.shape), zeros, None)
            return rows[id(kernel)]

        if self.quantizers is not None:
            for path, name, quantizer in self.quantizers.named_kernels():
                found = row(path, name, quantizer.variable)
                found.bits = self.quantization.weight_bits if self.phase.rounds else None
        if self.pruner is not None:
            for target in self.pruner.targets:
                row(target.path, target.key.split("/")[2], target.kernel)
        return list(rows.values())

    # --- state

    def state(self) -> State:
        state = State(step=self.step, phase=self.phase, switched_at=self.switched_at)
        state.iterations = self.adapter.iterations(self.model)
        if self.is_placed:
            state.paths = tuple(plan.paths(self.adapter, self.model))
        if self.pruning is not None:
            state.pruning = plan.pruning_config(self.pruning, self.pruner)
        if self.quantization is not None:
            state.quantization = plan.quantization_config(self.quantization, self.quantizers)
            state.steps = {"delay": self.delay, "freeze_step": self.freeze_step}
        if self.pruner is not None:
            state.schedules = {t.key: t.schedule.get_config() for t in self.pruner.targets}
            state.masks = {target.key: target.mask.numpy() for target in self.pruner.targets}
            state.started = tuple(t.key for t in self.pruner.targets if t.started)
        if self.quantizers is not None:
            state.observed = int(self.quantizers.observed.numpy())
            state.ranges = self.quantizers.ranges()
            state.kernels = tuple(self.quantizers.kernels)
            state.kernel_ranges = {
                key: quantizer.frozen.numpy()
                for key, quantizer in self.quantizers.kernels.items()
                if quantizer.frozen is not None
            }
        return state

    def load_state(self, state: State) -> None:
        self._check_fits(state)
        self._counter.assign(state.step)
        self.switched_at = state.switched_at
        if self.pruner is not None:
            self.schedules = {
                target.path: schedule_from_config(state.schedules[target.key])
                for target in self.pruner.targets
            }
            self.pruner.resolve(self.schedules)
            self._resolved = self._resolved or (0, 0)  # nothing is left to resolve
            for target in self.pruner.targets:
                target.started = target.key in state.started
        if self.quantization is not None:
            self.delay, self.freeze_step = state.steps["delay"], state.steps["freeze_step"]
        if self.quantizers is not None and state.phase is not Phase.FROZEN:
            self.quantizers.thaw()
        self.load_arrays(state)
        self.set_phase(state.phase)

    def load_arrays(self, state: State) -> None:
        """Take the masks and ranges of `state`, and leave the step and the phase as they are."""
        if self.pruner is not None:
            for target in self.pruner.targets:
                target.mask.assign(state.masks[target.key])
            self.pruner.measure()
        if self.quantizers is not None:
            self.quantizers.observed.assign(state.observed)
            for key, value in state.ranges.items():
                self.quantizers.activations[key].range.assign(value)
            for key, quantizer in self.quantizers.kernels.items():
                if key in state.kernel_ranges:
                    quantizer.freeze()
                    quantizer.frozen.assign(state.kernel_ranges[key])
                else:
                    quantizer.renew()  # it was frozen for other weights

    def _check_fits(self, state: State) -> None:
        own = self.state()
        for group in ("masks", "ranges", "kernels"):
            theirs, ours = set(getattr(state, group)), set(getattr(own, group))
            if theirs != ours:
                raise ValueError(
                    f"load_state: the state must belong to this model; {group} differ: only in the "
                    f"state {sorted(theirs - ours)}, only in the model {sorted(ours - theirs)}. "
                    "Received: a state of another model, or of other specs"
                )
        for name in ("pruning", "quantization"):
            theirs, ours = getattr(state, name), getattr(own, name)
            if theirs is not None:
                theirs = plan.renamed(theirs, state.paths, own.paths)
            if theirs != ours:
                raise ValueError(
                    f"Compress: `{name}` must equal that of the run that is resumed, which has "
                    f"{theirs}; remove its backup to begin anew. Received: {name}={ours}"
                )

    # --- leaving

    def masked_weights(self) -> list[np.ndarray]:
        """The model's weights in its own order, every dropped one zero, whatever the last update
        wrote.
        """
        masks = {}
        if self.pruner is not None:
            masks = {id(target.kernel): target.mask.numpy() for target in self.pruner.targets}
        weights = []
        for variable in self.model.weights:
            kernel = self.adapter.tf_variable(variable)
            value = kernel.numpy()
            if id(kernel) in masks:
                value = np.where(masks[id(kernel)], value, np.zeros([], value.dtype))
            weights.append(value)
        return weights

    def output_scales(self) -> dict[str, float]:
        """The step between two integers of each output that is rounded, by name."""
        _, names = self.adapter.flat_names(self.model)
        keys = self.quantizers.placement.outputs
        return {
            name: float(self.quantizers.activations[key].scale().numpy())
            for name, key in zip(names, keys, strict=True)
            if key is not None
        }

    def input_range(self, position: int) -> tuple[float, float]:
        """The watched range of a flat input; (0, 1) for one that is not floating."""
        key = self.quantizers.placement.inputs[position]
        if key is None:
            return 0.0, 1.0
        low, high = self.quantizers.activations[key].range.numpy()
        return float(low), float(high)

    @property
    def left_by_user(self) -> bool:
        """Whether all that stays in float does so because `layers` says it."""
        reasons = self.left_out["quantization"].values()
        return bool(reasons) and all(reason == plan.LEFT_BY_USER for reason in reasons)

    def inference_function(
        self, batch_size: int, *, quantized: bool = True, for_file: bool = True
    ) -> Any:
        """As in `Engine`. `quantized=False`: the float network, quantizers off. `for_file`: in the
        ops that make an integer file; otherwise as the network itself computes.
        """
        if self.quantizers is None:
            return inference.inference_function(self.adapter, self.model, batch_size)
        mode = self.quantizers.mode
        before = mode.phase
        try:
            if not quantized:
                mode.phase = Phase.OFF
            with self.quantizers.leaving_the_process(exporting=for_file):
                return inference.inference_function(self.adapter, self.model, batch_size)
        finally:
            mode.phase = before


def _tensors(data: Any) -> list[tf.Tensor]:
    """The tensors of a batch, those inside sparse and ragged ones too."""
    return [part for part in tf.nest.flatten(data, expand_composites=True) if tf.is_tensor(part)]
