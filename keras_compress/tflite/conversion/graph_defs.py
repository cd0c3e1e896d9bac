"""What is done to a GraphDef wherever one is taken apart and put together again."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from keras_compress.ranges import quantization_of_range

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

FAKE_QUANT = "FakeQuant"
"""How the ops are called that round."""


def node_of(tensor: str) -> str:
    """The name of the node that computes a tensor: of "image:0" it is "image"."""
    return tensor.partition(":")[0]


def every_node(graph: tf.compat.v1.GraphDef) -> Iterator[tf.compat.v1.NodeDef]:
    """The nodes of a graph, and those of the functions in it."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def remove_nodes(graph: tf.compat.v1.GraphDef, names: Collection[str]) -> None:
    """Take these nodes out; what reads them gets its numbers from elsewhere."""
    kept = [node for node in graph.node if node.name not in names]
    del graph.node[:]
    graph.node.extend(kept)


def release(graph: tf.compat.v1.GraphDef) -> None:
    """Let every node run wherever it comes to, not on a device or beside a node that is gone."""
    for node in every_node(graph):
        node.device = ""
        node.attr.pop("_class", None)


def inputs_of(node: tf.compat.v1.NodeDef) -> list[str]:
    """The tensors that a node reads, "name:0" written out."""
    read = [name for name in node.input if not name.startswith("^")]
    return [name if ":" in name else f"{name}:0" for name in read]


def keep_needed(graph: tf.compat.v1.GraphDef, ends: Iterable[str]) -> None:
    """Leave only these nodes, by name, and those that they are computed by."""
    remove_nodes(graph, {node.name for node in graph.node} - needed(graph, ends))


def needed(
    graph: tf.compat.v1.GraphDef, ends: Iterable[str], given: Collection[str] = ()
) -> set[str]:
    """These nodes, by name, and those that they are computed by where some are given."""
    nodes = {node.name: node for node in graph.node}
    found: set[str] = set()
    waiting = list(ends)
    while waiting:
        name = waiting.pop()
        if name not in found and name in nodes and name not in given:
            found.add(name)
            waiting += [node_of(read.removeprefix("^")) for read in nodes[name].input]
    return found


def constant(nodes: Mapping[str, tf.compat.v1.NodeDef], tensor: str) -> np.ndarray | None:
    """The numbers of a tensor that is a constant, perhaps one that was a variable before it was
    frozen; None where it is computed.
    """
    import tensorflow as tf

    node = nodes.get(node_of(tensor))
    while node is not None and node.op == "Identity":
        node = nodes.get(node_of(node.input[0]))
    if node is None or node.op != "Const":
        return None
    values: np.ndarray = tf.make_ndarray(node.attr["value"].tensor)
    return values


def range_of(
    nodes: Mapping[str, tf.compat.v1.NodeDef], node: tf.compat.v1.NodeDef
) -> tuple[float, float] | None:
    """The range over which a fake-quant node rounds; None for one of each channel, and where the
    range is computed.
    """
    if node.op == "FakeQuantWithMinMaxArgs":
        return node.attr["min"].f, node.attr["max"].f
    ends = [constant(nodes, end) for end in inputs_of(node)[1:3]]
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None or low.size != 1 or high.size != 1:
        return None
    return float(low.reshape(())), float(high.reshape(()))


def asymmetric_kernels(graph: tf.compat.v1.GraphDef) -> list[str]:
    """The fake-quant nodes that round weights of 8 bits over a range whose middle is not 0, as
    `tf.contrib.quantize` made them where nobody asked for symmetric ones.

    An int8 kernel of LiteRT's has no zero point; only the older ones of uint8 do.
    """
    nodes = {node.name: node for node in graph.node}
    constants = _of_constants(graph)
    found = []
    for node in graph.node:
        bits = node.attr["num_bits"].i if "num_bits" in node.attr else 8
        if not node.op.startswith(FAKE_QUANT) or bits != 8:
            continue
        limits = range_of(nodes, node)
        if limits is None or node_of(node.input[0]) not in constants:
            continue
        if limits[0] < limits[1]:
            narrow = node.attr["narrow_range"].b
            _, zero_point = quantization_of_range(*limits, "uint8", narrow=narrow)
            found += [node.name] * (zero_point != 128)
    return found


def _of_constants(graph: tf.compat.v1.GraphDef) -> set[str]:
    """The nodes that only constants go into, as a kernel and the batch norm folded into it."""
    readers = collections.defaultdict(list)
    missing = {}
    for node in graph.node:
        read = {node_of(tensor) for tensor in inputs_of(node)}
        missing[node.name] = len(read)
        for name in read:
            readers[name].append(node.name)
    ready = [node.name for node in graph.node if node.op == "Const"]
    found: set[str] = set()
    while ready:
        name = ready.pop()
        found.add(name)
        for reader in readers[name]:
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    return found
