"""Agreement in output steps, worked by hand."""

import numpy as np
import pytest

from keras_compress.tflite import OutputAgreement, agreement


def test_differences_are_counted_in_steps_of_the_output():
    reference = {"y": np.array([[0.0, 1.0], [2.0, 0.0]])}
    answer = {"y": np.array([[0.5, 1.0], [2.0, -1.0]])}
    assert agreement(reference, answer, {"y": 0.5}) == {
        "y": OutputAgreement(largest_steps=2.0, mean_steps=0.75, argmax_agreement=1.0)
    }


def test_argmax_is_compared_along_the_last_axis_at_every_position():
    reference = {"mask": np.eye(4).reshape(1, 2, 2, 4)}
    answer = {"mask": np.eye(4)[[0, 1, 2, 2]].reshape(1, 2, 2, 4)}
    assert agreement(reference, answer, {"mask": 1.0})["mask"].argmax_agreement == 0.75
    # Along any other axis, the largest ones of two of four are elsewhere.
    answer = {"mask": np.eye(4)[[0, 1, 1, 1]].reshape(1, 2, 2, 4)}
    assert agreement(reference, answer, {"mask": 1.0})["mask"].argmax_agreement == 0.5


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_outputs_without_classes_have_no_argmax(shape):
    found = agreement({"y": np.zeros(shape)}, {"y": np.ones(shape)}, {"y": 0.25})
    assert found == {"y": OutputAgreement(4.0, 4.0, None)}


def test_several_outputs_keep_the_order_of_the_reference():
    values = {"b": np.zeros((2, 3)), "a": np.zeros((2, 3))}
    found = agreement(values, dict(reversed(values.items())), {"a": 1.0, "b": 2.0})
    assert list(found) == ["b", "a"]


def test_every_output_is_counted_in_its_own_steps():
    values = {"b": np.zeros(3), "a": np.zeros(3)}
    answer = {"a": np.full(3, 3.0), "b": np.full(3, 4.0)}
    found = agreement(values, answer, {"a": 1.0, "b": 0.5})
    assert found == {"b": OutputAgreement(8.0, 8.0, None), "a": OutputAgreement(3.0, 3.0, None)}


@pytest.mark.parametrize(
    ("kind", "one", "other", "steps"),
    [
        ("uint8", 1, 3, 2.0),  # 1 - 3 is 254 of them
        ("int8", 100, -100, 200.0),  # and this -56
        ("int32", 2**24 + 1, 2**24, 1.0),  # the same in float32
        ("bool", True, False, 1.0),  # which NumPy does not subtract
    ],
)
def test_integers_neither_overflow_nor_run_together(kind, one, other, steps):
    reference, answer = np.full(3, other, kind), np.full(3, one, kind)
    assert agreement({"y": reference}, {"y": answer}, {"y": 1.0})["y"].largest_steps == steps
    assert agreement({"y": answer}, {"y": reference}, {"y": 1.0})["y"].largest_steps == steps


def test_nan_agrees_with_nothing():
    found = agreement({"y": np.zeros(3)}, {"y": np.array([0.0, np.nan, 0.0])}, {"y": 1.0})
    assert np.isnan(found["y"].largest_steps)
    assert np.isnan(found["y"].mean_steps)


@pytest.mark.parametrize(
    ("answer", "scales", "message"),
    [
        ({"z": np.zeros(3)}, {"y": 1.0}, r"`answer` must have the outputs .*\['y'\]"),
        ({"y": np.zeros(3), "z": np.zeros(3)}, {"y": 1.0}, r"Received: answer=\['y', 'z'\]"),
        ({"y": np.zeros(3)}, {}, "`scales` must have the outputs"),
        ({"y": np.zeros(4)}, {"y": 1.0}, r"shape of `reference\['y'\]`, \(3,\)"),
        ({"y": np.zeros(3)}, {"y": 0.0}, "above 0"),
        ({"y": np.zeros(3)}, {"y": float("nan")}, "above 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(answer, scales, message):
    with pytest.raises(ValueError, match=message):
        agreement({"y": np.zeros(3)}, answer, scales)
    with pytest.raises(ValueError, match="not be empty"):
        agreement({"y": np.zeros(0)}, {"y": np.zeros(0)}, {"y": 1.0})
