"""What is rounded inside a layer: the plan over a dry trace of its call, by the table of ops.

Everything is told by position in the data flow that the outputs need, since names and even types of
ops differ between traces of one layer: Keras picks by static shape, and a batch of 1 is one.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.by_ops.ops import OPS
from keras_compress.engines.in_place.by_ops.pieces import (
    LeafCall,
    LeafPlan,
    Piece,
    Pieces,
    Place,
    Refused,
)
from keras_compress.engines.in_place.rows import Fixed, Granularity, Output
from keras_compress.frameworks.graph_capture import DryTrace

OUTPUT = "output"
"""The rounding of the one tensor that a layer gives, which is made outside of it. Of several each
is rounded inside.
"""

LARGEST_CONSTANT = 1e4
"""Above that a constant is there to drown what it is added to, as masks do."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as its op meets it."""

    label: str
    granularity: Granularity
    tensor: tf.Tensor
    """Of the dry trace."""


@dataclasses.dataclass
class OpPlan:
    """What is rounded inside a layer.

    A place is (position of an op among those that count, number of its input or output). A label
    is the name of a rounding, `OUTPUT` for that of the layer's only output.
    """

    trace: DryTrace
    counted: list[tf.Operation]
    ranges: dict[str, Fixed | None] = dataclasses.field(default_factory=dict)
    points: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    """Outputs of ops, rounded when they are used."""
    sharing: set[tuple[int, int]] = dataclasses.field(default_factory=set)
    """Those of them whose range is that of what they were computed of."""
    edges: dict[tuple[int, int], tuple[str, bool]] = dataclasses.field(default_factory=dict)
    """Inputs of ops that are rounded for this op alone; whether they have a range already."""
    kernels: dict[tuple[int, int], Kernel] = dataclasses.field(default_factory=dict)
    constants: dict[tuple[int, int], tf.Tensor] = dataclasses.field(default_factory=dict)
    """Inputs that depend on weights and constants only, rounded over their own range."""
    composed: set[int] = dataclasses.field(default_factory=set)
    """Positions of the ops that are part of a composite, or left out, and stay what they are."""
    leaves: list[LeafPlan | None] = dataclasses.field(default_factory=list)
    """Per call; None for one that gives its input back."""
    ends: list[str | None] = dataclasses.field(default_factory=list)
    """What rounds each of the tensors that it gives; None where nothing does."""
    moves: bool = False
    """It only moves the numbers of its first input."""
    fixed: Fixed | None = None
    """The range that the integer kernel of its last op prescribes."""

    @property
    def signature(self) -> tuple[object, ...]:
        """What every trace of the layer has in common."""
        kernels = tuple(kernel.label for kernel in self.kernels.values())
        return tuple(self.ranges.items()), kernels, tuple(self.ends), self.moves, self.fixed


@dataclasses.dataclass(eq=False)
class _Range:
    """One range, over however many tensors."""

    fixed: Fixed | None = None
    label: str | None = None


def plan_ops(
    trace: DryTrace,
    given: Sequence[tf.Tensor],
    leaves: Sequence[LeafCall | None],
    places: Sequence[Place] = (),
    left: Collection[str] = (),
) -> OpPlan:
    """Decide what is rounded inside of a layer whose call was traced.

    Args:
        given: the flat tensors among its arguments.
        leaves: the calls of known layers in it, in order; None for one that gave its input back.
        places: the calls of all layers in it, inner ones first.
        left: the paths of those that stay in float.

    Raises:
        Refused: it cannot be done; the reason.
    """
    return _Planner(Pieces(trace, given, leaves, places, left)).plan()


class _Planner:
    def __init__(self, read: Pieces):
        self.trace = read.trace
        self.given = read.given
        self.position = read.position
        self.pieces = read.pieces
        self._is_number = read.is_number
        self._edges: list[tuple[Piece, int, _Range, bool]] = []
        self.result = OpPlan(self.trace, read.counted, composed=read.composed, leaves=read.leaves)
        self.maker = {t.ref(): piece for piece in self.pieces for t in piece.outputs}
        self.users: dict[Any, list[tuple[Piece | None, int]]] = collections.defaultdict(list)
        for piece in self.pieces:
            for i, tensor in piece.inputs:
                self.users[tensor.ref()].append((piece, i))
        for tensor in self.trace.outputs:
            self.users[tensor.ref()].append((None, 0))
        self.is_one = len(self.trace.outputs) == 1
        self._sharing: set[Piece] = set()
        """The pieces whose range is that of what they were computed of."""
        self.output = _Range(label=OUTPUT)

    # --- deciding

    def plan(self) -> OpPlan:
        for piece in self.pieces:
            if not piece.left:
                self._check(piece)
        ranges = self._ranges()
        self._label(ranges)
        self._operands()
        self._set_ends(ranges)
        return self.result

    def _check(self, piece: Piece) -> None:
        for _, tensor in piece.inputs:
            value = None if self._is_number(tensor) else tf.get_static_value(tensor)
            if value is not None and value.size and np.abs(value).max() > LARGEST_CONSTANT:
                raise Refused(
                    f"a constant of {np.abs(value).max():.0e} (a mask?), for which no 8 bits have "
                    "room"
                )

    def _ranges(self) -> dict[Piece, _Range]:
        """The range of every piece whose output is rounded, or whose inputs are over it."""
        found: dict[Piece, _Range] = {}
        wanted: dict[Piece, _Range] = {}
        sources: dict[Piece, Piece | None] = {}
        for piece in reversed(self.pieces):
            rule = piece.rule
            if rule.output is Output.SAME or self._is_absorbed(piece):
                continue
            if piece in wanted:
                found[piece] = wanted[piece]
            elif piece.left:
                if any(map(self._feeds_integers, piece.outputs)):
                    found[piece] = _Range()
                continue
            elif self.is_one and rule.fixed is None and self._reaches_end(piece.output):
                found[piece] = self.output
            elif rule.output is Output.SHARED:
                sources[piece], _ = self._root(piece.inputs[0][1])
            else:
                found[piece] = _Range(rule.fixed)
            if rule.output is not Output.JOIN:
                continue
            for i, tensor in piece.inputs:
                root, alone = self._root(tensor)
                mine = root if root is not None and alone else None
                if mine is not None and self._is_absorbed(mine):
                    mine = None
                if (
                    mine is not None
                    and mine.rule.fixed is None
                    and mine.rule.output is not Output.SHARED
                ):
                    wanted[mine] = found[piece]
                elif piece.position is not None:
                    self._edges.append((piece, i, found[piece], self._is_number(tensor)))
        for piece in self.pieces:
            if piece in sources:
                source = sources[piece]
                if source is None or source not in found:
                    found[piece] = _Range()
                    continue
                found[piece] = found[source]
                self._sharing.add(piece)
        return found

    def _label(self, ranges: dict[Piece, _Range]) -> None:
        plan = self.result
        number = 0

        def label(name: str, fixed: Fixed | None) -> str:
            nonlocal number
            new = f"{number}.{name}"
            number += 1
            plan.ranges[new] = fixed
            return new

        for piece in self.pieces:
            if piece.leaf is not None and not piece.left:
                call = piece.leaf.call
                for role, fixed in call.roles().items():
                    piece.leaf.inner[role] = label(f"{call.kind}.{role}", fixed)
            own = ranges.get(piece)
            if own is None:
                continue
            direct = [user for user, _ in self.users[piece.output.ref()]] == [None]
            if self.is_one and direct and piece.rule.output is not Output.JOIN:
                continue  # rounded outside, and nowhere else
            if own.label is None:
                own.label = label(self._name(piece), own.fixed)
            if piece.rule.output is Output.JOIN:
                continue  # its inputs are rounded
            if piece.leaf is not None:
                piece.leaf.output, piece.leaf.shares = own.label, piece in self._sharing
                continue
            for tensor in piece.outputs if piece.left else [piece.output]:
                place = self.position[tensor.op.name], tensor.value_index
                plan.points[place] = own.label
                if piece in self._sharing:
                    plan.sharing.add(place)
        for piece, i, own, has_range in self._edges:
            if own.label is None:
                own.label = label(self._name(piece), own.fixed)
            plan.edges[cast(int, piece.position), i] = (own.label, has_range)

    def _name(self, piece: Piece) -> str:
        return piece.rule.name or str(piece.output.op.type)

    def _operands(self) -> None:
        """Kernels, and what else depends on weights only."""
        plan = self.result
        count = 0
        for piece in self.pieces:
            if piece.position is None or piece.left:
                continue
            constant = [(i, t) for i, t in piece.inputs if not self._is_number(t)]
            for i, tensor in constant:
                place = (piece.position, i)
                if piece.rule.kernel is not None:
                    grain = piece.rule.kernel if i == 1 else Granularity.TENSOR
                    label = f"{count}.{self._name(piece)}"
                    plan.kernels[place] = Kernel(label, grain, tensor)
                    count += 1
                elif piece.rule.output is Output.OWN and not self._is_bias(piece):
                    plan.constants[place] = tensor
            norm = self._behind(piece)
            if norm is not None and norm.leaf is not None and norm.is_norm:
                norm.leaf.folded = self._is_sum_of_products(piece)

    def _set_ends(self, ranges: Mapping[Piece, _Range]) -> None:
        plan = self.result
        numbers = [tensor for tensor in self.trace.outputs if self._is_number(tensor)]
        if not numbers:
            raise Refused("it gives no floats that depend on its inputs")
        roots = [self._root(tensor)[0] for tensor in numbers]
        if all(root is None for root in roots):
            starts = {self._start(tensor).ref() for tensor in numbers}
            plan.moves = starts == {self.given[0].ref()}
        if self.is_one and not any(root is not None and root.left for root in roots):
            plan.ends = [OUTPUT]
            (root,) = roots
            plan.fixed = None if root is None else root.rule.fixed
            return
        for tensor in self.trace.outputs:
            root = self._root(tensor)[0] if self._is_number(tensor) else None
            own = None if root is None else ranges.get(root)
            plan.ends.append(None if own is None else own.label)

    # --- the data flow

    def _is_absorbed(self, piece: Piece) -> bool:
        """Whether what comes next is part of the same integer op."""
        after = self._behind(piece)
        if after is None:
            return False
        if self._is_sum_of_products(piece):
            return after.rule.absorbed or after.is_norm or self._is_bias(after)
        return piece.rule.absorbs_relu and piece.rule.kernel is None and after.rule.absorbed

    def _behind(self, piece: Piece) -> Piece | None:
        """The only piece that uses what one computes, perhaps after others passed it on."""
        tensor = piece.output
        while len(self.users[tensor.ref()]) == 1:
            user, _ = self.users[tensor.ref()][0]
            if user is None or not user.rule.keeps_channels:
                return user
            if user.output.shape.rank is None or tensor.shape.rank is None:
                return None
            if user.output.shape[-1] != tensor.shape[-1]:
                return None
            tensor = user.output
        return None

    def _front(self, tensor: tf.Tensor) -> Piece | None:
        """The piece that computed a tensor, before others passed it on to a single user each."""
        piece = self.maker.get(tensor.ref())
        while piece is not None and piece.rule.keeps_channels:
            if len(self.users[piece.inputs[0][1].ref()]) != 1:
                return None
            piece = self.maker.get(piece.inputs[0][1].ref())
        return piece

    def _is_sum_of_products(self, piece: Piece) -> bool:
        """Whether it is an integer op with a kernel, its bias included."""
        if piece.rule.kernel is not None:
            return any(not self._is_number(tensor) for _, tensor in piece.inputs)
        return self._is_bias(piece)

    def _is_bias(self, piece: Piece) -> bool:
        """Whether it adds a number per channel to what a kernel alone computed."""
        if not piece.rule.adds or len(piece.inputs) != 2:
            return False
        constant = [t for _, t in piece.inputs if not self._is_number(t)]
        if len(constant) != 1:
            return False
        (numbers,) = [t for _, t in piece.inputs if self._is_number(t)]
        if len(self.users[numbers.ref()]) != 1:
            return False
        shape = constant[0].shape
        if shape.rank is None or shape.rank == 0 or shape[-1] != numbers.shape[-1]:
            return False
        if any(size != 1 for size in shape[:-1]) or not self._is_stored(constant[0]):
            return False
        front = self._front(numbers)
        if front is None or front.rule.kernel is None or not self._is_sum_of_products(front):
            return False
        return self._behind(front) is piece

    def _is_stored(self, tensor: tf.Tensor) -> bool:
        """Whether a constant is a weight or a number as it stands, not computed: an initial state
        looks like a bias where the batch is 1.
        """
        while tensor.op.type in OPS and OPS[tensor.op.type].keeps_channels:
            tensor = tensor.op.inputs[0]
        return tensor.op.type in ("Const", "Placeholder", "ReadVariableOp")

    def _feeds_integers(self, tensor: tf.Tensor) -> bool:
        """Whether something that is rounded computes with a tensor, perhaps after others moved
        it.
        """
        return any(
            user is not None
            and not user.left
            and (
                user.rule.output is not Output.SAME or any(map(self._feeds_integers, user.outputs))
            )
            for user, _ in self.users[tensor.ref()]
        )

    def _reaches_end(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor is given away, perhaps after others moved it."""
        return any(
            user is None
            or (user.rule.output is Output.SAME and any(map(self._reaches_end, user.outputs)))
            for user, _ in self.users[tensor.ref()]
        )

    def _root(self, tensor: tf.Tensor) -> tuple[Piece | None, bool]:
        """The piece that computed a tensor before others moved it, None for an input or a constant;
        and whether nobody else sees it on the way.
        """
        alone = len(self.users[tensor.ref()]) == 1
        piece = self.maker.get(tensor.ref())
        while piece is not None and piece.rule.output is Output.SAME:
            tensor = self._moved(piece)
            alone = alone and len(self.users[tensor.ref()]) == 1
            piece = self.maker.get(tensor.ref())
        return piece, alone

    def _start(self, tensor: tf.Tensor) -> tf.Tensor:
        """What a tensor was before others moved it."""
        piece = self.maker.get(tensor.ref())
        while piece is not None and piece.rule.output is Output.SAME:
            tensor = self._moved(piece)
            piece = self.maker.get(tensor.ref())
        return tensor

    def _moved(self, piece: Piece) -> tf.Tensor:
        return next(t for _, t in piece.inputs if self._is_number(t))
