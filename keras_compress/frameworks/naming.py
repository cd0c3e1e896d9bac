"""Which layer an op of a traced network came from.

The converter names a tensor after the nodes of the graph that it was computed by, those of fused
ops joined with ";". Both Keras put layers' names into that of a node, each in its own way, with
numbers behind them and bare operations left out; so the names are made here.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import tensorflow as tf

from keras_compress._shared.tensor_names import CALL, ROUNDING
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel, KerasOperation, KerasTensor, Method
from keras_compress.frameworks.wrap_method import wrap_method


def operations(
    adapter: Adapter, functional: KerasModel, prefix: str = ""
) -> Iterator[tuple[str, KerasOperation, list[KerasTensor]]]:
    """(path, operation, its outputs) of every call in a functional graph, nested ones laid flat, in
    order of execution.
    """
    for operation, _, outputs, _ in adapter.nodes(functional):
        path = prefix + operation.name
        inner = adapter.graph_inside(operation)
        if inner is None:
            yield path, operation, outputs
        else:
            yield from operations(adapter, inner, f"{path}/")


class Naming:
    """The layers of one model, by the names that its traced ops bear.

    A layer's path is `"backbone/conv1"` inside a nested model, and that of its first call where it
    is shared. A model without a graph is a layer too, for what it computes outside of all others,
    and its outputs. `outputs` are the names of the file's outputs, the model's own if it is None.
    """

    def __init__(self, adapter: Adapter, model: KerasModel, outputs: Sequence[str] | None = None):
        functional = adapter.functional(model)
        self._operations: dict[str, KerasOperation] = {}
        calls = collections.Counter[int]()
        called: Iterable[tuple[str, KerasOperation]]
        if functional is None:
            called = [(model.name, model), *adapter.layers(model)]
        else:
            called = ((path, each) for path, each, _ in operations(adapter, functional))
        for path, operation in called:
            calls[id(operation)] += 1
            if calls[id(operation)] == 1:
                self._operations[path] = operation
        self._calls = {path: calls[id(each)] for path, each in self._operations.items()}
        self._paths: dict[str, str] = {}  # by scope
        for path in self._operations:
            scope = _scope(path)
            while scope in self._paths:  # two names that differ in what no scope may have
                scope += "_"
            self._paths[scope] = path
        self._order = {path: position for position, path in enumerate(self._operations)}
        names = adapter.flat_names(model)[1] if outputs is None else outputs
        if functional is None:
            self._output_makers: dict[str, str | None] = dict.fromkeys(names, model.name)
        else:
            self._output_makers = {
                name: _producer(adapter, functional, tensor)
                for name, tensor in zip(names, functional.outputs, strict=True)
            }

    @contextlib.contextmanager
    def scoped(self) -> Iterator[None]:
        """While inside, the nodes that an operation is traced to bear its path, and behind it the
        number of the call from the second on. For one trace.
        """
        undo: list[Callable[[], None]] = []
        try:
            for scope, path in self._paths.items():
                patch = functools.partial(_in_scope, scope)
                undo.append(wrap_method(self._operations[path], "call", patch))
            yield
        finally:
            while undo:
                undo.pop()()

    def layers(self, tensor: str) -> tuple[str, ...]:
        """The paths of the layers that computed a file's tensor, in the order of the network.

        Several where the converter fused them into one op; those that only round it are left out
        unless there are no others. Empty where the name does not tell.
        """
        return self._found(tensor, rounding=False) or self.touching(tensor)

    def touching(self, tensor: str) -> tuple[str, ...]:
        """`layers`, with those that only round the tensor."""
        return self._found(tensor, rounding=True)

    def call(self, tensor: str, path: str) -> int | None:
        """Which call of a layer computed a file's tensor, from 1; None where that is not known."""
        if tensor in self._output_makers:
            return 1 if self._calls[path] == 1 else None
        numbers = []
        for part in tensor.split(";"):
            scope, _, _ = part.rpartition("/")
            rest: list[str] = []
            while scope and scope not in self._paths:
                scope, _, last = scope.rpartition("/")
                rest.append(last)
            if scope and self._paths[scope] == path:
                is_later = bool(rest) and rest[-1].startswith(CALL)
                numbers.append(int(rest[-1].removeprefix(CALL)) if is_later else 1)
        return max(numbers, default=None)  # calls share their constants, which are the first one's

    def _found(self, tensor: str, rounding: bool) -> tuple[str, ...]:
        maker = self._output_makers.get(tensor)
        if maker is not None:  # an output of the file has the model's own name
            return (maker,)
        found = set()
        for part in tensor.split(";"):
            scope, _, node = part.rpartition("/")
            if not rounding and node.startswith(ROUNDING):
                continue
            while scope and scope not in self._paths:
                scope = scope.rpartition("/")[0]
            if scope:
                found.add(self._paths[scope])
        return tuple(sorted(found, key=self._order.__getitem__))


def _scope(path: str) -> str:
    """A path as TensorFlow takes it for a scope: a valid character first, and valid ones only."""
    scope = re.sub(r"[^A-Za-z0-9_.\-/]", "_", path)
    return scope if scope[0].isalnum() else f"layer{scope}"


def _in_scope(scope: str, original: Method) -> Method:
    calls = collections.Counter[int]()  # by graph: what is traced dry on the way counts for itself

    @functools.wraps(original)
    def call(*args: object, **kwargs: object) -> object:
        graph = id(tf.compat.v1.get_default_graph())
        calls[graph] += 1
        number = calls[graph]
        # A scope that ends in "/" is taken as it is, wherever it is entered.
        with tf.name_scope(f"{scope}/" if number == 1 else f"{scope}/{CALL}{number}/"):
            return original(*args, **kwargs)

    return call


def _producer(
    adapter: Adapter, functional: KerasModel, tensor: KerasTensor, prefix: str = ""
) -> str | None:
    """The path of the operation that gives a tensor of a graph; None for an input."""
    for operation, _, outputs, _ in adapter.nodes(functional):
        position = next((i for i, output in enumerate(outputs) if output is tensor), None)
        if position is not None:
            inner = adapter.graph_inside(operation)
            path = prefix + operation.name
            if inner is None:
                return path
            return _producer(adapter, inner, inner.outputs[position], f"{path}/")
    return None
