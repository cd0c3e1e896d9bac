"""The ReLUs that are done, with their rounding, behind the max pooling that follows them."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place import engine, table
from keras_compress.engines.in_place.patches import PatchedQuantizers

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

    class Finer(PatchedQuantizers):
        def __init__(self, *args):
            super().__init__(*args[:-1], activation_bits=16)

    monkeypatch.setattr(engine, "PatchedQuantizers", Finer)
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


@pytest.mark.slow
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
        block("more_exact", layers.MaxPooling2D(dtype="mixed_bfloat16")),
        block("less_exact", layers.MaxPooling2D(), dtype="mixed_bfloat16"),
        block("waits", layers.MaxPooling2D(3)),  # the last rows and columns are in no window
        block(
            "waits_too", layers.GlobalMaxPooling2D(dtype="mixed_bfloat16"), dtype="mixed_bfloat16"
        ),
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
    assert waiting(model).keys() == {"waits", "waits_too"}


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


@pytest.mark.by_turns
@pytest.mark.parametrize("held", ["features", "pooled"])
def test_a_layer_that_another_one_holds_does_not_wait(keras, held):
    """It may be called there, for numbers of its own."""
    layers = keras.layers
    features = layers.Conv2D(1, 3, activation="relu", name="features")
    pooled = layers.GlobalMaxPooling2D(name="pooled")

    class Holder(layers.Layer):
        def __init__(self):
            super().__init__(name="holder")
            self.held = {"features": features, "pooled": pooled}[held]

        def call(self, x):
            return x + tf.reduce_mean(self.held(tf.ones((1, 4, 4, 1))))

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, Holder()(pooled(features(inputs))))
    model.compile("sgd", "mse", jit_compile=False)
    quantization = kc.Quantization(delay=0, layers=["features", "pooled"])
    compress = kc.Compress(quantization=quantization, partial=True, verbose=0)
    model.fit(np.ones((8, 4, 4, 1)), np.zeros((8, 1)), verbose=0, callbacks=[compress])
    assert not waiting(model)


def test_a_layer_that_is_computed_once_more_for_the_gradient_does_not_wait():
    inputs = keras3.Input((8, 8, 1))
    with keras3.RematScope(mode="list_of_layers", layer_names=["pooled"]):
        layers = [
            keras3.layers.Conv2D(1, 3, activation="relu"),
            keras3.layers.MaxPooling2D(name="pooled"),
        ]
        model = keras3.Sequential([inputs, *layers])
        model.compile("sgd", "mse", jit_compile=False)
        compress = kc.Compress(quantization=kc.Quantization(delay=0), partial=True, verbose=0)
        model.fit(np.ones((8, 8, 8, 1)), np.zeros((8, 3, 3, 1)), verbose=0, callbacks=[compress])
    assert not waiting(model)


@pytest.mark.by_turns
def test_a_diverged_step_does_not_take_the_range_with_it_though_the_pooling_hides_it(keras):
    """TensorFlow's max pooling leaves NaN out, and of nothing else makes the lowest number."""
    inputs = keras.Input((8, 8, 1))
    layer = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="features")
    pooled = keras.layers.MaxPooling2D()(layer(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(pooled)))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    found = []

    class Diverging(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                layer.set_weights([np.full((3, 3, 1, 4), np.nan), np.zeros(4)])
            ranges = engine_of(self.model).quantizers.ranges()
            (key,) = (key for key in ranges if "Conv2D" in key)
            found.append(ranges[key][1])

    x, y = np.random.default_rng(0).normal(size=(64, 8, 8, 1)), np.ones((64, 1))
    compress = kc.Compress(quantization=kc.Quantization(delay=0), partial=True, verbose=0)
    callbacks = [compress, Diverging()]
    model.fit(x, y, 16, shuffle=False, verbose=0, callbacks=callbacks)
    assert waiting(model)
    assert found[0] == 6.0 != found[1]  # the first step has set it
    assert found[3] == found[2]
