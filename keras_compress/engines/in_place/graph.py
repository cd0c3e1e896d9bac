"""A model with its nested models laid flat: who computes what from what."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel, KerasOperation, KerasTensor


@dataclasses.dataclass(frozen=True)
class Node:
    """One call of one operation. Tensors are plain numbers, the same for producer and consumer
    across nesting.
    """

    operation: KerasOperation
    path: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[tuple[int | None, ...], str], ...] = ()
    """(shape, dtype) of each input."""
    arguments: Callable[[Sequence[object]], tuple[tuple[Any, ...], dict[str, Any]]] = (
        lambda values: (
            tuple(values),
            {},
        )
    )
    """Numbers in the place of the inputs -> the arguments of this call with them."""


class Graph:
    """The flat graph of a model. `nodes` are in order of execution; a shared layer has several. A
    model with a `call` of its own is one node, whatever graph it has, if it has one.
    """

    def __init__(self, adapter: Adapter, model: KerasModel):
        inputs, outputs = map(adapter.tree.flatten, adapter.structures(model))
        functional = adapter.graph_inside(model)
        self._adapter = adapter
        self._numbers: dict[int, int] = {}
        # The ids are unique only while the tensors live.
        self._keep: list[KerasTensor | _Copy] = []
        self.dtypes: dict[int, str] = {}
        self.nodes: list[Node] = []
        self.nested: list[tuple[str, KerasModel, tuple[int, ...]]] = []
        """(path, graph, numbers of its flat inputs) of each call of each nested model."""
        self.inputs = [self._number(tensor) for tensor in inputs]
        renamed: dict[int, int] = {}
        if functional is None:
            ends = tuple(map(self._number, outputs))
            self.nodes.append(Node(model, model.name, tuple(self.inputs), ends))
        else:
            self._add(functional, "", renamed)
        self.outputs = [
            renamed[id(tensor)] if id(tensor) in renamed else self._number(tensor)
            for tensor in outputs
        ]

        self.consumers: dict[int, list[Node]] = defaultdict(list)
        self.producer: dict[int, Node] = {}
        self.nodes_of: dict[int, list[Node]] = defaultdict(list)
        for node in self.nodes:
            self.nodes_of[id(node.operation)].append(node)
            for tensor in node.inputs:
                self.consumers[tensor].append(node)
            for tensor in node.outputs:
                self.producer[tensor] = node

    def operations(self) -> Iterator[tuple[str, KerasOperation]]:
        """(path, operation), each operation once, in the order of its first call."""
        seen: set[int] = set()
        for node in self.nodes:
            if id(node.operation) not in seen:
                seen.add(id(node.operation))
                yield node.path, node.operation

    def only_consumer(self, operation: KerasOperation) -> KerasOperation | None:
        """The one operation that uses what `operation` computes; None where there are several, or
        it is an output. A shared one must be used, call by call, by one that is shared alike.
        """
        users: list[Node] = []
        for node in self.nodes_of[id(operation)]:
            if len(node.outputs) != 1 or node.outputs[0] in self.outputs:
                return None
            if len(self.consumers[node.outputs[0]]) != 1:
                return None
            users += self.consumers[node.outputs[0]]
        follower = users[0].operation
        calls = self.nodes_of[id(follower)]
        if {id(user) for user in users} != {id(call) for call in calls} or len(users) != len(calls):
            return None
        return follower

    def _number(self, tensor: KerasTensor | _Copy) -> int:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self._numbers)
            self._keep.append(tensor)
            self.dtypes[self._numbers[id(tensor)]] = _dtype(tensor)
        return self._numbers[id(tensor)]

    def _add(self, functional: KerasModel, prefix: str, renamed: dict[int, int]) -> None:
        """Append a graph's nodes; `renamed` maps ids of its own tensors to numbers known outside.

        It starts empty for the outermost graph and gains the outputs of each nested model.
        """

        def number(tensor: KerasTensor) -> int:
            return renamed[id(tensor)] if id(tensor) in renamed else self._number(tensor)

        for operation, inputs, outputs, arguments in self._adapter.nodes(functional):
            inner = self._adapter.graph_inside(operation)
            path = prefix + operation.name
            if inner is None:
                numbers = tuple(map(number, inputs)), tuple(map(number, outputs))
                shapes = tuple((tuple(tensor.shape), _dtype(tensor)) for tensor in inputs)
                self.nodes.append(Node(operation, path, *numbers, shapes, arguments))
                continue
            self.nested.append((path, inner, tuple(map(number, inputs))))
            # Each call of a nested model is its own copy of the inner tensors.
            inside = {
                id(own): number(given) for own, given in zip(inner.inputs, inputs, strict=True)
            }
            for _, _, produced, _ in self._adapter.nodes(inner):
                for tensor in produced:
                    inside[id(tensor)] = self._number(_Copy(tensor.dtype))
            self._add(inner, f"{path}/", inside)
            for own, given in zip(inner.outputs, outputs, strict=True):
                renamed[id(given)] = inside[id(own)]
                self._keep.append(given)


@dataclasses.dataclass(eq=False)
class _Copy:
    """Stands for an inner tensor of one call of a nested model."""

    dtype: object


def _dtype(tensor: KerasTensor | _Copy) -> str:
    return str(getattr(tensor.dtype, "name", tensor.dtype))
