"""Scale and zero point against values worked by hand and against TensorFlow's own kernel."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.ranges import (
    quantization_of_range,
    quantization_of_stats,
    range_of_quantization,
    stats_of_quantization,
)

# The classic input ranges of TF1: range, (mean, std), scale and uint8 zero point.
CLASSIC = [
    pytest.param((0, 255), (0.0, 1.0), 1.0, 0, id="0..255"),
    pytest.param((-1, 1), (127.5, 127.5), 1 / 127.5, 128, id="-1..1"),
    pytest.param((0, 1), (0.0, 255.0), 1 / 255, 0, id="0..1"),
]


@pytest.mark.parametrize(("limits", "stats", "scale", "zero_point"), CLASSIC)
def test_classic_ranges_and_their_statistics_are_the_same_quantization(
    limits, stats, scale, zero_point
):
    for dtype, shift in (("uint8", 0), ("int8", 128)):
        expected = (pytest.approx(scale, rel=1e-12), zero_point - shift)
        assert quantization_of_range(*limits, dtype) == expected
        assert quantization_of_stats(*stats, dtype) == expected


@pytest.mark.parametrize(
    ("mean", "zero_point"), [(127.5, 128), (126.5, 127), (127.4, 127), (255, 255)]
)
def test_a_mean_is_rounded_half_up(mean, zero_point):
    assert quantization_of_stats(mean, 2.0) == (0.5, zero_point)
    assert quantization_of_stats(mean, 2.0, "int8") == (0.5, zero_point - 128)


# Worked by hand: scale = (max - min) / steps, zero point = lowest - min / scale.
BY_HAND = [
    pytest.param((-6.4, 19.1), "uint8", False, 0.1, 64, id="uint8"),
    pytest.param((-6.4, 19.1), "int8", False, 0.1, -64, id="int8"),
    pytest.param((-12.7, 12.7), "int8", True, 0.1, 0, id="narrow"),
    pytest.param((-0.7, 0.7), "int4", True, 0.1, 0, id="int4-narrow"),
    pytest.param((-0.8, 0.7), "int4", False, 0.1, 0, id="int4"),
    pytest.param((1.0, 26.5), "uint8", False, 0.1, 0, id="all-positive"),
    pytest.param((-26.5, -1.0), "uint8", False, 0.1, 255, id="all-negative"),
]


@pytest.mark.parametrize(("limits", "dtype", "narrow", "scale", "zero_point"), BY_HAND)
def test_worked_ranges(limits, dtype, narrow, scale, zero_point):
    found = quantization_of_range(*limits, dtype, narrow=narrow)
    assert found == (pytest.approx(scale, rel=1e-12), zero_point)


def test_the_ends_of_a_quantization():
    assert range_of_quantization(0.5, 0) == (-64.0, 63.5)
    assert range_of_quantization(0.5, 0, narrow=True) == (-63.5, 63.5)
    assert range_of_quantization(0.5, 10, "uint8") == (-5.0, 122.5)
    assert stats_of_quantization(0.5, 10) == (10.0, 2.0)
    assert stats_of_quantization(0.5, -118, "int8") == (10.0, 2.0)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("narrow", [False, True])
def test_random_ranges_are_nudged_as_tensorflow_nudges_them(bits, narrow):
    random = np.random.default_rng(7)
    low = -random.uniform(0, 3, 200).astype("float32")
    high = random.uniform(0.01, 5, 200).astype("float32")
    dtype = {8: "int8", 4: "int4"}[bits]
    ours = np.array(
        [
            range_of_quantization(
                *quantization_of_range(float(a), float(b), dtype, narrow=narrow),
                dtype,
                narrow=narrow,
            )
            for a, b in zip(low, high, strict=True)
        ]
    )
    # The kernel clips to its nudged range, so its answer to huge numbers is that range.
    huge = tf.constant(np.stack([np.full(200, -1e6), np.full(200, 1e6)]), tf.float32)
    theirs = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        huge, low, high, num_bits=bits, narrow_range=narrow
    )
    np.testing.assert_allclose(ours.T, theirs.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0.5, 1.0, 3.0, 6.0])
def test_the_kernel_agrees_on_a_symmetric_range_once_it_is_nudged(limit):
    # 0.0 falls halfway between two integers; of (-1, 1) the kernel's float32 makes 127, not 128.
    scale, zero_point = quantization_of_range(-limit, limit, "uint8")
    assert zero_point == 128
    low, high = range_of_quantization(scale, zero_point, "uint8")
    huge = tf.constant([-1e6, 1e6])
    theirs = tf.quantization.fake_quant_with_min_max_vars(huge, low, high).numpy()
    np.testing.assert_allclose(theirs / scale, [-128, 127], rtol=1e-6)


REFUSED = [
    (
        lambda: quantization_of_range(1.0, 1.0),
        "quantization_of_range: `minimum` must be less than `maximum`, both finite. "
        "Received: minimum=1.0, maximum=1.0",
    ),
    (
        lambda: quantization_of_range(0.0, float("inf")),
        "quantization_of_range: `minimum` must be less than `maximum`, both finite. "
        "Received: minimum=0.0, maximum=inf",
    ),
    (
        lambda: quantization_of_range(0.0, 1.0, "int16"),
        "quantization_of_range: `dtype` must be 'uint8', 'int8' or 'int4'. Received: dtype='int16'",
    ),
    (
        lambda: range_of_quantization(0.0, 0),
        "range_of_quantization: `scale` must be a number > 0. Received: scale=0.0",
    ),
    (
        lambda: quantization_of_stats(300, 1),
        "quantization_of_stats: `mean` must be a number in [0, 255]. Received: mean=300",
    ),
    (
        lambda: quantization_of_stats(0, 0),
        "quantization_of_stats: `std` must be a number > 0. Received: std=0",
    ),
    (
        lambda: stats_of_quantization(1.0, 0, "int4"),
        "stats_of_quantization: `dtype` must be 'uint8' or 'int8'. Received: dtype='int4'",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_values_are_refused_with_the_exact_message(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
