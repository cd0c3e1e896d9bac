"""Models whose `call` is Python, for either Keras, with the data they train on."""

import functools

import numpy as np
import tensorflow as tf

ROWS, BATCH = 64, 16
STEPS = ROWS // BATCH  # per epoch
KINDS = "sparse_categorical_crossentropy"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.0, (ROWS, *shape)).astype("float32")


def labels():
    return (np.arange(ROWS) % 4).astype("int32")


@functools.cache
def classes_of(keras):
    """Name -> class."""
    layers = keras.layers

    class Image(keras.Model):
        """Batch norm behind a convolution, dropout, and ops of its own between the layers."""

        def __init__(self, channels=4, **arguments):
            super().__init__(**arguments)
            self.channels = channels
            self.conv = layers.Conv2D(channels, 3, name="conv")
            self.norm = layers.BatchNormalization(name="norm")
            self.drop = layers.Dropout(0.2, seed=3, name="drop")
            self.flat = layers.Flatten(name="flat")
            self.head = layers.Dense(4, name="head")

        def call(self, x, training=None):
            x = tf.nn.relu(self.norm(self.conv(x), training=training))
            x = self.drop(self.flat(x), training=training)
            return tf.nn.softmax(self.head(x) * 1.5)

        def get_config(self):
            return {"channels": self.channels, "name": self.name}

    class Ends(keras.Model):
        """Takes a dict, words in it; gives one, over two very different ranges."""

        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.front = layers.Dense(8, activation="relu", name="front")
            self.words = layers.Embedding(5, 8, name="words")
            self.kind = layers.Dense(4, name="kind")
            self.size = layers.Dense(2, name="size")

        def call(self, inputs):
            x = self.front(inputs["signal"]) + self.words(inputs["word"])
            return {"kind": tf.nn.softmax(self.kind(x)), "size": self.size(x) * 30.0}

    class Pair(keras.Model):
        """Takes a pair, gives a pair, the second of which only moves numbers of the first."""

        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.left = layers.Dense(6, activation="tanh", name="left")
            self.right = layers.Dense(6, name="right")
            self.head = layers.Dense(4, name="head")

        def call(self, inputs):
            one, other = inputs
            x = self.head(tf.concat([self.left(one), self.right(other)], -1))
            return x, tf.reverse(x, [-1])[:, :2]

    class Block(layers.Layer):
        """Layers, and a weight of its own."""

        def __init__(self, units, **arguments):
            super().__init__(**arguments)
            self.first = layers.Dense(units, activation="relu", name="first")
            self.second = layers.Dense(units, name="second")

        def build(self, shape):
            self.first.build(shape)
            self.second.build((*shape[:-1], self.first.units))
            self.gate = self.add_weight(shape=(shape[-1],), initializer="ones", name="gate")

        def call(self, x):
            return self.second(self.first(x)) + x * self.gate

    class Inner(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.dense = layers.Dense(8, activation="sigmoid", name="dense")

        def call(self, x):
            return self.dense(x) * x

    class Nested(keras.Model):
        """Holds layers in a list, a functional model, a Sequential without shapes, a subclassed
        model.
        """

        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.blocks = [Block(8, name="one"), Block(8, name="two")]
            given = keras.Input((8,))
            x = layers.LeakyReLU(name="leaky")(layers.Dense(8, name="dense")(given))
            self.tower = keras.Model(given, layers.Add(name="sum")([x, given]), name="tower")
            self.row = keras.Sequential([layers.Dense(8, name="dense")], name="row")
            self.inner = Inner(name="inner")
            self.head = layers.Dense(4, activation="softmax", name="head")

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(self.inner(self.row(self.tower(x))))

    class Attending(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.front = layers.Dense(8, name="front")
            self.attend = layers.MultiHeadAttention(2, 4, name="attend")
            self.norm = layers.LayerNormalization(name="norm")
            self.pool = layers.GlobalAveragePooling1D(name="pool")
            self.head = layers.Dense(4, activation="softmax", name="head")

        def call(self, x):
            x = self.front(x)
            return self.head(self.pool(self.norm(x + self.attend(x, x))))

    found = (Image, Ends, Pair, Block, Nested, Attending)
    return {each.__name__: each for each in found}


def around(keras, middle, **arguments):
    """A subclassed model with `middle`, a layer or a function, between two Dense layers."""

    class Around(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.front = keras.layers.Dense(8, activation="relu", name="front")
            self.middle = middle
            self.head = keras.layers.Dense(4, activation="softmax", name="head")

        def call(self, x):
            return self.head(self.middle(self.front(x)))

    return compiled(keras, Around(name="around", **arguments))


DATA = {
    "Image": lambda seed=0: (normal(8, 8, 3, seed=seed), labels()),
    "Ends": lambda seed=0: (
        {"signal": normal(8, seed=seed), "word": (np.arange(ROWS) % 5).astype("int32")},
        {"kind": labels(), "size": normal(2, seed=seed)},
    ),
    "Pair": lambda seed=0: (
        (normal(5, seed=seed), normal(3, seed=seed + 1)),
        (normal(4, seed=seed), normal(2, seed=seed)),
    ),
    "Nested": lambda seed=0: (normal(8, seed=seed), labels()),
    "Attending": lambda seed=0: (normal(5, 8, seed=seed), labels()),
}
LOSSES = {"Ends": {"kind": KINDS, "size": "mse"}, "Pair": ["mse", "mse"]}


def compiled(keras, model, loss=KINDS, **arguments):
    arguments = {"jit_compile": False, **arguments}
    model.compile(keras.optimizers.Adam(0.01), loss, **arguments)
    return model


def net(keras, kind, **arguments):
    """A compiled model that is not built."""
    keras.utils.set_random_seed(0)
    model = classes_of(keras)[kind](name=kind.lower())
    return compiled(keras, model, LOSSES.get(kind, KINDS), **arguments)


def fit(model, data, *callbacks, epochs=2, **arguments):
    x, y = data
    given = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **given)
