"""`macs`, against counts by hand."""

import numpy as np
import pytest

import keras_compress as kc

pytestmark = pytest.mark.by_turns


def conv_net(layers, image):
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)  # 4 x 4 places
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x)
    x = layers.SeparableConv2D(5, 3)(x)  # 2 x 2 places
    x = layers.Conv2DTranspose(3, 3, strides=2, padding="same")(x)  # 4 x 4 places
    return layers.Dense(2)(x)  # at each of them


BY_HAND = {
    "convolutions": (
        conv_net,
        4 * 4 * 4 * (3 * 3 * 3)  # each output of the first: a 3 x 3 window of 3 channels
        + 4 * 4 * 8 * (3 * 3)
        + 2 * 2 * (8 * 3 * 3 + 8 * 5)
        + 2 * 2 * 5 * (3 * 3 * 3)  # each input of the transposed: a 3 x 3 window of 3 channels
        + 4 * 4 * 3 * 2,
    ),
    "groups": (
        lambda layers, image: layers.Conv2D(6, 3, groups=3, padding="same")(image),
        8 * 8 * 6 * (3 * 3 * 1),
    ),
    "in one and three dimensions": (
        lambda layers, image: layers.Conv3D(2, 2)(
            layers.Reshape((8, 8, 4, 2))(
                layers.Conv1D(8, 3, padding="same")(layers.Reshape((64, 3))(image))
            )
        ),
        64 * 8 * (3 * 3) + 7 * 7 * 3 * 2 * (2 * 2 * 2 * 2),
    ),
    "products": (
        lambda layers, image: layers.Dot(2)([layers.Reshape((64, 3))(image)] * 2),
        64 * 64 * 3,
    ),
    "einsum": (
        lambda layers, image: layers.EinsumDense("abcd,de->abce", (8, 8, 5))(image),
        8 * 8 * 3 * 5,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_it_counts_what_a_hand_counts(keras, name):
    make, expected = BY_HAND[name]
    image = keras.Input((8, 8, 3), name="image")
    assert kc.macs(keras.Model(image, make(keras.layers, image))) == expected


def test_a_nested_model_counts_at_each_call(keras):
    layers = keras.layers
    inner = keras.Sequential([layers.Input((4,)), layers.Dense(4)])
    x = keras.Input((4,))
    assert kc.macs(keras.Model(x, layers.Dense(2)(inner(inner(x))))) == 2 * 16 + 8


def test_free_shapes_are_given_and_loops_refused(keras):
    layers = keras.layers
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, layers.Conv2D(4, 3)(image))
    with pytest.raises(ValueError, match="macs: every dimension"):
        kc.macs(model)
    assert kc.macs(model, input_shape=(5, 5, 3)) == 3 * 3 * 4 * 27
    words = keras.Input((6, 3))
    with pytest.raises(ValueError, match="whose steps nobody knows"):
        kc.macs(keras.Model(words, layers.LSTM(4)(words)))


def test_a_subclassed_model_counts_and_what_is_none_does_not(keras):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 3), "float32"))
    assert kc.macs(model) == 12
    with pytest.raises(TypeError, match="macs"):
        kc.macs("model")
