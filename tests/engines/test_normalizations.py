"""Normalizations where some rows are nothing but zeros, as those of a padded sequence."""

import numpy as np
import pytest

import keras_compress as kc

pytestmark = pytest.mark.by_turns

ROWS, BATCH, EPOCHS = 96, 8, 4


@pytest.mark.parametrize("kind", ["LayerNormalization", "RMSNormalization", "UnitNormalization"])
@pytest.mark.parametrize("watched", [0, 12])
def test_a_variance_of_zero_costs_the_others_nothing(keras, kind, watched):
    """The inverse of its root, of a thousand and more, would leave one integer to all others."""
    if not hasattr(keras.layers, kind):
        pytest.skip("tf_keras has no such layer")
    generator = np.random.default_rng(0)
    x = generator.normal(0.3, 1, (ROWS, 6, 10)).astype("float32")
    x[:, 4:] = 0
    y = generator.random((ROWS, 4)).astype("float32")

    def trained(*callbacks):
        keras.utils.set_random_seed(5)
        layers = [keras.layers.Input((6, 10)), keras.layers.Dense(64, use_bias=False)]
        layers += [getattr(keras.layers, kind)(), keras.layers.Flatten(), keras.layers.Dense(4)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(0.003), "mse", jit_compile=False)
        fitted = model.fit(
            x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks
        )
        return fitted.history["loss"]

    quantization = kc.Quantization(delay=24, calibration_steps=watched)
    losses = trained(kc.Compress(quantization=quantization, verbose=0))
    np.testing.assert_allclose(losses, trained(), rtol=0.2)
