"""From a `Quantization` to where its quantizers go in one model, refusing what cannot be done."""

from __future__ import annotations

from collections.abc import Mapping

from keras_compress.engines.in_place.by_ops.unit import Unit, find_units
from keras_compress.engines.in_place.form_check import Checked, differs
from keras_compress.engines.in_place.graph import Graph
from keras_compress.engines.in_place.lookup import known
from keras_compress.engines.in_place.placement import Placement, place
from keras_compress.engines.layers_argument import LEFT_BY_USER, select, with_insides
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasLayer, KerasModel, KerasOperation
from keras_compress.specs.quantization import Quantization

BY_OPS: frozenset[str] = frozenset()
"""Kinds of the table that go by their ops all the same: for the tests that compare both roads."""


def plan_quantization(
    adapter: Adapter, model: KerasModel, spec: Quantization, by_ops: bool = True
) -> Placement:
    """Where `spec` puts quantizers in this model.

    `by_ops`: what the table does not know is quantized inside by its ops; otherwise it stays in
    float, as it did when states of old were saved.

    Raises:
        ValueError: nobody knows what the model takes; a layer unknown, ambiguous, or named and not
            to be quantized; or nothing can be.
    """
    if not adapter.has_ends(model):
        raise ValueError(
            "Quantization: the model must be built, so that it is known what it takes; a "
            "subclassed one is by calling it on a batch of data, as one argument. "
            f"Received: model={type(model).__name__}"
        )
    if adapter.graph_inside(model) is None:
        return _plan_whole(adapter, model, spec, by_ops)
    graph = Graph(adapter, model)
    operations = dict(graph.operations())
    selected = select("Quantization", spec.layers, operations)
    checked: Checked = set()
    reasons = {path: _unknown(adapter, graph, operations[path], checked) for path in selected}
    unknown = {path: reason for path, reason in reasons.items() if reason is not None}
    units, refused = _units(adapter, model, graph, unknown) if by_ops else ({}, unknown)
    allowed = None if spec.layers is None else set(selected)
    placement = place(graph, adapter, allowed, LEFT_BY_USER, units, refused)
    for path, is_named in selected.items():
        reason = placement.left_out.get(path)
        if is_named and reason is not None:
            raise ValueError(
                f"Quantization: `layers` must name layers that can be quantized; {path!r} cannot: "
                f"{reason}. Received: layers containing {path!r}"
            )
    placement.names = list(operations)
    if len(placement.left_out) == len(operations):
        raise ValueError(
            "Quantization: `layers` must leave something to quantize; nothing in this model can "
            f"be. Received: layers={spec.layers!r}; left out: {placement.left_out}"
        )
    return placement


def _plan_whole(adapter: Adapter, model: KerasModel, spec: Quantization, by_ops: bool) -> Placement:
    """The plan for a model that computes by a `call` of its own: all of it is one unit, in which
    `layers` leaves layers out.
    """
    layers = _layers(adapter, model)
    chosen = with_insides(select("Quantization", spec.layers, layers), layers)
    left = [path for path in layers if path not in chosen]
    if len(left) == len(layers) > 0:
        raise ValueError(
            "Quantization: `layers` must leave something to quantize; nothing in this model is "
            f"chosen. Received: layers={spec.layers!r}"
        )
    found = find_units(adapter, model, {model.name: model}, frozenset(left)) if by_ops else {}
    unit = found.get(model.name, "states of old know no such model")
    if isinstance(unit, str):
        raise ValueError(
            "Quantization: the model computes by a `call` of its own, which must consist of what "
            f"can be quantized by its TensorFlow ops; it cannot: {unit}. What can be done: replace "
            "that; leave the layer that does it out by `Quantization(layers=...)`; or give no "
            "`quantization`, and `Export(representative_dataset=...)`, which quantizes after the "
            "training (with `allow_float_ops=True` if no integer kernel does that). "
            f"Received: model={type(model).__name__}"
        )
    placement = place(Graph(adapter, model), adapter, None, "", {model.name: unit})
    placement.names = list(layers)
    placement.left_out = dict.fromkeys(left, LEFT_BY_USER)
    return placement


def _layers(adapter: Adapter, model: KerasModel) -> dict[str, KerasLayer]:
    return {path: own for path, own in adapter.layers(model) if not adapter.is_input(own)}


def _unknown(
    adapter: Adapter, graph: Graph, operation: KerasOperation, checked: Checked
) -> str | None:
    """Why an operation cannot go by the table; None if it can."""
    calls = graph.nodes_of[id(operation)]
    found = known(adapter, operation, calls)
    if not isinstance(found, str):
        found = differs(adapter, calls, *found, checked) or found
    if adapter.kind(operation) in BY_OPS:
        found = f"{adapter.kind(operation)} goes by its ops"
    return found if isinstance(found, str) else None


def _units(
    adapter: Adapter, model: KerasModel, graph: Graph, unknown: Mapping[str, str]
) -> tuple[dict[str, Unit], dict[str, str]]:
    """What is quantized inside by its ops, by path; and why the others are not."""
    operations = dict(graph.operations())
    found = find_units(adapter, model, {path: operations[path] for path in unknown})
    units = {path: unit for path, unit in found.items() if isinstance(unit, Unit)}
    refused = {
        path: f"{reason}; inside: {found.get(path, 'its `call` does not run in inference')}"
        for path, reason in unknown.items()
        if path not in units
    }
    return units, refused


def paths(adapter: Adapter, model: KerasModel) -> list[str]:
    """All that a spec can name, in an order that does not depend on the names."""
    found = [path for path, _ in adapter.layers(model)]
    if adapter.graph_inside(model) is not None:
        found += [path for path, _ in Graph(adapter, model).operations()]
    return found
