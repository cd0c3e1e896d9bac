"""Seeded random networks through which channels pass in every way that is known."""

import numpy as np

ACTIVATIONS = ["linear", "relu", "relu6", "sigmoid", "tanh", "silu", "softplus"]


def with_random_weights(model, seed=0):
    """Every weight, statistic and slope drawn anew, so that nothing is right by being zero."""
    draw = np.random.default_rng(seed)
    values = []
    for variable in model.weights:
        value = draw.normal(0, 0.3, variable.shape).astype("float32")
        is_variance = "variance" in getattr(variable, "path", variable.name)
        values.append(np.abs(value) + 0.1 if is_variance else value)
    model.set_weights(values)
    return model


class ChannelGraph:
    """A functional model of one seed, and inputs for it."""

    def __init__(self, keras, seed):
        self.keras = keras
        self.layers = keras.layers
        self.draw = np.random.default_rng(seed)
        self.count = 0
        keras.utils.set_random_seed(seed)
        image = keras.Input((6, 6, 3), name="image")
        images = [self.convolution(image)]
        for _ in range(self.draw.integers(3, 7)):
            images.append(self.step(images))
        heads = [self.head(images) for _ in range(self.pick([1, 1, 2]))]
        if self.draw.random() < 0.2:
            heads.append(images[-2])  # whose channels stay, and all that go together with them
        self.model = with_random_weights(keras.Model(image, heads), seed)
        self.x = self.draw.normal(size=(8, 6, 6, 3)).astype("float32")

    def pick(self, choices):
        return choices[self.draw.integers(len(choices))]

    def new(self, kind, *args, **kwargs):
        self.count += 1
        return getattr(self.layers, kind)(*args, name=f"{kind.lower()}_{self.count}", **kwargs)

    def width(self):
        return int(self.pick([3, 4, 5, 8]))

    def convolution(self, x, width=None):
        common = {"padding": "same", "activation": self.pick(ACTIVATIONS)}
        common["use_bias"] = bool(self.draw.random() < 0.7)
        width = width or self.width()
        kind = self.pick(["Conv2D", "Conv2D", "Conv2DTranspose", "SeparableConv2D", "Dense"])
        if kind == "Dense":
            del common["padding"]
            x = self.new(kind, width, **common)(x)
        elif kind == "SeparableConv2D":
            common["depth_multiplier"] = int(self.pick([1, 2]))
            x = self.new(kind, width, 3, **common)(x)
        else:
            x = self.new(kind, width, int(self.pick([1, 3])), **common)(x)
        if self.draw.random() < 0.5:
            center, scale = (bool(self.draw.random() < 0.7) for _ in range(2))
            x = self.new("BatchNormalization", center=center, scale=scale)(x)
        return self.new("PReLU", shared_axes=[1, 2])(x) if self.draw.random() < 0.3 else x

    def step(self, images):
        x = self.pick(images[-3:])
        ways = [
            self.convolution, self.depthwise, self.residual, self.joined, self.gated, self.pooled,
            self.nested, self.shared, self.operators,
        ]  # fmt: skip
        return self.pick(ways)(x) if self.draw.random() < 0.9 else self.merged(x, images)

    def depthwise(self, x):
        multiplier = int(self.pick([1, 2]))
        bias = bool(self.draw.random() < 0.7)
        arguments = {"padding": "same", "depth_multiplier": multiplier, "use_bias": bias}
        return self.new("DepthwiseConv2D", 3, **arguments)(x)

    def residual(self, x):
        kind = self.pick(["Add", "Multiply", "Maximum", "Average", "Subtract"])
        return self.new(kind)([x, self.convolution(x, x.shape[-1])])

    def merged(self, x, images):
        others = [y for y in images if y.shape[-1] == x.shape[-1]]
        return self.new("Add")([x, self.pick(others)])

    def joined(self, x):
        y = self.new("Concatenate")([x, self.convolution(x)])
        if self.draw.random() < 0.4:
            y = self.new("Add")([y, self.convolution(x, y.shape[-1])])
        return y

    def gated(self, x):
        """Squeeze and excite."""
        width = x.shape[-1]
        gate = self.new("GlobalAveragePooling2D")(x)
        gate = self.new("Reshape", (1, 1, width))(gate)
        gate = self.new("Conv2D", 4, 1, activation="relu")(gate)
        gate = self.new("Conv2D", width, 1, activation="sigmoid")(gate)
        return self.new("Multiply")([x, gate])

    def pooled(self, x):
        kind = self.pick(["MaxPooling2D", "AveragePooling2D"])
        return self.new("Dropout", 0.5)(self.new(kind, 3, strides=1, padding="same")(x))

    def nested(self, x):
        shape = (6, 6, x.shape[-1])
        if self.draw.random() < 0.5:
            self.count += 1
            steps = [self.layers.Input(shape)]
            steps += [self.new("Conv2D", self.width(), 3, padding="same"), self.new("ReLU")]
            return self.keras.Sequential(steps, name=f"sequence_{self.count}")(x)
        inner = self.keras.Input(shape)
        outputs = self.residual(self.convolution(inner))
        self.count += 1
        model = self.keras.Model(inner, outputs, name=f"nested_{self.count}")
        y = model(x)
        return model(y) if y.shape[-1] == x.shape[-1] else y

    def shared(self, x):
        layer = self.new("Conv2D", x.shape[-1], 3, padding="same", activation="tanh")
        return self.new("Concatenate")([layer(x), layer(layer(x))])

    def operators(self, x):
        return 2.0 * x - self.convolution(x, x.shape[-1]) / 3.0

    def head(self, images):
        x = self.pick(images[-2:])
        how = self.pick(["GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten", "Reshape"])
        if how == "Reshape":
            x = self.new("Reshape", (36, x.shape[-1]))(x)
            x = self.new("Conv1D", self.width(), 3)(x)
            x = self.new("Flatten")(x)
        else:
            x = self.new(how)(x)
        if self.draw.random() < 0.6:
            x = self.new("Dense", self.width(), activation=self.pick(ACTIVATIONS))(x)
        return self.new("Dense", 5, activation="softmax")(x)
