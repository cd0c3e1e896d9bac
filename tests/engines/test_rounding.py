"""Rounding and its gradient, against TensorFlow's own ops and NumPy, to the last bit."""

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place import rounding, table
from keras_compress.engines.in_place.fake_quant import KernelQuantizer
from keras_compress.engines.in_place.rows import Granularity
from keras_compress.engines.quantizers import Mode
from keras_compress.engines.state import Phase

TINY = np.finfo(np.float32).tiny
FAKE_QUANT = tf.quantization.fake_quant_with_min_max_vars
EDGES = [0.0, -0.0, 6.0, np.nextafter(np.float32(6), np.float32(0)), TINY, -TINY, TINY / 2]


def value_and_gradient(function, x, weights):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y, tape.gradient(y, x, weights)


def compared(ours, theirs, x, weights, jit):
    """Both ways to compute the same, each with its gradient, in one kind of graph."""
    for function in (ours, theirs):
        traced = tf.function(function, jit_compile=jit) if jit is not None else function
        yield from (each.numpy() for each in value_and_gradient(traced, x, weights))


def assert_bits_equal(ours, theirs, x, weights, jit=None):
    y, dx, expected_y, expected_dx = compared(ours, theirs, x, weights, jit)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_array_equal(dx, expected_dx)
    assert 0 < np.count_nonzero(expected_dx) < expected_dx.size  # some of it is cut off


def rounded(x, low, high, bits):
    return rounding.rounded(x, low, high, bits, lambda: rounding.nudged(low, high, bits))


def rounded_relu(x, limit, high, bits):
    zero = tf.constant(0.0)
    return rounding.rounded_relu(x, limit, high, bits, lambda: rounding.nudged(zero, high, bits))


def drawn(seed):
    """Numbers, the weights of their gradient, and a range that holds most of them."""
    generator = np.random.default_rng(seed)
    numbers = generator.normal(0.0, generator.uniform(0.5, 9.0), 400)
    x = tf.constant([*EDGES, *numbers], tf.float32)
    weights = tf.constant(generator.normal(size=x.shape), tf.float32)
    low, high = -generator.uniform(0.0, 4.0), generator.uniform(0.1, 5.0)
    if seed % 3 == 0:  # of the first batch, whose largest number is the end of the range
        high = np.max(x)
    return x, weights, tf.constant(low, tf.float32), tf.constant(high, tf.float32)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("jit", [None, False, True], ids=["eager", "graph", "xla"])
def test_it_is_tensorflows_fake_quant_and_its_gradient(bits, jit):
    for seed in range(12 if jit is None else 2):
        x, weights, low, high = drawn(seed)
        assert_bits_equal(
            lambda x, low=low, high=high: rounded(x, low, high, bits),
            lambda x, low=low, high=high: FAKE_QUANT(x, low, high, num_bits=bits),
            x,
            weights,
            jit,
        )


@pytest.mark.parametrize("jit", [None, False, True], ids=["eager", "graph", "xla"])
def test_of_a_symmetric_range_the_zero_is_where_tensorflow_has_it(jit):
    # It lies between two integers, so that the last bit of the scale decides.
    def both(x, weights):
        low, high = tf.reduce_min(x), tf.reduce_max(x)
        return [
            value_and_gradient(function, x, weights)
            for function in (
                lambda x: rounded(x, low, high, 8),
                lambda x: FAKE_QUANT(x, low, high),
            )
        ]

    traced = both if jit is None else tf.function(both, jit_compile=jit)
    for seed in range(60):
        draw = np.random.default_rng(seed)
        half = draw.uniform(-1, 1, 7).astype("float32")
        (y, dx), (expected_y, expected_dx) = traced(
            tf.constant([*half, *-half]), tf.constant(draw.normal(size=14), tf.float32)
        )
        np.testing.assert_array_equal(y, expected_y, err_msg=str(seed))
        np.testing.assert_array_equal(dx, expected_dx, err_msg=str(seed))


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize(("limit", "relu"), [(math.inf, tf.nn.relu), (6.0, tf.nn.relu6)])
def test_with_a_relu_in_one_it_is_both_one_after_the_other(limit, relu, bits):
    for seed in range(12):
        x, weights, _, high = drawn(seed)
        high = tf.minimum(high, limit)
        assert_bits_equal(
            lambda x, high=high: rounded_relu(x, limit, high, bits),
            lambda x, high=high: FAKE_QUANT(relu(x), 0.0, high, num_bits=bits),
            x,
            weights,
        )


@pytest.mark.parametrize("jit", [None, False, True])
def test_a_penalty_on_gradients_has_its_gradient(jit):
    """Through the numbers that a gradient is of, and through the gradients that come in."""
    x, end = np.array([1.1, 2.0, -1.3, 0.6], np.float32), tf.constant(3.0)
    ways = [
        (lambda x: rounded(x, -end, end, 8), (-3.0, 3.0)),
        (lambda x: rounding.rounded_over_their_own(x, -9.0, 9.0), (-9.0, 9.0)),
    ]
    if jit is not True:  # XLA does without
        ways.append((lambda x: rounded_relu(x, 6.0, end, 8), (0.0, 3.0)))

    for function, (low, high) in ways:

        def second(x, function=function):
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    total = tf.reduce_sum(function(x * tf.abs(x)) ** 2)
                penalty = tf.reduce_sum(tape.gradient(total, x) ** 2)
            return outer.gradient(penalty, x)

        found = (second if jit is None else tf.function(second, jit_compile=jit))(tf.constant(x))
        numbers = x * np.abs(x)
        y = FAKE_QUANT(numbers, low, high).numpy()
        inside = (numbers > low) & (numbers < high)
        # total = y ** 2, its gradient 4 y |x|, and of that one's square, where y' = 2 |x|:
        expected = 32 * y * np.abs(x) * (2 * x**2 + y * np.sign(x)) * inside
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert np.count_nonzero(expected) >= 2


def test_nothing_but_zeros_has_its_gradient():
    """As behind a kernel that begins as zeros, which would stay so."""
    zeros, weights = tf.zeros(3), tf.constant([1.0, -2.0, 3.0])
    for function in (rounded, FAKE_QUANT):
        y, dx = value_and_gradient(
            lambda x, function=function: function(x, tf.constant(0.0), tf.constant(0.0), 8),
            zeros,
            weights,
        )
        np.testing.assert_array_equal(y, zeros)
        np.testing.assert_array_equal(dx, weights)


@pytest.mark.parametrize("granularity", Granularity)
def test_of_a_kernel_no_weight_is_beyond_the_last_integer_and_each_has_its_gradient(granularity):
    generator = np.random.default_rng(0)
    for _ in range(20):  # of TensorFlow's own op some of the largest have none
        values = generator.normal(size=(3, 3, 2, 4)).astype("float32")
        kernel = tf.Variable(values)
        quantizer = KernelQuantizer(Mode(phase=Phase.ON, updating=True), 8, granularity, kernel)
        with tf.GradientTape() as tape:
            rounded = quantizer(tf.float32)
        weights = tf.constant(generator.normal(size=values.shape), tf.float32)
        np.testing.assert_array_equal(tape.gradient(rounded, kernel, weights), weights)
        axes = {"tensor": None, "channel": (0, 1, 2), "depthwise": (0, 1)}[granularity.value]
        scale = np.abs(values).max(axes, keepdims=True) / np.float32(127)
        np.testing.assert_array_equal(rounded, np.rint(values / scale) * scale)


@pytest.mark.parametrize("granularity", Granularity)
def test_outside_of_a_training_step_a_kernel_is_that_of_the_file_to_the_last_bit(granularity):
    values = np.random.default_rng(0).normal(size=(1, 1024, 1, 1024)).astype("float32")
    mode = Mode(phase=Phase.ON)
    quantizer = KernelQuantizer(mode, 8, granularity, tf.Variable(values))
    with_network = quantizer(tf.float32)
    mode.exporting = mode.constants = True
    np.testing.assert_array_equal(with_network, quantizer(tf.float32))


def test_of_a_frozen_kernel_what_has_grown_beyond_stays_at_the_last_integer():
    kernel = tf.Variable([[0.5, -1.0], [0.25, 2.0]])
    training = Mode(phase=Phase.FROZEN, updating=True)
    quantizer = KernelQuantizer(training, 8, Granularity.CHANNEL, kernel)
    quantizer.freeze()
    kernel.assign([[0.75, -1.0], [-0.25, -3.0]])
    with tf.GradientTape() as tape:
        rounded = quantizer(tf.float32)
    np.testing.assert_allclose(rounded, [[0.5, -1.0079], [-0.252, -2.0]], rtol=1e-3)
    np.testing.assert_array_equal(tape.gradient(rounded, kernel), [[0.0, 1.0], [1.0, 0.0]])


# --- in a network


def net(keras, dtype=None):
    """ReLUs of every kind: of a layer, by themselves behind a batch norm and a sum, inside of a
    pair whose other end is not one.
    """
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", dtype=dtype)(inputs)
    y = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", use_bias=False)(x))
    y = layers.ReLU(6.0)(y)
    z = layers.Activation("relu6")(layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(y)]))
    z = layers.Concatenate()([layers.ReLU()(z), y])
    z = layers.Dense(8, activation="relu", dtype=dtype)(layers.GlobalAveragePooling2D()(z))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(z))
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    return model


def trained(keras, digits, dtype=None):
    model = net(keras, dtype)
    x, y, _, _ = digits
    compress = kc.Compress(
        quantization=kc.Quantization(delay=4, calibration_steps=2, freeze_step=12), verbose=0
    )
    model.fit(x[:256], y[:256], 16, shuffle=False, verbose=0, callbacks=[compress])
    return model


def relus_of(model, digits):
    x, y, _, _ = digits
    batch = (tf.constant(x[:16]), tf.constant(y[:16]))
    graph = tf.function(lambda *batch: model.train_step(batch)).get_concrete_function(*batch).graph
    return sum(op.type in ("Relu", "Relu6") for op in graph.get_operations())


@pytest.mark.slow
@pytest.mark.by_turns
@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16"])
@pytest.mark.sweep_if(when=lambda dtype: dtype is not None)
def test_a_network_is_trained_to_the_same_bits_with_its_relus_by_themselves(
    keras, digits, monkeypatch, dtype
):
    model = trained(keras, digits, dtype)
    assert relus_of(model, digits) == 1  # before the Concatenate, which rounds its inputs
    for name in ("relu", "relu6"):
        row = table.ActivationRow(absorbed=True)
        monkeypatch.setitem(table.ACTIVATIONS, name, row)
    expected = trained(keras, digits, dtype)
    assert relus_of(expected, digits) == 5
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    ours, theirs = (engine_of(each).quantizers.ranges() for each in (model, expected))
    assert ours.keys() == theirs.keys()
    for key, limits in ours.items():
        np.testing.assert_array_equal(limits, theirs[key])


@pytest.mark.by_turns
def test_ranges_inside_of_a_layers_activation_are_watched_before_the_switch(keras, digits):
    """Of one that is an argument of a layer as of one that is a layer."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Dense(8, activation="softplus")(layers.Flatten()(inputs))
    model = keras.Model(inputs, layers.Activation("softplus")(layers.Dense(10)(hidden)))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    x, y, _, _ = digits
    watching = kc.Quantization(delay=4, calibration_steps=4)
    compress = kc.Compress(quantization=watching, partial=True, verbose=0)
    model.fit(x[:64], y[:64], 16, verbose=0, callbacks=[compress])
    ranges = engine_of(model).quantizers.ranges()
    inner = [key for key in ranges if key.endswith(("positive", "size"))]
    assert len(inner) == 4
    assert not [key for key in ranges if ranges[key][1] == 6.0]


def test_an_activation_that_is_given_a_mask_too_is_trained_to_the_end(keras):
    """What stops an iterator inside of a step, both Keras take for the end of the data."""

    class Net(keras.Model):
        def train_step(self, data):
            (inputs,) = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self(inputs, training=True) ** 2)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": loss}

    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs, mask = keras.Input((6,)), keras.Input((6,), dtype="bool")
    hidden = layers.Softmax()(layers.Dense(6)(inputs), mask)
    model = Net([inputs, mask], layers.Dense(3)(hidden))
    model.compile("sgd", jit_compile=False)
    rows = [np.ones((8, 6), "float32"), np.ones((8, 6), bool)]
    quantization = kc.Quantization(delay=1, calibration_steps=1)
    compress = kc.Compress(quantization=quantization, partial=True, verbose=0)
    data = tf.data.Dataset.from_tensor_slices(tuple(rows)).batch(2).map(lambda *x: (x,))
    model.fit(data, shuffle=False, verbose=0, callbacks=[compress])
    assert int(model.optimizer.iterations.numpy()) == 4
