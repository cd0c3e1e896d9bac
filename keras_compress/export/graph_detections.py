"""The op that makes detections, in a frozen graph: TensorFlow has none of that name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_compress._shared.checks import value_error
from keras_compress.specs.detection import OP, OUTPUTS, DetectionPostProcess
from keras_compress.tflite.conversion.graph_defs import constant, inputs_of, node_of

if TYPE_CHECKING:
    import tensorflow as tf

OWNER = "export_tflite"
_INTEGERS = ("max_detections", "max_classes_per_detection", "detections_per_class", "num_classes")
_REALS = (
    "nms_score_threshold", "nms_iou_threshold", "y_scale", "x_scale", "h_scale", "w_scale",
)  # fmt: skip


def detections_of(
    graph: tf.compat.v1.GraphDef, outputs: Sequence[str]
) -> tuple[DetectionPostProcess, dict[str, str]] | None:
    """The op that these outputs of a graph are of, and what it is given: name -> tensor, boxes
    first. None where they are of no such op.

    Raises:
        ValueError: outputs of it and others, or anchors that are computed.
    """
    nodes = {node.name: node for node in graph.node}
    of_op = {node_of(name) for name in outputs if nodes[node_of(name)].op == OP}
    if not of_op:
        return None
    others = [name for name in outputs if node_of(name) not in of_op]
    if others or len(of_op) > 1:
        rule = f"either those of one {OP}, {', '.join(OUTPUTS)}, or others"
        raise value_error(OWNER, "outputs", list(outputs), rule)
    node = nodes[of_op.pop()]
    boxes, scores, anchors = inputs_of(node)
    numbers = constant(nodes, anchors)
    if numbers is None:
        rule = f"of a {OP} whose anchors are a constant of the graph"
        raise value_error(OWNER, "outputs", list(outputs), rule)
    heads = {_name(tensor): tensor for tensor in (boxes, scores)}
    given = {name: node.attr[name].i for name in _INTEGERS if name in node.attr}
    given |= {name: node.attr[name].f for name in _REALS if name in node.attr}
    op = DetectionPostProcess(
        numbers,
        boxes=_name(boxes),
        scores=_name(scores),
        use_regular_nms=node.attr["use_regular_nms"].b,
        **given,
    )
    return op, heads


def _name(tensor: str) -> str:
    return tensor.removesuffix(":0")
