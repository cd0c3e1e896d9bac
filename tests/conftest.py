"""What the tests share: both Keras by one fixture, real data, small models."""

import os

# Before TensorFlow is imported; its start-up notices are no news in a test log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest


@pytest.fixture(params=["keras3", "tf_keras"], scope="session")
def keras(request):
    """Keras 3 and tf_keras in turn: the package, so that a test reads like a user's script."""
    if request.param == "keras3":
        import keras
    else:
        import tf_keras as keras
    return keras


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's 1797 handwritten digits, (n, 8, 8, 1) in [0, 1]: (x, y, x_test, y_test)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = (data.images[order] / 16).astype("float32")[..., None]
    y = data.target[order].astype("int32")
    return x[:1344], y[:1344], x[1344:], y[1344:]


def small_net(keras, *, batch_norm=False, seed=0, optimizer="adam", **compile_arguments):
    """A compiled convolutional net for the digits with some 3,000 weights; one for one seed."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    steps = [
        layers.Input((8, 8, 1), name="image"),
        layers.Conv2D(8, 3, use_bias=not batch_norm, name="conv1"),
        *([layers.BatchNormalization(name="norm1")] if batch_norm else []),
        layers.ReLU(name="relu1"),
        layers.MaxPooling2D(name="pool1"),
        layers.Flatten(name="flatten"),
        layers.Dense(32, activation="relu", name="dense1"),
        layers.Dense(10, activation="softmax", name="probabilities"),
    ]
    model = keras.Sequential(steps)
    arguments = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(optimizer=optimizer, **{**arguments, **compile_arguments})
    return model


def trained_net(keras, digits, *callbacks, epochs, optimizer="adam", batch_norm=False):
    """`small_net` after some epochs on the digits, without XLA, which would take seconds more."""
    model = small_net(keras, batch_norm=batch_norm, optimizer=optimizer, jit_compile=False)
    x, y, _, _ = digits
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=list(callbacks))
    return model
