"""The sensitivity scan, against masks and answers worked out with NumPy."""

import math
import re

import numpy as np
import pytest
from helpers.nets import small_net

from keras_compress.tuner import Sensitivity, sensitivity


@pytest.fixture(scope="module")
def trained(keras, digits):
    model = small_net(keras, jit_compile=False)
    model.fit(digits[0][:320], digits[1][:320], epochs=3, verbose=0)
    return model


def pruned(weights, sparsity):
    """The largest magnitudes of a kernel, and all ties with the smallest of them."""
    keep = max(round(weights.size * (1 - sparsity)), 1)
    threshold = np.sort(np.abs(weights), axis=None)[-keep]
    return np.where(np.abs(weights) >= threshold, weights, 0)


@pytest.mark.slow_after(1)
def test_each_layer_alone_is_pruned_measured_and_put_back(trained, digits):
    x, y = digits[2][:200], digits[3][:200]
    before = trained.get_weights()
    found = sensitivity(trained, x, y, sparsities=(0.5, 0.9))
    for one, other in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(found.values) == ["conv1", "dense1", "probabilities"]

    def accuracy():
        return np.mean(trained.predict(x, verbose=0).argmax(-1) == y)

    assert found.baseline == pytest.approx(accuracy())
    kernels = [position for position, weights in enumerate(before) if weights.ndim > 1]
    try:
        for (layer, values), position in zip(found.values.items(), kernels, strict=True):
            for sparsity, value in values.items():
                changed = [*before]
                changed[position] = pruned(before[position], sparsity)
                trained.set_weights(changed)
                assert value == pytest.approx(accuracy()), (layer, sparsity)
    finally:
        trained.set_weights(before)
    assert min(min(values.values()) for values in found.values.values()) < found.baseline


def test_layers_and_another_metric(trained, digits):
    found = sensitivity(
        trained,
        digits[2][:50],
        digits[3][:50],
        metric="loss",
        direction="min",
        layers=["dense1"],
        sparsities=(0.98,),
    )
    assert list(found.values) == ["dense1"]
    assert found.drops("dense1")[0.98] == found.values["dense1"][0.98] - found.baseline > 0


FOUND = Sensitivity(
    "accuracy",
    "max",
    0.9,
    {
        "robust": {0.5: 0.9, 0.7: 0.9, 0.9: 0.88},
        "middle": {0.5: 0.9, 0.7: 0.8, 0.9: 0.3},
        "brittle": {0.5: 0.4, 0.7: 0.2, 0.9: 0.1},
    },
)


def test_bounds_for_a_search():
    assert FOUND.bounds(max_drop=0.05) == {
        "robust": (0.0, 0.9),
        "middle": (0.0, 0.7),
        "brittle": (0.0, 0.25),
    }
    assert FOUND.bounds(max_drop=0.05, low=0.3) == {"robust": (0.3, 0.9), "middle": (0.3, 0.7)}


def test_the_table_has_the_worst_first():
    text = str(FOUND)
    assert text.index("brittle") < text.index("middle") < text.index("robust")
    assert "without: 0.9" in text
    assert "90 %" in text


def test_what_is_no_number_is_worse_than_any():
    values = {"a": {0.5: 0.8}, "b": {0.5: 0.1}, "c": {0.5: math.nan}, "d": {0.5: -math.inf}}
    assert Sensitivity("accuracy", "max", 0.9, values).worst_first() == ["c", "d", "b", "a"]
    values = {"a": {0.5: 0.8}, "b": {0.5: math.inf}, "c": {0.5: 9.0}}
    assert Sensitivity("loss", "min", 0.9, values).worst_first() == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sparsities": (0.5, 1.0)}, TypeError, "`sparsities` must be fractions above 0 and below"),
        ({"sparsities": ()}, TypeError, "`sparsities` must be"),
        ({"direction": "up"}, ValueError, "`direction` must be"),
        ({"metric": "f1"}, ValueError, "`metric` must be one of accuracy, loss"),
        ({"layers": ["nowhere"]}, ValueError, "Pruning: `layers` must name layers of the model"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(trained, digits, arguments, error, message):
    before = trained.get_weights()
    with pytest.raises(error, match=re.escape(message)):
        sensitivity(trained, digits[2][:8], digits[3][:8], **arguments)
    for one, other in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_is_not_compiled_is_refused(keras):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model` must be built and compiled"):
        sensitivity(model, np.zeros((1, 2)))


def test_of_no_layer_there_is_a_face_too():
    found = Sensitivity("accuracy", "max", 0.5, {})
    assert repr(found).startswith("<Sensitivity: accuracy with one layer pruned")
    assert "layer" in str(found)
    assert "<table" in found._repr_html_()
