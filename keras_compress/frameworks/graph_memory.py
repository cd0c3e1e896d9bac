"""What TensorFlow would keep of a model that is gone."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.framework import ops

_PREFIX = "CustomGradient-"


def forget_graphs() -> None:
    """Let go of the graphs that nothing but TensorFlow's registry of gradients keeps alive.

    A `tf.custom_gradient` that was traced stands there for ever, with its graph behind it
    (tensorflow issue 97697). The optimizers of both Keras have one, in the sum over replicas, so
    some MB stay of every model that was trained. Gradients of graphs that live on stay too.
    """
    registry = ops.gradient_registry._registry
    graphs = {}
    for name in [name for name in registry if name.startswith(_PREFIX)]:
        graph = _graph_of(registry[name]["type"])
        if graph is not None:
            # Now it is the graph that holds its gradient, and goes with it.
            setattr(graph, name, registry.pop(name))
            graphs[name] = weakref.ref(graph)
    graph = None
    gc.collect()
    for name, held in graphs.items():
        if (graph := held()) is not None:
            registry[name] = getattr(graph, name)
            delattr(graph, name)


def _graph_of(gradient: Callable[..., object]) -> tf.Graph | None:
    """The graph of the tensors that a registered gradient remembers; None if it has none."""
    inner = inspect.getclosurevars(gradient).nonlocals.get("tape_grad_fn")
    if inner is None:
        return None
    result = inspect.getclosurevars(inner).nonlocals.get("result")
    return next(
        (each.graph for each in tf.nest.flatten(result) if tf.is_symbolic_tensor(each)), None
    )
