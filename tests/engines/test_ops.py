"""Every row of the table of TensorFlow ops: integer in the file and its own function, or refused.

One network holds many ops, each in a Lambda of its own between a layer of the table and an output,
so that a single file shows them all.
"""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.in_place.by_ops.ops import COMPOSITES, OPS
from keras_compress.engines.in_place.by_ops.unit import find_units
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.in_place.graph import Graph
from keras_compress.engines.state import Phase
from keras_compress.export.model_source import ModelSource
from keras_compress.frameworks.choose import adapter_of
from keras_compress.tflite import Conversion, TFLiteModel, convert, inspect_tflite

# Constants for the functions of a tensor (batch, 4, 4, 8) below.
W = {
    "dense": np.random.default_rng(1).normal(size=(8, 5)).astype("float32") / 3,
    "conv": np.random.default_rng(2).normal(size=(3, 3, 8, 5)).astype("float32") / 9,
    "depth": np.random.default_rng(3).normal(size=(3, 3, 8, 1)).astype("float32") / 3,
    "up": np.random.default_rng(4).normal(size=(3, 3, 5, 8)).astype("float32") / 9,
    "row": np.random.default_rng(5).normal(size=(8,)).astype("float32"),
    "table": np.random.default_rng(6).normal(size=(9, 8)).astype("float32"),
}


def raw(name, **arguments):
    return getattr(tf.raw_ops, name)(**arguments)


def rows(t):
    return tf.reshape(t, (-1, 8))


def tokens(t):
    return tf.reshape(t, (-1, 16, 8))


def there_and_back(t):
    none = [[0, 0], [0, 0]]
    return tf.batch_to_space(tf.space_to_batch(t, [2, 2], none) * 0.5, [2, 2], none)


TAKEN = {
    "MatMul": lambda t: tf.reshape(tf.matmul(rows(t), W["dense"]), (-1, 16, 5)),
    "BatchMatMulV2": lambda t: tf.matmul(tokens(t), tokens(t) * 0.5, transpose_b=True),
    "Einsum": lambda t: tf.einsum("btc,cd->btd", tokens(t), W["dense"]),
    "Conv2D": lambda t: tf.nn.conv2d(t, W["conv"], 1, "SAME"),
    "DepthwiseConv2dNative": lambda t: tf.nn.depthwise_conv2d(t, W["depth"], (1, 1, 1, 1), "SAME"),
    "AddV2": lambda t: t + W["row"],
    "Add": lambda t: raw("Add", x=t, y=W["row"]),
    "BiasAdd": lambda t: tf.reshape(
        tf.nn.bias_add(tf.matmul(rows(t), W["dense"]), W["row"][:5]), (-1, 16, 5)
    ),
    "AddN": lambda t: tf.add_n([t, t * 0.5]),
    "Sub": lambda t: W["row"] - t,
    "Mul": lambda t: t * W["row"],
    "RealDiv": lambda t: t / -3.0,
    "SquaredDifference": lambda t: tf.math.squared_difference(t, t[:, :1] * 0.5),
    "Neg": lambda t: -t,
    "Square": lambda t: tf.square(t),
    "Mean": lambda t: tf.reduce_mean(t, (1, 2)),
    "Sum": lambda t: tf.reduce_sum(t, 3),
    "Max": lambda t: tf.reduce_max(t, 1) * 0.5,
    "Min": lambda t: tf.reduce_min(t, 1) * 0.5,
    "MaxPool": lambda t: tf.nn.max_pool2d(t, 2, 2, "VALID") * 0.5,
    "AvgPool": lambda t: tf.nn.avg_pool2d(t * 0.5, 2, 2, "VALID") * 0.7,
    "Relu": lambda t: tf.nn.relu(t * 0.5),
    "Relu6": lambda t: tf.nn.relu6(t * 2.0),
    "LeakyRelu": lambda t: tf.nn.leaky_relu(t, 0.3),
    "Sigmoid": lambda t: tf.sigmoid(t),
    "Softmax": lambda t: tf.nn.softmax(t),
    "Tanh": lambda t: tf.tanh(t),
    "Exp": lambda t: tf.exp(-tf.abs(t)),
    "Log": lambda t: tf.math.log(tf.abs(t) + 1.0),
    "Rsqrt": lambda t: tf.math.rsqrt(tf.abs(t) + 1.0),
    "Abs": lambda t: tf.abs(t),
    "ConcatV2": lambda t: tf.concat([t, tf.sigmoid(t)], -1),
    "Pack": lambda t: tf.stack([t, t * 0.45], 1),
    "Maximum": lambda t: tf.maximum(t, t * -0.55),
    "Minimum": lambda t: tf.minimum(t, 0.25),
    "SelectV2": lambda t: tf.where(t > 0.0, t * 1.5, t * 0.1),
    "Identity": lambda t: tf.identity(t) * 0.5,
    "IdentityN": lambda t: tf.nn.silu(t),
    "StopGradient": lambda t: tf.stop_gradient(t) * 0.5,
    "EnsureShape": lambda t: tf.ensure_shape(t, (None, 4, 4, 8)) * 0.5,
    "Reshape": lambda t: tf.reshape(t, (-1, 2, 8, 8)) * 0.5,
    "ExpandDims": lambda t: tf.expand_dims(t, 1) * 0.5,
    "Squeeze": lambda t: tf.squeeze(t[:, :1], 1) * 0.5,
    "BatchToSpaceND": lambda t: there_and_back(t),
    "SpaceToBatchND": lambda t: there_and_back(t),
    "StridedSlice": lambda t: t[:, ::2] * 0.5,
    "Slice": lambda t: tf.slice(t, (0, 1, 0, 0), (-1, 2, 4, 8)) * 0.5,
    "Transpose": lambda t: tf.transpose(t, (0, 3, 1, 2)) * 0.5,
    "GatherV2": lambda t: tf.gather(t, [2, 0], axis=1) * 0.5,
    "Pad": lambda t: tf.pad(t, [[0, 0], [1, 1], [0, 0], [0, 0]]) * 0.5,
    "PadV2": lambda t: (
        raw("PadV2", input=t, paddings=[[0, 0], [1, 1], [0, 0], [0, 0]], constant_values=0.0) * 0.5
    ),
    "MirrorPad": lambda t: tf.pad(t, [[0, 0], [1, 1], [0, 0], [0, 0]], "REFLECT") * 0.5,
    "Split": lambda t: tf.split(t, 2, -1)[1] * 0.5,
    "SplitV": lambda t: tf.split(t, [3, 5], -1)[1] * 0.5,
    "Unpack": lambda t: tf.unstack(t, axis=1)[1] * 0.5,
    "Tile": lambda t: tf.tile(t, (1, 2, 1, 1)) * 0.5,
    "BroadcastTo": lambda t: tf.broadcast_to(t[:, :1], tf.shape(t)) * 0.5,
    "DepthToSpace": lambda t: tf.nn.depth_to_space(t, 2) * 0.5,
    "SpaceToDepth": lambda t: tf.nn.space_to_depth(t, 2) * 0.5,
    "ReverseV2": lambda t: tf.reverse(t, (1,)) * 0.5,
    "ResizeNearestNeighbor": lambda t: tf.image.resize(t, (8, 8), "nearest") * 0.5,
}

REFUSED = {
    "RealDiv": lambda t: t / (tf.abs(t) + 1.0),
    "Elu": tf.nn.elu,
    "Selu": tf.nn.selu,
    "Softplus": tf.math.softplus,
    "Softsign": tf.nn.softsign,
    "Sqrt": lambda t: tf.sqrt(tf.abs(t) + 1.0),
    "Pow": lambda t: tf.pow(tf.abs(t) + 1.0, 1.5),
    "Erf": tf.math.erf,
    "Conv3D": lambda t: tf.nn.conv3d(t[..., None], tf.ones((2, 2, 2, 1, 3)), [1] * 5, "SAME"),
    "AddN": lambda t: tf.add_n([t, t * 0.5, t * 0.25]),
    "Cast": lambda t: tf.cast(t > 0.0, tf.float32) * t,
    "PadV2": lambda t: tf.pad(t, [[0, 0], [1, 1], [0, 0], [0, 0]], constant_values=3.0),
    "StatelessWhile": lambda t: tf.while_loop(
        lambda i, u: i < 3, lambda i, u: (i + 1, u * 0.5), (0, t)
    )[1],
    "StatelessIf": lambda t: tf.cond(tf.reduce_sum(t) > 0, lambda: t * 2.0, lambda: t),
    "StatelessCase": lambda t: tf.switch_case(
        tf.cast(tf.reduce_sum(t) > 0, tf.int32), [lambda: t * 2.0, lambda: t]
    ),
    "PartitionedCall": tf.function(lambda t: t * 2.0),
    "EagerPyFunc": lambda t: tf.ensure_shape(
        tf.py_function(lambda u: u * 2.0, [t], tf.float32), (None, 4, 4, 8)
    ),
}


def network(keras, functions):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    given = keras.Input((4, 4, 8), name="given")
    x = layers.Conv2D(8, 1, name="front")(given)
    made = []
    for name, function in functions.items():
        if keras is keras3:
            shape = tuple(function(tf.ones((2, 4, 4, 8))).shape)
            arguments = {"output_shape": shape[1:]}
        else:
            arguments = {}
        made.append(layers.Lambda(function, name=name, **arguments)(x))
    model = keras.Model(given, made)
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    return model


def units_of(model):
    adapter = adapter_of(model, "test")
    lambdas = {
        path: operation
        for path, operation in Graph(adapter, model).operations()
        if type(operation).__name__ == "Lambda"
    }
    return find_units(adapter, model, lambdas)


GROUPS = [list(TAKEN)[i::3] for i in range(3)]


def test_every_row_has_a_case_or_is_another_names_twin():
    twins = {
        "BatchMatMul": "BatchMatMulV2",  # older and newer versions of the same op
        "BatchMatMulV3": "BatchMatMulV2",
        "Conv3DBackpropInputV2": "Conv3D",
        "Conv2DBackpropInput": "its own test",
        "ResourceGather": "its own test",
        "PreventGradient": "StopGradient",
        "Snapshot": "Identity",
        "While": "StatelessWhile",  # by whether its body has state
        "If": "StatelessIf",
        "Case": "StatelessCase",
        "StatefulPartitionedCall": "PartitionedCall",
        "SymbolicGradient": "PartitionedCall",
        "PyFunc": "EagerPyFunc",
        "PyFuncStateless": "EagerPyFunc",
    }
    assert set(OPS) == set(TAKEN) | set(REFUSED) | set(twins)
    assert all(OPS[name].output is OPS[twin].output for name, twin in twins.items() if twin in OPS)
    assert set(COMPOSITES) == {"Gelu"}  # in test_units.py


@pytest.mark.slow_after(1)
@pytest.mark.by_turns
@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_an_op_ships_as_integers_and_stays_the_function_it_was(keras, group):
    functions = {name: TAKEN[name] for name in GROUPS[group]}
    model = network(keras, functions)
    for name, unit in units_of(model).items():
        assert not isinstance(unit, str), (name, unit)
        assert name in [op.type for op in unit.plan.counted]
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (32, 4, 4, 8)).astype("float32")
    plain = model.predict(x, verbose=0)
    engine = InPlace(adapter_of(model, "test"), model, None, kc.Quantization())
    engine.attach()
    assert engine.left_out["quantization"] == {}

    engine.set_phase(Phase.WATCHING)
    with engine.quantizers.training_step():
        model(x, training=False)
    engine.set_phase(Phase.ON)
    rounded = [np.asarray(answer) for answer in model(x, training=False)]
    data = convert(
        ModelSource(model).function(1, quantized=True), Conversion("int8", quantized=True)
    )
    contents = inspect_tflite(data)
    assert contents.all_integer, [str(op) for op in contents.float_ops]
    file = TFLiteModel(data)
    answers, scales = file.predict(x), {info.name: info.scale for info in file.outputs}
    for name, of_network in zip(functions, rounded, strict=True):
        assert np.abs(answers[name] - of_network).max() <= 2.001 * scales[name], name
    for name, one, other in zip(functions, plain, rounded, strict=True):
        assert np.abs(one - other).max() <= 0.08 * max(np.ptp(one), 1.0), name


@pytest.mark.parametrize("name", REFUSED)
def test_an_op_that_cannot_be_done_is_refused_with_its_reason(keras, name):
    (reason,) = units_of(network(keras, {"bad": REFUSED[name]})).values()
    assert isinstance(reason, str)
    assert name.removeprefix("Stateless") in reason
    assert ": " in reason


@pytest.mark.by_turns
def test_a_split_of_which_nothing_is_left_over_ships(keras, tmp_path):
    """As tf_keras' `GRU(reset_after=False)` splits its kernel."""
    model = network(keras, {"split": lambda t: tf.split(t, [8, -1], -1)[0] * 0.5})
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (8, 4, 4, 8)).astype("float32")
    export = kc.Export(tmp_path / "net.tflite")
    compress = kc.Compress(quantization=kc.Quantization(delay=0), export=export, verbose=0)
    model.fit(x, model.predict(x, verbose=0), batch_size=4, verbose=0, callbacks=[compress])
    assert compress.report.export.error is None
    assert kc.inspect_tflite(export.path).all_integer
