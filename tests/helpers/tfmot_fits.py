"""Fits as tfmot's guide writes them, what they leave after every step, and how two are compared."""

import functools
from typing import NamedTuple

import numpy as np
import pytest
import tf_keras

STEPS_PER_EPOCH, EPOCHS, BATCH = 20, 3, 12
NAMES = ("conv1", "conv2", "dense1", "dense2")


class Fitted(NamedTuple):
    """Weights and masks by layer, after every execution and every epoch; the stripped weights."""

    executions: list
    epochs: list
    stripped: list


class Recorder:
    """What the model holds after every execution, read in the batch hook, and after every epoch."""

    def __init__(self, keras, read):
        recorder = self
        self.executions, self.epochs = [], []

        class Record(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                recorder.executions.append(read())

            def on_epoch_end(self, epoch, logs=None):
                recorder.epochs.append(read())

        self.callback = Record()


@functools.cache
def data():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(STEPS_PER_EPOCH * BATCH, 6, 6, 1)).astype("float32")
    return x, generator.integers(0, 10, len(x)).astype("int32")


def net(keras):
    """Convolutions and Dense with 4,700 weights, the same for both Keras; dense1 is not sorted."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv1"),
            layers.Conv2D(8, 3, activation="relu", padding="same", name="conv2"),
            layers.Flatten(name="flatten"),
            layers.Dense(33, activation="relu", name="dense1"),
            layers.Dense(10, name="dense2"),
        ]
    )
    generator = np.random.default_rng(7)
    model.set_weights([0.2 * generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def compile_and_fit(
    keras, model, callbacks, *, optimizer, steps_per_execution=1, jit_compile=False, fits=1
):
    """`fits` of an equal number of epochs; of `callbacks` a list for each of them."""
    optimizers = {
        "sgd": keras.optimizers.SGD(0.1),
        "momentum": keras.optimizers.SGD(0.05, momentum=0.9),
        "adam": keras.optimizers.Adam(0.003),
    }
    model.compile(
        optimizers[optimizer],
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile,
    )
    x, y = data()
    fit = {"batch_size": BATCH, "epochs": EPOCHS // fits, "shuffle": False, "verbose": 0}
    for own in callbacks:
        model.fit(x, y, callbacks=own, **fit)


# name -> (tfmot's schedule, layers to prune, further arguments). Every schedule ends on its grid,
# and the last epoch trains on with the final masks.
PRUNINGS = {
    "every-step": ("PolynomialDecay", (0.0, 0.8, 3, 45, 3, 1), NAMES, {}),
    "every-7": ("PolynomialDecay", (0.1, 0.75, 4, 46, 3, 7), NAMES, {}),
    "every-25": ("PolynomialDecay", (0.3, 0.6, 5, 55, 2, 25), NAMES, {}),
    "constant": ("ConstantSparsity", (0.1, 6, 46, 10), NAMES, {}),
    "constant-forever": ("ConstantSparsity", (0.1, 0, -1, 9), NAMES, {}),
    "block-1x4": (
        "PolynomialDecay",
        (0.1, 0.75, 4, 46, 3, 7),
        ("dense1", "dense2"),
        {"block_size": (1, 4)},
    ),
    "block-max": (
        "PolynomialDecay",
        (0.1, 0.75, 4, 46, 3, 7),
        ("dense1", "dense2"),
        {"block_size": (3, 2), "block_pooling_type": "MAX"},
    ),
    "two-of-four": ("ConstantSparsity", (0.5, 1, -1, 7), NAMES, {"sparsity_m_by_n": (2, 4)}),
}


@functools.cache
def reference(pruning, optimizer, *, jit_compile=False, fits=1):
    """What tfmot's own wrappers make of the net."""
    import tensorflow_model_optimization as tfmot

    sparsity = tfmot.sparsity.keras
    kind, values, pruned, further = PRUNINGS[pruning]
    schedule = getattr(sparsity, kind)(*values)

    def wrap(layer):
        if layer.name in pruned:
            return sparsity.prune_low_magnitude(layer, schedule, **further)
        return layer

    model = tf_keras.models.clone_model(net(tf_keras), clone_function=wrap)
    layers = {layer.name.removeprefix("prune_low_magnitude_"): layer for layer in model.layers}
    start = net(tf_keras)
    for name in NAMES:
        layers[name].set_weights(start.get_layer(name).get_weights())

    def read():
        weights = {name: layers[name].get_weights() for name in NAMES}
        masks = {name: layers[name].pruning_vars[0][1].numpy() for name in pruned}
        return weights, masks

    recorder = Recorder(tf_keras, read)
    callbacks = [[sparsity.UpdatePruningStep(), recorder.callback]] * fits
    arguments = {"optimizer": optimizer, "jit_compile": jit_compile, "fits": fits}
    compile_and_fit(tf_keras, model, callbacks, **arguments)
    stripped = sparsity.strip_pruning(model).get_weights()
    return Fitted(recorder.executions, recorder.epochs, stripped)


def assert_equal(theirs, mine, tolerance=0.0, message=""):
    """Two lists of weights, to the last bit or within `tolerance`."""
    for a, b in zip(theirs, mine, strict=True):
        if tolerance:
            np.testing.assert_allclose(b, a, rtol=0, atol=tolerance, err_msg=message)
        else:
            np.testing.assert_array_equal(b, a, err_msg=message)


def assert_same(theirs, mine, tolerance=0.0):
    """Masks equal, weights to the last bit (or within `tolerance`), at every point recorded."""
    for point, (theirs_then, mine_then) in enumerate(zip(theirs, mine, strict=True)):
        for name, mask in theirs_then[1].items():
            np.testing.assert_array_equal(mine_then[1][name], mask, err_msg=f"{name} at {point}")
        assert set(mine_then[1]) == set(theirs_then[1])
        for name, weights in theirs_then[0].items():
            assert_equal(weights, mine_then[0][name], tolerance, f"{name} at {point}")


def assert_a_fair_reference(executions, pruning):
    """The reference is worth comparing with: it prunes to its target, more than once."""
    kind, values, _, further = PRUNINGS[pruning]
    target = values[1] if kind == "PolynomialDecay" else values[0]
    masks = [np.concatenate([m.ravel() for m in then[1].values()]) for then in executions]
    assert 1 - masks[-1].mean() == pytest.approx(target, abs=0.02)
    if "sparsity_m_by_n" not in further:  # which tfmot computes once
        assert (masks[-1] != masks[len(masks) // 2]).any()
