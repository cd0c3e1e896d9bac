"""The quantizers alone, against numbers worked by hand and the integer kernels' arithmetic."""

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.in_place.fake_quant import ActivationQuantizer, KernelQuantizer
from keras_compress.engines.in_place.table import Fixed, Granularity
from keras_compress.engines.quantizers import Mode
from keras_compress.engines.state import Phase


def activation(phase=Phase.ON, bits=8, fixed=None, limits=None, **fields):
    quantizer = ActivationQuantizer(Mode(phase=phase), bits, fixed, **fields)
    if limits is not None:
        quantizer.range.assign(limits)
    return quantizer


def integer_means(rows, count):
    """How integer kernels divide a sum: halves away from zero."""
    sums = rows.sum(axis=1)
    return np.sign(sums) * ((np.abs(sums) + count // 2) // count)


@pytest.mark.parametrize("count", [2, 4, 9])
@pytest.mark.parametrize("zero", [-128, -15, 0, 40, 127])
@pytest.mark.parametrize("fixed", [False, True], ids=["followed", "fixed"])
def test_means_round_as_those_of_integers_do_whatever_the_zero_point(fixed, zero, count):
    step = 0.0625
    limits = ((-128 - zero) * step, (127 - zero) * step)
    given = {"fixed": Fixed(*limits)} if fixed else {"limits": limits}
    quantizer = activation(**given)
    rows = np.random.default_rng(0).integers(-128, 128, (2000, count))
    means = tf.constant((rows.mean(axis=1) - zero) * step, tf.float32)
    found = np.rint(quantizer(quantizer.breaking_ties(means)).numpy() / step) + zero
    np.testing.assert_array_equal(found, integer_means(rows, count))
    if count != 9:  # the control: there are ties, and they matter
        unmoved = np.rint(quantizer(means).numpy() / step) + zero
        assert np.mean(unmoved != integer_means(rows, count)) > 0.05


# Worked by hand: a share of 1e-4 of the kernel's 2.0 is the least, and a dead channel has the
# kernel's own.
CHANNELS = np.array([2.0, 1e-9, 0.0, 0.5, 3e-4, 1e-4], "float32")
MAGNITUDES = np.array([2.0, 2e-4, 2.0, 0.5, 3e-4, 2e-4], "float32")


def kernel_of(granularity, channels):
    """A kernel whose channels have these magnitudes, and a sign."""
    shape = {"channel": (3, 3, 2, -1), "depthwise": (3, 3, 2, len(channels) // 2)}
    spread = np.linspace(-1.0, 0.9, 9 if granularity is Granularity.DEPTHWISE else 18)
    kernel = np.outer(spread, channels).reshape(shape[granularity.value])
    return tf.Variable(kernel, dtype=tf.float32)


def kernel_quantizer(granularity, variable, bits=8):
    return KernelQuantizer(Mode(phase=Phase.ON), bits, granularity, variable)


@pytest.mark.parametrize("granularity", [Granularity.CHANNEL, Granularity.DEPTHWISE])
def test_a_faint_channel_keeps_a_share_of_its_kernels_magnitude_and_a_dead_one_has_it(granularity):
    quantizer = kernel_quantizer(granularity, kernel_of(granularity, CHANNELS))
    np.testing.assert_allclose(quantizer.magnitude(), MAGNITUDES, rtol=1e-6)
    np.testing.assert_allclose(quantizer.scale(), MAGNITUDES / 127, rtol=1e-6)


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D"])
def test_the_bias_of_a_faint_channel_fits_into_the_file(keras, kind, tmp_path):
    """Of steps as small as its weights it would take more than an int32 holds."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2), name="image")
    arguments = (2, 3) if kind == "Conv2D" else (3,)
    model = keras.Model(inputs, getattr(keras.layers, kind)(*arguments, name="faint")(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    layer = model.get_layer("faint")
    kernel, _ = layer.get_weights()
    faint = (..., 1) if kind == "Conv2D" else (..., 1, 0)
    kernel[faint] *= 1e-7
    layer.set_weights([kernel, np.array([0.1, 1.0], "float32")])
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (32, 6, 6, 2)).astype("float32")
    export = kc.Export(tmp_path / "net.tflite", verify_data=x)
    compress = kc.Compress(quantization=kc.Quantization(), export=export)
    model.fit(x, np.zeros((32, 4, 4, 2)), verbose=0, callbacks=[compress])
    assert compress.report.export.largest_steps["faint"] <= 1.001
