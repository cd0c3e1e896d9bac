"""Every form of representative data comes out as the same batches."""

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.tflite import batches

X = np.arange(15, dtype="float32").reshape(5, 3)
ONE = {"x": (3,)}
TWO = {"image": (3,), "index": (1,)}
INDEX = np.arange(5).reshape(5, 1)
OWNER = r"Export: `representative_dataset` must be "


def whole(data, shapes=ONE, **options):
    """All rows of all batches, by input, and the sizes of the batches."""
    found = list(batches(data, shapes, **options))
    columns = {name: np.concatenate([batch[name] for batch in found]) for name in shapes}
    return columns, [len(next(iter(batch.values()))) for batch in found]


FORMS = {
    "array": lambda path: X,
    "float64": lambda path: X.astype("float64"),
    "uint8": lambda path: X.astype("uint8"),
    "nested list": lambda path: X.tolist(),
    "list of one array": lambda path: [X],
    "dict": lambda path: {"x": X},
    "tensor": lambda path: tf.constant(X),
    "dataset of batches": lambda path: tf.data.Dataset.from_tensor_slices(X).batch(2),
    "dataset of samples": lambda path: tf.data.Dataset.from_tensor_slices(X),
    "dataset with labels": lambda path: tf.data.Dataset.from_tensor_slices((X, INDEX)).batch(4),
    "dataset of dicts": lambda path: tf.data.Dataset.from_tensor_slices({"x": X}).batch(4),
    "callable, samples": lambda path: lambda: iter(X),
    "callable, batches": lambda path: lambda: (X[i : i + 2] for i in range(0, 5, 2)),
    "callable, lists": lambda path: lambda: ([row] for row in X),
    "callable, dicts": lambda path: lambda: ({"x": row} for row in X),
    "callable, dataset": lambda path: lambda: tf.data.Dataset.from_tensor_slices(X).batch(3),
    "npz": lambda path: _saved(path, x=X),
    "npz of another name": lambda path: str(_saved(path, calibration=X)),
}


def _saved(path, **arrays):
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form, tmp_path):
    columns, sizes = whole(FORMS[form](tmp_path))
    assert columns["x"].dtype == np.float32
    np.testing.assert_array_equal(columns["x"], X)
    assert sizes == [1] * 5


@pytest.mark.parametrize("form", ["array", "dataset of batches", "callable, samples"])
def test_batches_are_whole_and_the_last_row_fills_up(form, tmp_path):
    columns, sizes = whole(FORMS[form](tmp_path), batch_size=4)
    assert sizes == [4, 4]
    np.testing.assert_array_equal(columns["x"], X[[0, 1, 2, 3, 4, 4, 4, 4]])


@pytest.mark.parametrize("samples", [1, 3, 99])
def test_samples_limits_the_rows(samples):
    columns, _ = whole(X, samples=samples)
    np.testing.assert_array_equal(columns["x"], X[:samples])


def test_samples_stops_reading():
    read = []

    def endless():
        while True:
            read.append(1)
            yield X

    whole(lambda: endless(), samples=7)
    assert len(read) == 2


@pytest.mark.parametrize(
    "data",
    [
        [X, INDEX],
        (X, INDEX),
        {"index": INDEX, "image": X},
        tf.data.Dataset.from_tensor_slices(((X, INDEX), np.zeros(5))).batch(2),
        lambda: ([X[i], INDEX[i]] for i in range(5)),
    ],
    ids=["list", "tuple", "dict", "dataset", "callable"],
)
def test_several_inputs_and_dtypes(data):
    columns, _ = whole(data, TWO, dtypes={"index": "int32"})
    assert columns["index"].dtype == np.int32
    np.testing.assert_array_equal(columns["image"], X)
    np.testing.assert_array_equal(columns["index"], INDEX)


def test_free_dimensions_take_any_size():
    assert next(batches(np.zeros((2, 7, 3)), {"x": (None, 3)}))["x"].shape == (1, 7, 3)


@pytest.mark.parametrize(
    ("data", "shapes", "message"),
    [
        (X[:, :2], ONE, r"data of shape \('rows', 3\) for the input 'x'\. .*=\(5, 2\)"),
        (X[None, None], ONE, r"data of shape \('rows', 3\) for the input 'x'"),
        (np.full((5, 3), "a"), ONE, "numbers for the input 'x'"),
        (X.astype("complex64"), ONE, "numbers for the input 'x'"),
        (X + np.nan, ONE, r"finite for the input 'x'\. .*'15 NaN or infinite'"),
        (X - np.inf, ONE, r"finite for the input 'x'"),
        ({"y": X}, ONE, r"an array for the input 'x', or a dict .* name\. Received: .*\['y'\]"),
        ([X, X], ONE, "an array for the input 'x', .*Received: .*='list of 2'"),
        (X, TWO, "an array for each of the inputs .*, in a list of this order or a dict by name"),
        ({"image": X, "index": INDEX[:4]}, TWO, "arrays with as many rows along the first axis"),
        ({"image": X, "index": INDEX / 2}, TWO, r"integers for the input 'index' \(int32\)"),
        (X[:0], ONE, "data with at least one row"),
        (lambda: iter([]), ONE, "data with at least one row"),
        ("data.csv", ONE, "the path of an .npz file"),
        ("missing.npz", ONE, "the path of a file that exists"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, shapes, message):
    with pytest.raises(ValueError, match=OWNER + message):
        list(batches(data, shapes, dtypes={"index": "int32"}))


def test_other_kinds_are_refused_with_the_reason():
    with pytest.raises(TypeError, match=r"Received: .*a generator.*can be read only once"):
        batches((row for row in X), ONE)
    with pytest.raises(TypeError, match=OWNER + r"array\(s\), a tf.data.Dataset"):
        batches(3.0, ONE)
    with pytest.raises(TypeError, match="a callable that returns an iterable"):
        batches(lambda: 3, ONE)


def test_an_error_inside_the_users_callable_is_the_users():
    def broken():
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        list(batches(broken, ONE))


def test_the_argument_is_called_by_its_own_name():
    with pytest.raises(ValueError, match=r"^Export: `verify_data` must be finite"):
        list(batches(X * np.nan, ONE, name="verify_data"))
