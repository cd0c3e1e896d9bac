"""The ReLUs that are done, with their rounding, behind the max pooling that follows them."""

import functools

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place import patches, table
from keras_compress.engines.in_place.fake_quant import ActivationQuantizer
from keras_compress.engines.in_place.graph import Graph
from keras_compress.engines.in_place.windows import hold_all
from keras_compress.frameworks.choose import adapter_of

POOLINGS = [f"{reach}MaxPooling{rank}D" for reach in ("", "Global") for rank in "12"]


def net(keras):
    """ReLUs of three kinds, each before a max pooling of another."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(inputs)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False)(layers.MaxPooling2D()(x))
    x = layers.ReLU(6.0, name="second")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(2)(layers.MaxPooling2D(3, strides=1, padding="same")(x))
    x = layers.GlobalMaxPooling2D()(layers.Activation("relu", name="third")(x))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return model


def trained(model, digits, steps=12):
    x, y, _, _ = digits
    quantization = kc.Quantization(delay=4, calibration_steps=2)
    compress = kc.Compress(quantization=quantization, partial=True, verbose=0)
    rows = 16 * steps
    model.fit(x[:rows], y[:rows], 16, shuffle=False, verbose=0, callbacks=[compress])
    return model


def waiting(model):
    plans = engine_of(model).quantizers.placement.operations
    return {plan.path: plan.pooling.path for plan in plans if plan.pooling is not None}


def without_waiting(monkeypatch):
    for kind in POOLINGS:
        monkeypatch.setitem(table.TABLE, kind, table.MOVES)


@pytest.mark.by_turns
def test_a_network_is_trained_as_with_each_relu_before_its_pooling(keras, digits, monkeypatch):
    """Of 16 bits, of which a window has few ties: only among those the gradient goes elsewhere."""
    finer = functools.partial(ActivationQuantizer, bits=16)
    monkeypatch.setattr(
        patches,
        "ActivationQuantizer",
        lambda mode, bits, fixed, **named: finer(mode, fixed=fixed, **named),
    )
    start = net(keras).get_weights()
    model = trained(net(keras), digits)
    assert list(waiting(model)) == ["first", "second", "third"]
    without_waiting(monkeypatch)
    expected = trained(net(keras), digits)
    assert not waiting(expected)
    for one, other, before in zip(model.get_weights(), expected.get_weights(), start, strict=True):
        assert np.abs(one - other).max() <= 0.02 * np.abs(other - before).max()
    ours, theirs = (engine_of(each).quantizers.ranges() for each in (model, expected))
    assert ours.keys() == theirs.keys()
    for key, limits in ours.items():
        np.testing.assert_allclose(limits, theirs[key], 1e-3)


@pytest.mark.by_turns
def test_what_is_answered_is_the_same_to_the_last_bit(keras, digits, monkeypatch):
    """In a step, with 8 bits and their ties: only where the gradient goes among them differs."""
    model = trained(net(keras), digits)
    x, _, _, _ = digits
    weights, ranges = model.get_weights(), engine_of(model).quantizers.ranges()
    without_waiting(monkeypatch)
    expected = trained(net(keras), digits)
    answers = []
    for each in (model, expected):
        quantizers = engine_of(each).quantizers
        each.set_weights(weights)
        for key, limits in ranges.items():
            quantizers._range(key).assign(limits)
        with quantizers.training_step():
            answers.append(each(x[:32], training=True))
    np.testing.assert_array_equal(*answers)
    assert len(np.unique(answers)) > 20


@pytest.mark.parametrize("pooling", ["MaxPooling2D", "GlobalMaxPooling2D"])
def test_of_ties_the_gradient_goes_to_the_largest_number_before_the_rounding(pooling):
    """As in the plain network: 0.9 and 1.1 are one integer of a range up to 255."""
    numbers = tf.constant([[[0.9, 1.1], [-3.0, 1.0]], [[-1.0, -2.0], [-3.0, -0.5]]])[..., None]
    inputs = keras3.Input((2, 2, 1))
    layer = keras3.layers.Conv2D(1, 1, activation="relu", kernel_initializer="ones")
    pooled = getattr(keras3.layers, pooling)()(layer(inputs))
    model = keras3.Model(inputs, keras3.layers.Flatten()(pooled))
    model.compile("sgd", "mse", jit_compile=False)
    compress = kc.Compress(
        quantization=kc.Quantization(delay=0, freeze_step=1), partial=True, verbose=0
    )
    model.fit(numbers, model(numbers), verbose=0, callbacks=[compress])
    layer.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    quantizers = engine_of(model).quantizers
    quantizers.set_input_range(0, (-4.0, 4.0))
    (range_,) = (quantizers._range(key) for key in quantizers.ranges() if "Conv2D" in key)
    range_.assign([0.0, 255.0])
    with quantizers.training_step(), tf.GradientTape() as tape:
        tape.watch(numbers)
        outputs = model(numbers, training=True)
    np.testing.assert_array_equal(outputs, [[1.0], [0.0]])
    gradient = np.round(tape.gradient(outputs, numbers)[..., 0], 3)  # the kernel is almost 1
    np.testing.assert_array_equal(gradient, [[[0.0, 1.0], [0.0, 0.0]], np.zeros((2, 2))])


@pytest.mark.by_turns
def test_a_step_has_no_relu_left(keras, digits):
    model = trained(net(keras), digits, steps=5)
    x, y, _, _ = digits
    batch = (tf.constant(x[:16]), tf.constant(y[:16]))
    graph = tf.function(lambda *batch: model.train_step(batch)).get_concrete_function(*batch).graph
    assert not [op for op in graph.get_operations() if op.type.startswith("Relu")]


@pytest.mark.by_turns
def test_a_relu_whose_numbers_somebody_else_sees_does_not_wait(keras):
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))

    def block(name, pooling, **arguments):
        convolution = layers.Conv2D(2, 3, padding="same", activation="relu", name=name, **arguments)
        return convolution(inputs), pooling(convolution.output)

    branches = [
        block("shown", layers.MaxPooling2D()),
        block("read_twice", layers.MaxPooling2D()),
        block("regularized", layers.MaxPooling2D(), activity_regularizer="l2"),
        block("averaged", layers.AveragePooling2D(2)),
        block("some_left_out", layers.MaxPooling2D(3)),
        block("waits", layers.MaxPooling2D()),
    ]
    (shown, _), (twice, _), *_ = branches
    ends = [layers.Flatten()(end) for _, end in branches]
    model = keras.Model(inputs, [*ends, shown, layers.Flatten()(twice)])
    model.compile("sgd", ["mse"] * len(model.outputs), jit_compile=False)
    rows = np.zeros((2, 8, 8, 1))
    compress = kc.Compress(quantization=kc.Quantization(delay=0), partial=True, verbose=0)
    model.fit(
        rows, [np.zeros(shape) for shape in shapes_of(model, 2)], verbose=0, callbacks=[compress]
    )
    assert list(waiting(model)) == ["waits"]


def shapes_of(model, rows):
    return [(rows, *output.shape[1:]) for output in model.outputs]


@pytest.mark.by_turns
def test_who_calls_a_layer_by_itself_in_a_step_gets_its_relu(keras):
    """And not what the graph makes of it: a loss on features, as users write it."""
    seen = []

    class Net(keras.Model):
        def train_step(self, data):
            x, _ = data
            features = self.get_layer("features")(x)
            seen.append(tf.reduce_min(features))
            return super().train_step(data)

    inputs = keras.Input((4, 4, 1))
    layer = keras.layers.Conv2D(4, 3, activation="relu", name="features")
    outputs = keras.layers.GlobalMaxPooling2D()(layer(inputs))
    model = Net(inputs, outputs)
    model.compile("sgd", "mse", run_eagerly=True)
    compress = kc.Compress(quantization=kc.Quantization(delay=0), partial=True, verbose=0)
    rows = np.random.default_rng(0).normal(size=(8, 4, 4, 1))
    model.fit(rows, np.zeros((8, 4)), verbose=0, callbacks=[compress])
    assert list(waiting(model)) == ["features"]
    assert seen
    assert min(map(float, seen)) == 0.0


@pytest.mark.by_turns
def test_what_calls_it_inside_of_the_model_without_the_pooling_is_an_error(keras):
    """Its numbers would be those without a ReLU."""
    features = keras.layers.Conv2D(4, 3, activation="relu", name="features")

    class Again(keras.layers.Layer):
        def call(self, x):
            return x + tf.reduce_mean(features(tf.ones((1, 4, 4, 1))))

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((4, 4, 1))
    pooled = keras.layers.GlobalMaxPooling2D(name="pooled")(features(inputs))
    model = keras.Model(inputs, Again()(pooled))
    model.compile("sgd", "mse", jit_compile=False)
    quantization = kc.Quantization(delay=0, layers=["features", "pooled"])
    compress = kc.Compress(quantization=quantization, partial=True, verbose=0)
    with pytest.raises(RuntimeError, match=r"without the pooling. Received: a call of 'features'"):
        model.fit(np.ones((8, 4, 4, 1)), np.zeros((8, 4)), verbose=0, callbacks=[compress])


@pytest.mark.parametrize(
    ("arguments", "length", "holds"),
    [
        ({"pool_size": 2}, 8, True),
        ({"pool_size": 2}, 9, False),  # the last number is in no window
        ({"pool_size": 2}, None, False),  # nobody knows
        ({"pool_size": 2, "padding": "same"}, None, True),
        ({"pool_size": 3, "strides": 2}, 9, True),
        ({"pool_size": 3, "strides": 2}, 8, False),
        ({"pool_size": 2, "strides": 3, "padding": "same"}, 9, False),  # between two windows
    ],
)
@pytest.mark.parametrize("rank", [1, 2])
def test_windows_that_hold_all(keras, rank, arguments, length, holds):
    """As NumPy finds by marking what they read."""
    inputs = keras.Input((*[length] * rank, 1))
    layer = getattr(keras.layers, f"MaxPooling{rank}D")(**arguments)
    model = keras.Model(inputs, layer(inputs))
    (node,) = Graph(adapter_of(model, "a test"), model).nodes_of[id(layer)]
    assert hold_all(node) is holds
    if length is not None:
        marked = tf.reshape(tf.eye(length**rank), (-1, *[length] * rank, 1))  # one number in each
        read = np.asarray(layer(marked)).reshape(length**rank, -1).max(axis=1)
        assert bool(read.all()) is holds
