"""What the tests of `wrap` and of tfmot's wrappers share: small models, one batch order, fits."""

import functools

import numpy as np

import keras_compress as kc
from keras_compress.engines.engine import engine_of

BATCH, STEPS = 8, 4
"""Rows of a batch, and batches of an epoch of `fit`."""

HALF = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=5, frequency=2)
PRUNING = kc.Pruning(HALF)
QUANTIZATION = kc.Quantization(delay=5, calibration_steps=2)


@functools.cache
def data(shape=(6, 6, 1), classes=4):
    """One epoch of inputs with a mean and a scale of their own, and their classes."""
    generator = np.random.default_rng(5)
    x = generator.normal(0.5, 2.0, (BATCH * STEPS, *shape)).astype("float32")
    return x, generator.integers(0, classes, len(x)).astype("int32")


def net(keras, *, seed=0):
    """Uncompiled: a convolution, its batch norm and ReLU, two Dense layers; one for one seed."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((6, 6, 1), name="image"),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.Dense(4, activation="softmax", name="kind"),
        ]
    )


def compiled(keras, model, **arguments):
    """Compiled for classes. In a graph; `run_eagerly=True` spares the traces of a short fit."""
    given = {
        "optimizer": keras.optimizers.Adam(0.01),
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        "jit_compile": False,
        **arguments,
    }
    model.compile(**given)
    return model


def fit(model, *callbacks, epochs=2, **arguments):
    """A bare `fit` unless there are callbacks, over the same batches every time."""
    x, y = data(tuple(model.input_shape[1:]), model.output_shape[-1])
    given = {"batch_size": BATCH, "epochs": epochs, "shuffle": False, "verbose": 0, **arguments}
    if callbacks:
        given["callbacks"] = list(callbacks)
    return model.fit(x, y, **given)


def wrapped(keras, *, model=None, engine=None, eager=True, **specs):
    """A wrapped, compiled model."""
    model = kc.wrap(net(keras) if model is None else model, engine=engine, **specs)
    return compiled(keras, model, run_eagerly=eager)


def masks(model):
    """Path and kernel of everything that is pruned -> its mask, as bools."""
    return {
        (target.path, target.kernel_name): target.kept()
        for target in engine_of(model).pruner.targets
    }


def zeros(array):
    return 1 - np.count_nonzero(array) / np.size(array)


def assert_same(mine, theirs):
    """Two lists of arrays, to the last bit."""
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
