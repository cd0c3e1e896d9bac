"""An array, a list in order or a dict by name: read alike wherever a user gives one."""

import re

import numpy as np
import pytest

from keras_compress._shared.by_name import by_name, rows_of

A, B = np.ones((4, 3)), np.zeros((4, 2))

READ = [
    pytest.param(A, ["x"], {}, {"x": A}, id="array"),
    pytest.param([A], ["x"], {"rank": 2}, {"x": A}, id="list-of-the-array"),
    pytest.param([A.tolist()], ["x"], {"rank": 2}, {"x": A.tolist()}, id="list-of-plain-lists"),
    pytest.param([[1, 2, 3]], ["x"], {"rank": 2}, {"x": [[1, 2, 3]]}, id="list-that-is-the-array"),
    pytest.param([A[0], A[1]], ["x"], {"rank": 2}, {"x": [A[0], A[1]]}, id="list-of-its-rows"),
    pytest.param([A], ["x"], {}, {"x": [A]}, id="list-of-unknown-rank"),
    pytest.param([], ["x"], {"rank": 2}, {"x": []}, id="no-rows"),
    pytest.param({"x": A}, ["x"], {}, {"x": A}, id="dict-of-one"),
    pytest.param([A, B], ["x", "y"], {}, {"x": A, "y": B}, id="list-in-order"),
    pytest.param((A, B), ["x", "y"], {"rank": 2}, {"x": A, "y": B}, id="tuple-in-order"),
    pytest.param({"y": B, "x": A}, ["x", "y"], {}, {"x": A, "y": B}, id="dict-in-another-order"),
    pytest.param({"y": B}, ["x", "y"], {"optional": ["x"]}, {"y": B}, id="left-out"),
]


@pytest.mark.parametrize(("given", "expected", "options", "read"), READ)
def test_what_is_given_is_read_by_name(given, expected, options, read):
    found = by_name("Owner", "data", given, expected, **options)
    assert list(found) == list(read)
    for name, value in read.items():
        np.testing.assert_array_equal(found[name], value)


ONE = "an array for the input 'x', or a dict with this name"
TWO = "an array for each of the inputs ['x', 'y'], in a list of this order or a dict by name"
REFUSED = [
    pytest.param({"z": A}, ["x"], {}, f"{ONE}. Received: data=['z']", id="another-name"),
    pytest.param({}, ["x"], {"optional": ["x"]}, f"{ONE}. Received: data=[]", id="empty-dict"),
    pytest.param([A, B], ["x"], {"rank": 2}, f"{ONE}. Received: data='list of 2'", id="too-many"),
    pytest.param(
        (A[0], np.int64(3)), ["x"], {"rank": 2}, f"{ONE}. Received: data='tuple of 2'", id="label"
    ),
    pytest.param(A, ["x", "y"], {}, f"{TWO}. Received: data='ndarray'", id="one-for-two"),
    pytest.param([A], ["x", "y"], {}, f"{TWO}. Received: data='list of 1'", id="too-few"),
    pytest.param({"x": A}, ["x", "y"], {}, f"{TWO}. Received: data=['x']", id="missing"),
    pytest.param(
        {"x": A, "y": B, "z": A},
        ["x", "y"],
        {},
        f"{TWO}. Received: data=['x', 'y', 'z']",
        id="more",
    ),
]


@pytest.mark.parametrize(("given", "expected", "options", "message"), REFUSED)
def test_what_does_not_fit_is_refused_in_one_form(given, expected, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'Owner: `data` must be {message}')}$"):
        by_name("Owner", "data", given, expected, **options)


def test_outputs_are_called_outputs():
    with pytest.raises(ValueError, match="an array for the output 'y', or a dict"):
        by_name("Owner", "labels", {"z": A}, ["y"], what="outputs")


def test_rows_have_to_be_the_same_number():
    assert rows_of("Owner", "data", {"x": A, "y": B}) == 4
    assert rows_of("Owner", "data", {"x": np.float32(1)}) == 0
    message = r"as many rows .* as one another\. Received: data=\{'x': 4, 'y': 3\}"
    with pytest.raises(ValueError, match=message):
        rows_of("Owner", "data", {"x": A, "y": B[:3]})
