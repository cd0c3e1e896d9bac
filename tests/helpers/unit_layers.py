"""Layers that no table knows, for networks of either Keras."""

import types

import tensorflow as tf


def layers_of(keras):
    """The classes below, made for one Keras."""
    layers = keras.layers

    class Blend(layers.Layer):
        """Weights of its own, a bias, a ReLU, a product, a mean, a sum."""

        def __init__(self, units, **arguments):
            super().__init__(**arguments)
            self.units = units

        def build(self, shape):
            self.mix = self.add_weight(
                shape=(shape[-1], self.units), initializer="glorot_uniform", name="mix"
            )
            self.shift = self.add_weight(shape=(self.units,), initializer="zeros", name="shift")

        def call(self, x):
            y = tf.nn.relu(tf.matmul(x, self.mix) + self.shift)
            return y * 0.5 + tf.reduce_mean(y, axis=-1, keepdims=True)

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    class Below(layers.Layer):
        """Keras layers inside: kernels, batch norm, dropout, a residual sum; losses of its own."""

        def __init__(self, channels, **arguments):
            super().__init__(**arguments)
            self.channels = channels
            self.first = layers.Conv2D(channels, 3, padding="same", use_bias=False, name="first")
            self.norm = layers.BatchNormalization(name="norm")
            self.drop = layers.Dropout(0.25, seed=7, name="drop")
            self.second = layers.Conv2D(
                channels, 3, padding="same", activity_regularizer="l2", name="second"
            )

        def build(self, shape):
            inner = (*shape[:-1], self.channels)
            self.first.build(shape)
            for layer in (self.norm, self.second):
                layer.build(inner)
            super().build(shape)

        def call(self, x, training=None):
            y = tf.nn.relu(self.norm(self.first(x), training=training))
            self.add_loss(0.01 * tf.reduce_mean(tf.square(y)))
            z = self.second(self.drop(y, training=training))
            return tf.nn.relu(y + z)

        def get_config(self):
            return {**super().get_config(), "channels": self.channels}

    class Noisy(layers.Layer):
        """Computes more in training, and not in a layer of Keras."""

        def call(self, x, training=None):
            return tf.nn.relu(x * 1.5) * 2.0 if training else x * 2.0

    class Gated(keras.Model):
        """A functional model that computes more than its graph."""

        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training) * tf.sigmoid(inputs)

    def gated(size, **arguments):
        given = keras.Input((size,))
        inner = layers.Dense(size, activation="relu", name="inner")(given)
        return Gated(given, inner, **arguments)

    return types.SimpleNamespace(Blend=Blend, Below=Below, Noisy=Noisy, gated=gated)
