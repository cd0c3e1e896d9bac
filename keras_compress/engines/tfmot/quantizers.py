"""tfmot's quantizers with what they lack: a phase, and ranges that start at the first batch.

Each quantizer object of the wrappers is replaced by one of a derived class that asks the phase
first. The derived class has the name and module of the original, because a saved model refers to
it by them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeGuard

import numpy as np
import tensorflow as tf

from keras_compress.engines.quantizers import Mode, OnRounded, Quantizers
from keras_compress.engines.state import Phase, State
from keras_compress.engines.tfmot.library import (
    QUANTIZED,
    WRAPPERS,
    basename,
    is_own,
    tfmot,
    unwrapped_layer,
    wrapped_layers,
    wrapper_path,
)
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasLayer, KerasModel

Ranges = dict[str, tf.Variable]
"""The variables of one quantizer: "min_var" and "max_var", where it is one that has a range."""


class Quantizer(Protocol):
    """One of tfmot's, or of the user's own, which may be of any form."""

    def __call__(
        self, inputs: tf.Tensor, training: object, weights: Ranges, **kwargs: object
    ) -> tf.Tensor: ...


class WrapperQuantizers(Quantizers):
    """The quantizers in a model's `QuantizeWrapper`s and `QuantizeLayer`s.

    `split`: path of a half of a SeparableConv2D -> its own. `driven=False` leaves the quantizers to
    themselves: on from the first step, with tfmot's own averages.
    """

    def __init__(self, adapter: Adapter, model: KerasModel, split: dict[str, str], driven: bool):
        super().__init__()
        self._adapter = adapter
        self._model = model
        self._driven = driven
        self._undo: list[Callable[[], None]] = []
        self.kernels: dict[str, tuple[str, str, tf.Variable, Quantizer, Ranges]] = {}
        """Key -> (path, kernel's name, kernel, quantizer, its range variables)."""
        self.activations: dict[str, Ranges] = {}
        """Key -> range variables."""
        self._inputs: dict[str, Ranges] = {}
        for position, (path, layer) in enumerate(wrapped_layers(model)):
            key = f"{position}/{type(layer).__name__}"
            if is_own(layer, ("QuantizeLayer",)):
                if layer.quantizer is not None:
                    self._note(f"{key}/input", layer.quantizer_vars)
                    source = layer.input._keras_history.layer  # which input it rounds
                    self._inputs[source.name] = layer.quantizer_vars
            elif is_own(layer, QUANTIZED):
                for variable, quantizer, ranges in layer._weight_vars:
                    name = basename(variable)
                    shape = "x".join(map(str, variable.shape))
                    kernel = adapter.tf_variable(variable)
                    own = (split.get(path, path), name, kernel, quantizer, ranges)
                    self.kernels[f"{key}/{name}/{shape}"] = own
                for number, activation in enumerate(layer._quantize_activations):
                    for slot in ("_pre_activation_vars", "_post_activation_vars"):
                        self._note(f"{key}/{number}{slot}", getattr(activation, slot, None))
                if layer._output_quantizers:
                    self._note(f"{key}/output", layer._output_quantizer_vars)

    def _note(self, key: str, ranges: Ranges | None) -> None:
        if _is_range(ranges):
            self.activations[key] = ranges

    def rounded_by(self) -> dict[str, str]:
        return {path: "tfmot's wrapper" for path, _, _ in self.kernels_by_path()}

    def patch(self) -> None:
        for _, layer in wrapped_layers(self._model):
            if is_own(layer, QUANTIZED) and self._driven:
                self._replace(layer, lambda quantizer: gated(quantizer, self.mode), self._undo)
            if is_own(layer, WRAPPERS):
                self._list_kernels(layer)
            inner = unwrapped_layer(layer)
            if "BatchNormalization" in self._adapter.kinds(inner):
                self._freeze_with_phase(inner)

    @staticmethod
    def _replace(
        layer: Any, make: Callable[[Quantizer], Quantizer], undo: list[Callable[[], None]]
    ) -> None:
        """Put what `make` gives in the place of every quantizer of a wrapper."""

        def replace(owner: dict[str, Any], name: str, value: object) -> None:
            before = owner[name]
            owner[name] = value
            undo.append(lambda: owner.__setitem__(name, before))

        if is_own(layer, ("QuantizeLayer",)):
            if layer.quantizer is not None:
                replace(vars(layer), "quantizer", make(layer.quantizer))
            return
        weights = [(w, make(q), ranges) for w, q, ranges in layer._weight_vars]
        replace(vars(layer), "_weight_vars", weights)
        for activation in layer._quantize_activations:
            replace(vars(activation), "quantizer", make(activation.quantizer))
        if layer._output_quantizers:
            replace(vars(layer), "_output_quantizers", [*map(make, layer._output_quantizers)])

    @contextlib.contextmanager
    def showing(self, on_rounded: OnRounded) -> Iterator[None]:
        undo: list[Callable[[], None]] = []
        try:
            for path, layer in wrapped_layers(self._model):
                if is_own(layer, WRAPPERS) and is_own(layer, QUANTIZED):
                    show = functools.partial(
                        self._showing, layer, wrapper_path(path, layer), on_rounded
                    )
                    self._replace(layer, show, undo)
            yield
        finally:
            while undo:
                undo.pop()()

    def _showing(
        self, layer: Any, path: str, on_rounded: OnRounded, quantizer: Quantizer
    ) -> Quantizer:
        """A quantizer that does what this one does, and shows it where it rounds what `layer`
        computes.
        """

        def show(
            inputs: tf.Tensor, training: object, weights: Ranges, **kwargs: object
        ) -> tf.Tensor:
            rounded = quantizer(inputs, training, weights, **kwargs)
            is_activation = any(weights is own for own in self.activations.values())
            step = _step(quantizer, weights) if is_activation else None
            if step is None:
                return rounded
            before = any(
                weights is getattr(activation, "_pre_activation_vars", None)
                for activation in layer._quantize_activations
            )
            return on_rounded(path, "before" if before else "output", float(step), rounded)

        return show

    def _freeze_with_phase(self, norm: KerasLayer) -> None:
        """From `freeze_step` on a batch norm normalizes with its moving statistics."""
        own, original, mode = vars(norm), norm.call, self.mode

        # With `training` among its arguments, where the wrapper looks for it; and a method, whose
        # first argument tf_keras leaves out when it writes a SavedModel.
        def call(
            _: object, inputs: object, training: object = None, *others: object, **named: object
        ) -> object:
            frozen = mode.phase is Phase.FROZEN
            return original(inputs, False if frozen else training, *others, **named)

        own["call"] = types.MethodType(call, norm)
        self._undo.append(lambda: own.pop("call", None))

    def _list_kernels(self, layer: Any) -> None:
        """Give the kernels in a wrapper back to the list of their layer, which heeds `trainable`;
        tfmot's own list does not, and thaws what is frozen.
        """
        own, inner = vars(layer), vars(layer.layer)
        listed, others = own["_trainable_weights"], inner["_trainable_weights"]
        kernels = [
            variable
            for variable, _, _ in layer._weight_vars
            if not any(variable is other for other in others)
        ]
        own["_trainable_weights"], inner["_trainable_weights"] = [], [*kernels, *others]

        def undo() -> None:
            own["_trainable_weights"], inner["_trainable_weights"] = listed, others

        self._undo.append(undo)

    def unpatch(self) -> None:
        while self._undo:
            self._undo.pop()()

    def enter(self, phase: Phase) -> None:
        if phase.rounds and not self.mode.phase.rounds:
            self.settle()  # nobody has looked at the kernels since the last update
        self.mode.phase = phase

    def settle(self) -> None:
        if self.mode.phase is Phase.FROZEN or not self._driven:
            return
        for _, _, kernel, quantizer, ranges in self.kernels.values():
            quantizer(tf.convert_to_tensor(kernel), True, ranges)  # keeps the range of its kernel

    def kernels_by_path(self) -> Iterator[tuple[str, str, tf.Variable]]:
        for path, name, kernel, _, _ in self.kernels.values():
            yield path, name, kernel

    def kernel_bits(self, kernel: tf.Variable) -> int | None:
        for _, _, own, quantizer, _ in self.kernels.values():
            if own is kernel:
                return getattr(quantizer, "num_bits", None)
        return None

    def kernel_scale(self, kernel: tf.Variable) -> np.ndarray | None:
        for _, _, own, quantizer, ranges in self.kernels.values():
            if own is kernel and _is_range(ranges):
                return _step(quantizer, ranges)
        return None

    def ranges(self) -> dict[str, np.ndarray]:
        return {key: _limits(ranges) for key, ranges in self.activations.items()}

    def paths_of_ranges(self) -> dict[str, str]:
        paths = [path for path, _ in wrapped_layers(self._model)]
        found = {}
        for key in self.activations:
            position, _, role = key.split("/", 2)
            found[key] = f"{paths[int(position)]}/{role}"
        return found

    def write_to(self, state: State) -> None:
        state.ranges = self.ranges()
        state.kernels = tuple(self.kernels)
        state.kernel_ranges = {key: _limits(ranges) for key, ranges in self._kernel_ranges()}

    def _kernel_ranges(self) -> Iterator[tuple[str, Ranges]]:
        return ((key, own[-1]) for key, own in self.kernels.items() if _is_range(own[-1]))

    def read_from(self, state: State) -> None:
        for group, known in (
            (state.ranges, self.activations),
            (state.kernel_ranges, dict(self._kernel_ranges())),
        ):
            for key, limits in group.items():
                own = _limits(known[key])
                if limits.shape != own.shape or (limits[0] > limits[1]).any():
                    raise ValueError(
                        f"load_state: the range {key!r} must be a minimum and a maximum, of the "
                        f"shape {own.shape}. Received: {limits!r}"
                    )
                known[key]["min_var"].assign(limits[0])
                known[key]["max_var"].assign(limits[1])

    def _input(self, position: int) -> str:
        tensor: Any = self._model.inputs[position]
        return str(tensor._keras_history.layer.name)

    def input_range(self, position: int) -> tuple[float, float] | None:
        ranges = self._inputs.get(self._input(position))
        if ranges is None:
            return None
        low, high = _limits(ranges)
        return float(low), float(high)

    def set_input_range(self, position: int, limits: tuple[float, float]) -> None:
        ranges = self._inputs[self._input(position)]
        ranges["min_var"].assign(limits[0])
        ranges["max_var"].assign(limits[1])


def gated(quantizer: Quantizer, mode: Mode) -> Quantizer:
    """A copy of one of tfmot's quantizers that does by the phase."""
    kind = type(quantizer)
    averages = isinstance(quantizer, tfmot().quantizers.MovingAverageQuantizer)

    def call(
        self: Any, inputs: tf.Tensor, training: object, weights: Ranges, **kwargs: object
    ) -> tf.Tensor:
        phase = mode.phase
        # Never a variable: set as a layer's kernel, it would be listed, and dropped with the next.
        inputs = mode.called_with(tf.convert_to_tensor(inputs))
        if "sparsity_mask" in weights:  # the scheme that keeps zeros keeps them in every phase
            inputs = tf.multiply(inputs, weights["sparsity_mask"])
        if phase is Phase.OFF:
            return inputs
        training = bool(training) and mode.updating and phase.follows
        if averages and training:
            rounded = tfmot().MovingAvgQuantize(
                inputs,
                weights["min_var"],
                weights["max_var"],
                ema_decay=tf.convert_to_tensor(mode.decay),
                is_training=True,
                num_bits=self.num_bits,
                per_channel=self.per_axis,
                symmetric=self.symmetric,
                narrow_range=self.narrow_range,
            )
        else:
            rounded = kind.__call__(self, inputs, training, weights, **kwargs)
        return rounded if phase.rounds else inputs

    def body(namespace: dict[str, Any]) -> None:
        namespace.update(__call__=call, __module__=kind.__module__, __qualname__=kind.__qualname__)

    derived = types.new_class(kind.__name__, (kind,), exec_body=body)
    copied = copy.copy(quantizer)
    copied.__class__ = derived
    return copied


def _is_range(variables: Ranges | None) -> TypeGuard[Ranges]:
    """Whether these are a range. A quantizer of a fixed one has none, and a user's own may have any
    variables, which are saved with the weights.
    """
    return variables is not None and {"min_var", "max_var"} <= set(variables)


def _step(quantizer: Quantizer, ranges: Ranges) -> np.ndarray | None:
    """The real value of one integer, () or (channels,); None where a user's own quantizer does not
    say how many there are.
    """
    if not hasattr(quantizer, "num_bits"):
        return None
    low, high = _limits(ranges)
    count = 2**quantizer.num_bits - 1 - getattr(quantizer, "narrow_range", False)
    step: np.ndarray = (high - low) / count
    return step


def _limits(ranges: Ranges) -> np.ndarray:
    return np.stack([ranges["min_var"].numpy(), ranges["max_var"].numpy()])
