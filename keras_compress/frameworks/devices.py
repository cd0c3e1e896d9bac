"""What a graph under trace will run on."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util


def only_cpus() -> bool:
    """Whether what is computed, or traced, now runs on CPUs alone, and not as XLA compiles it: then
    ops will do that nobody else has.
    """
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return False
    # Private: TensorFlow marks so the graphs of a `tf.function(jit_compile=True)`.
    return not control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())
