"""Whether what is being traced will be compiled by XLA."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def under_xla() -> bool:
    """Inside of a `tf.function(jit_compile=True)`, or of what it calls. TensorFlow says so to its
    own control flow only; there is no public way to ask.
    """
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))
