"""Small nets for images of 8 x 8 pixels, 10 classes: of five kinds, which `accuracy.py` trains, and
the smallest with all that a fit goes through.
"""


def smallest(keras):
    """With the same weights every time."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def lenet(keras):
    """Without batch norm: what comes in at 255 times the size goes through at that size."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def normed(keras, layer, x, relu=True):
    """A convolution with batch norm and ReLU."""
    x = keras.layers.BatchNormalization()(layer(x))
    return keras.layers.ReLU()(x) if relu else x


def resnet(keras):
    layers = keras.layers

    def convolution(filters, size, strides=1):
        return layers.Conv2D(filters, size, strides, padding="same", use_bias=False)

    image = layers.Input((8, 8, 1))
    x = normed(keras, convolution(8, 3), image)
    for filters, strides in ((8, 1), (16, 2), (32, 2)):
        y = normed(keras, convolution(filters, 3, strides), x)
        y = normed(keras, convolution(filters, 3), y, relu=False)
        if strides > 1:
            x = normed(keras, convolution(filters, 1, strides), x, relu=False)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def separable(keras):
    layers = keras.layers
    image = layers.Input((8, 8, 1))
    x = normed(keras, layers.Conv2D(8, 3, padding="same", use_bias=False), image)
    for filters, strides in ((16, 1), (32, 2), (32, 1)):
        layer = layers.SeparableConv2D(filters, 3, strides, padding="same", use_bias=False)
        x = normed(keras, layer, x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def squeeze_excite(keras):
    layers = keras.layers
    image = layers.Input((8, 8, 1))
    x = image
    for filters, strides in ((8, 1), (16, 2), (32, 1)):
        layer = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)
        x = normed(keras, layer, x)
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.Conv2D(filters // 2, 1, activation="relu")(gate)
        gate = layers.Conv2D(filters, 1, activation="sigmoid")(gate)
        x = layers.Multiply()([x, gate])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def transformer(keras):
    """Attention between the rows of the image."""
    layers = keras.layers

    class Places(layers.Layer):
        """Adds to each token what is learnt of its place."""

        def build(self, shape):
            self.places = self.add_weight(
                name="places", shape=tuple(shape[1:]), initializer="random_normal"
            )

        def call(self, tokens):
            return tokens + self.places

    image = layers.Input((8, 8, 1))
    x = layers.Dense(32)(layers.Reshape((8, 8))(image))
    x = Places()(layers.LayerNormalization()(x))
    for _ in range(2):
        attended = layers.MultiHeadAttention(4, 8)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        wide = layers.Dense(64, activation="gelu")(x)
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(32)(wide)]))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


NETS = {
    "LeNet": lenet,
    "ResNet": resnet,
    "separable": separable,
    "squeeze-excite": squeeze_excite,
    "transformer": transformer,
}
