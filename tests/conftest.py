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
