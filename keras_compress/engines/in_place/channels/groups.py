"""Which channels go together: those that can only be dropped at once, and what hangs on them."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.channels.moved import joined, laid_out, moved
from keras_compress.engines.in_place.channels.rows import How, Passing, Side, Weight
from keras_compress.engines.in_place.channels.table import CHANNELS, is_elementwise
from keras_compress.engines.in_place.graph import Graph, Node
from keras_compress.engines.in_place.lookup import activation_name
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.kernels import MADE_OF_OTHERS
from keras_compress.frameworks.protocols import KerasLayer, KerasModel, KerasVariable

Ids = np.ndarray
"""One number for each channel of a tensor, or along an axis of a weight: who it is."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """The channels along one axis of one weight."""

    path: str
    layer: KerasLayer
    weight: Weight
    variable: KerasVariable
    kernel: tf.Variable
    axis: int
    """Counted from the front."""
    ids: Ids


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that the same layers make. Each member is one channel to drop: the ids of all the
    places that it stands in.
    """

    layers: tuple[str, ...]
    members: tuple[Ids, ...]
    stopped: str | None
    """Why none of it can be dropped, or None."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation of the table, for whoever makes the network again."""

    path: str
    passing: Passing
    made: Ids | None
    """The channels that come out."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An input of a nested model."""

    path: str
    name: str
    ids: Ids


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """All channels of a model.

    Attributes:
        count: of ids.
        makers: path -> ids, of the layers that make channels.
    """

    count: int
    groups: list[Group]
    slots: list[Slot]
    makers: dict[str, Ids]
    calls: list[Call]
    entries: list[Entry]


def map_channels(adapter: Adapter, model: KerasModel) -> ChannelMap:
    """Follow every channel of a model that has a graph."""
    return _Walk(adapter, Graph(adapter, model)).map()


class _Unions:
    """Numbers that become one."""

    def __init__(self) -> None:
        self.parents: list[int] = []

    def new(self, count: int) -> Ids:
        start = len(self.parents)
        self.parents += range(start, start + count)
        return np.arange(start, start + count)

    def find(self, each: int) -> int:
        parents = self.parents
        while parents[each] != each:
            parents[each] = parents[parents[each]]
            each = parents[each]
        return each

    def unite(self, some: Ids, others: Ids) -> None:
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            self.parents[self.find(one)] = self.find(other)


class _Walk:
    def __init__(self, adapter: Adapter, graph: Graph):
        self._adapter = adapter
        self._graph = graph
        self._unions = _Unions()
        self._ids: dict[int, Ids | None] = {}
        self._fixed: dict[int, str] = {}
        """Tensor -> why its channels cannot be dropped, of one that nobody has asked for yet."""
        self._reasons: list[tuple[Ids, str]] = []
        self._origins: list[tuple[str | None, Ids]] = []
        """(path, ids) of what makes channels; no path: none that could make fewer."""
        self._makers: dict[str, Ids] = {}
        self._slots: list[Slot] = []
        self._calls: list[Call] = []
        self._met: dict[int, dict[Side, Ids | None]] = {}
        """id of an operation -> the channels of its first call."""
        self._owners: dict[int, int] = {}
        """id of a variable -> that of the operation that it hangs on."""

    def map(self) -> ChannelMap:
        for tensor in self._graph.inputs:
            self._fixed[tensor] = "its channels go together with inputs of the model"
        for node in self._graph.nodes:
            self._pass(node)
        ends = [ids for t in self._graph.outputs if (ids := self._ids.get(t)) is not None]
        # First, as what one would say of them first.
        self._reasons[:0] = [(ids, "its channels are outputs of the model") for ids in ends]
        entries = [
            Entry(path, self._input_name(inner, place), ids)
            for path, inner, numbers in self._graph.nested
            for place, tensor in enumerate(numbers)
            if (ids := self._ids.get(tensor)) is not None
        ]
        count = len(self._unions.parents)
        return ChannelMap(count, self._groups(), self._slots, self._makers, self._calls, entries)

    def _input_name(self, inner: KerasModel, place: int) -> str:
        """Of the InputLayer: an input that was given no name does not bear that of its layer."""
        layers: list[Any] = [layer for layer in inner.layers if self._adapter.is_input(layer)]
        named = self._adapter.graph_end_names(inner)[0][place]
        return next((own.name for own in layers if own.output is inner.inputs[place]), named)

    # --- one call

    def _pass(self, node: Node) -> None:
        operation: Any = node.operation
        kind = self._adapter.kind(operation)
        passing = CHANNELS.get(kind)
        shown = f"{node.path!r} ({kind or type(operation).__name__})"
        inputs = [
            self._of(tensor, shape)
            for tensor, (shape, _) in zip(node.inputs, node.shapes, strict=True)
        ]
        if passing is None:
            return self._stop_all(node, inputs, f"its channels meet {shown}, which no row tells of")
        reason = passing.refuses(operation) or passing.refuses_call(node)
        reason = reason or self._other_weights(operation, passing)
        if reason is None and len(node.outputs) != 1:
            reason = "it gives several tensors"
        if reason is not None:
            return self._stop_all(node, inputs, f"its channels meet {shown}: {reason}")
        ways = {
            How.KEEPS: self._keep,
            How.MERGES: self._merge,
            How.JOINS: self._join,
            How.LAYS_OUT: self._lay_out,
            How.ENDS: self._end,
        }
        made = ways[passing.how](node, passing, inputs, shown)
        self._ids[node.outputs[0]] = made
        self._calls.append(Call(node.path, passing, made))
        return None

    def _keep(
        self, node: Node, passing: Passing, inputs: list[Ids | None], shown: str
    ) -> Ids | None:
        own, *others = inputs
        for other in others:
            self._stop(other, f"its channels meet {shown} as a second input")
        if own is None:
            return None
        self._check_activation(node, passing, own, shown)
        out = own
        if passing.spreads:
            out = np.repeat(own, int(getattr(node.operation, "depth_multiplier", 1)))
        self._hang(node, passing, {Side.IN: own, Side.SPREAD: out})
        return out

    def _merge(
        self, node: Node, passing: Passing, inputs: list[Ids | None], shown: str
    ) -> Ids | None:
        if any(ids is None for ids in inputs):
            self._stop_each(inputs, f"its channels meet {shown}, whose channels cannot be counted")
            return None
        known = [ids for ids in inputs if ids is not None]
        widest = max(known, key=len)
        for ids in known:
            if len(ids) == len(widest):
                self._unions.unite(ids, widest)
            else:
                self._stop(ids, f"each of its channels meets all of another input in {shown}")
        return widest

    def _join(
        self, node: Node, passing: Passing, inputs: list[Ids | None], shown: str
    ) -> Ids | None:
        how = None
        known = [ids for ids in inputs if ids is not None]
        if len(known) == len(inputs):
            how = joined(self._moved(node), [len(ids) for ids in known])
        if how == "behind":
            return np.concatenate(known)
        if how == "over":
            for ids in known[1:]:
                self._unions.unite(ids, known[0])
            return known[0]
        self._stop_each(inputs, f"its channels meet {shown}, which does not put them side by side")
        return None

    def _lay_out(
        self, node: Node, passing: Passing, inputs: list[Ids | None], shown: str
    ) -> Ids | None:
        own, *others = inputs
        if own is not None and not others:
            places = self._moved(node)
            times = 0 if places is None else places.shape[-1] // len(own)
            if laid_out(places, len(own)) and (times == 1 or passing.config is not None):
                return np.tile(own, times)
        self._stop_each(inputs, f"its channels meet {shown}, which lays them out anew")
        return None

    def _end(
        self, node: Node, passing: Passing, inputs: list[Ids | None], shown: str
    ) -> Ids | None:
        operation: Any = node.operation
        known = self._met.get(id(operation))
        if known is None:
            made = self._unions.new(self._size(operation, passing))
            self._origins.append((node.path, made))
            self._makers[node.path] = made
            if passing.size not in operation.get_config():
                self._stop(made, f"the config of {shown} does not hold its {passing.size!r}")
            self._check_activation(node, passing, made, shown)
        else:
            made = known[Side.OUT]  # type: ignore[assignment]  # it was made in the first call
        spread = inputs[0]
        if spread is not None:
            spread = np.repeat(spread, int(getattr(operation, "depth_multiplier", None) or 1))
        self._hang(node, passing, {Side.IN: inputs[0], Side.SPREAD: spread, Side.OUT: made})
        return made

    # --- what hangs on them

    def _hang(self, node: Node, passing: Passing, sides: dict[Side, Ids | None]) -> None:
        operation: Any = node.operation
        met = self._met.get(id(operation))
        if met is not None:  # of a layer that is called again the very same weights
            for side, ids in sides.items():
                other = met[side]
                if ids is not None and other is not None:
                    self._unions.unite(ids, other)
                else:
                    self._stop_each(
                        [ids, other], f"its channels meet {node.path!r} in several widths"
                    )
            return
        self._met[id(operation)] = sides
        for weight in passing.weights:
            variable = self._variable(operation, weight.name)
            if variable is None:
                continue
            kernel = self._adapter.tf_variable(variable)
            owner = self._owners.setdefault(id(kernel), id(operation))
            for axis, side in weight.axes:
                ids = sides.get(side)
                if ids is None:
                    continue
                axis %= len(kernel.shape)
                if owner != id(operation):
                    self._stop(ids, f"{node.path!r} has a weight of another layer")
                if not operation.trainable:
                    self._stop(ids, f"{node.path!r} was frozen when the channels were followed")
                self._slots.append(Slot(node.path, operation, weight, variable, kernel, axis, ids))

    def _variable(self, operation: Any, name: str) -> KerasVariable | None:
        if name.endswith("kernel"):
            return self._adapter.own_kernel(operation, name)
        found: KerasVariable | None = getattr(operation, name, None)
        return found

    def _other_weights(self, operation: Any, passing: Passing) -> str | None:
        """Why its weights are not those that its row tells of, or None."""
        known = [self._variable(operation, weight.name) for weight in passing.weights]
        told = {id(self._adapter.tf_variable(each)) for each in known if each is not None}
        for own in getattr(operation, "weights", ()):
            if id(self._adapter.tf_variable(own)) not in told:
                return f"it has a weight {own.name!r}, of which its row tells nothing"
        for weight in passing.weights:
            is_kernel = weight.name.endswith("kernel")
            if is_kernel and self._adapter.own_kernel(operation, weight.name) is None:
                return f"{weight.name!r} {MADE_OF_OTHERS}"
        return None

    def _size(self, operation: Any, passing: Passing) -> int:
        """How many channels a layer makes; its kernel comes first, or last."""
        sizes = [
            int(variable.shape[axis])
            for weight in passing.weights
            for axis, side in weight.axes
            if side is Side.OUT and (variable := self._variable(operation, weight.name)) is not None
        ]
        return sizes[0]

    def _check_activation(self, node: Node, passing: Passing, ids: Ids, shown: str) -> None:
        if not passing.activated:
            return
        kind = self._adapter.kind(node.operation)
        name = activation_name(self._adapter, node.operation, kind)
        if not is_elementwise(name):
            self._stop(ids, f"its channels meet {shown}, whose {name!r} may compute one of another")

    # --- ids

    def _of(self, tensor: int, shape: Sequence[int | None]) -> Ids | None:
        if tensor not in self._ids:
            size = shape[-1] if len(shape) > 1 else None
            ids = None if size is None else self._unions.new(size)
            self._ids[tensor] = ids
            if ids is not None:
                self._origins.append((None, ids))
                self._stop(ids, self._fixed[tensor])
        return self._ids[tensor]

    def _moved(self, node: Node) -> np.ndarray | None:
        try:
            return moved(node)
        except Exception:  # an operation that does not run by itself: nobody knows what it moves
            return None

    def _stop_all(self, node: Node, inputs: Iterable[Ids | None], reason: str) -> None:
        self._stop_each(inputs, reason)
        for tensor in node.outputs:
            self._fixed[tensor] = reason.replace("its channels meet", "its channels come out of", 1)

    def _stop_each(self, inputs: Iterable[Ids | None], reason: str) -> None:
        for ids in inputs:
            self._stop(ids, reason)

    def _stop(self, ids: Ids | None, reason: str) -> None:
        if ids is not None:
            self._reasons.append((ids, reason))

    def _groups(self) -> list[Group]:
        """The channels that can be dropped one by one, by the layers that make them."""
        find = self._unions.find
        reasons: dict[int, str] = {}
        for ids, reason in self._reasons:
            for each in ids.tolist():
                reasons.setdefault(find(each), reason)
        members: dict[int, list[int]] = defaultdict(list)
        makers: dict[int, Counter[int]] = defaultdict(Counter)
        for number, (_, ids) in enumerate(self._origins):
            for each in ids.tolist():
                members[find(each)].append(each)
                makers[find(each)][number] += 1
        by_makers: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        for root, own in makers.items():
            by_makers[tuple(sorted(own.items()))].append(root)
        groups = []
        for counts, roots in by_makers.items():
            paths = [path for number, _ in counts if (path := self._origins[number][0])]
            stopped = next((reasons[root] for root in roots if root in reasons), None)
            groups.append(
                Group(tuple(paths), tuple(np.array(members[root]) for root in roots), stopped)
            )
        return [group for group in groups if group.layers]
