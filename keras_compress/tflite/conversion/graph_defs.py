"""What is done to a GraphDef wherever one is taken apart and put together again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


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
