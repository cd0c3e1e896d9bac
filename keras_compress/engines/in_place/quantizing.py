"""Fake quantization: ranges that follow the activations, and the patches that put them into a
network.

Rounding is TensorFlow's own `fake_quant` [1]; its gradient passes straight through inside the
range. Ranges follow a moving average whose decay rises with the number of updates seen, min(0.999,
n / (n + 10)), so that the first batch counts in full and no start value has to be outgrown.

References:
    [1] Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference",
        2017, arXiv:1712.05877.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model import save_context

from keras_compress.engines.in_place import forms
from keras_compress.engines.in_place.adapter import Adapter, wrap_method
from keras_compress.engines.in_place.placement import (
    Fixed,
    Granularity,
    OperationPlan,
    Placement,
)
from keras_compress.state import Phase

UNSEEN = (-6.0, 6.0)  # a range before the first batch: ReLU6's, mirrored


@dataclasses.dataclass
class Mode:
    """What the patches do while the next graph is traced. Plain Python: a change takes effect at
    the next trace.
    """

    phase: Phase = Phase.OFF
    updating: bool = False
    """A training step is being traced, so ranges move."""
    decay: tf.Tensor | None = None
    """The share of the old range that stays, in this step."""
    trace: int = 0
    """Counts training steps traced (or run eagerly), to tell calls of one step from those of the
    next.
    """
    constants: bool = False
    """Ranges are written into the graph as numbers, for a graph that leaves the process."""
    exporting: bool = False
    """The graph becomes a TFLite file."""

    @property
    def active(self) -> bool:
        """Whether the patches do anything. A SavedModel of tf_keras is the plain model."""
        return self.phase is not Phase.OFF and not save_context.in_save_context()


def moving_decay(observed: tf.Tensor) -> tf.Tensor:
    """The share of the old range that stays, after `observed` earlier updates: 0 at first, 0.999 in
    the end.
    """
    n = tf.cast(observed, tf.float32)
    return tf.minimum(0.999, n / (n + 10.0))


class ActivationQuantizer:
    """Rounds a tensor to 8 bits over a range that follows it, or over a fixed one."""

    def __init__(self, mode: Mode, bits: int, fixed: Fixed | None):
        self._mode = mode
        self._bits = bits
        self._fixed = fixed
        self._seen: tuple[int, tf.Tensor] | None = None
        self.range: tf.Variable | None = None
        if fixed is None:
            self.range = tf.Variable(UNSEEN, dtype=tf.float32, trainable=False, name="range")

    def __call__(self, tensor: tf.Tensor) -> tf.Tensor:
        mode = self._mode
        if not tensor.dtype.is_floating:
            return tensor
        numbers = tf.cast(tensor, tf.float32)
        if self._fixed is not None:
            limits = (self._fixed.minimum, self._fixed.maximum)
        elif mode.updating and mode.phase.follows:
            limits = tf.unstack(self._follow(tf.stop_gradient(numbers)))
        elif mode.constants:
            with tf.init_scope():
                limits = tuple(float(limit) for limit in self.range.numpy())
        else:
            limits = tf.unstack(tf.convert_to_tensor(self.range))
        if not mode.phase.rounds:
            return tensor
        rounded = tf.quantization.fake_quant_with_min_max_vars(
            numbers, *limits, num_bits=self._bits
        )
        return tf.cast(rounded, tensor.dtype)

    def _follow(self, numbers: tf.Tensor) -> tf.Tensor:
        # Zero is always inside: the integer kernels pad with it.
        low = tf.minimum(tf.reduce_min(numbers), 0.0)
        high = tf.maximum(tf.reduce_max(numbers), 0.0)
        batch = tf.stack([low, high])
        old = tf.convert_to_tensor(self.range)
        if self._seen is not None and self._seen[0] == self._mode.trace:
            # The same range meets a second tensor in this step (a shared layer, the inputs of a
            # Concatenate): it covers both.
            _, old, earlier = self._seen
            batch = tf.stack([tf.minimum(batch[0], earlier[0]), tf.maximum(batch[1], earlier[1])])
        self._seen = (self._mode.trace, old, batch)
        decay = self._mode.decay
        new = decay * old + (1.0 - decay) * batch
        # A diverged step must not take the range with it.
        new = tf.where(tf.reduce_all(tf.math.is_finite(batch)), new, old)
        self.range.assign(new)
        return new


class KernelQuantizer:
    """Rounds a kernel symmetrically (zero stays zero) over its own magnitude, per tensor or per
    channel.
    """

    def __init__(self, mode: Mode, bits: int, granularity: Granularity, variable: tf.Variable):
        self._mode = mode
        self._bits = bits
        self._granularity = granularity
        self.variable = variable
        self.frozen: tf.Variable | None = None
        """The magnitude from `freeze_step` on; before, it is read off the kernel, so that it can
        never be stale.
        """

    def __call__(self, dtype: tf.DType, as_convolution: bool = False) -> tf.Tensor:
        """The rounded kernel; `as_convolution`: one of shape (in, out) as (1, 1, in, out)."""
        kernel = tf.convert_to_tensor(self.variable)
        if as_convolution:  # before the rounding: the converter cannot reshape per-channel scales
            kernel = kernel[None, None]
        if self._mode.constants:
            with tf.init_scope():
                magnitude = tf.constant(self.magnitude().numpy())
        else:
            magnitude = self.magnitude()
        if self._granularity is Granularity.TENSOR:
            rounded = tf.quantization.fake_quant_with_min_max_vars(
                kernel, -magnitude, magnitude, num_bits=self._bits, narrow_range=True
            )
        else:
            flat = self._channels(kernel)
            rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(
                flat, -magnitude, magnitude, num_bits=self._bits, narrow_range=True
            )
            rounded = tf.reshape(rounded, kernel.shape)
        return tf.cast(rounded, dtype)

    def magnitude(self) -> tf.Tensor:
        """The largest magnitude, () or (channels,)."""
        if self.frozen is not None:
            return tf.convert_to_tensor(self.frozen)
        sizes = tf.abs(tf.stop_gradient(tf.convert_to_tensor(self.variable)))
        overall = tf.reduce_max(sizes)
        # A kernel of nothing but zeros still needs a scale.
        overall = tf.where(overall > 0.0, overall, 1.0)
        if self._granularity is Granularity.TENSOR:
            return overall
        sizes = self._channels(sizes)
        channels = tf.reduce_max(sizes, axis=list(range(len(sizes.shape) - 1)))
        # A dead channel takes the kernel's magnitude: a scale near zero would overflow its int32
        # bias.
        return tf.where(channels > 0.0, channels, overall)

    def freeze(self) -> None:
        """Keep the magnitude of this moment."""
        if self.frozen is None:
            self.frozen = tf.Variable(self.magnitude(), trainable=False, name="kernel_range")

    def _channels(self, kernel: tf.Tensor) -> tf.Tensor:
        if self._granularity is Granularity.DEPTHWISE:
            return tf.reshape(kernel, (*kernel.shape[:-2], kernel.shape[-2] * kernel.shape[-1]))
        return kernel


class Quantizers:
    """All quantizers of one model, and the patches through which its operations meet them."""

    def __init__(
        self,
        adapter: Adapter,
        model: Any,
        placement: Placement,
        weight_bits: int,
        activation_bits: int,
    ):
        self.mode = Mode()
        self.placement = placement
        self._adapter = adapter
        self._model = model
        self.activations = {
            key: ActivationQuantizer(self.mode, activation_bits, fixed)
            for key, fixed in placement.quantizers.items()
        }
        self.kernels: dict[str, KernelQuantizer] = {}
        self.observed = tf.Variable(0, dtype=tf.int64, trainable=False, name="observed")
        self._undo: list[Callable[[], None]] = []
        for plan in placement.operations:
            for kernel, granularity in plan.kernels.items():
                storage = adapter.storage(plan.operation, kernel)
                variable = adapter.tf_variable(plan.operation.__dict__[storage])
                shape = "x".join(map(str, variable.shape))
                self.kernels[f"{plan.key}/{kernel}/{shape}"] = KernelQuantizer(
                    self.mode, weight_bits, granularity, variable
                )

    def patch(self) -> None:
        """Put the quantizers into the model's operations."""
        by_operation: dict[str, dict[str, KernelQuantizer]] = {}
        for key, quantizer in self.kernels.items():
            position, kind, kernel, _ = key.split("/")
            by_operation.setdefault(f"{position}/{kind}", {})[kernel] = quantizer
        for plan in self.placement.operations:
            patch = functools.partial(self._patched, plan, by_operation.get(plan.key, {}))
            self._undo.append(wrap_method(plan.operation, "call", patch))
        self._undo.append(wrap_method(self._model, "call", self._patched_model))

    def unpatch(self) -> None:
        """Give every operation its own `call` back."""
        while self._undo:
            self._undo.pop()()

    @contextlib.contextmanager
    def training_step(self) -> Iterator[None]:
        """Everything traced inside is a training step: ranges follow while the phase says so."""
        mode = self.mode
        mode.trace += 1
        mode.updating = True
        if mode.phase.follows:
            mode.decay = moving_decay(self.observed)
            self.observed.assign_add(1)
        try:
            yield
        finally:
            mode.updating = False
            mode.decay = None

    @contextlib.contextmanager
    def leaving_the_process(self, exporting: bool = False) -> Iterator[None]:
        """Graphs traced inside hold the ranges as numbers."""
        before = (self.mode.constants, self.mode.exporting)
        self.mode.constants, self.mode.exporting = True, exporting
        try:
            yield
        finally:
            self.mode.constants, self.mode.exporting = before

    def _patched_model(self, original: Callable) -> Callable:
        structure, _ = self._adapter.structures(self._model)
        flat_structure = tf.nest.flatten(structure)
        if isinstance(structure, dict):
            names = list(sorted(structure))
        else:
            names, _ = self._adapter.flat_names(self._model)

        def rounded(position: int, value: Any) -> Any:
            key = self.placement.inputs[position]
            if key is None:
                return value
            # Keras casts only inside `call`: integers may arrive here for a floating input.
            return self.activations[key](tf.cast(value, flat_structure[position].dtype))

        @functools.wraps(original)
        def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.mode.active:
                return original(inputs, *args, **kwargs)
            if isinstance(
                inputs, dict
            ):  # by name, whatever the order, and perhaps with more than the model takes
                inputs = {
                    name: rounded(names.index(name), value) if name in names else value
                    for name, value in inputs.items()
                }
            else:
                flat = [rounded(i, x) for i, x in enumerate(tf.nest.flatten(inputs))]
                inputs = tf.nest.pack_sequence_as(inputs, flat)
            return original(inputs, *args, **kwargs)

        return call

    def _patched(
        self, plan: OperationPlan, kernels: dict[str, KernelQuantizer], original: Callable
    ) -> Callable:
        quantizers = self.activations
        is_batch_norm = "BatchNormalization" in self._adapter.kinds(plan.operation)

        def quantize(role: str, tensor: tf.Tensor) -> tf.Tensor:
            return quantizers[plan.inner[role]](tensor)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.mode.active:
                return original(*args, **kwargs)
            if is_batch_norm and self.mode.phase is Phase.FROZEN:
                kwargs["training"] = False
            if plan.join is not None:
                args = (tf.nest.map_structure(quantizers[plan.join], args[0]), *args[1:])
            with self._swapped(plan, kernels):
                outputs = self._compute(plan, original, args, kwargs, quantize)
            if plan.output is not None:
                outputs = tf.nest.map_structure(quantizers[plan.output], outputs)
            return outputs

        return call

    def _compute(
        self, plan: OperationPlan, original: Callable, args: tuple, kwargs: dict, quantize: Callable
    ) -> Any:
        call = forms.Call(
            plan.operation, original, args, kwargs, quantize, self.mode.exporting, plan.folded
        )
        activation = plan.activation
        if activation is not None and activation.form and not hasattr(plan.operation, "activation"):
            form = lambda call: activation.form(call.args[0], call.quantize)  # noqa: E731
        else:
            form = plan.row.form or forms.Call.run
        if self.mode.phase.rounds:
            return form(call)
        if any(self.activations[key].range is not None for key in plan.inner.values()):
            form(
                call
                # shows the ranges inside; while watching, the layer's own bits count
            )
        return call.run()

    @contextlib.contextmanager
    def _swapped(self, plan: OperationPlan, kernels: dict[str, KernelQuantizer]) -> Iterator[None]:
        """While inside, the layer holds rounded kernels, and an activation that rounds before it.

        Written to `__dict__`, past the trackers of both Keras, which would take the tensors for new
        state.
        """
        own = plan.operation.__dict__
        before: dict[str, Any] = {}
        try:
            if self.mode.phase.rounds:
                for kernel, quantizer in kernels.items():
                    storage = self._adapter.storage(plan.operation, kernel)
                    before[storage] = own[storage]
                    own[storage] = quantizer(
                        tf.as_dtype(plan.operation.compute_dtype),
                        as_convolution=self.mode.exporting and plan.folded and kernel == "kernel",
                    )
            if plan.activation is not None and "activation" in own:
                before["activation"] = own["activation"]
                own["activation"] = self._activation(plan, own["activation"])
            yield
        finally:
            own.update(before)

    def _activation(self, plan: OperationPlan, function: Callable) -> Callable:
        def activation(tensor: tf.Tensor) -> tf.Tensor:
            if plan.before is not None:
                tensor = self.activations[plan.before](tensor)
            if plan.activation.form is not None and self.mode.phase.rounds:
                return plan.activation.form(
                    tensor, lambda role, x: self.activations[plan.inner[role]](x)
                )
            return function(tensor)

        return activation

    def named_kernels(self) -> Iterator[tuple[str, str, KernelQuantizer]]:
        """(path, kernel, quantizer) of every rounded kernel."""
        paths = {plan.key: plan.path for plan in self.placement.operations}
        for key, quantizer in self.kernels.items():
            position, kind, kernel, _ = key.split("/")
            yield paths[f"{position}/{kind}"], kernel, quantizer

    def ranges(self) -> dict[str, np.ndarray]:
        return {
            key: quantizer.range.numpy()
            for key, quantizer in self.activations.items()
            if quantizer.range is not None
        }
