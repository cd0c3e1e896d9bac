"""A unit run: its own call, in the graph that is being traced, with rounded inputs put in as each
op is made.

The call is traced dry first, and planned. Then the n-th op that it makes is compared with the n-th
of the dry trace. What is rounded is so when it is first used, not when it is made: the gradient
tape learns of an op only after its maker has returned.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import tensorflow as tf

from keras_compress.engines.in_place import rounding
from keras_compress.engines.in_place.by_ops.insides import Insides, only_number, tensors_of
from keras_compress.engines.in_place.by_ops.op_plan import OUTPUT, Kernel, OpPlan
from keras_compress.engines.in_place.by_ops.ops import OPS
from keras_compress.engines.in_place.by_ops.pieces import UNCOUNTED, LeafPlan, Refused
from keras_compress.engines.in_place.by_ops.unit import Unit
from keras_compress.engines.in_place.fake_quant import ActivationQuantizer, KernelQuantizer
from keras_compress.engines.in_place.forms.operators import SMALLEST_EXCESS
from keras_compress.engines.in_place.placement import OperationPlan
from keras_compress.engines.in_place.rows import Output
from keras_compress.engines.quantizers import Mode
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.graph_capture import DryTrace, OpHook, StandIn
from keras_compress.frameworks.protocols import KerasLayer, Method

logger = logging.getLogger("keras_compress")

RunLeaf = Callable[[OperationPlan, Method, tuple[Any, ...], dict[str, Any]], Any]
"""How the call of a layer of the table is done."""


class UnitKernel(KernelQuantizer):
    """Rounds a kernel of a unit, as the op meets it."""

    def __init__(self, mode: Mode, bits: int, unit: Unit, kernel: Kernel):
        weight = unit.weights.get(kernel.label)
        super().__init__(mode, bits, kernel.granularity, weight and weight.variable)
        self.weight = weight
        self._trace, self._tensor = unit.plan.trace, kernel.tensor

    def magnitude(self) -> tf.Tensor:
        if self.frozen is not None:
            return tf.convert_to_tensor(self.frozen)
        return self._magnitude_of(self._trace.evaluate(self._tensor))

    def of(self, kernel: tf.Tensor, trace: DryTrace, there: tf.Tensor) -> tf.Tensor:
        """`kernel` rounded; `there`: the same in the dry trace."""

        def magnitude() -> tf.Tensor:
            if self.frozen is not None:
                return tf.convert_to_tensor(self.frozen)
            numbers = trace.evaluate(there) if self._mode.constants else kernel
            return self._magnitude_of(numbers)

        numbers = tf.cast(kernel, tf.float32)
        return tf.cast(self._rounded(numbers, self._mode.number(magnitude)), kernel.dtype)


def unit_of(plan: OperationPlan) -> Unit:
    """The unit of an operation that is known to be one."""
    return cast(Unit, plan.unit)


class Units:
    """All units of one model."""

    def __init__(
        self,
        adapter: Adapter,
        mode: Mode,
        plans: Sequence[OperationPlan],
        activations: dict[str, ActivationQuantizer],
        bits: int,
        run_leaf: RunLeaf,
    ):
        self._adapter = adapter
        self._mode = mode
        self._activations = activations
        self._run_leaf = run_leaf
        self.plans = [plan for plan in plans if plan.unit is not None]
        self.insides = Insides(adapter, [plan.operation for plan in self.plans])
        self.kernels: dict[str, UnitKernel] = {}
        """By key: stem, label, shape."""
        self._kernel_keys: dict[tuple[str, str], str] = {}
        for plan in self.plans:
            unit = unit_of(plan)
            for kernel in unit.plan.kernels.values():
                shape = "x".join(map(str, kernel.tensor.shape))
                key = f"{plan.key}/{kernel.label}/{shape}"
                self.kernels[key] = UnitKernel(mode, bits, unit, kernel)
                self._kernel_keys[plan.key, kernel.label] = key
        taken = max((n for plan in plans for n in plan.rescales.values()), default=0)
        self._numbers = itertools.count(taken + 1)
        self._is_warned = False
        self._excess: dict[tuple[str, tuple[int, int]], int] = {}

    def patch(self) -> list[Callable[[], None]]:
        return self.insides.patch()

    @property
    def is_inside(self) -> bool:
        """Whether a unit is running, whose layers are its own business."""
        return self.insides.current is not None

    def run(
        self, plan: OperationPlan, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """What the call gives, its inside watched or rounded; its output is not."""
        if tf.executing_eagerly():
            return self._run_eagerly(plan, original, args, kwargs)
        try:
            left = unit_of(plan).left
            dry = self.insides.plan(plan.operation, original, args, kwargs, left)
        except Refused as refused:
            raise ValueError(
                f"Quantization: {plan.path!r} must compute in training as it does in inference, or "
                f"be left out by `layers`. Received: a layer with {refused}"
            ) from refused
        expected = unit_of(plan).plan
        if dry.signature != expected.signature:
            raise ValueError(
                f"Quantization: {plan.path!r} must compute in training as it does in inference, or "
                "be left out by `layers`; what only training does belongs into a Keras layer, as "
                f"Dropout is. Received: a layer that rounds {_difference(dry, expected)}"
            )
        real = _Real(self, plan, dry)
        with self.insides.running(real), OpHook(real.make).on(tf.compat.v1.get_default_graph()):
            result = original(*args, **kwargs)
            return real.finished(result)

    def _run_eagerly(
        self, plan: OperationPlan, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As a function, traced anew at each call: eagerly no op is made that inputs could be put
        into.
        """
        if self._mode.updating and not self._is_warned:
            self._is_warned = True
            logger.warning(
                "Quantization: %r is quantized inside by its TensorFlow ops, which without "
                "`run_eagerly` are found once; eagerly they are at every step, which is slow.",
                plan.path,
            )
        given = tensors_of((args, kwargs))
        layers = [layer for _, layer in self.insides.below[id(plan.operation)]]
        lists = [own for layer in layers for own in self._adapter.loss_lists(layer)]
        lengths = [len(own) for own in lists]
        results: list[Any] = []
        seen: list[ActivationQuantizer] = []

        def inside(*tensors: tf.Tensor) -> list[tf.Tensor]:
            own = iter(tensors)
            there_args, there_kwargs = tf.nest.map_structure(
                lambda part: next(own) if tf.is_tensor(part) else part, (args, kwargs)
            )
            result = self.run(plan, original, there_args, there_kwargs)
            results.append(result)
            losses = [loss for own, n in zip(lists, lengths, strict=True) for loss in own[n:]]
            seen.extend(q for q in self._activations.values() if q.seen_in_graph)
            ranges = [tensor for quantizer in seen for tensor in quantizer.seen]
            return [*tensors_of(result), *losses, *ranges]

        traced = tf.function(inside, autograph=False).get_concrete_function(*given)
        found = iter(traced(*given))
        result = tf.nest.map_structure(
            lambda part: next(found) if tf.is_tensor(part) else part, results[0]
        )
        for own, n in zip(lists, lengths, strict=True):
            own[n:] = [next(found) for _ in own[n:]]
        for quantizer in seen:
            quantizer.see([next(found) for _ in quantizer.seen])
        return result

    # --- what a run asks for

    def quantizer(self, plan: OperationPlan, label: str) -> ActivationQuantizer | None:
        """None where others round it."""
        key = plan.output if label == OUTPUT else plan.inner[label]
        return None if key is None else self._activations[key]

    def rounded(
        self,
        plan: OperationPlan,
        label: str,
        tensor: tf.Tensor,
        ties: bool = False,
        shares: bool = False,
    ) -> tf.Tensor:
        quantizer = self.quantizer(plan, label)
        if quantizer is None:
            return tensor
        if ties and self._mode.phase.rounds and not self._mode.exporting:
            tensor = quantizer.breaking_ties(tensor)
        return quantizer(tensor, shares)

    def kernel(self, plan: OperationPlan, dry: OpPlan, kernel: Kernel, tensor: tf.Tensor) -> Any:
        quantizer = self.kernels[self._kernel_keys[plan.key, kernel.label]]
        return quantizer.of(tensor, dry.trace, kernel.tensor)

    def constant(self, dry: OpPlan, there: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
        """A constant, or what weights make, rounded over its own range."""

        def limits() -> tf.Tensor:
            numbers = dry.trace.evaluate(there) if self._mode.constants else tensor
            numbers = tf.cast(tf.stop_gradient(numbers), tf.float32)
            low = tf.minimum(tf.reduce_min(numbers), 0.0)
            high = tf.maximum(tf.reduce_max(numbers), 0.0)
            return tf.stack([low, tf.where(high > low, high, low + 1.0)])

        low, high = tf.unstack(self._mode.number(limits))
        numbers = tf.cast(tensor, tf.float32)
        return tf.cast(rounding.rounded_over_their_own(numbers, low, high), tensor.dtype)

    def kept_apart(
        self, plan: OperationPlan, place: tuple[int, int], tensor: tf.Tensor
    ) -> tf.Tensor:
        """A tensor that has a range, for another one: see `forms.operators.join`."""
        if not self._mode.exporting:
            return tensor
        number = self._excess.setdefault((plan.key, place), next(self._numbers))
        return tensor * tf.constant(1.0 + number * SMALLEST_EXCESS, tensor.dtype)

    def run_leaf(
        self,
        plan: OperationPlan,
        leaf: LeafPlan,
        original: Method,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        call = leaf.call
        own = OperationPlan(call.layer, plan.path, plan.key, call.row, call.activation)
        own.inner = {role: plan.inner[label] for role, label in leaf.inner.items()}
        own.front = OperationPlan(plan.operation, plan.path, "", plan.row) if leaf.folded else None
        return self._run_leaf(own, original, args, kwargs)

    @property
    def mode(self) -> Mode:
        return self._mode


class _Real:
    """One real trace under way."""

    def __init__(self, units: Units, plan: OperationPlan, dry: OpPlan):
        self._units = units
        self._plan = plan
        self._dry = dry
        self.graph = tf.compat.v1.get_default_graph()
        self._count = 0
        self._leaf_count = 0
        self._busy = False
        self._pending: dict[int, tuple[str, bool, bool]] = {}
        self._rounded: dict[int, tf.Tensor] = {}
        self._keep: list[tf.Tensor] = []  # ids are theirs only while they live

    def make(self, original: Callable[..., Any], op_type: str, inputs: Sequence[tf.Tensor]) -> Any:
        if self._busy or op_type in UNCOUNTED:
            return original(inputs)
        position, dry = self._count, self._dry
        self._count += 1
        if position >= len(dry.counted) or dry.counted[position].type != op_type:
            raise self._differs(op_type)
        with self._alone():
            own = [self._used(tensor) for tensor in inputs]
            if self._units.mode.phase.follows or self._units.mode.phase.rounds:
                own = [self._input((position, i), tensor) for i, tensor in enumerate(own)]
            if (position, 0) in dry.sharing:
                own[0] = self._rounded_again(dry.points[position, 0], own[0])
            op = self._made(original, position, own)
        for i, tensor in enumerate(op.outputs):
            label = dry.points.get((position, i))
            if label is not None:
                ties = OPS[op_type].output is Output.SHARED
                shares = (position, i) in dry.sharing
                self._round_when_used(tensor, label, ties, shares)
        return op

    def _made(
        self, original: Callable[..., Any], position: int, inputs: Sequence[tf.Tensor]
    ) -> Any:
        there = self._dry.counted[position]
        row = OPS.get(there.type)
        other = None if row is None or position in self._dry.composed else row.in_file
        if self._units.mode.exporting and other is not None:
            outputs = other(there, inputs)
            if outputs:
                return StandIn(there, inputs, outputs)
        return original(inputs)

    def _rounded_again(self, label: str, tensor: tf.Tensor) -> tf.Tensor:
        """See `OperationPlan.rounds_input`."""
        if not self._units.mode.exporting:
            return tensor
        return self._units.rounded(self._plan, label, tensor, shares=True)

    def _input(self, place: tuple[int, int], tensor: tf.Tensor) -> tf.Tensor:
        units, dry = self._units, self._dry
        if place in dry.edges:
            label, has_range = dry.edges[place]
            if has_range and units.quantizer(self._plan, label) is not None:
                tensor = units.kept_apart(self._plan, place, tensor)
            return units.rounded(self._plan, label, tensor)
        if not units.mode.phase.rounds:
            return tensor
        if place in dry.kernels:
            return units.kernel(self._plan, dry, dry.kernels[place], tensor)
        if place in dry.constants:
            return units.constant(dry, dry.constants[place], tensor)
        return tensor

    def leaf(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = only_number((args, kwargs))
        if given is None:
            return original(*args, **kwargs)
        number, leaves = self._leaf_count, self._dry.leaves
        self._leaf_count += 1
        if number >= len(leaves):
            raise self._differs(layer.name)
        leaf = leaves[number]
        if leaf is None:
            with self._alone():
                return original(*args, **kwargs)
        if leaf.call.layer is not layer:
            raise self._differs(layer.name)
        with self._alone():
            rounded = self._used(given)
            if leaf.shares and leaf.output is not None:
                rounded = self._rounded_again(leaf.output, rounded)
            args, kwargs = tf.nest.map_structure(
                lambda part: rounded if part is given else part, (args, kwargs)
            )
            if leaf.left:
                outputs = original(*args, **kwargs)
            else:
                outputs = self._units.run_leaf(self._plan, leaf, original, args, kwargs)
        if leaf.output is not None:
            ties = leaf.call.row.output is Output.SHARED
            for tensor in tensors_of(outputs):
                self._round_when_used(tensor, leaf.output, ties, leaf.shares)
        return outputs

    def inner(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return original(*args, **kwargs)

    def finished(self, result: Any) -> Any:
        """What the call gives, rounded where nobody does so outside."""
        if self._count != len(self._dry.counted):
            raise self._differs("nothing more")
        if OUTPUT in self._dry.ends:
            return result
        with self._alone():
            return tf.nest.map_structure(
                lambda part: self._used(part) if tf.is_tensor(part) else part, result
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While inside, ops are ours."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def _round_when_used(self, tensor: tf.Tensor, label: str, ties: bool, shares: bool) -> None:
        self._pending[id(tensor)] = (label, ties, shares)
        self._keep.append(tensor)

    def _used(self, tensor: tf.Tensor) -> tf.Tensor:
        if id(tensor) in self._pending:
            label, ties, shares = self._pending.pop(id(tensor))
            self._rounded[id(tensor)] = self._units.rounded(self._plan, label, tensor, ties, shares)
        return self._rounded.get(id(tensor), tensor)

    def _differs(self, found: str) -> Exception:
        counted = self._dry.counted
        expected = counted[self._count - 1].type if 0 < self._count <= len(counted) else "the end"
        return RuntimeError(
            f"Quantization: {self._plan.path!r} must compute the same whenever it is traced, or be "
            f"left out by `layers`. Received: {found} where {expected} was before"
        )


def _difference(one: OpPlan, other: OpPlan) -> str:
    """Where two plans part, in words."""
    for here, there in itertools.zip_longest(one.ranges, other.ranges, fillvalue="nothing"):
        if here != there:
            return f"{here} where inference rounds {there}"
    return "the same ops otherwise than in inference"
