"""Small files of every kind, of one network whose weights the tests know."""

import functools

import numpy as np
import tensorflow as tf

from keras_compress.tflite import Conversion, convert

_generator = np.random.default_rng(0)
CONV = _generator.normal(size=(3, 3, 1, 4)).astype("float32")
DENSE = _generator.normal(size=(144, 10)).astype("float32")
DENSE[np.abs(DENSE) < 0.8] = 0.0  # more than half of them

KINDS = {
    "float32": Conversion("float32"),
    "float16": Conversion("float16"),
    "dynamic": Conversion("dynamic"),
    "int8": Conversion("int8"),
    "int16x8": Conversion("int16x8"),
    "sparse": Conversion("float32", sparse=True),
}


def network(x):
    y = tf.nn.relu(tf.nn.conv2d(x, CONV, 1, "VALID") + np.linspace(-1, 1, 4, dtype="float32"))
    return {"y": tf.reshape(y, (-1, 144)) @ DENSE + 0.5}


def images(rows, seed=1):
    return np.random.default_rng(seed).uniform(size=(rows, 8, 8, 1)).astype("float32")


@functools.cache
def file_of(kind):
    """The bytes of one of `KINDS`; one row at a time, input `x` and output `y`."""
    how = KINDS[kind]
    spec = tf.TensorSpec((1, 8, 8, 1), name="x")
    representative = [{"x": row[None]} for row in images(32)] if how.calibrates else None
    concrete = tf.function(network).get_concrete_function(spec)
    return convert(concrete, how, representative=representative)
