"""What replaces a computation is compared with it in whole float32, on GPUs that round it too."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from helpers.dropped_channels import pruned

import keras_compress as kc
from keras_compress.comparison import compare
from keras_compress.engines import same_answers
from keras_compress.engines.in_place import form_check
from keras_compress.engines.in_place.fake_quant import KernelQuantizer
from keras_compress.engines.in_place.rows import Granularity
from keras_compress.engines.quantizers import Mode
from keras_compress.engines.state import Phase
from keras_compress.export.verify import Expected
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.devices import whole_float32

pytestmark = pytest.mark.by_turns

rounds_products = tf.config.experimental.tensor_float_32_execution_enabled


@pytest.fixture(params=[True, False], ids=["tf32", "no tf32"])
def asked_for(request):
    """What the user's own setting is."""
    before = rounds_products()
    tf.config.experimental.enable_tensor_float_32_execution(request.param)
    yield request.param
    tf.config.experimental.enable_tensor_float_32_execution(before)


def test_it_holds_while_any_thread_is_inside_and_the_setting_is_as_it_was_then(asked_for):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with whole_float32():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other, daemon=True)
    try:
        with whole_float32():
            thread.start()
            assert inside.wait(60)
            with whole_float32():
                assert not rounds_products()
            assert not rounds_products()
        assert not rounds_products()
    finally:
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
    if op == "product":
        compute, shapes = tf.matmul, [(64, 64), (64, 64)]
    else:
        compute, shapes = convolution, [(3, 8, 8, 32), (3, 3, 32, 16)]
    numbers = [draw.normal(size=shape) for shape in shapes]
    with tf.device("CPU"):
        expected = compute(*map(tf.constant, numbers)).numpy()

    def far():
        found = compute(*(tf.constant(each, tf.float32) for each in numbers)).numpy()
        return np.abs(found - expected).max() / np.abs(expected).max()

    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    before = far()  # what was tried out for these shapes is remembered
    assert (before > 1e-5) == (details["compute_capability"] >= (8, 0))
    with whole_float32():
        assert far() < 5e-6
    assert far() == before


def convolution(x, kernel):
    return tf.nn.conv2d(x, kernel, 1, "SAME")


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


def test_a_network_that_is_compared_layer_by_layer_or_traced_computes_so(keras):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    with adapter_of(model, "test").in_float32(model):
        assert not rounds_products()
    assert rounds_products()


def test_networks_side_by_side_are_compared_so_and_timed_as_they_are(keras, monkeypatch):
    heard = []
    original = compare._function_answer

    def listening(function, columns):
        heard.append(rounds_products())
        return original(function, columns)

    monkeypatch.setattr(compare, "_function_answer", listening)
    models = [keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)]) for _ in "ab"]
    kc.compare(*models, data=np.ones((3, 4), "float32"), metric=None, runs=0, rounds=1)
    assert heard == [False, False, True, True]


def test_the_magnitude_of_a_kernel_that_a_layer_computes_is_kept_so(monkeypatch):
    heard = []
    original = KernelQuantizer.magnitude

    def listening(self):
        heard.append(rounds_products())
        return original(self)

    monkeypatch.setattr(KernelQuantizer, "magnitude", listening)
    variable = tf.Variable([[1.0, -2.0]])
    quantizer = KernelQuantizer(Mode(Phase.ON), 8, Granularity.TENSOR, variable)
    quantizer.freeze()
    quantizer.renew()
    assert heard == [False, False]
    assert rounds_products()
