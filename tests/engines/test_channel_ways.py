"""Whole channels, however the training runs and whatever the network is then made into."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.channel_graphs import with_random_weights
from helpers.dropped_channels import answers, assert_same
from helpers.replicas import printed

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = pytest.mark.by_turns

STEPS = 12
SCHEDULE = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=7, frequency=2)
CHANNELS = kc.Pruning(SCHEDULE, structure="channels", weights=kc.ConstantSparsity(0.25, 8))


def net(keras, policy=None):
    layers = keras.layers
    image = keras.Input((6, 6, 1), name="image")
    x = layers.Conv2D(8, 3, use_bias=False, name="conv", dtype=policy)(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm", dtype=policy)(x))
    x = layers.Dense(6, activation="tanh", name="hidden", dtype=policy)(layers.Flatten()(x))
    return with_random_weights(keras.Model(image, layers.Dense(3, name="out")(x)))


def data():
    draw = np.random.default_rng(7)
    x = draw.normal(size=(STEPS * 8, 6, 6, 1)).astype("float32")
    return x, draw.normal(size=(len(x), 3)).astype("float32")


def fit(keras, *, optimizer=None, policy=None, quantization=None, export=None, **arguments):
    """(model, compress) after one epoch."""
    model = net(keras, policy)
    given = {"jit_compile": False, **arguments}
    model.compile(optimizer or keras.optimizers.SGD(0.02), "mse", **given)
    compress = kc.Compress(pruning=CHANNELS, quantization=quantization, export=export, verbose=0)
    model.fit(*data(), batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=[compress])
    return model, compress


def kept(model):
    return engine_of(model).pruner.kept().numpy()


def assert_small(model, compress):
    """Half is dropped, is zero, and the rest answers the same."""
    assert kept(model).sum() == 7
    small = compress.stripped_model
    assert (small.get_layer("conv").filters, small.get_layer("hidden").units) == (4, 3)
    dropped = ~kept(model)[:8]
    with engine_of(model).readers.get_all():  # what stands in the model itself
        norm = model.get_layer("norm")
        for variable in (norm.gamma, norm.beta, norm.moving_mean):
            assert not np.asarray(variable)[dropped].any()
        assert not np.asarray(model.get_layer("conv").kernel)[..., dropped].any()
        rows = np.asarray(model.get_layer("hidden").kernel).reshape(16, 8, 6)
        assert not rows[:, dropped].any()
    with engine_of(model).in_float():
        expected = [np.asarray(model(data()[0], training=False))]
    assert_same(expected, answers(small, data()[0]))


@pytest.fixture(scope="module")
def as_usual(keras):
    return fit(keras)


RUNS = {
    "xla": {"jit_compile": True},
    "three steps at once": {"steps_per_execution": 3},
    "eager": {"run_eagerly": True},
}


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("name", RUNS)
def test_the_same_channels_go_however_the_steps_run(keras, as_usual, name):
    model, compress = fit(keras, **RUNS[name])
    assert_small(model, compress)
    np.testing.assert_array_equal(kept(model), kept(as_usual[0]))
    for one, other in zip(as_usual[0].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


OPTIMIZERS = {
    "momentum": lambda optimizers: optimizers.SGD(0.02, momentum=0.9),
    "decay": lambda optimizers: optimizers.AdamW(0.01, weight_decay=0.1),
    "average": lambda optimizers: optimizers.SGD(0.02, use_ema=True, ema_momentum=0.9),
}


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_brings_a_dropped_channel_back(keras, name):
    assert_small(*fit(keras, optimizer=OPTIMIZERS[name](keras.optimizers)))


def test_a_mixed_policy_prunes_what_is_stored(keras):
    model, compress = fit(keras, policy="mixed_bfloat16")
    assert kept(model).sum() == 7
    small = compress.stripped_model
    assert (small.get_layer("conv").filters, small.get_layer("hidden").units) == (4, 3)
    assert np.asarray(small.get_layer("conv").kernel).dtype == np.float32
    expected, found = answers(model, data()[0])[0], answers(small, data()[0])[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * np.abs(expected).max())


def test_a_loop_of_ones_own_drops_the_same_channels(keras, as_usual):
    model, optimizer = net(keras), keras.optimizers.SGD(0.02)
    model.compile(optimizer, "mse")
    x, y = data()
    compress = kc.Compress(pruning=CHANNELS, verbose=0)
    compress.begin(model, steps=STEPS)
    for step in range(STEPS):
        rows = slice(step * 8, (step + 1) * 8)
        with compress.step(), tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x[rows], training=True) - y[rows]))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    compress.finish()
    assert_small(model, compress)
    np.testing.assert_array_equal(kept(model), kept(as_usual[0]))


def shapes(path):
    return sorted(tuple(kernel.shape) for kernel in kc.inspect_tflite(path).kernels)


SMALL = [(3, 3), (3, 64), (4, 3, 3, 1)]


@pytest.mark.parametrize("mode", ["int8", "int16x8"])
def test_a_saved_model_and_its_state_make_the_small_file(keras, as_usual, mode, tmp_path):
    """Of a float network, whose ranges are calibrated; what the file holds is asked of LiteRT."""
    model, _ = as_usual
    model.save(tmp_path / "net.keras")
    kc.save_state(model, tmp_path / "net.npz")
    x, _ = data()
    export = kc.Export(tmp_path / "net.tflite", mode=mode, representative_dataset=x)
    report = kc.export_tflite(tmp_path / "net.keras", export)
    assert shapes(report.path) == SMALL
    expected = model.predict(x, verbose=0)
    found = kc.load_tflite(report.path).predict(x)
    limit = {"int8": 0.1, "int16x8": 0.03}[mode]
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max()


def test_kernels_of_4_bits_are_cut_and_round_alike(keras, tmp_path):
    """Frozen before the end: the scales of the channels that ship are those of their kernels."""
    model, compress = fit(
        keras,
        quantization=kc.Quantization(delay=8, weight_bits=4, freeze_step=10),
        export=kc.Export(tmp_path / "net.tflite"),
    )
    assert compress.report.export.error is None
    assert max(compress.report.export.largest_steps.values()) <= 2.001
    assert shapes(tmp_path / "net.tflite") == SMALL
    conv = next(row for row in compress.report.layers if row.path == "conv")
    (quantizer,) = (
        each
        for each in engine_of(model).quantizers.kernels.values()
        if each.variable.shape == (3, 3, 1, 8)
    )
    own = quantizer.frozen.numpy()[kept(model)[:8]] / 7
    assert conv.scale == pytest.approx((own.min(), own.max()))
    # A dropped channel whose frozen scale is the smallest of all is no part of what is shown.
    frozen = quantizer.frozen.numpy()
    quantizer.frozen.assign(np.where(kept(model)[:8], frozen, 1e-6))
    shipped = engine_of(model).kernel_scales()[id(quantizer.variable)]
    assert shipped.min() == pytest.approx(own.min())


@pytest.mark.sweep
def test_two_replicas_drop_the_same_channels(keras, tmp_path):
    script = """
        from engines.test_channel_ways import CHANNELS, data, net

        with two_replicas():
            model = net(keras)
            model.compile(keras.optimizers.SGD(0.02), "mse", jit_compile=False)
        export = kc.Export("net.tflite", mode="float32")
        compress = kc.Compress(pruning=CHANNELS, export=export, verbose=0)
        model.fit(*data(), batch_size=8, shuffle=False, verbose=0, callbacks=[compress])
        pruner = engine_of(model).pruner
        masks = [[copy.numpy().tolist() for copy in t.mask.values] for t in pruner.targets]
        small = compress.stripped_model
        print(json.dumps([
            masks, small.get_layer("conv").filters, compress.report.export.error,
        ]))
    """
    masks, filters, error = printed(keras, script, tmp_path)
    assert all(first == second for first, second in masks)
    assert (filters, error) == (4, None)
