"""What a resumed training is compared by."""

import dataclasses
import os

import numpy as np
from helpers import resume_child

from keras_compress.engines.state import State


def assert_equal_states(state, expected, except_for=()):
    for field in dataclasses.fields(State):
        mine, theirs = getattr(state, field.name), getattr(expected, field.name)
        if field.name in State._ARRAYS:
            assert set(mine) == set(theirs), field.name
            for key, array in theirs.items():
                np.testing.assert_array_equal(mine[key], array, err_msg=key)
        elif field.name not in {"weights", *except_for}:  # told by backups alone
            assert mine == theirs, field.name


def assert_equal_weights(weights, expected):
    for mine, theirs in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def ended(folder):
    with np.load(folder / resume_child.ENDED) as file:
        weights = [file[name] for name in file.files]
    return weights, State.load(folder / resume_child.STATE)


def files_in(folder):
    """Of a backup that is gone tf_keras leaves the folder."""
    return [name for _, _, names in os.walk(folder) for name in names]
