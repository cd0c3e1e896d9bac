"""What networks of one structure have in common, of which one rehearsal speaks for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_compress.tflite import Conversion
from keras_compress.tflite.conversion.graph_defs import node_of

if TYPE_CHECKING:
    from tensorflow.types.experimental import ConcreteFunction


def structure_of(function: ConcreteFunction, how: Conversion, more: object) -> bytes:
    """What two networks have in common of which one says how the other's rehearsal would end: all
    but names and the values of real numbers.
    """
    graph = function.graph.as_graph_def()
    digest = hashlib.sha256(repr((how, more)).encode())
    functions = {each.signature.name: i for i, each in enumerate(graph.library.function)}
    bodies = [graph.node, *(each.node_def for each in graph.library.function)]
    for nodes in bodies:
        numbers = {node.name: i for i, node in enumerate(nodes)}
        for node in nodes:
            read = [_numbered(name, numbers) for name in node.input]
            digest.update(repr((node.op, read)).encode())
            for name in sorted(node.attr):
                if not name.startswith("_"):
                    digest.update(f"{name}=".encode() + _described(node.attr[name], functions))
    for outer, _ in function.graph.captures:
        digest.update(repr((outer.dtype, getattr(outer, "_handle_data", outer.shape))).encode())
    digest.update(repr([tensor.shape for tensor in function.outputs]).encode())
    return digest.digest()


def _numbered(name: str, numbers: Mapping[str, int]) -> tuple[Any, ...]:
    node = node_of(name.lstrip("^"))
    return (name[0] == "^", numbers.get(node, node), name.partition(":")[2])


def _described(value: Any, functions: Mapping[str, int]) -> bytes:
    import tensorflow as tf

    kind = value.WhichOneof("value")
    if kind == "func":
        return repr(functions.get(value.func.name)).encode()
    if kind == "tensor" and tf.as_dtype(value.tensor.dtype).is_floating:
        return repr((value.tensor.dtype, str(value.tensor.tensor_shape))).encode()
    serialized: bytes = value.SerializeToString(deterministic=True)
    return serialized
