"""What the tests share: both Keras by one fixture, real data; and what of them is run, and how."""

import collections
import gc
import inspect
import itertools
import os
import zlib

# Before TensorFlow is imported; its start-up notices are no news in a test log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What is equal to the last bit is so on a CPU: on a GPU two trainings of the same net are not.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

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


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    """Tables are as wide as the terminal of whoever runs the tests, or of what ran before."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Whatever asks whether there is a GPU is told so: the ops that are run there, on the CPU."""
    import tensorflow as tf

    real = tf.config.list_logical_devices

    def listed(device_type=None):
        return real(None if device_type == "GPU" else device_type)

    monkeypatch.setattr(tf.config, "list_logical_devices", listed)


@pytest.fixture(scope="session")
def tfmot():
    import tensorflow_model_optimization

    return tensorflow_model_optimization


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's 1797 handwritten digits, (n, 8, 8, 1) in [0, 1]: (x, y, x_test, y_test)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = (data.images[order] / 16).astype("float32")[..., None]
    y = data.target[order].astype("int32")
    return x[:1344], y[:1344], x[1344:], y[1344:]


# --- what the suite runs, and in which order


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what is for the sweep or slow, before what is marked is left out; then sort the rest."""
    taken = collections.Counter()
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        asked = [mark.kwargs["when"] for mark in item.iter_markers("sweep_if")]
        named = [{name: params[name] for name in inspect.signature(w).parameters} for w in asked]
        left = any(when(**names) for when, names in zip(asked, named, strict=True))
        turns = item.get_closest_marker("by_turns")
        # What a `sweep_if` says of each Keras goes before.
        if turns is not None and "keras" in params and not any("keras" in n for n in named):
            stem = item.nodeid.replace(params["keras"], "", 1)
            by_name = ("keras3", "tf_keras")[zlib.crc32(stem.encode()) % 2]
            left |= params["keras"] != turns.kwargs.get("suite", by_name)
        if left:
            item.add_marker("sweep")
        if item.get_closest_marker("sweep") is not None:
            continue  # which says that nobody waits for it
        cases = item.get_closest_marker("slow_after")
        test = item.nodeid.partition("[")[0]
        taken[test] += 1
        if cases is not None and taken[test] > cases.args[0]:
            item.add_marker("slow")
    yield
    # Files whose tests may take long go first, or one process would end with them alone.
    items.sort(key=_seconds_allowed, reverse=True)


def _seconds_allowed(item):
    timeout = item.get_closest_marker("timeout")
    return timeout.args[0] if timeout is not None else 0


# --- what keeps a long run short

FORGET_EVERY = 100  # tests
torn_down = itertools.count(1)


def pytest_collection_finish():
    """What was imported to collect the tests stays: collections of garbage need not look at it."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown():
    """TensorFlow keeps the graphs of models that are gone, millions of objects after some tests."""
    if next(torn_down) % FORGET_EVERY == 0:
        from keras_compress.frameworks.graph_memory import forget_graphs

        forget_graphs()
