"""Layers that the table does not know: found, traced dry and planned by their ops.

To the walk over the graph such a *unit* is one row with an output of its own; what its inside needs
is known before anything is trained, from one inference of the whole model that nobody runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import tensorflow as tf

from keras_compress.engines.in_place.op_plan import OUTPUT, OpPlan, plan_ops
from keras_compress.engines.in_place.op_steps import LeafCall, Refused
from keras_compress.engines.in_place.table import ActivationRow, Output, Row, known
from keras_compress.frameworks.adapter import Adapter, wrap_method
from keras_compress.frameworks.graph_capture import DryTrace
from keras_compress.frameworks.protocols import KerasLayer, KerasModel, KerasOperation, Method

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A weight below a unit."""

    path: str
    """Of the layer that holds it."""
    name: str
    variable: tf.Variable


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """What is rounded inside an operation, as its inference shows it."""

    plan: OpPlan
    weights: Mapping[str, Weight]
    """Label of a kernel -> the one weight that it is made of, where it is one."""

    @property
    def row(self) -> Row:
        """How the walk over the graph sees it."""
        ends = tuple(self.plan.ends)
        output = Output.OWN if OUTPUT in ends else Output.INSIDE
        if self.plan.moves:
            output = Output.SAME
        return Row(output=output, inner=lambda node: dict(self.plan.ranges), ends=ends)

    @property
    def activation(self) -> ActivationRow | None:
        return None if self.plan.fixed is None else ActivationRow(self.plan.fixed)


class Run(Protocol):
    """Whoever runs a unit, and is told when a known layer inside is called."""

    def leaf(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...


class _Silent:
    """Runs what is inside of a leaf, which is nobody's business."""

    def leaf(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return original(*args, **kwargs)


_INSIDE_A_LEAF = _Silent()


class Insides:
    """The layers inside of units, patched so that whoever runs a unit learns of their calls.

    Those of the table that have no kernel are *leaves*: one op each, whatever they are made of,
    which may differ between training and inference. What has a kernel goes by its ops.
    """

    def __init__(self, adapter: Adapter, units: Iterable[KerasOperation]):
        self._adapter = adapter
        self._local = threading.local()
        self.below: dict[int, list[tuple[str, KerasLayer]]] = {}
        """id of a unit -> (path below it, layer), itself first."""
        self._leaves: dict[int, tuple[KerasLayer, str, Row, ActivationRow | None]] = {}
        self._keep = list(units)
        for unit in self._keep:
            below: list[tuple[str, Any]] = [("", unit)]
            if hasattr(unit, "_flatten_layers"):
                below += list(adapter.layers(cast(KerasLayer, unit)))
            self.below[id(unit)] = below
            for _, layer in below[1:]:
                found = known(adapter, layer) if layer.built else ""
                if isinstance(found, tuple) and self._is_leaf(found[0]):
                    self._leaves[id(layer)] = (layer, adapter.kind(layer), *found)

    @staticmethod
    def _is_leaf(row: Row) -> bool:
        return not row.kernels and row.output is not Output.JOIN

    def patch(self) -> list[Callable[[], None]]:
        """Returns what undoes it."""
        return [
            wrap_method(layer, "call", functools.partial(self._patched, layer))
            for layer, *_ in self._leaves.values()
        ]

    def _patched(self, layer: KerasLayer, original: Method) -> Method:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            run = self.current
            if run is None:
                return original(*args, **kwargs)
            with self.running(_INSIDE_A_LEAF):
                return run.leaf(layer, original, args, kwargs)

        return call

    @property
    def current(self) -> Run | None:
        return getattr(self._local, "run", None)

    @contextlib.contextmanager
    def running(self, run: Run | None) -> Iterator[None]:
        before, self._local.run = self.current, run
        try:
            yield
        finally:
            self._local.run = before

    def plan(
        self,
        unit: KerasOperation,
        original: Method,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> OpPlan:
        """Trace a call dry and plan it.

        Raises:
            Refused: its inside cannot be quantized.
        """
        dry = _Dry(self)
        layers = [layer for _, layer in self.below[id(unit)]]
        with self._adapter.traceless(layers), self.running(dry):
            try:
                trace = DryTrace(lambda: original(*args, **kwargs))
            except Exception as error:  # a user's own code, which may need more than a trace gives
                first = next(iter(str(error).strip().splitlines()), "")
                raise Refused(
                    f"its call cannot be traced on its own ({type(error).__name__}: {first})"
                ) from error
        return plan_ops(trace, tensors_of((args, kwargs)), dry.calls)

    def weights_of(self, layer: KerasOperation) -> Iterator[tuple[str, tf.Variable]]:
        """(name, variable) of the weights that a layer made itself."""
        for variable in getattr(layer, self._adapter.own_weights, ()):
            name = variable.name.rpartition("/")[2].partition(":")[0]
            yield name, self._adapter.tf_variable(variable)

    def leaf_call(
        self, layer: KerasLayer, given: tf.Tensor, outputs: Any, first: int, last: int
    ) -> LeafCall | None:
        """A call of a leaf; None for one that gave its input back."""
        flat = tensors_of(outputs)
        if any(tensor is given for tensor in flat):
            return None
        return LeafCall(layer, *self._leaves[id(layer)][1:], given, flat, first, last)


class _Dry:
    """One dry trace under way."""

    def __init__(self, insides: Insides):
        self._insides = insides
        self.calls: list[LeafCall | None] = []

    def leaf(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = only_number((args, kwargs))
        if given is None:
            return original(*args, **kwargs)
        graph = tf.compat.v1.get_default_graph()
        first = len(graph.get_operations())
        outputs = original(*args, **kwargs)
        last = len(graph.get_operations())
        self.calls.append(self._insides.leaf_call(layer, given, outputs, first, last))
        return outputs


def find_units(
    adapter: Adapter, model: KerasModel, candidates: Mapping[str, KerasOperation]
) -> dict[str, Unit | str]:
    """Path -> the unit that an operation makes, or why its inside cannot be quantized."""
    if not candidates:
        return {}
    found: dict[str, Unit | str] = {}
    insides = Insides(adapter, candidates.values())
    undo = insides.patch()

    def noting(path: str, operation: KerasOperation, original: Method) -> Method:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if insides.current is None:
                prefix = "" if operation is model else f"{path}/"  # as in all other paths
                new = _unit(insides, prefix, path, operation, original, args, kwargs)
                found[path] = new if path not in found else _same(found[path], new)
            return original(*args, **kwargs)

        return call

    def answer(*inputs: tf.Tensor) -> list[tf.Tensor]:
        return adapter.call_flat(model, list(inputs))

    try:
        for path, operation in candidates.items():
            undo.append(wrap_method(operation, "call", functools.partial(noting, path, operation)))
        specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in adapter.input_specs(model)]
        with adapter.traceless([model, *(layer for _, layer in adapter.layers(model))]):
            tf.function(answer, autograph=False).get_concrete_function(*specs)
    finally:
        while undo:
            undo.pop()()
    return found


def _unit(
    insides: Insides,
    prefix: str,
    path: str,
    operation: KerasOperation,
    original: Method,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Unit | str:
    try:
        plan = insides.plan(operation, original, args, kwargs)
        if kwargs.get("training") is False:
            trained = insides.plan(operation, original, args, {**kwargs, "training": True})
            if trained.signature != plan.signature:
                return (
                    "it computes otherwise in training than in inference; what only training does "
                    "belongs into a layer of Keras, as Dropout is"
                )
    except Refused as refused:
        return str(refused)
    holders: dict[int, Weight] = {}
    for below, layer in insides.below[id(operation)]:
        for name, variable in insides.weights_of(layer):
            where = f"{prefix}{below}" if below else path
            holders.setdefault(id(variable), Weight(where, name, variable))
    weights = {}
    for kernel in plan.kernels.values():
        made_of = [
            weight
            for weight in holders.values()
            if plan.trace.reads(kernel.tensor, weight.variable)
        ]
        if len(made_of) == 1:
            weights[kernel.label] = made_of[0]
    return Unit(plan, weights)


def _same(one: Unit | str, other: Unit | str) -> Unit | str:
    """One unit for all calls of a shared operation."""
    if isinstance(one, str) or isinstance(other, str):
        return one if isinstance(one, str) else other
    if one.plan.signature != other.plan.signature:
        return "its calls compute differently"
    return one


def tensors_of(structure: Any) -> list[tf.Tensor]:
    return [part for part in tf.nest.flatten(structure) if tf.is_tensor(part)]


def only_number(structure: Any) -> tf.Tensor | None:
    """The one floating tensor in a structure; None where there are several or none."""
    floats = [tensor for tensor in tensors_of(structure) if tensor.dtype.is_floating]
    return floats[0] if len(floats) == 1 else None
