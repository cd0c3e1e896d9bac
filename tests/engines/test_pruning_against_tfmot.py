"""Pruning equals tfmot's, step for step: the mask functions one by one, then whole fits.

The reference fits are `prune_low_magnitude` and `UpdatePruningStep` on tf_keras, as tfmot's guide
writes them. `Compress` runs on the equal tf_keras model and on the equal Keras 3 model. The two
Keras compute SGD and Adam in the same order of operations, so one reference serves both, to the
last bit.

Schedules end on the grid here: the update that ours adds at `end_step` is the one deviation, and is
tested with the schedules.
"""

import functools
import zlib

import numpy as np
import pytest
import tensorflow as tf
from helpers.tfmot_fits import (
    EPOCHS,
    NAMES,
    PRUNINGS,
    STEPS_PER_EPOCH,
    Fitted,
    Recorder,
    assert_a_fair_reference,
    assert_equal,
    assert_same,
    compile_and_fit,
    net,
    reference,
)

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place.masks import block_mask, m_by_n_mask, magnitude_mask
from keras_compress.engines.in_place.selection import kth_largest

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

# --- the mask functions against `pruning_impl.Pruning`, on many kernels

SHAPES = [
    (1, 1),
    (7, 3),
    (3, 3, 4, 10),
    (64, 64),
    (4097,),
    (3, 3, 24, 40),
    (130, 77),
    (130, 127),  # so many weights that a histogram comes first
    (364, 362),  # so many weights that they are looked through with more bins
]
SPARSITIES = (0.0, 0.1, 0.4999, 0.5, 0.77, 0.95, 0.999)


def _normal(generator, shape):
    return generator.normal(size=shape)


def _tied(generator, shape):
    return generator.integers(-3, 4, shape) / 4


def _half_zeros(generator, shape):
    return np.where(generator.random(shape) < 0.5, 0.0, generator.normal(size=shape))


def _negative_zeros(generator, shape):
    return generator.choice([-0.0, 0.0, 1.0, -1.0], shape)


def _wide(generator, shape):
    """From the smallest normal numbers to the largest: every exponent of float32."""
    return generator.choice([-1.0, 1.0], shape) * 2.0 ** generator.uniform(-125, 127, shape)


def _denormals(generator, shape):
    """Below the smallest normal float32, among ordinary numbers."""
    tiny = generator.normal(size=shape) * 1e-41
    return np.where(generator.random(shape) < 0.5, tiny, generator.normal(size=shape))


def _neighbours(generator, shape):
    """One upper half of the bit pattern, so that only the lower 16 bits tell them apart."""
    return 1.0 + generator.integers(0, 1 << 16, shape) * 2.0**-23


def _equal(generator, shape):
    return np.full(shape, -0.25)


def _zeros(generator, shape):
    return np.zeros(shape)


KERNELS = [
    _normal,
    _tied,
    _half_zeros,
    _negative_zeros,
    _wide,
    _denormals,
    _neighbours,
    _equal,
    _zeros,
]


def kernel(make, shape):
    """The same kernel for the same arguments, in every process."""
    seed = zlib.crc32(repr((make.__name__, shape)).encode())
    return make(np.random.default_rng(seed), shape).astype("float32")


def bits(number):
    """A float32 to the last bit, denormal ones as zero."""
    number = float(number)
    return (number if number >= np.finfo("float32").tiny else 0.0).hex()


@functools.cache
def in_graph(function, *arguments, jit_compile=False):
    """`function` with its last arguments, traced once per shape for all tests of this module."""
    return tf.function(
        lambda *tensors: function(*tensors, *arguments), autograph=False, jit_compile=jit_compile
    )


@functools.cache
def their_mask(make, shape, sparsity, *, block_size=(1, 1), pooling="AVG", m_by_n=None):
    """(threshold, mask) of tfmot's own `pruning_impl.Pruning` for one kernel at one sparsity."""
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    weights = kernel(make, shape)
    theirs = pruning_impl.Pruning(
        training_step_fn=lambda: tf.constant(1, tf.int64),
        pruning_vars=[(tf.Variable(weights), None, None)],
        pruning_schedule=lambda step: (tf.constant(True), tf.constant(sparsity, tf.float32)),
        block_size=block_size,
        block_pooling_type=pooling,
        sparsity_m_by_n=m_by_n,
    )
    found, mask = theirs._maybe_update_block_mask(tf.constant(weights))
    return np.asarray(found), np.asarray(mask).astype(bool)


def threshold_and_mask(weights, sparsity):
    """What the engine computes for an elementwise mask, with the threshold in between shown."""
    size = tf.cast(weights.shape.num_elements(), tf.float32)
    k = tf.cast(tf.maximum(tf.round(size * (1 - sparsity)), 1), tf.int32)
    return kth_largest(tf.abs(weights), k).value, magnitude_mask(weights, sparsity)


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("make", KERNELS, ids=lambda make: make.__name__.lstrip("_"))
def test_threshold_and_mask_equal_tfmots(make, how):
    ours = threshold_and_mask
    if how != "eager":
        ours = in_graph(threshold_and_mask, jit_compile=how == "xla")
    for shape in SHAPES:
        weights = tf.constant(kernel(make, shape))
        for sparsity in SPARSITIES:
            found, mask = ours(weights, tf.constant(sparsity, tf.float32))
            their_threshold, theirs = their_mask(make, shape, sparsity)
            case = f"{shape} at {sparsity}"
            np.testing.assert_array_equal(mask, theirs, err_msg=case)
            # TensorFlow compares numbers too small for a full exponent as zeros, so tfmot's sort
            # leaves them in any order; masks are compared by the same rule and stay equal.
            assert bits(found) == bits(their_threshold), case


@pytest.mark.parametrize("make", KERNELS, ids=lambda make: make.__name__.lstrip("_"))
def test_on_a_gpu_they_equal_tfmots_too(make, as_on_a_gpu):
    function = tf.function(threshold_and_mask, autograph=False)
    for shape in SHAPES:
        weights = tf.constant(kernel(make, shape))
        for sparsity in SPARSITIES:
            found, mask = function(weights, tf.constant(sparsity, tf.float32))
            their_threshold, theirs = their_mask(make, shape, sparsity)
            np.testing.assert_array_equal(mask, theirs, err_msg=f"{shape} at {sparsity}")
            assert bits(found) == bits(their_threshold), f"{shape} at {sparsity}"


@pytest.mark.parametrize("how", ["graph", "with-a-gpu", "xla"])
def test_the_kth_largest_and_how_many_are_no_smaller_for_every_k(how, request):
    # Against a sort by NumPy.
    function = tf.function(kth_largest, autograph=False, jit_compile=how == "xla")
    if how == "with-a-gpu":
        request.getfixturevalue("as_on_a_gpu")
    for make in (_half_zeros, _tied):
        for size in (5, 4097, 20_000, 140_000):
            numbers = np.abs(kernel(make, (size,)))
            ordered = np.sort(numbers)[::-1]
            for k in (1, 2, size // 3, size // 2, size - 1, size):
                found = function(tf.constant(numbers), tf.constant(k, tf.int32))
                assert float(found.value) == ordered[k - 1], (size, k)
                assert int(found.at_least) == np.count_nonzero(numbers >= ordered[k - 1]), (size, k)
                assert found.finite


@pytest.mark.parametrize("how", ["graph", "with-a-gpu", "xla"])
def test_what_is_not_finite_is_noticed(how, request):
    function = tf.function(kth_largest, autograph=False, jit_compile=how == "xla")
    if how == "with-a-gpu":
        request.getfixturevalue("as_on_a_gpu")
    for size in (5, 20_000, 140_000):
        numbers = np.abs(kernel(_wide, (size,)))
        for broken in (np.inf, np.nan, -np.nan):
            numbers[size // 2] = broken
            found = function(tf.abs(tf.constant(numbers)), tf.constant(3, tf.int32))
            assert not found.finite, (size, broken)
        numbers[size // 2] = np.finfo("float32").max
        assert function(tf.constant(numbers), tf.constant(3, tf.int32)).finite


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 3), (4, 4)])
def test_block_masks_equal_tfmots(block, pooling, jit_compile):
    ours = in_graph(block_mask, block, pooling, jit_compile=jit_compile)
    for shape in ((16, 8), (10, 9), (130, 77)):  # with and without blocks cut by the edge
        for make in (_normal, _tied, _half_zeros):
            weights = tf.constant(kernel(make, shape))
            for sparsity in (0.0, 0.3, 0.5, 0.9):
                mask = ours(weights, tf.constant(sparsity, tf.float32))
                _, theirs = their_mask(make, shape, sparsity, block_size=block, pooling=pooling)
                np.testing.assert_array_equal(mask, theirs, err_msg=f"{make} {shape} {sparsity}")


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("m_by_n", [(1, 2), (2, 4), (3, 4), (5, 8)])
def test_m_by_n_masks_equal_tfmots(m_by_n, jit_compile):
    ours = in_graph(m_by_n_mask, *m_by_n, jit_compile=jit_compile)
    for shape in ((16, 8), (7, 5), (3, 3, 8, 6), (3, 2, 5, 4)):
        for make in (_normal, _tied, _zeros):
            mask = ours(tf.constant(kernel(make, shape)))
            _, theirs = their_mask(make, shape, 0.0, m_by_n=m_by_n)
            np.testing.assert_array_equal(mask, theirs, err_msg=f"{make} {shape}")


# --- whole fits against `prune_low_magnitude` and `UpdatePruningStep`


def ours(keras, pruning, given=lambda compress: [[compress]], **arguments):
    """The same of `Compress`, which takes tfmot's own schedule as it is.

    `given` says which of our callbacks each fit gets.
    """
    import tensorflow_model_optimization as tfmot

    kind, values, pruned, further = PRUNINGS[pruning]
    schedule = getattr(tfmot.sparsity.keras, kind)(*values)
    layers = None if pruned == NAMES else pruned
    compress = kc.Compress(pruning=kc.Pruning(schedule, layers=layers, **further), partial=True)
    model = net(keras)

    def read():
        weights = {name: model.get_layer(name).get_weights() for name in NAMES}
        masks = {target.path: target.mask.numpy() for target in engine_of(model).pruner.targets}
        return weights, masks

    recorder = Recorder(keras, read)
    callbacks = [[*own, recorder.callback] for own in given(compress)]
    compile_and_fit(keras, model, callbacks, fits=len(callbacks), **arguments)
    return Fitted(recorder.executions, recorder.epochs, kc.strip(model).get_weights())


ONE_BY_ONE = [
    *((pruning, "adam", 1) for pruning in PRUNINGS),
    *((pruning, "sgd", 1) for pruning in PRUNINGS if pruning not in ("block-max", "constant")),
    ("every-7", "momentum", 1),
]
TEN_AT_ONCE = [
    ("every-step", "adam", 10),
    ("every-7", "sgd", 10),
    ("every-7", "adam", 10),
    ("every-25", "adam", 10),
    ("block-1x4", "sgd", 10),
    ("two-of-four", "adam", 10),
    ("constant-forever", "sgd", 10),
]


def _left_to_the_sweep(pruning, optimizer, steps_per_execution):
    """Each schedule under Adam, and what differs most under SGD; the sweep has the others."""
    if steps_per_execution > 1:
        return pruning not in ("every-step", "every-7", "two-of-four")
    return optimizer == "sgd" and pruning not in ("every-step", "two-of-four")


@pytest.mark.slow_after(3)
@pytest.mark.sweep_if(when=_left_to_the_sweep)
@pytest.mark.parametrize(
    ("pruning", "optimizer", "steps_per_execution"), [*ONE_BY_ONE, *TEN_AT_ONCE]
)
def test_every_step_equals_tfmots(keras, pruning, optimizer, steps_per_execution):
    theirs = reference(pruning, optimizer)
    assert len(theirs.executions) == STEPS_PER_EPOCH * EPOCHS
    assert_a_fair_reference(theirs.executions, pruning)

    mine = ours(keras, pruning, optimizer=optimizer, steps_per_execution=steps_per_execution)
    assert_same(theirs.executions[steps_per_execution - 1 :: steps_per_execution], mine.executions)
    assert_same(theirs.epochs, mine.epochs)
    assert_equal(theirs.stripped, mine.stripped)


@pytest.mark.parametrize(
    ("pruning", "optimizer"), [("every-7", "adam"), ("two-of-four", "adam"), ("block-1x4", "sgd")]
)
def test_every_step_equals_tfmots_with_the_ops_of_a_gpu(keras, pruning, optimizer, as_on_a_gpu):
    theirs = reference(pruning, optimizer)
    mine = ours(keras, pruning, optimizer=optimizer)
    assert_same(theirs.executions, mine.executions)
    assert_equal(theirs.stripped, mine.stripped)


@pytest.mark.sweep
@pytest.mark.parametrize(("pruning", "optimizer"), [("every-step", "adam"), ("block-1x4", "sgd")])
def test_every_step_equals_tfmots_under_xla(keras, pruning, optimizer):
    theirs = reference(pruning, optimizer, jit_compile=True)
    mine = ours(keras, pruning, optimizer=optimizer, jit_compile=True)
    assert_same(theirs.executions, mine.executions, tolerance=1e-6)
    assert_same(theirs.epochs, mine.epochs, tolerance=1e-6)
    assert_equal(theirs.stripped, mine.stripped, tolerance=1e-6)


@pytest.mark.parametrize("bare", [False, True], ids=["with-compress", "bare"])
def test_every_step_of_a_second_and_third_fit_equals_tfmots(keras, bare):
    # The masks keep to their schedule, whether the later fits are given the callback or not.
    def given(compress):
        return [[compress], [] if bare else [compress], [] if bare else [compress]]

    theirs = reference("every-7", "adam", fits=3)
    mine = ours(keras, "every-7", given, optimizer="adam")
    assert_same(theirs.executions, mine.executions)
    assert_same(theirs.epochs, mine.epochs)
    assert_equal(theirs.stripped, mine.stripped)
