"""LiteRT behind `load_tflite`, on files made of two small hand-made graphs."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers.tflite_files import file_of, images, network

from keras_compress.tflite import Conversion, convert, latency_ms, load_tflite, measure_latency

fake_quant = tf.quantization.fake_quant_with_min_max_vars


def double(x):
    """Range [0, 255] in steps of 1, out in steps of 2: every number can be worked by hand."""
    return {"y": fake_quant(fake_quant(x, 0.0, 255.0) * fake_quant(2.0, 0.0, 2.0), 0.0, 510.0)}


def sums(left, right):
    a, b = fake_quant(left, 0.0, 255.0), fake_quant(right, 0.0, 255.0)
    total = fake_quant(a + b, 0.0, 510.0)
    return {"total": total, "left again": fake_quant(tf.nn.relu(a), 0.0, 255.0)}


def rounded_file(function, batch, ends="uint8", names=("x",)):
    specs = [tf.TensorSpec((batch, 3), name=name) for name in names]
    concrete = tf.function(function).get_concrete_function(*specs)
    return convert(concrete, Conversion("int8", quantized=True, input_type=ends, output_type=ends))


@pytest.fixture(scope="module")
def doubling():
    return rounded_file(double, batch=2)


@pytest.fixture(scope="module")
def summing():
    return load_tflite(rounded_file(sums, batch=1, names=("left", "right")))


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
    model = load_tflite(rounded_file(double, batch=1, ends="int8"))
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
        (
            {"left": np.ones((1, 3))},
            r"each of the inputs \['left', 'right'\], .*Received: x=\['left'\]",
        ),
        ([np.ones((1, 3))], r"an array for each of the inputs .*Received: x='list of 1'"),
        (np.ones((1, 3)), r"in a list of this order or a dict by name\. Received: x='ndarray'"),
        ([np.ones((1, 3)), np.ones((1, 4))], r"input 'right' must have the shape \('rows', 3\)"),
        ([np.ones((1, 3)), np.ones(3)], "input 'right' must have the shape"),
        (
            [np.ones((1, 3)), np.ones((2, 3))],
            "as many rows along the first axis as one another.*'left': 1, 'right': 2",
        ),
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
    root = __file__.rsplit("/", 3)[0]
    result = subprocess.run(
        [sys.executable, "-c", script, str(path), root], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "[[2. 4. 6.]]" in result.stdout


def test_it_says_what_it_is(doubling, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(doubling)
    x, y = "x uint8[2, 3] (scale 1, zero point 0)", "y uint8[2, 3] (scale 2, zero point 0)"
    assert repr(load_tflite(path)) == f"<TFLiteModel '{path}': {x} -> {y}>"
    assert repr(load_tflite(doubling)) == f"<TFLiteModel {len(doubling)} bytes: {x} -> {y}>"


ENDS = {  # the type of input and output, and how far off, as a part of the largest answer
    "float32": ("float32", 1e-5),
    "sparse": ("float32", 1e-5),
    "float16": ("float32", 2e-3),
    "dynamic": ("float32", 2e-2),
    "int16x8": ("int16", 2e-2),
    "int8": ("int8", 5e-2),
}


@pytest.mark.parametrize("kind", ENDS)
def test_every_kind_of_file_answers_as_the_network(kind):
    model = load_tflite(file_of(kind))
    dtype, tolerance = ENDS[kind]
    for info, shape in ((model.inputs[0], (1, 8, 8, 1)), (model.outputs[0], (1, 10))):
        assert (info.dtype, info.shape) == (dtype, shape)
        assert (info.scale is None) == (info.zero_point is None) == (dtype == "float32")
    if kind == "int16x8":  # symmetric: 32767 is the largest number of the data
        assert model.inputs[0].zero_point == 0
        assert model.inputs[0].scale == pytest.approx(images(32).max() / 32767, rel=1e-3)
    x = images(5)
    expected = network(x)["y"].numpy()
    limit = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(model.predict(x), expected, rtol=0, atol=limit)


def test_evaluate_scores_what_predict_gives(summing):
    x = [np.array([[1.0, 2, 6], [9, 8, 7]]), np.ones((2, 3))]
    y = {"total": np.array([2, 1]), "left again": x[0] + 2}
    found = summing.evaluate(x, y, metrics={"total": "accuracy", "left again": "mse"})
    assert found == {"total_accuracy": 0.5, "left again_mse": 4.0}
    model = load_tflite(file_of("int8"))
    labels = model.predict(images(9)).argmax(-1)
    labels[0] = (labels[0] + 1) % 10
    assert model.evaluate(images(9), labels) == {"accuracy": pytest.approx(8 / 9)}


@pytest.mark.slow
def test_evaluate_with_the_metrics_of_either_keras(keras):
    model = load_tflite(file_of("float32"))
    x = images(9)
    y = network(x)["y"].numpy() + 0.5
    metrics = [keras.metrics.MeanAbsoluteError(name="off"), keras.metrics.MeanSquaredError()]
    found = model.evaluate(x, y, metrics)
    assert found == pytest.approx({"off": 0.5, "mean_squared_error": 0.25}, rel=1e-4)


def float_file(function, **shapes):
    specs = [tf.TensorSpec(shape, name=name) for name, shape in shapes.items()]
    concrete = tf.function(function).get_concrete_function(*specs)
    return convert(concrete, Conversion("float32"))


def test_outputs_without_the_rows_of_the_input_are_refused():
    model = load_tflite(float_file(lambda x: {"y": tf.reshape(2.0 * x, (3, 2))}, x=(2, 3)))
    with pytest.raises(ValueError, match=r"output 'y' must have one row for each of the file's 2"):
        model.predict(np.ones((2, 3)))


@pytest.mark.parametrize(("x", "y"), [((2, 3), (1, 3)), ((), ())])
def test_inputs_without_common_rows_know_no_batch(x, y):
    model = load_tflite(float_file(lambda x, y: {"z": x + y}, x=x, y=y))
    with pytest.raises(
        ValueError, match=r"same number of rows along the first axis. Received: sha"
    ):
        _ = model.batch_size
    assert model.rows is None
    np.testing.assert_array_equal(model.predict([np.ones(x), np.ones(y)]), 2 * np.ones(x))


def test_num_threads_is_a_number(doubling):
    with pytest.raises(ValueError, match="load_tflite: `num_threads` must be an int >= 1"):
        load_tflite(doubling, num_threads=0)


@pytest.mark.parametrize("source", [None, 3, ["x.tflite"]])
def test_a_source_is_a_path_or_bytes(source):
    with pytest.raises(TypeError, match="load_tflite: `source` must be the path of a TFLite file"):
        load_tflite(source)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="`source` must be a file, not a folder or device"):
        load_tflite(tmp_path)


def test_latencies(doubling):
    model = load_tflite(doubling, num_threads=2)
    found = measure_latency(model, runs=40)
    assert 0 < found.min_ms <= found.median_ms <= found.p95_ms < 1000
    assert (found.runs, found.threads) == (40, 2)
    assert latency_ms(model) > 0
    with pytest.raises(ValueError, match="`runs` must be an int >= 1"):
        measure_latency(model, runs=0)


def test_latencies_leave_out_the_warm_up(doubling, monkeypatch):
    model = load_tflite(doubling)
    # Two runs of warm-up, then 1..20 ms: the median lies at 10.5, and 95 of 100 below 19.05.
    durations = iter([900.0, 900.0, *range(20, 0, -1)])
    clock = [0.0]

    def run(counts):
        assert counts == 0
        clock[0] += next(durations) / 1000

    monkeypatch.setattr(model, "run_on_zeros", run)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    found = measure_latency(model, runs=20)
    assert (found.min_ms, found.median_ms, found.p95_ms) == pytest.approx((1, 10.5, 19.05))
