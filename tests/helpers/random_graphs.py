"""Seeded random networks of the layers that quantization knows, and a few that it does not."""

import numpy as np

ACTIVATIONS = ["linear", "relu", "relu6", "sigmoid", "tanh", "silu", "softmax"]
UNKNOWN = ["elu", "LayerNormalization"]


class RandomGraph:
    """A compiled functional model of one seed; `unknown` names layers that are not in the table."""

    def __init__(self, keras, seed):
        self.keras = keras
        self.layers = keras.layers
        self.draw = np.random.default_rng(seed)
        self.unknown = []
        self.count = 0
        keras.utils.set_random_seed(seed)
        shapes = [(8, 8, int(self.draw.integers(1, 4))) for _ in range(self.pick([1, 1, 2]))]
        inputs = [keras.Input(shape, name=f"in{i}") for i, shape in enumerate(shapes)]
        images = [self.convolution(x) for x in inputs]
        for _ in range(self.draw.integers(2, 6)):
            images.append(self.image_step(images))
        heads = [self.head(images) for _ in range(self.pick([1, 1, 2]))]
        self.model = keras.Model(inputs, heads if len(heads) > 1 else heads[0])
        self.model.compile(keras.optimizers.SGD(0.01, clipnorm=0.1), "mse", jit_compile=False)
        self.x = [self.draw.normal(0.3, 0.7, (64, *shape)).astype("float32") for shape in shapes]
        self.y = [np.zeros((64, *head.shape[1:]), "float32") for head in heads]
        self.x = self.x if len(self.x) > 1 else self.x[0]
        self.y = self.y if len(self.y) > 1 else self.y[0]

    def head_of_data(self, rows):
        """The first rows of the inputs."""
        return [x[:rows] for x in self.x] if isinstance(self.x, list) else self.x[:rows]

    def pick(self, choices):
        return choices[self.draw.integers(len(choices))]

    def name(self, kind):
        self.count += 1
        return f"{kind.lower()}_{self.count}"

    def new(self, kind, *args, **kwargs):
        return getattr(self.layers, kind)(*args, name=self.name(kind), **kwargs)

    def convolution(self, x):
        activation = self.pick(ACTIVATIONS[:6]) if self.draw.random() < 0.5 else "linear"
        kind = self.pick(["Conv2D", "Conv2D", "DepthwiseConv2D", "SeparableConv2D"])
        size = self.pick([1, 3])
        common = {"padding": "same", "activation": activation}
        common["use_bias"] = bool(self.draw.random() < 0.7)
        if kind == "DepthwiseConv2D":
            x = self.new(kind, size, depth_multiplier=int(self.pick([1, 2])), **common)(x)
        else:
            x = self.new(kind, int(self.pick([3, 4, 6])), size, **common)(x)
        return self.after(x, activation)

    def after(self, x, activation):
        """Perhaps a batch norm, perhaps an activation, as they follow a kernel."""
        if self.draw.random() < 0.4:
            x = self.new("BatchNormalization")(x)
        if activation == "linear" and self.draw.random() < 0.6:
            x = self.activation(x)
        return x

    def activation(self, x):
        kind = self.pick(["ReLU", "ReLU6", "LeakyReLU", "Activation", "operation", "unknown"])
        if kind == "unknown" and self.draw.random() < 0.7:
            kind = "ReLU"
        if kind == "ReLU6":
            return self.new("ReLU", 6.0)(x)
        if kind == "Activation":
            return self.new("Activation", self.pick(ACTIVATIONS[1:]))(x)
        if kind == "operation":
            import tensorflow as tf

            return (self.keras.ops.relu if hasattr(self.keras, "ops") else tf.nn.relu)(x)
        if kind == "unknown":
            what = self.pick(UNKNOWN)
            args = ("elu",) if what == "elu" else ()
            layer = self.new("Activation" if what == "elu" else what, *args)
            self.unknown.append(layer.name)
            return layer(x)
        return self.new(kind)(x)

    def image_step(self, images):
        x = self.pick(images)
        steps = ["convolution", "convolution", "pool", "merge", "merge", "dropout", "norm"]
        what = self.pick(steps)
        if what == "convolution":
            return self.convolution(x)
        if what == "pool":
            kind = self.pick(["MaxPooling2D", "AveragePooling2D"])
            return self.new(kind, 3, strides=1, padding="same")(x)
        if what == "dropout":
            return self.new("Dropout", 0.1)(x)
        if what == "norm":
            return self.new("BatchNormalization")(x)
        others = [y for y in images if y.shape[-1] == x.shape[-1]]
        if self.draw.random() < 0.4 or len(others) < 2:
            return self.new("Concatenate")([x, self.pick(images)])
        if self.draw.random() < 0.3:
            return x + self.pick(others)
        y = self.new("Add")([self.pick(others) for _ in range(self.draw.integers(2, 4))])
        return self.activation(y) if self.draw.random() < 0.5 else y

    def head(self, images):
        x = self.pick(images[-2:])
        how = self.pick(["GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten", "Reshape"])
        if how == "Reshape":
            x = self.new("Reshape", (int(np.prod(x.shape[1:])),))(x)
        else:
            x = self.new(how)(x)
        if self.draw.random() < 0.6:
            activation = self.pick(ACTIVATIONS[:6])
            x = self.after(self.new("Dense", 8, activation=activation)(x), activation)
        return self.new("Dense", 5, activation=self.pick(ACTIVATIONS))(x)
