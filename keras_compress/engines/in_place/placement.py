"""Where the quantizers go: the walk over the graph that reads the table."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from keras_compress.engines.in_place.by_ops.unit import Unit
from keras_compress.engines.in_place.graph import Graph, Node
from keras_compress.engines.in_place.lookup import known
from keras_compress.engines.in_place.rows import (
    IN_BYTES,
    ActivationRow,
    Fixed,
    Granularity,
    Output,
    Row,
)
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.graphs import is_layer, layers_inside
from keras_compress.frameworks.protocols import KerasOperation

RowAndActivation = tuple[Row, ActivationRow | None]
Rows = dict[int, tuple[Row, ActivationRow | None]]
"""id of an operation -> its row, and that of its activation."""


@dataclasses.dataclass
class OperationPlan:
    """What happens to one operation; quantizers go by their keys in `Placement.quantizers`."""

    operation: KerasOperation
    path: str
    key: str
    """Position and class, the stem of all keys that belong to this operation."""
    row: Row
    activation: ActivationRow | None = None
    kernels: dict[str, Granularity] = dataclasses.field(default_factory=dict)
    before: str | None = None
    """Rounds before the layer's own activation."""
    output: str | None = None
    joined: str | None = None
    """Rounds every input, and so the output."""
    rescales: dict[int, int] = dataclasses.field(default_factory=dict)
    """The inputs that come with a range of their own, and a number for each, from 1 over the model.
    """
    inner: dict[str, str] = dataclasses.field(default_factory=dict)
    """Role inside the form -> key."""
    casts: str | None = None
    """Rounds the floats that it makes of an input of integers."""
    source: str | None = None
    """What rounded the input that its kernel meets; None if that differs between calls."""
    shares: bool = False
    """Whether its range is that of what it was computed of."""
    rounds_input: bool = False
    """Whether in a file its input is rounded over that range once more: it was moved since, by an
    op whose scale the converter has to find out, and where several read it, it fails to.
    """
    norm: OperationPlan | None = None
    """The batch norm behind that becomes part of this layer."""
    front: OperationPlan | None = None
    """The layer that this batch norm becomes part of."""
    pooling: OperationPlan | None = None
    """The max pooling behind the ReLU that this one ends in. Largest number, ReLU and rounding give
    the same in any order, and of fewer numbers sooner: in a training step the pooling is first.
    """
    pools: OperationPlan | None = None
    """The one whose ReLU this max pooling does, and its rounding."""
    unit: Unit | None = None
    """What the table does not know, quantized inside by its ops."""


@dataclasses.dataclass
class Placement:
    """Where every quantizer of a model goes."""

    operations: list[OperationPlan]
    inputs: list[str | None]
    """The quantizer of each flat input; None for one that stays integers. One of integers of which
    floats are made is rounded where that is done (`OperationPlan.casts`).
    """
    outputs: list[str | None]
    """The quantizer of each flat output; None for one that stays in float."""
    quantizers: dict[str, Fixed | None]
    """Key -> the range, None for one that follows its tensor."""
    nonnegative: set[str]
    """The quantizers whose tensors are never below zero."""
    left_out: dict[str, str]
    """Path -> why this one stays in float."""
    twins: dict[str, str] = dataclasses.field(default_factory=dict)
    """Quantizer -> the first of those that are given the very same tensors, in training too."""
    names: list[str] = dataclasses.field(default_factory=list)
    """The paths that `layers` can choose from."""


def place(
    graph: Graph,
    adapter: Adapter,
    allowed: Collection[str] | None,
    reason: str = "",
    units: Mapping[str, Unit] | None = None,
    refused: Mapping[str, str] | None = None,
) -> Placement:
    """Decide for every operation of a graph what is rounded, and with which range.

    `allowed`: the paths that may be quantized (None: all); the others stay in float, with `reason`.
    `units`: what is quantized inside by its ops. `refused`: path -> why it can be by neither.
    """
    units, refused = units or {}, refused or {}
    rows: Rows = {}
    left_out: dict[str, str] = {}
    for path, operation in graph.operations():
        if path in units:
            found: RowAndActivation | str = (units[path].row, units[path].activation)
        else:
            found = refused.get(path) or known(adapter, operation, graph.nodes_of[id(operation)])
        if allowed is not None and path not in allowed:
            found = reason
        if isinstance(found, str):
            left_out[path] = found
        else:
            rows[id(operation)] = found
    cast = _cast_inputs(graph, rows)
    for path, operation in graph.operations():
        if id(operation) in rows and not _integers_cast(graph, rows, operation) <= cast:
            del rows[id(operation)]
            left_out[path] = f"{adapter.kind(operation)}: {OTHER_INTEGERS}"
    walk = _Walk(graph, adapter, rows, cast)
    for plan in walk.plans.values():
        plan.unit = units.get(plan.path) if id(plan.operation) in rows else None
    placement = walk.placement(left_out)
    walk.pair_poolings()
    placement.twins = _twins(graph, adapter, list(walk.plans.values()))
    return placement


def _twins(graph: Graph, adapter: Adapter, plans: Sequence[OperationPlan]) -> dict[str, str]:
    """The quantizers of operations that do to a tensor what one before them has done to it. Of the
    two the converter makes one op, which has one scale, as they then have.
    """
    found: dict[str, str] = {}
    first: dict[tuple[str, tuple[int, ...]], tuple[OperationPlan, Node]] = {}
    same: dict[int, int] = {}
    for plan in plans:
        nodes = graph.nodes_of[id(plan.operation)]
        what = _described(adapter, plan, nodes)
        if what is None:
            continue
        (node,) = nodes
        twin, its = first.setdefault(
            (what, tuple(same.get(tensor, tensor) for tensor in node.inputs)), (plan, node)
        )
        if twin is not plan:
            same.update(zip(node.outputs, its.outputs, strict=True))
            found.update({key: twin.inner[role] for role, key in plan.inner.items()})
            if plan.output is not None and twin.output is not None:
                found[plan.output] = twin.output
    return found


def _described(adapter: Adapter, plan: OperationPlan, nodes: Sequence[Node]) -> str | None:
    """All that an operation does, but to what; None where weights, chance, or what it is called
    with besides tensors have a part in it, or where it is called more than once.
    """
    operation: Any = plan.operation
    own_range = plan.row.output is Output.OWN and plan.unit is None
    if not own_range or len(nodes) != 1 or getattr(operation, "weights", None):
        return None
    given = adapter.tree.flatten(nodes[0].arguments(nodes[0].inputs))
    if [each for each in given if each is not None] != list(nodes[0].inputs):
        return None
    try:
        config = operation.get_config()
    except Exception:  # not every operation tells how it was made
        return None
    return repr((adapter.kind(operation), {k: v for k, v in config.items() if k != "name"}))


OTHER_INTEGERS = "it makes floats of integers that are no input of which nothing else is made"


def _cast_inputs(graph: Graph, rows: Rows) -> set[int]:
    """The inputs of integers of which nothing but floats is made: a file takes them as quantized.
    Whoever makes them does so of no other input.
    """
    return {
        tensor
        for tensor in graph.inputs
        if graph.consumers[tensor]
        and "int" in graph.dtypes[tensor]
        and tensor not in graph.outputs
        and all(
            _integers_cast(graph, rows, node.operation) == {tensor}
            for node in graph.consumers[tensor]
        )
    }


def _integers_cast(graph: Graph, rows: Rows, operation: KerasOperation) -> set[int]:
    """The tensors of integers, or booleans, that an operation makes floats of."""
    row, _ = rows.get(id(operation), (Row(), None))
    tensors = {tensor for node in graph.nodes_of[id(operation)] for tensor in node.inputs}
    return {tensor for tensor in tensors if row.casts and "float" not in graph.dtypes[tensor]}


class _Walk:
    """One placement under way."""

    def __init__(self, graph: Graph, adapter: Adapter, rows: Rows, cast: Collection[int]):
        self.graph = graph
        self.adapter = adapter
        self.rows = rows
        self.cast = cast
        self.quantizers: dict[str, Fixed | None] = {}
        self.plans: dict[int, OperationPlan] = {}
        for position, (path, operation) in enumerate(graph.operations()):
            row, activation = rows.get(id(operation), (Row(), None))
            key = f"{position}/{adapter.kind(operation) or type(operation).__name__}"
            self.plans[id(operation)] = OperationPlan(operation, path, key, row, activation)

    def placement(self, left_out: dict[str, str]) -> Placement:
        inputs = []
        for i, tensor in enumerate(self.graph.inputs):
            dtype = self.graph.dtypes[tensor]
            rounded = "float" in dtype or tensor in self.cast
            inputs.append(self._new(f"input/{i}", IN_BYTES.get(dtype)) if rounded else None)
        self.inputs = dict(zip(self.graph.inputs, inputs, strict=True))
        for plan in self.plans.values():
            if self._is_known(plan.operation):
                self._place(plan)
            elif any(self._feeds_integers(t) for n in self._nodes(plan) for t in n.outputs):
                plan.output = self._new(f"{plan.key}/output")
        for plan in self.plans.values():  # after all others, whose ranges these ones share
            if self._is_known(plan.operation) and plan.row.output is Output.SHARED:
                sources = {self._source(node.inputs[0]) for node in self._nodes(plan)}
                plan.shares = len(sources) == 1
                (plan.output,) = sources if plan.shares else (self._new(f"{plan.key}/output"),)
                plan.rounds_input = plan.shares and any(
                    self._is_moved(node.inputs[0]) for node in self._nodes(plan)
                )
        numbers = itertools.count(1)
        for plan in self.plans.values():
            calls = [[self._source(t) for t in node.inputs] for node in self._nodes(plan)]
            if plan.joined is not None:
                # A shared Concatenate rescales an input if any of its calls has to.
                rescaled = sorted({i for keys in calls for i, key in enumerate(keys) if key})
                plan.rescales = {i: next(numbers) for i in rescaled}
            if len({tuple(keys) for keys in calls}) == 1 and calls[0]:
                plan.source = plan.inner.get(plan.row.source or "", calls[0][0])
        outputs = [self._source(tensor) for tensor in self.graph.outputs]
        nonnegative = {
            plan.output
            for plan in self.plans.values()
            if plan.output and plan.activation is not None and plan.activation.absorbed
        }
        return Placement(
            list(self.plans.values()), inputs, outputs, self.quantizers, nonnegative, left_out
        )

    def _place(self, plan: OperationPlan) -> None:
        row, activation = plan.row, plan.activation
        plan.kernels = dict(row.kernels)
        plan.casts = next(
            (self.inputs[t] for t in self._nodes(plan)[0].inputs if t in self.cast), None
        )
        self._fold(plan)
        for role, fixed in row.inner(self._nodes(plan)[0]).items():
            plan.inner[role] = self._new(f"{plan.key}/{role}", fixed)
        if activation is not None:
            for role, fixed in activation.inner:
                plan.inner[role] = self._new(f"{plan.key}/{role}", fixed)
            if row.kernels and not activation.absorbed:
                plan.before = self._new(f"{plan.key}/before")
        if row.output is Output.JOIN:
            plan.inner["join"] = plan.joined = self._new(f"{plan.key}/join")
        elif row.output is Output.OWN and not self._rounded_later(plan):
            fixed = row.output_range if activation is None else activation.output
            plan.output = self._new(f"{plan.key}/output", fixed)

    def _fold(self, plan: OperationPlan) -> None:
        """Merge a batch norm with the kernel layer before it, where nothing else sees the tensor
        between.
        """
        if plan.row.folded is None or plan.activation is not None:
            return
        follower = self.graph.only_consumer(plan.operation)
        if follower is None or not self._is_known(follower):
            return
        after = self.plans[id(follower)]
        if after.row.is_norm:
            plan.norm, after.front = after, plan
            plan.kernels[list(plan.kernels)[-1]] = plan.row.folded

    def _rounded_later(self, plan: OperationPlan) -> bool:
        """Whether what comes next is part of the same integer op, or rounds this output itself."""
        follower = self.graph.only_consumer(plan.operation)
        if follower is None or not self._is_known(follower):
            return False
        after = self.plans[id(follower)]
        if after.row.output is Output.JOIN:
            return plan.activation is None or plan.activation.output is None
        if after.row.is_norm:
            return plan.norm is after
        absorbed = after.activation is not None and after.activation.absorbed
        return (
            absorbed and not after.row.kernels and plan.row.absorbs_relu and plan.activation is None
        )

    def pair_poolings(self) -> None:
        """Join each max pooling with the ReLU before it, where nothing else sees what is between:
        it would not see a ReLU's numbers.
        """
        layers: list[Any] = [p.operation for p in self.plans.values() if is_layer(p.operation)]
        # Whoever holds a layer may call it.
        held = {id(inner) for layer in layers for inner in layers_inside(layer)}
        for plan in self.plans.values():
            follower = self.graph.only_consumer(plan.operation)
            if follower is None or not self._is_known(follower):
                continue
            after = self.plans[id(follower)]
            ends_in_relu = plan.activation is not None and plan.activation.relu_to is not None
            if not (after.row.is_max_pooling and ends_in_relu and plan.output and not plan.unit):
                continue
            pair: tuple[Any, Any] = plan.operation, after.operation
            if getattr(plan.operation, "activity_regularizer", None) is not None:
                continue
            given = {self.graph.dtypes[t] for node in self._nodes(plan) for t in node.outputs}
            if given != {pair[1].compute_dtype} or held & {id(each) for each in pair}:
                continue
            if any(map(self.adapter.computes_again, pair)):
                continue
            plan.pooling, after.pools = after, plan

    def _feeds_integers(self, tensor: int) -> bool:
        """Whether an integer op computes with this tensor, perhaps after others moved it."""
        for node in self.graph.consumers[tensor]:
            if self._is_known(node.operation):
                row, _ = self.rows[id(node.operation)]
                if row.output is not Output.SAME or any(map(self._feeds_integers, node.outputs)):
                    return True
        return False

    def _source(self, tensor: int) -> str | None:
        """The key of the range that a tensor has."""
        node = self.graph.producer.get(tensor)
        if node is None:
            return self.inputs[tensor]
        plan = self.plans[id(node.operation)]
        if plan.row.output is Output.INSIDE:
            role = plan.row.ends[node.outputs.index(tensor)]
            return None if role is None else plan.inner[role]
        if plan.row.output in (Output.SAME, Output.SHARED) and self._is_known(node.operation):
            return self._source(node.inputs[0])
        return plan.joined or plan.output

    def _is_moved(self, tensor: int) -> bool:
        """Whether a tensor comes from an operation that only moves numbers."""
        node = self.graph.producer.get(tensor)
        if node is None or not self._is_known(node.operation):
            return False
        return self.plans[id(node.operation)].row.output is Output.SAME

    def _is_known(self, operation: KerasOperation) -> bool:
        return id(operation) in self.rows

    def _nodes(self, plan: OperationPlan) -> list[Node]:
        return self.graph.nodes_of[id(plan.operation)]

    def _new(self, key: str, fixed: Fixed | None = None) -> str:
        self.quantizers[key] = fixed
        return key
