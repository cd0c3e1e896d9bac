"""`input_stats`: the three classic ranges, every kind of data, and that the file agrees."""

import numpy as np
import pytest

from keras_compress.ranges import quantization_of_stats
from keras_compress.tflite import input_stats


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        pytest.param(0, 255, (0.0, 1.0), id="raw-images"),
        pytest.param(-1, 1, (128.0, 127.5), id="around-zero"),
        pytest.param(0, 1, (0.0, 255.0), id="unit"),
        pytest.param(0.5, 1, (0.0, 255.0), id="zero-counts-as-data"),
        pytest.param(-51, -1, (255.0, 5.0), id="all-below-zero"),
        pytest.param(-1, 4, (51.0, 51.0), id="by-hand"),  # 5 / 255 a step, 51 steps below zero
    ],
)
def test_the_ends_of_the_data_become_0_and_255(low, high, expected):
    data = np.linspace(low, high, 12).reshape(3, 4)
    mean, std = input_stats(data)
    assert (mean, std) == pytest.approx(expected, rel=1e-12)
    assert type(mean) is type(std) is float
    # The same numbers from (mean, std) as from the range: nothing is off by more than half a step.
    scale, zero_point = quantization_of_stats(mean, std)
    places = data / scale + zero_point
    assert places.min() >= -0.5 - 1e-9
    assert places.max() <= 255.5 + 1e-9


def test_classic_ranges_exactly():
    assert input_stats(np.array([0, 255], "uint8")) == (0.0, 1.0)
    assert input_stats(np.array([-1, 1], "float32")) == (128.0, 127.5)
    assert input_stats([[0.0, 1.0]]) == (0.0, 255.0)


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


X = np.array([[0.0, 0.2], [1.0, 0.5], [0.3, 0.1]], "float32")


def test_every_kind_of_data(tmp_path):
    import tensorflow as tf

    labels = np.array([7, 8, 9])
    one = [
        X,
        X.tolist(),
        [X],
        npz(tmp_path, anything=X),
        str(npz(tmp_path, x=X)),
        tf.data.Dataset.from_tensor_slices((X, labels)).batch(2),
        tf.data.Dataset.from_tensor_slices(X),
        lambda: iter(X),
        lambda: tf.data.Dataset.from_tensor_slices(X),
    ]
    for data in one:
        assert input_stats(data) == (0.0, 255.0)


def test_several_inputs_by_name(tmp_path):
    import tensorflow as tf

    arrays = {"left": X, "right": X * 255}
    expected = {"left": (0.0, 255.0), "right": (0.0, 1.0)}
    several = [
        arrays,
        npz(tmp_path, **arrays),
        tf.data.Dataset.from_tensor_slices((arrays, np.zeros(3))),
        lambda: [{"left": row, "right": 255 * row} for row in X],
    ]
    for data in several:
        found = input_stats(data)
        assert list(found) == ["left", "right"]
        for name, pair in expected.items():
            assert found[name] == pytest.approx(pair)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (np.full(4, 3.0), ValueError, "more than one number. Received: data='3.0 everywhere'"),
        ({"a": X, "b": np.zeros(3)}, ValueError, "for the input 'b'. Received: data='0.0 every"),
        (np.array([0.0, np.nan]), ValueError, "must be finite. Received: data='1 NaN or infinite'"),
        ({"a": np.array([0.0, np.inf])}, ValueError, "finite for the input 'a'"),
        (np.zeros((0, 3)), ValueError, "at least one number"),
        (list, ValueError, "at least one row"),
        (np.array(["a"]), ValueError, "must be numbers"),
        ([X, X], ValueError, "a dict of input name -> array"),
        (lambda: [X, {"a": X}], ValueError, "always names its inputs"),
        ((x for x in X), TypeError, "a generator can be read only once"),
        (3, TypeError, "`data` must be array"),
        ("missing.npz", ValueError, "a file that exists"),
    ],
)
def test_what_gives_no_statistics_is_refused(data, kind, message):
    with pytest.raises(kind, match=f"input_stats: .*{message}"):
        input_stats(data)
