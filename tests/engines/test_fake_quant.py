"""The quantizers alone, against numbers worked by hand and the integer kernels' arithmetic."""

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.engines.in_place.fake_quant import ActivationQuantizer
from keras_compress.engines.in_place.table import Fixed
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
