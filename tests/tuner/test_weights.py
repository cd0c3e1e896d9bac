"""Weights in a file of their own."""

import numpy as np

from keras_compress.tuner.weights import load_weights, save_weights


def test_a_new_model_computes_with_the_weights_it_was_given(keras, tmp_path):
    """With what its layers make of them too: an adapted `Normalization` has its mean from there."""

    def made(adapted):
        normalization = keras.layers.Normalization()
        if adapted:
            normalization.adapt(np.random.default_rng(0).normal(2, 3, (50, 4)))
        return keras.Sequential([keras.layers.Input((4,)), normalization, keras.layers.Dense(2)])

    model, new = made(True), made(False)
    save_weights(model, tmp_path / "weights.npz")
    load_weights(new, tmp_path / "weights.npz")
    x = np.random.default_rng(1).normal(2, 3, (8, 4))
    np.testing.assert_array_equal(new.predict(x, verbose=0), model.predict(x, verbose=0))
