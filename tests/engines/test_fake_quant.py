"""The quantizers alone, against numbers worked by hand and the integer kernels' arithmetic."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.engines.in_place.fake_quant import (
    ActivationQuantizer,
    KernelQuantizer,
    on_grid,
)
from keras_compress.engines.in_place.followed_ranges import FollowedRanges
from keras_compress.engines.in_place.rows import Fixed, Granularity
from keras_compress.engines.quantizers import Mode
from keras_compress.engines.state import Phase


def activation(mode=None, *, fixed=None, limits=None):
    """A quantizer that rounds, unless `mode` says otherwise; `limits`: of a followed range."""
    mode = mode or Mode(phase=Phase.ON)
    quantizer = ActivationQuantizer(mode, 8, fixed or FollowedRanges(mode, [False], 8)[0])
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
    quantizer = activation(fixed=Fixed(*limits)) if fixed else activation(limits=limits)
    rows = np.random.default_rng(0).integers(-128, 128, (2000, count))
    means = tf.constant((rows.mean(axis=1) - zero) * step, tf.float32)
    found = np.rint(quantizer(quantizer.breaking_ties(means)).numpy() / step) + zero
    np.testing.assert_array_equal(found, integer_means(rows, count))
    if count != 9:  # the control: there are ties, and they matter
        unmoved = np.rint(quantizer(means).numpy() / step) + zero
        assert np.mean(unmoved != integer_means(rows, count)) > 0.05


def test_biases_go_to_the_nearest_step_and_their_gradient_straight_through():
    bias, steps = tf.constant([0.7, -0.7, 0.26]), tf.constant([0.5, 0.5, 0.1])
    with tf.GradientTape() as tape:
        tape.watch(bias)
        rounded = on_grid(bias, steps)
    np.testing.assert_allclose(rounded, [0.5, -0.5, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(tape.gradient(rounded, bias), [1.0, 1.0, 1.0])


# --- ranges


@contextlib.contextmanager
def training_step(mode):
    """A step that keeps nine tenths of every range."""
    mode.trace, mode.updating, mode.decay = mode.trace + 1, True, tf.constant(0.9)
    yield
    mode.updating, mode.decay = False, None


# Worked by hand: 0.9 of the old ends, -1 and 2, and a tenth of those of all that was seen.
SEEN = [
    pytest.param([[-2.0, 4.0]], [-1.1, 2.2], id="both-ends"),
    pytest.param([[1.0, 4.0]], [-0.9, 2.2], id="zero-is-inside-from-below"),
    pytest.param([[-2.0, -1.0]], [-1.1, 1.8], id="zero-is-inside-from-above"),
    pytest.param([[-2.0, 1.0], [-1.0, 4.0]], [-1.1, 2.2], id="two-tensors-in-one-step"),
    pytest.param([[-1.0, 4.0], [-2.0, 1.0]], [-1.1, 2.2], id="two-tensors-the-other-way-round"),
    pytest.param([[np.nan, 4.0]], [-1.0, 2.0], id="nan"),
    pytest.param([[-2.0, np.inf]], [-1.0, 2.0], id="one-infinite-end"),
]


@pytest.mark.parametrize(("tensors", "expected"), SEEN)
@pytest.mark.parametrize("phase", [Phase.WATCHING, Phase.ON])
def test_a_range_follows_what_a_step_shows_it(phase, tensors, expected):
    quantizer = activation(mode := Mode(phase=phase), limits=(-1.0, 2.0))
    with training_step(mode):
        for tensor in tensors:
            quantizer(tf.constant(tensor, tf.float32))
    np.testing.assert_allclose(quantizer.range.numpy(), expected, rtol=1e-6)


def test_the_next_step_begins_with_what_the_last_one_left():
    quantizer = activation(mode := Mode(phase=Phase.WATCHING), limits=(-1.0, 2.0))
    for tensor in ([-2.0, 4.0], [0.0, 0.0]):
        with training_step(mode):
            quantizer(tf.constant(tensor))
    np.testing.assert_allclose(quantizer.range.numpy(), [-0.99, 1.98], rtol=1e-6)


@pytest.mark.parametrize("phase", Phase)
def test_a_range_stands_still_outside_of_training_and_in_the_other_phases(phase):
    quantizer = activation(mode := Mode(phase=phase), limits=(-1.0, 2.0))
    quantizer(tf.constant([-2.0, 4.0]))
    if not phase.follows:
        with training_step(mode):
            quantizer(tf.constant([-2.0, 4.0]))
    np.testing.assert_array_equal(quantizer.range.numpy(), [-1.0, 2.0])


def test_a_step_rounds_over_the_range_that_it_leaves():
    quantizer = activation(mode := Mode(phase=Phase.ON), limits=(-1.0, 1.0))
    with training_step(mode):
        rounded = quantizer(tf.constant([-3.0, 0.5, 3.0]))
    # 0.9 + 0.3 on either side, in 255 steps of which one is zero.
    np.testing.assert_allclose(rounded, np.array([-128, 53, 127]) * 2.4 / 255, rtol=1e-6)


def test_the_gradient_passes_straight_through_inside_the_range_and_not_beyond():
    """Nor by way of the range, which a batch moves with its largest numbers."""
    quantizer = activation(mode := Mode(phase=Phase.ON), limits=(-1.0, 1.0))
    x = tf.constant([-3.0, 0.5, 3.0])
    with training_step(mode), tf.GradientTape() as tape:
        tape.watch(x)
        rounded = quantizer(x)
    np.testing.assert_array_equal(tape.gradient(rounded, x), [0.0, 1.0, 0.0])


def test_nothing_but_zeros_has_the_range_of_one():
    quantizer = activation(limits=(0.0, 0.0))
    assert float(quantizer.scale()) == pytest.approx(1 / 255)
    np.testing.assert_array_equal(quantizer(tf.zeros(3)), np.zeros(3))


@pytest.mark.parametrize("phase", [Phase.OFF, Phase.WATCHING])
def test_nothing_is_rounded_before_its_time(phase):
    quantizer = activation(mode := Mode(phase=phase), limits=(-1.0, 1.0))
    given = tf.constant([0.123456, 7.0])
    with training_step(mode):
        assert quantizer(given) is given


def test_integers_stay_integers():
    quantizer = activation(mode := Mode(phase=Phase.ON), limits=(-1.0, 1.0))
    given = tf.constant([3, 300])
    with training_step(mode):
        assert quantizer(given) is given
    np.testing.assert_array_equal(quantizer.range.numpy(), [-1.0, 1.0])


# --- kernels

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


def rounding(granularity, variable, bits=8):
    return KernelQuantizer(Mode(phase=Phase.ON), bits, granularity, variable)


@pytest.mark.parametrize("granularity", [Granularity.CHANNEL, Granularity.DEPTHWISE])
def test_a_faint_channel_keeps_a_share_of_its_kernels_magnitude_and_a_dead_one_has_it(granularity):
    quantizer = rounding(granularity, kernel_of(granularity, CHANNELS))
    np.testing.assert_allclose(quantizer.magnitude(), MAGNITUDES, rtol=1e-6)
    np.testing.assert_allclose(quantizer.scale(), MAGNITUDES / 127, rtol=1e-6)


@pytest.mark.slow_after(1)
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


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("granularity", Granularity)
def test_a_kernel_rounds_over_its_own_magnitude_to_as_many_integers_on_either_side(
    granularity, bits
):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype("float32")
    kernel[0, 0, 0] = 0.0
    kernel[1] *= -1.5  # so that the largest magnitudes are of either sign
    axes = {"tensor": (0, 1, 2, 3), "channel": (0, 1, 2), "depthwise": (0, 1)}[granularity.value]
    scale = np.abs(kernel).max(axes, keepdims=True) / (2 ** (bits - 1) - 1)
    quantizer = rounding(granularity, tf.Variable(kernel), bits)
    np.testing.assert_allclose(np.ravel(quantizer.scale()), np.ravel(scale), rtol=1e-6)
    integers = quantizer(tf.float32).numpy() / scale
    np.testing.assert_allclose(integers, np.rint(kernel / scale), atol=1e-3)


def test_a_kernel_of_nothing_but_zeros_has_a_scale():
    for granularity in Granularity:
        quantizer = rounding(granularity, tf.Variable(tf.zeros((1, 1, 2, 2))))
        np.testing.assert_allclose(quantizer.scale(), np.full_like(quantizer.scale(), 1 / 127))
        np.testing.assert_array_equal(quantizer(tf.float32), np.zeros((1, 1, 2, 2)))


def test_a_magnitude_is_read_off_the_kernel_until_it_is_kept():
    kernel = tf.Variable([[0.5, -1.0]])
    quantizer = rounding(Granularity.TENSOR, kernel)
    kernel.assign([[0.5, -2.0]])
    assert float(quantizer.magnitude()) == 2.0
    quantizer.renew()  # nothing is kept yet
    assert quantizer.frozen is None
    quantizer.freeze()
    kept = quantizer.frozen
    kernel.assign([[0.5, -3.0]])
    quantizer.freeze()
    assert float(quantizer.magnitude()) == 2.0
    np.testing.assert_allclose(quantizer(tf.float32), [[0.503937, -2.0]], rtol=1e-6)  # 32 steps
    quantizer.renew()
    assert float(quantizer.magnitude()) == 3.0
    assert quantizer.frozen is kept
