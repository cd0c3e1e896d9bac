"""What is private to TensorFlow about a graph under trace: dry traces, and ops seen as they are
made.

No public road leads from Python code that is being traced to the ops that it makes. `op_callbacks`
tell of an op when it is recorded, which is too late for its gradient, and a second function whose
graph is rewritten is fused otherwise, so that even watching it changes a training's last bits.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph
from tensorflow.python.framework.ops import EagerTensor

Make = Callable[..., Any]
"""`_create_op_internal` of a graph: (type, inputs, ...) -> Operation."""

_HOOK = "_create_op_internal"


class DryTrace:
    """What some code would compute, traced to a graph that nobody runs.

    `outputs` are the flat tensors of what it returned. A tensor of another graph, or of none, that
    it reads is a placeholder here, or a constant; `inner` tells which.
    """

    def __init__(self, compute: Callable[[], object]):
        self.graph = FuncGraph("dry")
        with self.graph.as_default():
            self.result = compute()
        captures = self.graph.captures
        self._inner = {id(outer): own for outer, own in captures}
        self._outer = {id(own): outer for outer, own in captures}
        self._kept = captures  # ids are theirs only while they live
        self.outputs = [self.inner(t) for t in tf.nest.flatten(self.result) if tf.is_tensor(t)]

    def operations(self) -> Sequence[tf.Operation]:
        """All that were made, in order."""
        operations: Sequence[tf.Operation] = self.graph.get_operations()
        return operations

    def inner(self, tensor: tf.Tensor) -> tf.Tensor:
        """What stands for a tensor in this graph: itself if it is this graph's own."""
        return self._inner.get(id(tensor), tensor)

    def outer(self, tensor: tf.Tensor) -> tf.Tensor | None:
        """What a placeholder of this graph stands for; None for any other tensor."""
        return self._outer.get(id(tensor))

    def holds(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor is this graph's own."""
        return getattr(tensor, "graph", None) is self.graph

    def reads(self, tensor: tf.Tensor, variable: tf.Variable) -> bool:
        """Whether a tensor of this graph depends on a variable."""
        # One per replica, of which a trace outside of them reads the first.
        copies = getattr(variable, "values", (variable,))
        found = [self._inner.get(id(copy.handle)) for copy in copies]
        names = self._behind(tensor)
        return any(own is not None and own.op.name in names for own in found)

    def evaluate(self, tensor: tf.Tensor) -> tf.Tensor:
        """The numbers now of a tensor that depends on variables and constants only."""
        names = self._behind(tensor)
        part = tf.compat.v1.GraphDef()
        part.versions.CopyFrom(self._graph_def.versions)
        part.node.extend(node for node in self._graph_def.node if node.name in names)
        given = [(own, outer) for outer, own in self._kept if own.op.name in names]

        def compute() -> tf.Tensor:
            graph = tf.compat.v1.get_default_graph()
            # The importer takes no eager tensors, so they are captured first.
            inputs = {own.name: graph.capture(outer) for own, outer in given}
            if tensor.name in inputs:
                return tf.identity(inputs[tensor.name])
            (found,) = tf.graph_util.import_graph_def(
                part, input_map=inputs, return_elements=[tensor.name], name="numbers"
            )
            return found

        with tf.init_scope():
            # Not called as it is: a function made anew each time is warned of.
            return tf.function(compute, autograph=False).get_concrete_function()()

    @functools.cached_property
    def _graph_def(self) -> Any:
        return self.graph.as_graph_def()

    def _behind(self, tensor: tf.Tensor) -> set[str]:
        """The names of the ops that a tensor depends on."""
        seen: set[str] = set()
        todo = [tensor.op]
        while todo:
            op = todo.pop()
            if op.name not in seen:
                seen.add(op.name)
                todo += [read.op for read in op.inputs]
        return seen


def is_eager(tensor: object) -> bool:
    """Whether a tensor has numbers already."""
    return isinstance(tensor, EagerTensor)


class StandIn:
    """Other ops in the place of one, for the function that wanted to make it: it reads the outputs,
    and, for a tape that nobody asks (tf_keras' Lambda has one), inputs and attributes.
    """

    def __init__(self, op: tf.Operation, inputs: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor]):
        self._op = op
        self.inputs = list(inputs)
        self.outputs = list(outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)


class OpHook:
    """Stands in for what makes the ops of a graph under trace, on one thread, while it is entered.

    `make(original, type, inputs)` makes the op, by calling `original(inputs)`, perhaps with other
    inputs. Replicas of a strategy are traced to one graph by threads of their own, in turns, so
    each thread has its own; they may overlap, and leave in any order.
    """

    def __init__(self, make: Callable[[Callable[..., Any], str, Sequence[tf.Tensor]], Any]):
        self._make = make

    @contextlib.contextmanager
    def on(self, graph: tf.Graph) -> Iterator[None]:
        thread = threading.get_ident()
        with _LOCK:
            hooks = _HOOKS.setdefault(id(graph), {})
            if not hooks:
                _install(graph, hooks)
            if thread in hooks:
                raise RuntimeError("a graph's ops are watched already on this thread")
            hooks[thread] = self._make
        try:
            yield
        finally:
            with _LOCK:
                del hooks[thread]
                if not hooks:
                    delattr(graph, _HOOK)  # the class' own again
                    del _HOOKS[id(graph)]


_LOCK = threading.Lock()
_HOOKS: dict[int, dict[int, Any]] = {}


def _install(graph: tf.Graph, hooks: dict[int, Any]) -> None:
    original: Make = getattr(graph, _HOOK)

    def create(op_type: str, inputs: Sequence[tf.Tensor], *args: Any, **kwargs: Any) -> Any:
        make = hooks.get(threading.get_ident())
        if make is None:
            return original(op_type, inputs, *args, **kwargs)
        return make(lambda given: original(op_type, given, *args, **kwargs), op_type, inputs)

    # A FuncGraph has no `__dict__` to write to.
    setattr(graph, _HOOK, create)
