"""LiteRT behind `load_tflite`, on files made of two small hand-made graphs."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.tflite import Conversion, convert, load_tflite

fake_quant = tf.quantization.fake_quant_with_min_max_vars


def double(x):
    """Range [0, 255] in steps of 1, out in steps of 2: every number can be worked by hand."""
    return {"y": fake_quant(fake_quant(x, 0.0, 255.0) * fake_quant(2.0, 0.0, 2.0), 0.0, 510.0)}


def sums(left, right):
    a, b = fake_quant(left, 0.0, 255.0), fake_quant(right, 0.0, 255.0)
    total = fake_quant(a + b, 0.0, 510.0)
    return {"total": total, "left again": fake_quant(tf.nn.relu(a), 0.0, 255.0)}


def file_of(function, batch, ends="uint8", names=("x",)):
    specs = [tf.TensorSpec((batch, 3), name=name) for name in names]
    concrete = tf.function(function).get_concrete_function(*specs)
    return convert(concrete, Conversion("int8", quantized=True, input_type=ends, output_type=ends))


@pytest.fixture(scope="module")
def doubling():
    return file_of(double, batch=2)


@pytest.fixture(scope="module")
def summing():
    return load_tflite(file_of(sums, batch=1, names=("left", "right")))


def test_the_ends_say_how_they_are_quantized(doubling):
    model = load_tflite(doubling)
    (x,), (y,) = model.inputs, model.outputs
    assert (x.name, x.dtype, x.shape, x.zero_point) == ("x", "uint8", (2, 3), 0)
    assert x.scale == pytest.approx(1.0)
    assert (y.name, y.dtype, y.shape, y.zero_point) == ("y", "uint8", (2, 3), 0)
    assert y.scale == pytest.approx(2.0)


@pytest.mark.parametrize("rows", [0, 1, 2, 5])
def test_any_number_of_rows_goes_through_the_files_batch(doubling, rows):
    x = np.arange(rows * 3, dtype="float32").reshape(rows, 3)
    y = load_tflite(doubling).predict(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, 2 * x)


def test_values_round_half_up_and_clip(doubling):
    y = load_tflite(doubling).predict([[0.4, 0.5, 1.5], [2.5, -7.0, 1e9]])
    np.testing.assert_array_equal(y, [[0, 2, 4], [6, 0, 510]])


def test_raw_numbers_are_the_files_own(doubling):
    model = load_tflite(doubling)
    x = np.array([[0, 1, 255]], "uint8")
    y = model.predict(x, raw=True)
    assert y.dtype == np.uint8
    np.testing.assert_array_equal(y, x)  # 2 x in steps of 2
    np.testing.assert_array_equal(model.predict(x.astype("int64"), raw=True), x)
    with pytest.raises(ValueError, match="integers that uint8 holds"):
        model.predict(x.astype("float32"), raw=True)
    with pytest.raises(ValueError, match="integers that uint8 holds"):
        model.predict(np.array([[0, 1, 256]]), raw=True)


def test_int8_ends_mean_the_same_numbers():
    model = load_tflite(file_of(double, batch=1, ends="int8"))
    x = np.array([[0, 7, 255]], "float32")
    np.testing.assert_array_equal(model.predict(x), 2 * x)
    np.testing.assert_array_equal(
        model.predict(np.array([[-128, -121, 127]]), raw=True), [[-128, -121, 127]]
    )


def test_several_inputs_and_outputs(summing):
    left, right = np.full((2, 3), 10.0), np.full((2, 3), 4.0)
    for x in ([left, right], (left, right), {"right": right, "left": left}):
        found = summing.predict(x)
        assert list(found) == ["total", "left again"]
        np.testing.assert_array_equal(found["total"], np.full((2, 3), 14.0))
        np.testing.assert_array_equal(found["left again"], left)


def test_a_list_of_one_array_is_that_array(doubling):
    x = np.ones((2, 3))
    np.testing.assert_array_equal(load_tflite(doubling).predict([x]), 2 * x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"left": np.ones((1, 3))}, r"must have the inputs \['left', 'right'\]"),
        ([np.ones((1, 3))], "one array for each of the inputs"),
        (np.ones((1, 3)), "must be a list or a dict"),
        ([np.ones((1, 3)), np.ones((1, 4))], r"input 'right' must have the shape \('rows', 3\)"),
        ([np.ones((1, 3)), np.ones(3)], "input 'right' must have the shape"),
        ([np.ones((1, 3)), np.ones((2, 3))], "same number of rows.*'left': 1, 'right': 2"),
        ([np.ones((1, 3)), np.full((1, 3), np.nan)], "input 'right' must be free of NaN"),
        ([np.ones((1, 3)), np.full((1, 3), "a")], "input 'right' must be numbers"),
    ],
)
def test_what_does_not_fit_is_refused(summing, x, message):
    with pytest.raises(ValueError, match=message):
        summing.predict(x)


def test_a_path_or_what_is_no_file(doubling, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(doubling)
    assert load_tflite(path).inputs == load_tflite(doubling).inputs
    path.write_bytes(b"no model at all")
    with pytest.raises(ValueError, match="must be a TFLite file"):
        load_tflite(str(path))
    with pytest.raises(FileNotFoundError):
        load_tflite(tmp_path / "missing.tflite")


def test_neither_the_import_nor_running_a_file_loads_tensorflow(doubling, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(doubling)
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); import keras_compress.tflite as t\n"
        "assert 'ai_edge_litert' not in sys.modules and 'tensorflow' not in sys.modules\n"
        "print(t.load_tflite(sys.argv[1]).predict([[1, 2, 3]]))\n"
        "t.inspect_tflite(sys.argv[1])\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    root = __file__.rsplit("/", 2)[0]
    result = subprocess.run(
        [sys.executable, "-c", script, str(path), root], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "[[2. 4. 6.]]" in result.stdout
