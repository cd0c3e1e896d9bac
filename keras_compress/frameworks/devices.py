"""What a graph under trace will run on, and how exactly a GPU computes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def under_xla() -> bool:
    """Whether XLA compiles it: inside of a `tf.function(jit_compile=True)`, or of what it calls.

    Private: TensorFlow marks such graphs for its own control flow; there is no public way to ask.
    """
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


def only_cpus() -> bool:
    """Whether there is nothing else to compute on: then ops will do that only a CPU has, and to ask
    for a number, as a condition does, costs nothing.
    """
    devices = tf.config.list_logical_devices
    return not (devices("GPU") or devices("TPU"))


def ops_on_a_gpu() -> bool:
    """Whether TensorFlow's own ops are what runs on a GPU, one by one: there is one, and XLA does
    not compile what is computed, or traced, now.
    """
    return not (under_xla() or only_cpus())


_lock = threading.Lock()
_inside = 0
_asked_for = True


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """While inside, a GPU multiplies whole float32 numbers. By default newer ones round what they
    multiply to TensorFloat-32, ten bits of a fraction: an error of 1e-3, in which a comparison of
    two ways to compute the same would see nothing, or a difference that is none.

    It holds for the whole process, as TensorFlow's own setting does, and not for what XLA has
    compiled before; several threads may be inside.
    """
    global _inside, _asked_for
    with _lock:
        if not _inside:
            _asked_for = tf.config.experimental.tensor_float_32_execution_enabled()
            tf.config.experimental.enable_tensor_float_32_execution(False)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                tf.config.experimental.enable_tensor_float_32_execution(_asked_for)
