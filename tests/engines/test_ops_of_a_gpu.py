"""Where there is a GPU, a step is made of ops that have a deterministic kernel there: who asks for
those (`tf.config.experimental.enable_op_determinism`) gets an error from the others.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from helpers.unit_layers import layers_of

import keras_compress as kc

pytestmark = pytest.mark.by_turns

WITHOUT = {
    "DenseBincount",
    "FakeQuantWithMinMaxVarsGradient",
    "FakeQuantWithMinMaxVarsPerChannelGradient",
}
"""Of what could be used: "Determinism is not yet supported in GPU implementation of ..."."""


def net(keras):
    """Kernels, a batch norm, gamma, beta and alpha, which weights make, a unit, an attention."""
    layers, own = keras.layers, layers_of(keras)
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.PReLU()(layers.MaxPooling2D()(x))
    x = layers.LayerNormalization()(layers.Reshape((9, 8))(x))
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = own.Blend(12)(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    return model


def kinds_of_ops(model, batch):
    """Of a training step's graph, those of its functions too."""
    graph = tf.function(model.train_step).get_concrete_function(batch).graph.as_graph_def()
    bodies = (body.node_def for body in graph.library.function)
    return {node.op for node in itertools.chain(graph.node, *bodies)}


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(0)
    return draw.normal(size=(32, 8, 8, 2)).astype("float32"), draw.integers(0, 3, 32)


@pytest.mark.slow
def test_every_op_of_a_step_has_one(keras, data, as_on_a_gpu):
    model = net(keras)
    schedule = kc.ConstantSparsity(target_sparsity=0.5, begin_step=0, frequency=2)
    compress = kc.Compress(
        pruning=kc.Pruning(schedule), quantization=kc.Quantization(delay=2), verbose=0
    )
    model.fit(*data, batch_size=8, verbose=0, callbacks=[compress])
    found = kinds_of_ops(model, tuple(map(tf.constant, data)))
    assert "FakeQuantWithMinMaxVars" in found
    assert "TopKV2" in found
    assert not found & WITHOUT
