"""A network of four times the layers takes four times as long to attach, and not sixteen.

What is counted is calls, Python's and C's, which is the same on every machine.
"""

import sys

import pytest

import keras_compress as kc
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.frameworks.choose import adapter_of

pytestmark = pytest.mark.by_turns

HALF = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1)
SPECS = {
    "pruning": (kc.Pruning(HALF), None),
    "channels": (kc.Pruning(HALF, structure="channels"), None),
    "quantization": (None, kc.Quantization(delay=1)),
}
BLOCKS = (6, 24)


def network(keras, blocks):
    """Blocks of seven layers, with a batch norm, a sum and a concatenation in each."""
    layers = keras.layers
    inputs = layers.Input((4, 4, 4))
    x = inputs
    for _ in range(blocks):
        y = layers.Conv2D(4, 1, use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Concatenate()([layers.Conv2D(4, 1)(y), y])
        x = layers.Add()([x, layers.Conv2D(4, 1)(y)])
    return keras.Model(inputs, layers.Conv2D(3, 1)(x))


@pytest.fixture(scope="module")
def networks(keras):
    return [network(keras, blocks) for blocks in BLOCKS]


def calls_of(function):
    count = 0

    def counting(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("what", SPECS)
def test_attaching_is_linear_in_the_number_of_layers(networks, what):
    counts = []
    for model in (networks[0], *networks):  # the first time other things are made too
        engine = InPlace(adapter_of(model, "a test"), model, *SPECS[what])
        counts.append(calls_of(engine.attach))
        engine.detach()
    _, few, many = counts
    assert 2 * few < many < 1.15 * BLOCKS[1] / BLOCKS[0] * few
