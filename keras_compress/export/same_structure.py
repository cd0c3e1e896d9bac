"""What networks of one structure have in common, of which one rehearsal speaks for all."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from keras_compress.tflite import Conversion
from keras_compress.tflite.conversion.graph_defs import node_of

if TYPE_CHECKING:
    from tensorflow.types.experimental import ConcreteFunction

OUTERMOST = ""
"""In the place of a function's name."""


def structure_of(function: ConcreteFunction, how: Conversion, more: object) -> bytes:
    """What two networks have in common of which one says how the other's rehearsal would end: all
    but names and the values of real numbers.
    """
    graph = function.graph.as_graph_def()
    digest = hashlib.sha256(repr((how, more)).encode())
    bodies = {each.signature.name: each.node_def for each in graph.library.function}
    # The library is sorted by names, which count on: functions go in the order of their calls.
    met = {OUTERMOST: 0}
    todo = [OUTERMOST]
    while todo:
        name = todo.pop(0)
        seen = len(met)
        nodes = graph.node if name == OUTERMOST else bodies[name]
        numbers = {node.name: i for i, node in enumerate(nodes)}
        for node in nodes:
            # Numbers come first, as the op takes them, then what it waits for, sorted by names.
            taken = [_numbered(own, numbers) for own in node.input if own[0] != "^"]
            awaited = sorted(_numbered(own, numbers) for own in node.input if own[0] == "^")
            read = taken + awaited
            digest.update(repr((node.op, read)).encode())
            for key in sorted(node.attr):
                if not key.startswith("_"):
                    digest.update(f"{key}=".encode() + _described(node.attr[key], bodies, met))
        todo += list(met)[seen:]
    shapes = {id(variable.handle): variable.shape for variable in function.graph.variables}
    captured = [
        (outer.dtype, shapes.get(id(outer), outer.shape)) for outer, _ in function.graph.captures
    ]
    digest.update(repr((captured, [tensor.shape for tensor in function.outputs])).encode())
    return digest.digest()


def _numbered(name: str, numbers: Mapping[str, int]) -> tuple[Any, ...]:
    node = node_of(name.lstrip("^"))
    return (name[0] == "^", numbers.get(node, node), name.partition(":")[2])


def _described(value: Any, bodies: Container[str], met: dict[str, int]) -> bytes:
    """An attribute; `met`: the functions called so far, and the number of each."""
    import tensorflow as tf

    kind = value.WhichOneof("value")
    if kind == "func":
        if value.func.name not in bodies:
            return repr(value.func.name).encode()
        return repr(met.setdefault(value.func.name, len(met))).encode()
    if kind == "tensor" and tf.as_dtype(value.tensor.dtype).is_floating:
        shape = [size.size for size in value.tensor.tensor_shape.dim]
        return repr((value.tensor.dtype, shape)).encode()
    serialized: bytes = value.SerializeToString(deterministic=True)
    return serialized
