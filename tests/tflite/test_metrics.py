"""What `evaluate` makes of labels and answers, on numbers worked by hand."""

import numpy as np
import pytest

from keras_compress.tflite.litert.metrics import scores

# Largest classes: 1, 0, 2, 2.
CLASSES = np.array([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.0, 0.4, 0.6]], "float32")
ONE = np.array([[0.9], [0.2], [0.5], [0.7]], "float32")  # 0.5 is not above 0.5


def score(metrics, y, answers, outputs=("y",)):
    by_name = answers if isinstance(answers, dict) else {outputs[0]: answers}
    return scores(outputs, metrics, y, lambda: by_name)


@pytest.mark.parametrize(
    ("answers", "y", "expected"),
    [
        pytest.param(CLASSES, [1, 0, 2, 1], 0.75, id="sparse"),
        pytest.param(CLASSES, [[1], [0], [2], [1]], 0.75, id="sparse-column"),
        pytest.param(CLASSES, np.array([1.0, 0.0, 2.0, 1.0]), 0.75, id="sparse-floats"),
        pytest.param(CLASSES, np.eye(3)[[1, 0, 2, 1]], 0.75, id="one-hot"),
        pytest.param(CLASSES, 0.9 * np.eye(3)[[1, 0, 2, 2]] + 0.1 / 3, 1.0, id="smoothed"),
        pytest.param(ONE, [1, 0, 1, 0], 0.5, id="binary"),
        pytest.param(ONE, [[1], [0], [0], [1]], 1.0, id="binary-column"),
        pytest.param(ONE[:, 0], [True, False, False, False], 0.75, id="binary-bool-flat"),
        pytest.param(CLASSES.reshape(2, 2, 3), [[1, 0], [2, 1]], 0.75, id="positions"),
    ],
)
def test_accuracy(answers, y, expected):
    assert score("accuracy", y, answers) == {"accuracy": expected}
    assert score(["acc"], y, answers) == {"acc": expected}


def test_mean_squared_error_never_pairs_every_row_with_every_other():
    expected = (0.1**2 + 0.2**2 + 0.5**2 + 0.7**2) / 4
    for y in ([1.0, 0.0, 1.0, 0.0], [[1.0], [0.0], [1.0], [0.0]]):
        for answers in (ONE, ONE[:, 0]):
            found = score(["mse", "mean_squared_error"], np.array(y), answers)
            assert found == pytest.approx({"mse": expected, "mean_squared_error": expected})


def largest_error(y_true, y_pred):
    return np.abs(y_true - y_pred).max()


def test_a_callable_is_named_as_it_is_and_gives_a_plain_float():
    found = score(["mse", largest_error], np.zeros((4, 1)), ONE)
    assert list(found) == ["mse", "largest_error"]
    assert found["largest_error"] == pytest.approx(0.9)
    assert type(found["largest_error"]) is float


def test_several_outputs_go_by_name():
    answers = {"kind": CLASSES, "size": ONE}
    y = {"size": ONE + 1, "kind": np.array([1, 0, 2, 1])}
    outputs = ["kind", "size"]
    found = score({"size": ["mse", largest_error], "kind": "accuracy"}, y, answers, outputs)
    assert found == pytest.approx({"kind_accuracy": 0.75, "size_mse": 1, "size_largest_error": 1})
    assert score("mse", [CLASSES, ONE], answers, outputs) == {"kind_mse": 0, "size_mse": 0}
    only = score({"kind": "accuracy"}, {"kind": y["kind"]}, answers, outputs)
    assert only == {"kind_accuracy": 0.75}


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_keras_metric_objects(library):
    keras = pytest.importorskip(library)
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(name="right"),
        keras.metrics.SparseTopKCategoricalAccuracy(k=2),
    ]
    y = np.array([1, 0, 2, 1])
    expected = {"right": 0.75, "sparse_top_k_categorical_accuracy": 1.0}
    for _ in range(2):  # reset each time
        assert score(metrics, y, CLASSES) == pytest.approx(expected)
    assert score(metrics[0], [2, 2, 0, 0], CLASSES) == {"right": 0.0}


def two_numbers(y_true, y_pred):
    return np.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("metrics", "y", "kind", "message"),
    [
        ("precision", [1, 0, 2, 1], ValueError, "`metrics` must be 'accuracy', 'mse', a callable"),
        ([], [1, 0, 2, 1], ValueError, "at least one metric"),
        (3, [1, 0, 2, 1], TypeError, "`metrics` must be 'accuracy'.*Received: metrics=3"),
        (dict, [1, 0, 2, 1], TypeError, "an object of that class"),
        (["acc", "acc"], [1, 0, 2, 1], ValueError, "metrics of different names"),
        ({"z": "acc"}, [1, 0, 2, 1], ValueError, r"by name of the outputs \['y'\].*\['z'\]"),
        (
            "acc",
            {"z": [1]},
            ValueError,
            r"`y` must be an array for the output 'y', or a dict .*Received: y=\['z'\]",
        ),
        (two_numbers, [1, 0, 2, 1], TypeError, r"'two_numbers' gives one number.*shape \(2,\)"),
        ("acc", [1, 0, 2], ValueError, r"as many rows as the answers, 4. Received: y=\(3,\)"),
        ("acc", 3, ValueError, "as many rows"),
        ("acc", [1, 0, 2, 3], ValueError, r"integers in \[0, 3\).*0..3"),
        ("acc", [1, 0, 2, 0.5], ValueError, "integers in"),
        ("acc", ["a", "b", "c", "d"], ValueError, "`y` must be numbers"),
        ("acc", np.ones((4, 3)), ValueError, "one-hot"),
        ("acc", np.ones((4, 2)), ValueError, r"shape \(4,\), as the answers"),
        ("mse", np.ones(4), ValueError, r"shape \(4, 3\), as the answers. Received: y=\(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(metrics, y, kind, message):
    with pytest.raises(kind, match=f"TFLiteModel.evaluate: .*{message}"):
        score(metrics, y, CLASSES)


def test_metrics_and_names_are_checked_before_the_file_runs():
    def run():
        raise AssertionError("it ran")

    for metrics, y in (("what", [1]), ("acc", {"z": [1]}), (["acc", "acc"], [1])):
        with pytest.raises(ValueError, match=r"TFLiteModel.evaluate"):
            scores(["y"], metrics, y, run)


def test_labels_of_a_binary_output_are_0_or_1():
    with pytest.raises(
        ValueError, match=r"0 or 1 for an output of one number. Received: y='-1..1'"
    ):
        score("accuracy", [1, -1, 1, -1], ONE)


def test_no_rows_give_no_score():
    with pytest.raises(ValueError, match="at least one row"):
        score("accuracy", np.zeros((0,), int), CLASSES[:0])
