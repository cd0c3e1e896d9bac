"""What a graph under trace will run on."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def under_xla() -> bool:
    """Whether XLA compiles it: inside of a `tf.function(jit_compile=True)`, or of what it calls.

    Private: TensorFlow marks such graphs for its own control flow; there is no public way to ask.
    """
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def only_cpus() -> bool:
    """Whether what is computed, or traced, now runs on CPUs alone, and not as XLA compiles it: then
    ops will do that nobody else has.
    """
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return False
    return not under_xla()
