"""What a dry trace computes, as pieces: ops, calls of known layers, composites that the converter
knows.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.by_ops.ops import COMPOSITES, OPS, Op, rule_of
from keras_compress.engines.in_place.graph import Node
from keras_compress.engines.in_place.rows import ActivationRow, Fixed, Output, Row
from keras_compress.frameworks.graph_capture import DryTrace, is_eager

UNCOUNTED = ("Const", "Placeholder")
"""Made or not, depending on what the graph holds already."""
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")
_LEFT = Op(name="Float")
"""What an op of a layer left out is, whatever it does."""


class Refused(Exception):  # noqa: N818  no failure: an answer
    """The inside of a layer cannot be quantized; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One call of a layer inside of one that is traced: the ops at [first, last) are its own, but
    for those of a layer inside of it.
    """

    path: str
    """Below the one that is traced."""
    first: int
    last: int


@dataclasses.dataclass(eq=False)
class LeafCall:
    """One call of a layer of the table inside of one that it does not know."""

    layer: Any
    kind: str
    row: Row
    activation: ActivationRow | None
    input: tf.Tensor
    outputs: list[tf.Tensor]
    first: int
    last: int
    """Its ops are those at [first, last) of the trace."""

    @property
    def rule(self) -> Op:
        """What it is among ops."""
        activation = self.activation or ActivationRow()
        return Op(
            self.row.output,
            self.kind,
            absorbs_relu=self.row.absorbs_relu,
            absorbed=activation.absorbed,
            fixed=activation.output,
        )

    @property
    def is_norm(self) -> bool:
        return self.row.is_norm

    def roles(self) -> dict[str, Fixed | None]:
        """Its quantizers inside, by role."""
        node = Node(self.layer, self.kind, (0,), tuple(range(1, len(self.outputs) + 1)))
        return self.row.inner(node) | dict(self.activation.inner if self.activation else ())


@dataclasses.dataclass
class LeafPlan:
    """How one call of a leaf is done."""

    call: LeafCall
    inner: dict[str, str] = dataclasses.field(default_factory=dict)
    """Role -> label."""
    folded: bool = False
    """A batch norm that the kernel before it takes in."""
    output: str | None = None
    """The label of what rounds its output."""
    shares: bool = False
    """Whether that is the range of what it was computed of."""
    left: bool = False
    """It stays in float."""


@dataclasses.dataclass(eq=False)
class Piece:
    """An op, a leaf or a composite."""

    rule: Op
    inputs: list[tuple[int, tf.Tensor]]
    """(number, tensor) of the floating ones."""
    output: tf.Tensor
    outputs: list[tf.Tensor]
    position: int | None = None
    """Among the counted ops; None of a leaf or a composite."""
    leaf: LeafPlan | None = None
    left: bool = False
    """It stays in float, because the user left its layer out."""

    @property
    def is_norm(self) -> bool:
        return self.leaf is not None and not self.left and self.leaf.call.is_norm


class Pieces:
    """What a dry trace computes that its outputs need, in order: ops, leaves and composites.

    Args:
        given: the flat tensors among the arguments of the call.
        leaves: the calls of known layers in it, in order; None for one that gave its input back.
        places: the calls of all layers in it, inner ones first.
        left: the paths of those that stay in float.

    Raises:
        Refused: an op that cannot be done.
    """

    def __init__(
        self,
        trace: DryTrace,
        given: Sequence[tf.Tensor],
        leaves: Sequence[LeafCall | None],
        places: Sequence[Place] = (),
        left: Collection[str] = (),
    ):
        self.trace = trace
        self.given = [trace.inner(tensor) for tensor in given]
        for leaf in leaves:
            if leaf is not None:
                leaf.input = trace.inner(leaf.input)
        self.leaves = [None if leaf is None else LeafPlan(leaf) for leaf in leaves]
        every = trace.operations()
        inside = {i for leaf in leaves if leaf for i in range(leaf.first, leaf.last)}
        self.counted = [
            op for i, op in enumerate(every) if i not in inside and op.type not in UNCOUNTED
        ]
        self.position = {op.name: i for i, op in enumerate(self.counted)}
        self._where = [""] * len(every)
        """By op: the path of the layer that made it."""
        for place in reversed(places):
            self._where[place.first : place.last] = [place.path] * (place.last - place.first)
        self._left = {i for i, path in enumerate(self._where) if path in left}
        for planned in self.leaves:
            if planned is not None:
                planned.left = planned.call.first in self._left
        self.composed: set[int] = set()
        """Positions of the ops that are part of a composite, or of a layer left out, and stay what
        they are.
        """
        own = {every[i].name for i in self._left}
        self.composed |= {self.position[name] for name in own if name in self.position}
        self._data_tensors = self._data(every)
        self.pieces: list[Piece] = []
        self._gather(every, inside, self._needed())

    def _needed(self) -> set[str]:
        """The names of the ops that the outputs depend on: recurrent layers make others too."""
        seen: set[str] = set()
        todo = [tensor.op for tensor in self.trace.outputs if self.trace.holds(tensor)]
        while todo:
            op = todo.pop()
            if op.name not in seen:
                seen.add(op.name)
                todo += [tensor.op for tensor in op.inputs]
        return seen

    def _data(self, every: Sequence[tf.Operation]) -> set[Any]:
        """The tensors that depend on more than weights, constants and shapes."""
        data: set[Any] = set()
        given = {tensor.ref() for tensor in self.given}
        for op in every:
            if op.type == "Placeholder":
                outer = self.trace.outer(op.outputs[0])
                depends = outer is None or op.outputs[0].ref() in given or not is_eager(outer)
            elif op.type in _SHAPES or op.type in ("Const", "VarHandleOp", "ReadVariableOp"):
                depends = False
            elif not op.inputs or "Random" in op.type:
                depends = True
            else:
                depends = any(tensor.ref() in data for tensor in op.inputs)
            if depends:
                data.update(tensor.ref() for tensor in op.outputs)
        for leaf in self.leaves:
            if leaf is not None:
                data.update(tensor.ref() for tensor in leaf.call.outputs)
        return data

    def _gather(self, every: Sequence[tf.Operation], inside: set[int], needed: set[str]) -> None:
        """Make the pieces, in order of the trace."""
        leaves = {leaf.call.first: leaf for leaf in self.leaves if leaf is not None}
        composites = self._composites(every, inside, needed)
        for i, op in enumerate(every):
            leaf = leaves.get(i)
            if leaf is not None and any(t.op.name in needed for t in leaf.call.outputs):
                call = leaf.call
                rule = _LEFT if leaf.left else call.rule
                ends = call.outputs[0], call.outputs
                self.pieces.append(Piece(rule, [(0, call.input)], *ends, leaf=leaf, left=leaf.left))
            if i in inside or op.name not in needed or op.type in UNCOUNTED:
                continue
            if op.name in composites:
                composite = composites[op.name]
                if composite is not None:
                    self.pieces.append(composite)
                continue
            if i in self._left:
                self._leave(op)
            else:
                self._add(op, self._where[i])

    def _leave(self, op: tf.Operation) -> None:
        floats = [t for t in op.outputs if self.is_number(t)]
        inputs = [(i, t) for i, t in enumerate(op.inputs) if t.dtype.is_floating]
        if floats:
            position = self.position[op.name]
            self.pieces.append(Piece(_LEFT, inputs, floats[0], floats, position, left=True))

    def _add(self, op: tf.Operation, where: str) -> None:
        floats = [t for t in op.outputs if self.is_number(t)]
        hides = op.type in OPS and OPS[op.type].hides
        if not floats and not hides:
            return
        rule = rule_of(op)
        if isinstance(rule, str):
            raise Refused(f"in {where!r}: {rule}" if where else rule)
        inputs = [(i, t) for i, t in enumerate(op.inputs) if t.dtype.is_floating]
        if op.type == "IdentityN":  # one for each of its tensors
            for i, tensor in inputs:
                output = op.outputs[i]
                self.pieces.append(Piece(rule, [(i, tensor)], output, [output], None))
            return
        numbers = [t for _, t in inputs if self.is_number(t)]
        if rule.output is Output.SAME and not numbers:
            rule = dataclasses.replace(rule, output=Output.OWN, keeps_channels=False)  # of a table
        elif op.type == "Mul" and any(self._is_one(t) for _, t in inputs):
            rule = OPS["Identity"]
        self.pieces.append(Piece(rule, inputs, floats[0], floats, self.position[op.name]))

    def is_number(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor is of floats that depend on what the layer is given."""
        return tensor.dtype.is_floating and tensor.ref() in self._data_tensors

    def _is_one(self, tensor: tf.Tensor) -> bool:
        value = None if self.is_number(tensor) else tf.get_static_value(tensor)
        return value is not None and bool(np.all(value == 1.0))

    def _composites(
        self, every: Sequence[tf.Operation], inside: set[int], needed: set[str]
    ) -> dict[str, Piece | None]:
        """Op -> the composite that it completes, None for others of its ops."""
        scopes: dict[str, list[tf.Operation]] = collections.defaultdict(list)
        for i, op in enumerate(every):
            if i in inside or i in self._left or op.name not in needed or op.type in UNCOUNTED:
                continue
            parts = op.name.split("/")[:-1]
            for depth, part in enumerate(parts, start=1):
                if part.rstrip("_0123456789") in COMPOSITES:
                    scopes["/".join(parts[:depth])].append(op)
                    break
        found: dict[str, Piece | None] = {}
        for scope, members in scopes.items():
            names = {op.name for op in members}
            read = [t for op in members for t in op.inputs if t.op.name not in names]
            inputs = {t.ref(): t for t in read if self.is_number(t)}
            ends = [op for op in members if self._leaves(op, names, every)]
            if len(ends) != 1:
                continue  # somebody looks inside: by its ops
            (last,) = ends
            name = scope.rpartition("/")[2].rstrip("_0123456789")
            rule = dataclasses.replace(COMPOSITES[name], name=name)
            found.update(dict.fromkeys(names))
            self.composed |= {self.position[own] for own in names}
            outputs = list(last.outputs)
            found[last.name] = Piece(
                rule,
                list(enumerate(inputs.values())),
                outputs[0],
                outputs,
            )
        return found

    def _leaves(self, op: tf.Operation, names: set[str], every: Sequence[tf.Operation]) -> bool:
        """Whether what an op computes is used outside of its composite."""
        ends = {tensor.ref() for tensor in self.trace.outputs}
        mine = {tensor.ref() for tensor in op.outputs}
        return bool(mine & ends) or any(
            tensor.ref() in mine
            for other in every
            if other.name not in names
            for tensor in other.inputs
        )
