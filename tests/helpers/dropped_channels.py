"""A model whose channels are pruned without a fit, and what it answers."""

import numpy as np

import keras_compress as kc
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.frameworks.choose import adapter_of


def pruned(model, **more):
    """The engine that has dropped half of a model's channels, by the weights that it has."""
    given = {"schedule": kc.ConstantSparsity(0.5, 1), **more}
    pruning = kc.Pruning(structure="channels", **given)
    engine = InPlace(adapter_of(model, "test"), model, pruning, None)
    engine.attach()
    engine.pruner.update_all(lambda schedule: 1)
    engine.pruner.measure()
    return engine


def answers(model, x):
    found = model.predict(x, verbose=0)
    return found if isinstance(found, list) else [found]


def assert_same(expected, found):
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6 * max(np.abs(one).max(), 1e-6))
