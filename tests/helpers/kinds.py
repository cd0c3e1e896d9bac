"""Every kind of layer, operation and activation that the placement table has a row for, as its
users call it: with arguments that are not the default, by position and by keyword.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

IMAGE, SEQUENCE, ROW = (8, 8, 4), (10, 6), (12,)


@dataclasses.dataclass(frozen=True)
class Case:
    """`make(keras, tensor)` is the part of a net that holds the kind; `steps` and `mean` bound what
    the file may differ by, in steps of the output: 1 is one tie that falls the other way.
    """

    name: str
    kind: str
    make: Callable[[Any, Any], Any]
    shape: tuple[int, ...] = ROW
    steps: float = 1.0
    mean: float = 0.06
    only: str | None = None
    """The one Keras that has it."""
    dtype: str = "float32"
    """Of the input."""

    def __str__(self) -> str:
        return self.name


def dense(keras, tensor, units=5, **arguments):
    return keras.layers.Dense(units, **arguments)(tensor)


def wide(keras, tensor):
    """Rows of many numbers, whose variances are alike, as those of a trained network are."""
    return dense(keras, tensor, 32)


def same(keras, tensor):
    return tensor


def conv(keras, tensor, filters=4, **arguments):
    return keras.layers.Conv2D(filters, 3, **arguments)(tensor)


def of(layer, *arguments, front=None, **named):
    """The layer of that name behind `front`."""

    def make(keras, tensor):
        tensor = tensor if front is None else front(keras, tensor)
        return getattr(keras.layers, layer)(*arguments, **named)(tensor)

    return make


def merged(layer, count, **named):
    def make(keras, tensor):
        return getattr(keras.layers, layer)(**named)([dense(keras, tensor) for _ in range(count)])

    return make


def by_keyword(layer, *arguments, front=None, count=None):
    """The layer called as `layer(inputs=...)`."""

    def make(keras, tensor):
        made = getattr(keras.layers, layer)(*arguments)
        if count is not None:
            return made(inputs=[dense(keras, tensor) for _ in range(count)])
        return made(inputs=tensor if front is None else front(keras, tensor))

    return make


def operator(function, count=1):
    """A function of one Dense, or of several."""
    return lambda keras, tensor: function(*(dense(keras, tensor) for _ in range(count)))


def ops(of_keras3, of_tf, front=conv, count=1):
    """The same in `keras.ops` and in TensorFlow's functions."""

    def make(keras, tensor):
        fronts = [front(keras, tensor) for _ in range(count)]
        return of_keras3(keras.ops, *fronts) if keras.__name__ == "keras" else of_tf(*fronts)

    return make


def activated(name, inside):
    def make(keras, tensor):
        function = {"silu": "swish"}.get(name, name) if keras.__name__ == "tf_keras" else name
        if function == "leaky_relu" and keras.__name__ == "tf_keras":
            function = tf.nn.leaky_relu
        if inside:
            return dense(keras, tensor, 6, activation=function)
        return keras.layers.Activation(function)(dense(keras, tensor, 6))

    return make


LAYERS = [
    Case("Dense", "Dense", of("Dense", 5, activation="relu")),
    Case("Dense of a sequence", "Dense", of("Dense", 5, use_bias=False), SEQUENCE),
    Case(
        "EinsumDense",
        "EinsumDense",
        of("EinsumDense", "abc,cd->abd", (10, 5), bias_axes="d"),
        SEQUENCE,
    ),
    Case(
        "Embedding",
        "Embedding",
        lambda keras, tensor: keras.layers.Embedding(20, 6)(tensor),
        (7,),
        mean=0.1,
        dtype="int32",
    ),
    Case(
        "Conv1D",
        "Conv1D",
        of("Conv1D", 5, 3, strides=2, padding="same", activation="relu"),
        SEQUENCE,
    ),
    Case(
        "Conv1D causal", "Conv1D", of("Conv1D", 5, 3, padding="causal", dilation_rate=2), SEQUENCE
    ),
    Case("Conv1D by keyword", "Conv1D", by_keyword("Conv1D", 5, 3), SEQUENCE),
    Case(
        "Conv2D", "Conv2D", of("Conv2D", 5, 3, strides=2, padding="same", activation="tanh"), IMAGE
    ),
    Case("Conv2D by keyword", "Conv2D", by_keyword("Conv2D", 5, 3), IMAGE),
    Case(
        "Conv2DTranspose",
        "Conv2DTranspose",
        of("Conv2DTranspose", 5, 3, strides=2, padding="same"),
        IMAGE,
    ),
    Case(
        "DepthwiseConv1D",
        "DepthwiseConv1D",
        of("DepthwiseConv1D", 3, strides=2, depth_multiplier=2),
        SEQUENCE,
    ),
    Case("DepthwiseConv2D", "DepthwiseConv2D", of("DepthwiseConv2D", 3, depth_multiplier=2), IMAGE),
    Case(
        "SeparableConv1D",
        "SeparableConv1D",
        of("SeparableConv1D", 5, 3, strides=2, padding="same"),
        SEQUENCE,
    ),
    Case(
        "SeparableConv2D", "SeparableConv2D", of("SeparableConv2D", 5, 3, depth_multiplier=2), IMAGE
    ),
    Case(
        "SeparableConv2D by keyword", "SeparableConv2D", by_keyword("SeparableConv2D", 4, 3), IMAGE
    ),
    Case(
        "PReLU",
        "PReLU",
        of("PReLU", alpha_initializer="glorot_uniform", shared_axes=[1, 2], front=conv),
        IMAGE,
    ),
    Case("BatchNormalization", "BatchNormalization", of("BatchNormalization"), IMAGE),
    Case(
        "BatchNormalization by keyword",
        "BatchNormalization",
        by_keyword("BatchNormalization", front=conv),
        IMAGE,
    ),
    Case(
        "LayerNormalization",
        "LayerNormalization",
        of("LayerNormalization", front=wide),
        SEQUENCE,
        2,
        0.02,
    ),
    Case(
        "LayerNormalization of two axes",
        "LayerNormalization",
        of("LayerNormalization", axis=[1, 2], epsilon=1e-2, center=False, front=wide),
        SEQUENCE,
        2,
        0.02,
    ),
    Case(
        "GroupNormalization",
        "GroupNormalization",
        of("GroupNormalization", 2, front=conv),
        IMAGE,
        2,
        0.02,
    ),
    Case(
        "RMSNormalization",
        "RMSNormalization",
        of("RMSNormalization", front=wide),
        SEQUENCE,
        2,
        0.02,
        only="keras",
    ),
    Case(
        "UnitNormalization", "UnitNormalization", of("UnitNormalization", front=wide), ROW, 2, 0.02
    ),
    Case("Rescaling", "Rescaling", of("Rescaling", 0.5, offset=-1.0), IMAGE),
    Case(
        "Rescaling by channel",
        "Rescaling",
        of("Rescaling", [0.5, 1.0, 2.0, 4.0], offset=[0.0, 1.0, 0.0, -1.0]),
        IMAGE,
    ),
    Case(
        "Normalization",
        "Normalization",
        of("Normalization", mean=[0.5, 0.4, 0.3, 0.2], variance=[1.0, 2.0, 3.0, 4.0]),
        IMAGE,
    ),
    Case(
        "Rescaling of integers",
        "Rescaling",
        of("Rescaling", 1 / 200, offset=-0.6),
        IMAGE,
        dtype="uint8",
    ),
    Case(
        "Normalization of integers",
        "Normalization",
        of("Normalization", mean=[90, 100, 110, 120], variance=[900.0, 2000.0, 3000.0, 4000.0]),
        IMAGE,
        dtype="int32",
    ),
    Case("Add of three", "Add", merged("Add", 3)),
    Case("Add by keyword", "Add", by_keyword("Add", count=2)),
    Case("Subtract", "Subtract", merged("Subtract", 2)),
    Case("Multiply", "Multiply", merged("Multiply", 2)),
    Case("Multiply of three", "Multiply", merged("Multiply", 3)),
    Case("Average of three", "Average", merged("Average", 3)),
    Case("Maximum", "Maximum", merged("Maximum", 2)),
    Case("Minimum of three", "Minimum", merged("Minimum", 3)),
    Case("Concatenate", "Concatenate", merged("Concatenate", 3)),
    Case("Concatenate by keyword", "Concatenate", by_keyword("Concatenate", count=2)),
    Case("Dot", "Dot", merged("Dot", 2, axes=-1)),
    Case(
        "GlobalAveragePooling1D", "GlobalAveragePooling1D", of("GlobalAveragePooling1D"), SEQUENCE
    ),
    Case(
        "GlobalAveragePooling2D",
        "GlobalAveragePooling2D",
        of("GlobalAveragePooling2D", keepdims=True),
        IMAGE,
    ),
    Case("AveragePooling1D", "AveragePooling1D", of("AveragePooling1D", 2), SEQUENCE),
    Case(
        "AveragePooling2D",
        "AveragePooling2D",
        of("AveragePooling2D", 3, strides=1, padding="same"),
        IMAGE,
    ),
    Case("MaxPooling1D", "MaxPooling1D", of("MaxPooling1D", 2), SEQUENCE),
    Case("MaxPooling2D", "MaxPooling2D", of("MaxPooling2D", 2, padding="same"), IMAGE),
    Case("GlobalMaxPooling1D", "GlobalMaxPooling1D", of("GlobalMaxPooling1D"), SEQUENCE),
    Case("GlobalMaxPooling2D", "GlobalMaxPooling2D", of("GlobalMaxPooling2D"), IMAGE),
    Case("Flatten", "Flatten", of("Flatten"), IMAGE),
    Case("Reshape", "Reshape", of("Reshape", (-1, 2)), IMAGE),
    Case("Permute", "Permute", of("Permute", (2, 1, 3)), IMAGE),
    Case("RepeatVector", "RepeatVector", of("RepeatVector", 3)),
    Case("ZeroPadding1D", "ZeroPadding1D", of("ZeroPadding1D", 2), SEQUENCE),
    Case("ZeroPadding2D", "ZeroPadding2D", of("ZeroPadding2D", ((1, 0), (0, 2))), IMAGE),
    Case("Cropping1D", "Cropping1D", of("Cropping1D", 1), SEQUENCE),
    Case("Cropping2D", "Cropping2D", of("Cropping2D", ((1, 0), (0, 2))), IMAGE),
    Case("CenterCrop", "CenterCrop", of("CenterCrop", 6, 6), IMAGE),
    Case("UpSampling1D", "UpSampling1D", of("UpSampling1D", 3), SEQUENCE),
    Case("UpSampling2D", "UpSampling2D", of("UpSampling2D", 2), IMAGE),
    Case(
        "UpSampling2D bilinear",
        "UpSampling2D(bilinear)",
        of("UpSampling2D", 2, interpolation="bilinear", front=conv),
        IMAGE,
        2,
        0.5,
    ),
    Case("Resizing", "Resizing", of("Resizing", 16, 16, interpolation="nearest"), IMAGE),
    Case(
        "Resizing bilinear", "Resizing(bilinear)", of("Resizing", 16, 16, front=conv), IMAGE, 2, 0.5
    ),
    Case("ActivityRegularization", "ActivityRegularization", of("ActivityRegularization", 0.01)),
    Case("AlphaDropout", "AlphaDropout", of("AlphaDropout", 0.1)),
    Case("Dropout", "Dropout", of("Dropout", 0.3)),
    Case("GaussianDropout", "GaussianDropout", of("GaussianDropout", 0.3)),
    Case("GaussianNoise", "GaussianNoise", of("GaussianNoise", 0.3)),
    Case("Identity", "Identity", of("Identity")),
    Case("RandomBrightness", "RandomBrightness", of("RandomBrightness", 0.1), IMAGE),
    Case("RandomContrast", "RandomContrast", of("RandomContrast", 0.1), IMAGE),
    Case("RandomFlip", "RandomFlip", of("RandomFlip", "horizontal"), IMAGE),
    Case("RandomRotation", "RandomRotation", of("RandomRotation", 0.1, front=conv), IMAGE),
    Case("RandomTranslation", "RandomTranslation", of("RandomTranslation", 0.1, 0.1), IMAGE),
    Case("RandomZoom", "RandomZoom", of("RandomZoom", 0.1), IMAGE),
    Case("SpatialDropout1D", "SpatialDropout1D", of("SpatialDropout1D", 0.3), SEQUENCE),
    Case("SpatialDropout2D", "SpatialDropout2D", of("SpatialDropout2D", 0.3), IMAGE),
]


def of_applications(module, name, *arguments, count=1):
    """A layer that `keras.applications` brings for its own use."""

    def make(keras, tensor):
        package = "keras.src" if keras.__name__ == "keras" else "tf_keras.src"
        layer = getattr(importlib.import_module(f"{package}.applications.{module}"), name)
        fronts = [conv(keras, tensor) for _ in range(count)]
        return layer(*arguments)(fronts if count > 1 else fronts[0])

    return make


LAYERS += [
    Case("LayerScale", "LayerScale", of_applications("convnext", "LayerScale", 0.5, 4), IMAGE),
    Case(
        "CustomScaleLayer",
        "CustomScaleLayer",
        of_applications("inception_resnet_v2", "CustomScaleLayer", 0.2, count=2),
        IMAGE,
    ),
]

OPERATORS = [
    Case("a + b", "Add", operator(lambda a, b: a + b, 2)),
    Case("1 + a", "Add", operator(lambda a: 1 + a)),
    Case("a + array", "Add", operator(lambda a: a + np.array([1, -2, 3, 0, 5], "float32"))),
    Case("a - b", "Subtract", operator(lambda a, b: a - b, 2)),
    Case("a - 1", "Subtract", operator(lambda a: a - 1)),
    Case("1 - a", "Subtract", operator(lambda a: 1 - a)),
    Case("(a - b) - 1.0", "Subtract", operator(lambda a, b: (a - b) - 1.0, 2)),
    Case("a * b", "Multiply", operator(lambda a, b: a * b, 2)),
    Case("2 * a", "Multiply", operator(lambda a: 2 * a)),
    Case("a * array", "Multiply", operator(lambda a: a * np.array([1, -2, 3, 0, 5], "float32"))),
    Case("-a", "Negative", operator(lambda a: -a)),
    Case("a / 2", "TrueDivide", operator(lambda a: a / 2)),
    Case(
        "divide", "Divide", ops(lambda o, a: o.divide(a, 4.0), lambda a: tf.divide(a, 4.0), dense)
    ),
    Case(
        "cast",
        "Cast",
        ops(lambda o, a: o.cast(a, "float32") / 255, lambda a: tf.cast(a, tf.float32) / 255, same),
        IMAGE,
        dtype="uint8",
    ),
    Case(
        "cast by keyword",
        "Cast",
        ops(lambda o, a: o.cast(x=a, dtype="float32"), lambda a: tf.cast(x=a, dtype="float32")),
        IMAGE,
    ),
    Case("a[:, 1:, ::2]", "GetItem", lambda keras, t: conv(keras, t)[:, 1:, ::2], IMAGE),
    Case(
        "mean", "Mean", ops(lambda o, a: o.mean(a, axis=1), lambda a: tf.reduce_mean(a, 1)), IMAGE
    ),
    Case(
        "sum",
        "Sum",
        ops(
            lambda o, a: o.sum(a, axis=-1, keepdims=True),
            lambda a: tf.reduce_sum(a, axis=-1, keepdims=True),
        ),
        IMAGE,
    ),
    Case(
        "max",
        "Max",
        ops(lambda o, a: o.max(a, axis=(1, 2)), lambda a: tf.reduce_max(a, (1, 2))),
        IMAGE,
    ),
    Case("maximum", "Maximum", ops(lambda o, a, b: o.maximum(a, b), tf.maximum, dense, 2)),
    Case(
        "minimum",
        "Minimum",
        ops(lambda o, a, b: o.minimum(x1=a, x2=b), lambda a, b: tf.minimum(x=a, y=b), dense, 2),
    ),
    Case(
        "pad",
        "Pad",
        ops(
            lambda o, a: o.pad(a, [[0, 0], [1, 1], [0, 2], [0, 0]]),
            lambda a: tf.pad(a, [[0, 0], [1, 1], [0, 2], [0, 0]]),
        ),
        IMAGE,
    ),
    Case(
        "transpose",
        "Transpose",
        ops(
            lambda o, a: o.transpose(a, (0, 2, 1, 3)), lambda a: tf.transpose(a, perm=(0, 2, 1, 3))
        ),
        IMAGE,
    ),
    Case(
        "swapaxes",
        "Swapaxes",
        lambda keras, t: keras.ops.swapaxes(conv(keras, t), 1, 2),
        IMAGE,
        only="keras",
    ),
    Case(
        "stack",
        "Stack",
        ops(
            lambda o, a, b: o.stack([a, b], axis=1), lambda a, b: tf.stack([a, b], axis=1), dense, 2
        ),
    ),
    Case(
        "split",
        "Split",
        ops(lambda o, a: o.split(a, 2, axis=-1)[1], lambda a: tf.split(a, 2, axis=-1)[1]),
        IMAGE,
    ),
    Case(
        "squeeze",
        "Squeeze",
        ops(
            lambda o, a: o.squeeze(o.expand_dims(a, 1), 1),
            lambda a: tf.squeeze(tf.expand_dims(a, 1), 1),
            dense,
        ),
    ),
    Case(
        "expand_dims",
        "ExpandDims",
        ops(lambda o, a: o.expand_dims(a, 1), lambda a: tf.expand_dims(a, 1), dense),
    ),
    Case(
        "concatenate",
        "Concatenate",
        ops(
            lambda o, a, b: o.concatenate([a, b], axis=-1),
            lambda a, b: tf.concat(values=[a, b], axis=-1),
            dense,
            2,
        ),
    ),
    Case(
        "matmul",
        "Matmul",
        ops(
            lambda o, a, b: o.matmul(a, o.transpose(b, (0, 2, 1))),
            lambda a, b: tf.matmul(a, b, transpose_b=True),
            dense,
            2,
        ),
        SEQUENCE,
        2,
        0.3,
    ),
    Case(
        "add by keyword",
        "Add",
        ops(lambda o, a, b: o.add(x1=a, x2=b), lambda a, b: tf.add(x=a, y=b), dense, 2),
    ),
    Case(
        "leaky_relu(alpha=0.9)",
        "LeakyRelu",
        ops(
            lambda o, a: o.leaky_relu(a, negative_slope=0.9),
            lambda a: tf.nn.leaky_relu(a, alpha=0.9),
            dense,
        ),
    ),
    Case(
        "relu(alpha=0.9)",
        "LeakyRelu",
        lambda keras, t: keras.activations.relu(dense(keras, t), alpha=0.9),
        only="tf_keras",
    ),
]

ACTIVATIONS = [
    Case(f"{name} {where}", name, activated(name, where == "inside"), ROW, *limits)
    for name, limits in {
        "relu": (),
        "relu6": (),
        "leaky_relu": (),
        "sigmoid": (),
        "softmax": (),
        "tanh": (),
        "gelu": (),
        "exponential": (),
        "silu": (),
        "hard_silu": (),
        "hard_sigmoid": (),
        "hard_tanh": (),
        "elu": (3, 0.4),
        "selu": (4, 0.5),
        "celu": (3, 0.4),
        "softplus": (5, 0.5),
        "mish": (2, 0.3),
    }.items()
    for where in ("alone", "inside")
] + [
    Case("ELU(0.5)", "elu", of("ELU", alpha=0.5, front=dense), ROW, 3, 0.4),
    Case(
        "celu(alpha=2)",
        "elu",
        lambda keras, t: keras.ops.celu(dense(keras, t), alpha=2.0),
        ROW,
        3,
        0.4,
        only="keras",
    ),
    Case("ReLU(max_value=1)", "limited_relu", of("ReLU", max_value=1.0, front=dense)),
    Case(
        "ReLU(max_value=2, negative_slope=0.2)",
        "limited_leaky_relu",
        of("ReLU", max_value=2.0, negative_slope=0.2, front=dense),
    ),
    Case("Softmax(axis=1)", "softmax", of("Softmax", axis=1, front=dense), SEQUENCE),
    Case(
        "a layer as activation",
        "leaky_relu",
        lambda keras, t: dense(keras, t, activation=keras.layers.LeakyReLU(0.3)),
        only="keras",
    ),
    Case(
        "a ReLU layer as activation",
        "relu",
        lambda keras, t: dense(keras, t, activation=keras.layers.ReLU()),
    ),
]

CASES = [*LAYERS, *OPERATORS, *ACTIVATIONS]


def available(keras, case):
    """Whether this Keras has what the case is about."""
    if case.only is not None:
        return keras.__name__ == case.only
    name = case.name.split()[0]
    if case in ACTIVATIONS and name[0].islower() and name not in ("leaky_relu", "silu", "a"):
        return hasattr(keras.activations, name)
    if case.kind in ("LayerScale", "CustomScaleLayer"):
        return True
    return not case.name[0].isupper() or hasattr(keras.layers, name.partition("(")[0])
