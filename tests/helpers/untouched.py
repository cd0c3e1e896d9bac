"""What a refusal must leave behind: the model as it was, plain, with every weight."""

import contextlib

import numpy as np

import keras_compress as kc

METHODS = ("call", "train_step", "fit", "export")


def own_methods(model):
    """The methods that instances hold of their own, as patches do (and some layers of tf_keras)."""
    things = [model, *model._flatten_layers()]
    return [(thing.name, name) for thing in things for name in METHODS if name in vars(thing)]


@contextlib.contextmanager
def untouched(model):
    """Inside, something is refused; afterwards the model is plain and as before."""
    weights, methods = model.get_weights(), own_methods(model)
    yield
    assert kc.compression_of(model) is None
    assert own_methods(model) == methods
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
