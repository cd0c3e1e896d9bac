"""Whether the network that ships answers as the masked one is asked where it is made."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.channel_graphs import with_random_weights
from helpers.dropped_channels import answers, assert_same, pruned

import keras_compress as kc
from keras_compress.engines import same_answers
from keras_compress.engines.engine import engine_of
from keras_compress.engines.in_place.channels import rebuild
from keras_compress.frameworks.choose import adapter_of

pytestmark = pytest.mark.by_turns


def net(keras, places=8, smallest=1):
    """From a convolution to places of any number, if there are none given."""
    layers = keras.layers
    image = keras.Input((places, places, 2), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(4, smallest, activation="tanh", name="second")(x)
    return with_random_weights(
        keras.Model(image, layers.Dense(3, name="out")(layers.GlobalAveragePooling2D()(x)))
    )


NETS = {
    "known": lambda keras: net(keras),
    "free": lambda keras: net(keras, None),
    "free and large": lambda keras: net(keras, None, smallest=60),
}


def _shift(monkeypatch):
    """All shapes are right, and the network is another."""
    original = rebuild.cuts_of

    def shifted(channels, kept):
        return {
            key: [(axis, np.roll(places, 1)) for axis, places in cuts[:1]] + cuts[1:]
            for key, cuts in original(channels, kept).items()
        }

    monkeypatch.setattr("keras_compress.engines.in_place.engine.cuts_of", shifted)


@pytest.mark.parametrize("name", NETS)
def test_channels_of_another_order_are_found_out(keras, name, monkeypatch):
    model = NETS[name](keras)
    pruned(model)
    kc.strip(model)
    _shift(monkeypatch)
    with pytest.raises(ValueError, match="must answer as the masked one"):
        kc.strip(model)


def test_a_net_that_says_the_same_to_everything_is_found_out_before_the_first_step(
    keras, monkeypatch
):
    layers = keras.layers
    hidden = [layers.Dense(8), layers.Dense(8)]
    model = keras.Sequential([layers.Input((5,)), *hidden, layers.Dense(3, "softmax")])
    faint = [weight * np.float32(1e-6) for weight in model.get_weights()]
    model.set_weights(faint)
    model.compile("sgd", "mse", jit_compile=False)
    _shift(monkeypatch)
    compress = kc.Compress(pruning=kc.Pruning(0.5, structure="channels"))
    with pytest.raises(ValueError, match="must answer as the masked one"):
        model.fit(np.ones((8, 5)), np.ones((8, 3)), batch_size=1, verbose=0, callbacks=[compress])
    assert engine_of(model) is None
    for one, other in zip(faint, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def cancelling(keras, width=4096):
    """A net in which large numbers cancel, so that float32 leaves few digits of its answers."""
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((6,)), layers.Dense(width, name="hidden"), layers.Dense(1, name="out")]
    )
    draw = np.random.default_rng(0)
    bias = np.tile([3e4, 0.0], width // 2) * draw.uniform(
        0.5, 1, width
    )  # every other one is dropped
    signs = np.repeat([1.0, -1.0], width // 2)
    bias[width // 2 :] = bias[: width // 2]
    kernel, no_bias = draw.normal(size=(6, width)), np.zeros(1)
    model.set_weights([kernel, bias, signs[:, None], no_bias])
    return model


def test_what_float32_makes_of_a_network_is_no_other_network(keras):
    model = cancelling(keras)
    engine = pruned(model)
    x = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, 6)), tf.float32)
    small = kc.strip(model)
    with engine.readers.masked():
        masked = np.asarray(model(x))
    assert np.abs(masked - small(x)).max() > same_answers.CLOSE * np.abs(masked).max()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_without_numbers_for_answers_is_still_stripped(keras, value):
    model = net(keras)
    pruned(model)
    weights = [weight.copy() for weight in model.get_weights()]
    weights[-1][0] = value  # the bias of one output
    model.set_weights(weights)
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 2)).astype("float32")
    assert_same(
        [each[:, 1:] for each in answers(model, x)],
        [each[:, 1:] for each in answers(kc.strip(model), x)],
    )


def test_where_nobody_can_ask_there_is_no_difference(keras):
    model = net(keras, None, smallest=300)  # larger than any size that is tried
    engine = pruned(model)
    assert same_answers.largest_difference(adapter_of(model, "test"), engine, model) is None
