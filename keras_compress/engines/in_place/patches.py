"""The patches through which a network's operations meet their quantizers."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place import rounding
from keras_compress.engines.in_place.by_ops.interpose import UnitKernel, Units
from keras_compress.engines.in_place.cast_inputs import CastInputs
from keras_compress.engines.in_place.fake_quant import ActivationQuantizer, KernelQuantizer, on_grid
from keras_compress.engines.in_place.followed_ranges import FollowedRange, FollowedRanges
from keras_compress.engines.in_place.forms.call import ActivationCall, Call, number
from keras_compress.engines.in_place.placement import OperationPlan, Placement
from keras_compress.engines.in_place.rows import ActivationRow, Output
from keras_compress.engines.in_place.waiting_relus import WaitingRelus
from keras_compress.engines.quantizers import OnRounded, Quantizers
from keras_compress.engines.state import Phase, State
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.devices import under_xla
from keras_compress.frameworks.protocols import KerasModel, KerasOperation, Method
from keras_compress.frameworks.wrap_method import wrap_method

Activation = Callable[[tf.Tensor], tf.Tensor]
"""A layer's own, or what stands in for it."""


class PatchedQuantizers(Quantizers):
    """All quantizers of one model, and the patches through which its operations meet them."""

    def __init__(
        self,
        adapter: Adapter,
        model: KerasModel,
        placement: Placement,
        weight_bits: int,
        activation_bits: int,
    ):
        super().__init__()
        self.placement = placement
        self._adapter = adapter
        self._model = model
        followed = [key for key, fixed in placement.quantizers.items() if fixed is None]
        self.followed = FollowedRanges(
            self.mode, [key in placement.nonnegative for key in followed], activation_bits
        )
        rows = {key: self.followed[row] for row, key in enumerate(followed)}
        self.activations = {
            key: ActivationQuantizer(self.mode, activation_bits, fixed or rows[key])
            for key, fixed in placement.quantizers.items()
        }
        self.kernels: dict[str, KernelQuantizer] = {}
        self._kernels_of: dict[str, dict[str, KernelQuantizer]] = {}
        self._on_rounded: OnRounded | None = None
        self._waiting = WaitingRelus()
        self._cast_inputs = CastInputs(self.mode, self.activations)
        self._undo: list[Callable[[], None]] = []
        for plan in placement.operations:
            for kernel, granularity in plan.kernels.items():
                storage = adapter.storage(plan.operation, kernel)
                variable = adapter.tf_variable(plan.operation.__dict__[storage])
                shape = "x".join(map(str, variable.shape))
                quantizer = KernelQuantizer(self.mode, weight_bits, granularity, variable)
                self.kernels[f"{plan.key}/{kernel}/{shape}"] = quantizer
                self._kernels_of.setdefault(plan.key, {})[kernel] = quantizer
            self._leave_room_for_bias(plan)
        self._units = Units(
            adapter,
            self.mode,
            placement.operations,
            self.activations,
            weight_bits,
            self._run_leaf,
        )
        self.kernels.update(self._units.kernels)

    @property
    def calls_of_model(self) -> int:
        return self.mode.calls

    @property
    def planned_by_ops(self) -> list[KerasOperation]:
        return [plan.operation for plan in self._units.plans]

    def twins(self) -> dict[str, str]:
        twins, fixed = self.placement.twins, self.placement.quantizers
        return {key: twin for key, twin in twins.items() if fixed[key] is None}

    def rounded_by(self) -> dict[str, str]:
        return {
            plan.path: "as its kind" if plan.unit is None else "op by op"
            for plan in self.placement.operations
            if plan.kernels or plan.output or plan.joined or plan.inner or plan.unit
        }

    def patch(self) -> None:
        for plan in self.placement.operations:
            patch = functools.partial(self._patched, plan)
            self._undo.append(wrap_method(plan.operation, "call", patch))
        self._undo += self._units.patch()
        self._undo.append(wrap_method(self._model, "call", self._patched_model))

    def unpatch(self) -> None:
        while self._undo:
            self._undo.pop()()

    def enter(self, phase: Phase) -> None:
        self.mode.phase = phase
        for activation in self.activations.values():
            activation.forget_seen()
        for quantizer in self.kernels.values():
            if phase is Phase.FROZEN:
                quantizer.freeze()
            else:
                quantizer.frozen = None

    def settle(self) -> None:
        """Nothing: a kernel's magnitude is read off it whenever it is rounded."""

    @contextlib.contextmanager
    def training_step(self, compiled_inside: bool = False) -> Iterator[None]:
        with super().training_step(compiled_inside):
            yield
        if self.mode.phase.follows:
            self._agree()

    def _agree(self) -> None:
        """Give all replicas of a strategy one range for each tensor, as there is one file: that
        which holds all of theirs, as one device would have seen it.

        After the step, not in `_follow`: replicas are traced in turns that change at every such
        exchange, and must not change while a layer's weights are swapped.
        """
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return
        ranges = self.followed.variable
        # Each has moved the same old range towards its own rows: the least of what came of it is
        # what the least of all rows would have given.
        all_ranges = replica.all_gather(tf.convert_to_tensor(ranges)[None], axis=0)
        lows, highs = tf.unstack(all_ranges, num=2, axis=2)
        widest = tf.stack([tf.reduce_min(lows, axis=0), tf.reduce_max(highs, axis=0)], axis=1)
        ranges.assign(widest)

    def _patched_model(self, original: Method) -> Method:
        structure, _ = self._adapter.structures(self._model)
        tree = self._adapter.tree
        dtypes = [tensor.dtype for tensor in tree.flatten(structure)]
        names, _ = self._adapter.flat_names(self._model)

        def rounded(position: int, value: tf.Tensor) -> tf.Tensor:
            key = self.placement.inputs[position]
            if key is None:
                return value
            if tf.as_dtype(dtypes[position]).is_integer:
                if self.mode.exporting or self._on_rounded is not None:
                    self._cast_inputs.give(key, value)
                return value
            # Keras casts only inside `call`: integers may arrive here for a floating input.
            return self.activations[key](tf.cast(value, dtypes[position]))

        @functools.wraps(original)
        def call(inputs: object, *args: object, **kwargs: object) -> object:
            inputs = self.mode.called_with(inputs)
            if not self.mode.active:
                return original(inputs, *args, **kwargs)
            try:
                with self.followed.call_of_model(), self._waiting.call_of_model():
                    if isinstance(inputs, dict):
                        # By name, whatever the order, and perhaps with more than the model takes.
                        inputs = {
                            name: rounded(names.index(name), value) if name in names else value
                            for name, value in inputs.items()
                        }
                    else:
                        flat = [rounded(i, x) for i, x in enumerate(tree.flatten(inputs))]
                        inputs = tree.pack_sequence_as(inputs, flat)
                    return original(inputs, *args, **kwargs)
            finally:
                self._cast_inputs.forget()

        return call

    def _patched(self, plan: OperationPlan, original: Method) -> Method:
        is_batch_norm = "BatchNormalization" in self._adapter.kinds(plan.operation)

        @functools.wraps(original)
        def call(*args: object, **kwargs: object) -> object:
            if not self.mode.active or self._units.is_inside:
                return original(*args, **kwargs)
            if is_batch_norm and self.mode.phase is Phase.FROZEN:
                args, kwargs = _in_inference(original, args, kwargs)
            if plan.casts is not None:
                args, kwargs = self._cast_inputs.rounded(plan.casts, args, kwargs)
            if plan.rounds_input and plan.output and self.mode.exporting:
                again = self.activations[plan.output]  # of rounded numbers it makes the same

                def rounded_again(given: object) -> object:
                    return again(given) if tf.is_tensor(given) else given

                args, kwargs = tf.nest.map_structure(rounded_again, (args, kwargs))
            with self._swapped(plan):
                outputs = self._compute(plan, original, args, kwargs)
            if plan.row.output is Output.SHARED and plan.output and self._imitates:
                outputs = self.activations[plan.output].breaking_ties(outputs)
            if plan.pools is not None:
                waited = self._waiting.take((*args, *kwargs.values()))
                if waited is not None:
                    return self._relu_and_rounding(plan.pools, outputs, waited)
            if plan.output is not None:
                if not self._rounds_in_relu(plan):
                    rounded = functools.partial(
                        self._round, plan, "output", plan.output, shares=plan.shares
                    )
                    outputs = tf.nest.map_structure(rounded, outputs)
            elif plan.joined is not None:  # of inputs that are rounded
                outputs = self._shown(plan, "output", plan.joined, outputs)
            return outputs

        return call

    def floating_inputs(self) -> set[int]:
        """The flat inputs that a file of the network, as it is now, takes as real numbers."""
        inputs = self.placement.inputs if self.mode.phase.rounds else []
        return {position for position, key in enumerate(inputs) if key is not None}

    @property
    def _imitates(self) -> bool:
        """Whether what the integer kernels do by themselves has to be computed here."""
        return self.mode.phase.rounds and not self.mode.exporting

    def _run_leaf(
        self,
        plan: OperationPlan,
        original: Method,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> tf.Tensor:
        """A layer of the table inside of a unit."""
        is_batch_norm = "BatchNormalization" in self._adapter.kinds(plan.operation)
        if is_batch_norm and self.mode.phase is Phase.FROZEN:
            kwargs = {**kwargs, "training": False}
        with self._swapped(plan):
            return self._compute(plan, original, args, kwargs)

    def _compute(
        self,
        plan: OperationPlan,
        original: Method,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> tf.Tensor:
        if plan.unit is not None:
            return self._units.run(plan, original, args, kwargs)
        call = Call(
            plan.operation,
            original,
            args,
            kwargs,
            exporting=self.mode.exporting,
            moves=self.mode.moves,
            quantize=functools.partial(self._inside, plan),
            folded=plan.front is not None or plan.norm is not None,
            constant=self._constant,
            rescales=plan.rescales,
            offset_on_grid=functools.partial(self._offset_on_grid, plan),
            of_weights=self.mode.number,
        )
        form = plan.row.form or Call.run
        if plan.activation is not None and not hasattr(plan.operation, "activation"):
            form = functools.partial(self._activated_call, plan)
        if self.mode.phase.rounds:
            return form(call)
        if form is not Call.run and self._has_ranges_inside(plan):
            form(call)  # shows them; while watching, the layer's own bits count
        return call.run()

    def _has_ranges_inside(self, plan: OperationPlan) -> bool:
        return any(self.activations[key].range is not None for key in plan.inner.values())

    def _inside(self, plan: OperationPlan, role: str, tensor: tf.Tensor) -> tf.Tensor:
        if plan.inner[role] == plan.joined:
            return self.activations[plan.joined](tensor)
        return self._round(plan, role, plan.inner[role], tensor)

    def _round(
        self, plan: OperationPlan, role: str, key: str, tensor: tf.Tensor, shares: bool = False
    ) -> tf.Tensor:
        return self._shown(plan, role, key, self.activations[key](tensor, shares))

    def _shown(self, plan: OperationPlan, role: str, key: str, rounded: tf.Tensor) -> tf.Tensor:
        if self._on_rounded is None:
            return rounded
        return self._on_rounded(plan.path, role, float(self.activations[key].scale()), rounded)

    @contextlib.contextmanager
    def showing(self, on_rounded: OnRounded) -> Iterator[None]:
        self._on_rounded = on_rounded
        try:
            yield
        finally:
            self._on_rounded = None

    @contextlib.contextmanager
    def _swapped(self, plan: OperationPlan) -> Iterator[None]:
        """While inside, the layer holds rounded weights, and an activation that rounds before it.

        Written to `__dict__`, past the trackers of both Keras, which would take the tensors for new
        state.
        """
        own = plan.operation.__dict__
        swaps: dict[str, Any] = {}
        if self.mode.phase.rounds:
            dtype = tf.as_dtype(getattr(plan.operation, "compute_dtype", tf.float32))
            for kernel, quantizer in self._kernels_of.get(plan.key, {}).items():
                storage = self._adapter.storage(plan.operation, kernel)
                lifts = 0
                if self.mode.exporting:
                    lifts = 2 if plan.norm is not None and quantizer.rank == 2 else plan.row.lifts
                swaps[storage] = quantizer(dtype, lifts)
            source = self._grid_source(plan)
            if plan.kernels and plan.norm is None and source is not None:
                bias = self._bias(plan)
                if bias is not None:
                    swaps["bias"] = tf.cast(
                        self.mode.number(lambda: on_grid(bias(), self._grid(plan, source))), dtype
                    )
        if plan.unit is None and plan.activation is not None and "activation" in own:
            swaps["activation"] = self._activation(plan, own["activation"])
        before = {name: own[name] for name in swaps}
        own.update(swaps)
        try:
            yield
        finally:
            own.update(before)

    def _bias(self, plan: OperationPlan) -> Callable[[], tf.Tensor] | None:
        bias = plan.operation.__dict__.get("bias")
        if bias is None:
            return None
        variable = self._adapter.tf_variable(bias)
        return lambda: tf.cast(tf.convert_to_tensor(variable), tf.float32)

    def _leave_room_for_bias(self, plan: OperationPlan) -> None:
        """Let the kernel's scale not be so fine that its bias, in steps of input scale x kernel
        scale, would be too large for the int32 that it becomes.
        """
        bias = self._bias(plan)
        if not plan.kernels or plan.norm is not None or plan.source is None or bias is None:
            return
        source = self.activations[plan.source]
        *_, kernel = self._kernels_of[plan.key].values()
        kernel.least = lambda: kernel.least_for(bias(), source.scale())

    def _grid_source(self, plan: OperationPlan) -> str | None:
        """What rounds the input where biases are rounded too; None where they are not: it is to
        int32, which no training step would notice.
        """
        return None if self.mode.updating else plan.source

    def _grid(self, plan: OperationPlan, source: str) -> tf.Tensor:
        """The step of the integer sum that a kernel layer computes, () or (channels,)."""
        *_, kernel = self._kernels_of[plan.key].values()  # a separable one ends in its pointwise
        return self.activations[source].scale() * kernel.scale()

    def _offset_on_grid(
        self, plan: OperationPlan, factor: tf.Tensor, offset: tf.Tensor
    ) -> tf.Tensor:
        """A batch norm's offset, moved to what the integer bias that it becomes can hold."""
        front = plan.front
        source = self._grid_source(front or plan)
        if source is None:
            return offset
        if front is None:
            # On its own it is a depthwise convolution whose kernel is `factor`.
            return on_grid(offset, self.activations[source].scale() * tf.abs(factor) / 127.0)
        bias = self._bias(front)
        total = offset if bias is None else offset + bias() * factor
        return offset + on_grid(total, self._grid(front, source) * tf.abs(factor)) - total

    def _activation(self, plan: OperationPlan, function: Activation) -> Activation:
        """What stands in for a layer's own activation."""

        def activation(tensor: tf.Tensor) -> tf.Tensor:
            if plan.before is not None:
                tensor = self._round(plan, "before", plan.before, tensor)
            return self._activated(plan, function, tensor)

        return activation

    def _activated_call(self, plan: OperationPlan, call: Call) -> tf.Tensor:
        """An operation that is nothing but an activation."""

        def function(x: tf.Tensor) -> tf.Tensor:
            return call.run_on([x, *call.inputs[1:]])  # with the arguments of this call, as a mask

        return self._activated(plan, function, call.inputs[0])

    def _constant(
        self, value: object, shape: Sequence[int] | None = None, by_converter: bool = False
    ) -> tf.Tensor:
        numbers = functools.partial(number, self._adapter, value, shape)
        if not self.mode.phase.rounds:
            return numbers()
        if by_converter and self.mode.exporting:
            return self.mode.number(numbers)
        low, high = (
            self.mode.number(functools.partial(_end, numbers, by_converter, i)) for i in (0, 1)
        )
        return rounding.rounded_over_their_own(
            self.mode.number(numbers), low, high, narrow_range=by_converter
        )

    def _activated(self, plan: OperationPlan, function: Activation, tensor: tf.Tensor) -> tf.Tensor:
        row = cast(ActivationRow, plan.activation)
        if self._rounds_in_relu(plan):
            if plan.pooling is not None and self._waiting.can_wait:
                self._waiting.add(plan.path, tensor)
                return tensor
            return self._relu_and_rounding(plan, tensor)
        rounds = self.mode.phase.rounds
        if row.form is None or not (rounds or self._has_ranges_inside(plan)):
            return function(tensor)
        quantize = functools.partial(self._inside, plan)
        call = ActivationCall(tensor, function, quantize, self._constant, self.mode.exporting)
        shown = row.form(call)
        return shown if rounds else function(tensor)

    def _relu_and_rounding(
        self, plan: OperationPlan, tensor: tf.Tensor, of: tf.Tensor | None = None
    ) -> tf.Tensor:
        limit = cast(ActivationRow, plan.activation).relu_to
        return self.activations[cast(str, plan.output)].relu(tensor, cast(float, limit), of)

    def _rounds_in_relu(self, plan: OperationPlan) -> bool:
        """Whether the rounding of the output is done together with the ReLU that it ends in: in a
        training step, where XLA does not make one pass of them anyway.
        """
        # One that is a property of a class is not swapped.
        swapped = "activation" in vars(plan.operation)
        return (
            plan.activation is not None
            and plan.activation.relu_to is not None
            and (swapped or not hasattr(plan.operation, "activation"))
            and plan.output is not None
            and plan.unit is None
            and self.mode.updating
            and self.mode.phase.rounds
            and not under_xla()
        )

    def kernels_by_path(self) -> Iterator[tuple[str, str, tf.Variable]]:
        paths = {plan.key: plan.path for plan in self.placement.operations}
        for key, quantizer in self.kernels.items():
            if isinstance(quantizer, UnitKernel):
                if quantizer.weight is not None:
                    yield quantizer.weight.path, quantizer.weight.name, quantizer.variable
                continue
            position, kind, kernel, _ = key.split("/")
            yield paths[f"{position}/{kind}"], kernel, quantizer.variable

    def kernel_scale(self, kernel: tf.Variable) -> np.ndarray | None:
        for quantizer in self.kernels.values():
            if quantizer.variable is kernel:
                scale: np.ndarray = quantizer.scale().numpy()
                return scale
        return None

    def ranges(self) -> dict[str, np.ndarray]:
        return {
            key: quantizer.range.numpy()
            for key, quantizer in self.activations.items()
            if quantizer.range is not None
        }

    def paths_of_ranges(self) -> dict[str, str]:
        paths = {plan.key: plan.path for plan in self.placement.operations}
        found = {}
        for key in self.ranges():
            position, kind, *role = key.split("/")
            path = paths.get(f"{position}/{kind}")
            found[key] = key if path is None else "/".join((path, *role))
        return found

    def write_to(self, state: State) -> None:
        state.ranges = self.ranges()
        state.kernels = tuple(self.kernels)
        state.kernel_ranges = {
            key: quantizer.frozen.numpy()
            for key, quantizer in self.kernels.items()
            if quantizer.frozen is not None
        }

    def read_from(self, state: State) -> None:
        for key, value in state.ranges.items():
            self._range(key).assign(value)
        for key, quantizer in self.kernels.items():
            if key in state.kernel_ranges:
                quantizer.freeze()
                quantizer.keep(key, state.kernel_ranges[key])
            else:
                quantizer.renew()  # it was frozen for other weights

    def input_range(self, position: int) -> tuple[float, float] | None:
        key = self.placement.inputs[position]
        return None if key is None else self.activations[key].limits

    def set_input_range(self, position: int, limits: tuple[float, float]) -> None:
        self._range(cast(str, self.placement.inputs[position])).assign(limits)

    def _range(self, key: str) -> FollowedRange:
        """The range of a quantizer that follows its tensor."""
        return cast(FollowedRange, self.activations[key].range)


def _end(numbers: Callable[[], tf.Tensor], symmetric: bool, which: int) -> tf.Tensor:
    """The lower (0) or upper (1) end of the range that holds numbers and zero."""
    found = tf.stop_gradient(numbers())
    low, high = tf.minimum(tf.reduce_min(found), 0.0), tf.maximum(tf.reduce_max(found), 0.0)
    if symmetric:
        high = tf.maximum(high, -low)
        low = -high
    if which == 0:
        return low
    return tf.where(high > low, high, low + 1.0)  # nothing but zeros still needs a scale


def _in_inference(
    original: Method, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The arguments of a call, with `training=False`, however it was passed."""
    names = list(inspect.signature(original).parameters)
    place = names.index("training") if "training" in names else len(args)
    if place < len(args):
        return (*args[:place], False, *args[place + 1 :]), kwargs
    return args, {**kwargs, "training": False}
