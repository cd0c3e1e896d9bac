"""Layers that the table does not know, and models that compute by a `call` of their own: found,
traced dry and planned by their ops.

To the walk over the graph such a *unit* is one row with outputs of its own; what its inside needs
is known before anything is trained, from two traces of the whole model that nobody runs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_compress.engines.in_place.by_ops.insides import Insides
from keras_compress.engines.in_place.by_ops.op_plan import OUTPUT, OpPlan
from keras_compress.engines.in_place.by_ops.pieces import Refused
from keras_compress.engines.in_place.rows import ActivationRow, Output, Row
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel, KerasOperation, Method
from keras_compress.frameworks.wrap_method import wrap_method


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
    left: frozenset[str] = frozenset()
    """The paths below it of the layers that stay in float."""

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


def find_units(
    adapter: Adapter,
    model: KerasModel,
    candidates: Mapping[str, KerasOperation],
    left: frozenset[str] = frozenset(),
) -> dict[str, Unit | str]:
    """Path -> the unit that an operation makes, or why its inside cannot be quantized. `left`: the
    paths of what stays in float inside of the model, where that is the unit.
    """
    if not candidates:
        return {}
    found: dict[str, Unit | str] = {}
    insides = Insides(adapter, candidates.values())
    undo = insides.patch()
    why = ""

    def noting(path: str, operation: KerasOperation, original: Method) -> Method:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if insides.current is None:
                prefix = "" if operation is model else f"{path}/"  # as in all other paths
                try:
                    plan = insides.plan(operation, original, args, kwargs, left)
                    new: Unit | str = _unit(insides, prefix, path, operation, plan, left)
                except Refused as refused:
                    new = str(refused)
                found[path] = _same(found.get(path, new), new, why)
            return original(*args, **kwargs)

        return call

    def answer(training: bool, *inputs: tf.Tensor) -> list[tf.Tensor]:
        return adapter.call_flat(model, list(inputs), training=training)

    try:
        for path, operation in candidates.items():
            undo.append(wrap_method(operation, "call", functools.partial(noting, path, operation)))
        specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in adapter.input_specs(model)]
        with adapter.traceless([model, *(layer for _, layer in adapter.layers(model))]):
            for training in (False, True):
                why = OTHERWISE_TRAINED if training else OTHERWISE_CALLED
                trace = functools.partial(answer, training)
                tf.function(trace, autograph=False).get_concrete_function(*specs)
    finally:
        while undo:
            undo.pop()()
    return found


OTHERWISE_CALLED = "its calls compute differently"
OTHERWISE_TRAINED = (
    "it computes otherwise in training than in inference; what only training does belongs into a "
    "layer of Keras, as Dropout is"
)


def _unit(
    insides: Insides,
    prefix: str,
    path: str,
    operation: KerasOperation,
    plan: OpPlan,
    left: frozenset[str],
) -> Unit:
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
    return Unit(plan, weights, left)


def _same(one: Unit | str, other: Unit | str, why: str) -> Unit | str:
    """One unit for all calls of an operation; `why` not, where they differ."""
    if isinstance(one, str) or isinstance(other, str):
        return one if isinstance(one, str) else other
    return one if one.plan.signature == other.plan.signature else why
