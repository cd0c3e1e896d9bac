"""What the searches are given."""

import pytest
from helpers.digit_search import BATCH, ROWS, VALIDATION


@pytest.fixture(scope="module")
def data(digits):
    """What `search` is given besides epochs."""
    x, y, x_test, y_test = digits
    return {
        "x": x[:ROWS],
        "y": y[:ROWS],
        "batch_size": BATCH,
        "validation_data": (x_test[:VALIDATION], y_test[:VALIDATION]),
        "verbose": 0,
    }
