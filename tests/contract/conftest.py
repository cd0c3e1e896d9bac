"""The runs that the rows of the contract are compared with."""

import pytest
from contract.runs import compress, train


@pytest.fixture(scope="session")
def data(digits):
    """The training arrays: eight batches."""
    x, y, _, _ = digits
    return x[:256], y[:256]


@pytest.fixture(scope="session")
def test_data(digits):
    _, _, x, y = digits
    return x[:128], y[:128]


@pytest.fixture(scope="session")
def reference(keras, data):
    """The run without any feature: arrays in, nothing but `Compress`. Not to be trained further."""
    return train(keras, data, compress())


@pytest.fixture(scope="session")
def plain(keras, data):
    """The same fit without `Compress`."""
    return train(keras, data, None)
