"""Whatever updates the weights: dropped ones stay zero, and what it keeps survives the switch."""

import contextlib

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from contract.runs import BATCH, kernels

import keras_compress as kc
from keras_compress.engines.engine import engine_of

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

STEPS, DELAY = 8, 5
NAMES = (
    "SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor", "Nadam",
    "Ftrl", "Lion",
)  # fmt: skip


def scaling(keras):
    if keras.__name__ == "keras":
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    return keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(0.01))


BOTH = {name: (lambda keras, name=name: getattr(keras.optimizers, name)(0.01)) for name in NAMES}
BOTH |= {
    "momentum": lambda keras: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "amsgrad": lambda keras: keras.optimizers.Adam(0.01, amsgrad=True),
    "weight decay": lambda keras: keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.1),
    "averages": lambda keras: keras.optimizers.Adam(
        0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5
    ),
    "averages at the end": lambda keras: keras.optimizers.Adam(0.01, use_ema=True),
    "clipped by norm": lambda keras: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "clipped by value": lambda keras: keras.optimizers.Adam(0.01, clipvalue=0.01),
    "clipped together": lambda keras: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
    "scaled loss": scaling,
}
KERAS_3 = {
    "Lamb": lambda: keras3.optimizers.Lamb(0.01),
    "accumulated": lambda: keras3.optimizers.Adam(0.01, gradient_accumulation_steps=2),
}
LEGACY = ("SGD", "Adam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl")
IN_SUITE = ("Adam", "Adafactor", "momentum", "averages", "clipped together", "scaled loss")
"""Of both Keras, what differs in kind; the sweep has the others."""

POLICIES = ("mixed_float16", "mixed_bfloat16")


@contextlib.contextmanager
def policy_of(keras, name):
    module = keras.mixed_precision
    is_keras3 = keras.__name__ == "keras"
    before = module.dtype_policy() if is_keras3 else module.global_policy()
    set_policy = module.set_dtype_policy if is_keras3 else module.set_global_policy
    try:
        if name is not None:
            set_policy(name)
        yield
    finally:
        set_policy(before)


def net(keras):
    keras.utils.set_random_seed(0)
    layers = keras.layers

    class Looking(keras.Sequential):
        """Notes the kernels as the forward pass of a step will find them."""

        looked = ()

        def train_step(self, batch):
            for seen, kernel in zip(self.looked, self.kernels, strict=True):
                seen.assign(tf.cast(tf.convert_to_tensor(kernel), tf.float32))
            return super().train_step(batch)

    return Looking(
        [
            layers.Input((64,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(10, activation="softmax", dtype="float32"),
        ]
    )


def slots(optimizer):
    """Everything that an optimizer keeps."""
    found = optimizer.variables
    return [np.asarray(each) for each in (found() if callable(found) else found)]


def check(keras, optimizer, data, policy=None):
    x, y = data[0][: STEPS * BATCH].reshape(STEPS * BATCH, -1), data[1][: STEPS * BATCH]
    x = x + 0.1  # of pixels that are always 0 Keras 3's Adafactor makes NaN, without us too
    with policy_of(keras, policy):
        model = net(keras)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    schedule = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=4, frequency=1)
    dense = [layer for layer in model.layers if layer.weights]
    kernels_of_model = [getattr(layer.kernel, "_value", layer.kernel) for layer in dense]
    seen = [tf.Variable(tf.zeros(each.shape)) for each in kernels_of_model]
    vars(model).update(looked=seen, kernels=kernels_of_model)  # past what tracks variables
    compress = kc.Compress(
        pruning=kc.Pruning(schedule),
        quantization=kc.Quantization(delay=DELAY, calibration_steps=2),
        verbose=0,
    )
    kept, phases, revived = {}, [], []

    class Probe(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            phases.append(engine_of(model).phase)
            kept["begin", batch] = slots(model.optimizer)

        def on_train_batch_end(self, batch, logs=None):
            kept["end", batch] = slots(model.optimizer)
            for own, target in zip(seen, engine_of(model).pruner.targets, strict=True):
                found = own.numpy()
                assert found.any()
                np.testing.assert_array_equal(found[~target.kept()], 0)
                revived.append((target.kernel.numpy()[~target.kept()] != 0).any())

    model.fit(
        x, y, batch_size=BATCH, epochs=1, shuffle=False, verbose=0, callbacks=[compress, Probe()]
    )
    assert not phases[DELAY - 1].rounds
    assert phases[DELAY].rounds
    for before, after in zip(kept["end", DELAY - 1], kept["begin", DELAY], strict=True):
        np.testing.assert_array_equal(before, after)
    moved = [
        (before != after).any()
        for before, after in zip(kept["begin", DELAY], kept["end", DELAY], strict=True)
    ]
    assert any(moved), "it goes on"
    assert any(revived), "an update moves dropped weights, or nobody would have to mask them"
    masks = [target.kept() for target in engine_of(model).pruner.targets]
    for mask in masks:
        assert mask.mean() == pytest.approx(0.5, abs=0.02)
    for kernel, mask in zip(kernels(model.get_weights()), masks, strict=True):
        assert np.isfinite(kernel).all()
        np.testing.assert_array_equal(kernel[~mask], 0)
        assert (kernel[mask] != 0).any()
    for kernel, mask in zip(kernels(kc.strip(model).get_weights()), masks, strict=True):
        np.testing.assert_array_equal(kernel[~mask], 0)


@pytest.mark.sweep_if(when=lambda name: name not in IN_SUITE)
@pytest.mark.parametrize("name", BOTH)
def test_zeros_stay_zero_and_what_the_optimizer_keeps_survives_the_switch(keras, data, name):
    check(keras, BOTH[name](keras), data)


@pytest.mark.parametrize("policy", POLICIES)
def test_so_they_do_under_a_global_policy(keras, data, policy):
    check(keras, keras.optimizers.Adam(0.01), data, policy)


@pytest.mark.parametrize("name", KERAS_3)
def test_so_they_do_with_what_keras_3_alone_has(data, name):
    check(keras3, KERAS_3[name](), data)


@pytest.mark.sweep_if(when=lambda name: name != "Adam")
@pytest.mark.parametrize("name", LEGACY)
def test_so_they_do_with_the_legacy_optimizers_of_tf_keras(data, name):
    check(tf_keras, getattr(tf_keras.optimizers.legacy, name)(0.01), data)
