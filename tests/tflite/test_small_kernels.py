"""Mode "dynamic" rounds small kernels too: those that the converter passes over."""

import numpy as np
import pytest

import keras_compress as kc


@pytest.fixture(scope="module")
def net(keras):
    """Every kind of kernel, all below 1,024 numbers, one channel dead."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = layers.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(image)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(4, activation="relu", name="hidden")(layers.Dense(2)(x))
    model = keras.Model(image, layers.Dense(3, name="scores")(x))
    conv = model.get_layer("conv")
    kernel, bias = conv.get_weights()
    kernel[..., 2] = 0
    conv.set_weights([kernel, bias])
    return model


def test_all_kernels_are_of_8_bits_and_the_numbers_are_the_formulas(net, tmp_path):
    path = tmp_path / "net.tflite"
    report = kc.export_tflite(net, kc.Export(path, mode="dynamic"))
    contents = kc.inspect_tflite(path)
    assert [kernel.dtype for kernel in contents.kernels] == ["int8"] * 5
    assert report.bytes < report.float_bytes
    stored = next(k for k in contents.kernels if k.shape == (6, 3, 3, 3))
    kernel = np.moveaxis(net.get_layer("conv").get_weights()[0], -1, 0)
    scales = np.abs(kernel).max(axis=(1, 2, 3)) / 127
    scales[2] = 1
    assert stored.axis == 0
    np.testing.assert_allclose(stored.scales, scales, rtol=1e-6)
    expected = np.round(kernel / scales[:, None, None, None])
    np.testing.assert_allclose(contents.kernel(stored.name), expected, atol=1)


def test_the_answers_are_those_of_the_network(net, tmp_path):
    path = tmp_path / "net.tflite"
    kc.export_tflite(net, kc.Export(path, mode="dynamic"))
    images = np.random.default_rng(0).uniform(-1, 1, (32, 8, 8, 3)).astype("float32")
    expected = net.predict(images, verbose=0)
    found = kc.load_tflite(path).predict(images)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    # Without XNNPACK, by LiteRT's own kernels.
    from keras_compress.tflite import TFLiteModel

    own = TFLiteModel(path.read_bytes(), keep_all=True).predict(images)
    assert np.abs(own - expected).max() < 0.03 * np.abs(expected).max()


def test_a_kernel_that_two_layers_share_stays_right(keras, tmp_path):
    layers = keras.layers
    image = layers.Input((6,), name="x")
    dense = layers.Dense(6, name="twice")
    model = keras.Model(image, dense(layers.ReLU()(dense(image))))
    path = tmp_path / "net.tflite"
    kc.export_tflite(model, kc.Export(path, mode="dynamic"))
    values = np.random.default_rng(0).uniform(-1, 1, (16, 6)).astype("float32")
    expected = model.predict(values, verbose=0)
    found = kc.load_tflite(path).predict(values)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
