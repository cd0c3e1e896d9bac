"""What replaces a computation is compared with it in whole float32, on GPUs that round it too."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from helpers.dropped_channels import pruned

import keras_compress as kc
from keras_compress.engines import same_answers
from keras_compress.engines.in_place import form_check
from keras_compress.export.verify import Expected
from keras_compress.frameworks.devices import whole_float32

pytestmark = pytest.mark.by_turns

rounds_products = tf.config.experimental.tensor_float_32_execution_enabled


@pytest.fixture(params=[True, False], ids=["tf32", "no tf32"])
def asked_for(request):
    """What the user's own setting is."""
    tf.config.experimental.enable_tensor_float_32_execution(request.param)
    yield request.param
    tf.config.experimental.enable_tensor_float_32_execution(True)


def test_it_holds_while_any_thread_is_inside_and_the_setting_is_as_it_was_then(asked_for):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with whole_float32():
            inside.set()
            leave.wait()

    with whole_float32():
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait()
        with whole_float32():
            assert not rounds_products()
        assert not rounds_products()
    assert not rounds_products()
    leave.set()
    thread.join()
    assert rounds_products() == asked_for


def test_it_ends_with_an_error_too(asked_for):
    with pytest.raises(RuntimeError, match="inside"), whole_float32():
        raise RuntimeError("inside")
    assert rounds_products() == asked_for


@pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="there is no GPU")
@pytest.mark.parametrize("op", ["product", "convolution"])
def test_a_gpu_computes_so(op):
    draw = np.random.default_rng(0)
    x, kernel = (draw.normal(size=(64, 64)).astype("float32") for _ in range(2))
    expected = x.astype("float64") @ kernel.astype("float64")

    def far():
        if op == "product":
            found = tf.constant(x) @ tf.constant(kernel)
        else:
            rows, weights = tf.constant(x)[:, None, None], tf.constant(kernel)[None, None]
            found = tf.nn.conv2d(rows, weights, 1, "VALID")[:, 0, 0]
        return np.abs(found.numpy() - expected).max() / np.abs(expected).max()

    before = far()  # and what was tried out for these shapes is remembered
    with whole_float32():
        assert far() < 1e-6
    assert far() == before


# --- where it is asked for


def test_a_form_is_compared_so(keras, monkeypatch):
    heard = []
    far = form_check._far

    def listening(*answers):
        heard.append(rounds_products())
        return far(*answers)

    monkeypatch.setattr(form_check, "_far", listening)
    layers = keras.layers
    inputs = keras.Input((4,))
    sums = layers.Add()([layers.Dense(4, activation="tanh")(inputs), inputs])
    model = keras.Model(inputs, layers.Activation("sigmoid")(sums))
    model.compile("sgd", "mse")
    compress = kc.Compress(quantization=kc.Quantization(delay=0), verbose=0)
    model.fit(np.ones((8, 4)), np.ones((8, 4)), verbose=0, callbacks=[compress])
    assert heard
    assert not any(heard)
    assert rounds_products()


def test_a_network_without_its_dropped_channels_is_compared_so(keras, monkeypatch):
    heard = []
    furthest = same_answers._answers

    def listening(adapter, model, inputs):
        original = adapter.call_flat

        def call_flat(*args):
            heard.append(rounds_products())
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(adapter, "call_flat", call_flat)
            return furthest(adapter, model, inputs)

    monkeypatch.setattr(same_answers, "_answers", listening)
    layers = keras.layers
    model = keras.Sequential([layers.Input((4,)), layers.Dense(8), layers.Dense(3)])
    pruned(model)
    kc.strip(model)
    assert heard
    assert not any(heard)
    assert rounds_products()


def test_what_a_file_is_compared_with_is_computed_so():
    heard = []

    @tf.function(input_signature=[tf.TensorSpec((1, 4), name="x")])
    def network(x):
        tf.py_function(lambda: heard.append(rounds_products()), [], [])
        return {"y": 2 * x}

    expected = Expected(
        kc.Export("unused.tflite"), network.get_concrete_function, [(0.0, 1.0)], None
    )
    assert expected.answers["y"].shape == (expected.samples, 4)
    assert heard
    assert not any(heard)
    assert rounds_products()
