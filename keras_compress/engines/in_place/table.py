"""What the engine knows of layers, operations and activations: one row each.

A new layer is taught in one row. The rules behind the rows are those of TFLite's integer kernels:
every tensor between two integer ops has a scale; a convolution's batch norm and ReLU become part of
it, so nothing is rounded between them; ops that only move numbers keep their input's scale;
softmax, sigmoid and tanh have fixed scales
(https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from keras_compress.engines.in_place import forms
from keras_compress.engines.in_place.graph import Node
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasOperation


class Granularity(enum.Enum):
    """Over which elements of a kernel one scale is shared."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    """The last axis: an output channel."""
    DEPTHWISE = "depthwise"
    """The last two axes, (in, multiplier), together: an output channel of a depthwise convolution.
    """


class Output(enum.Enum):
    """What rounds the output of an operation."""

    OWN = "own range"
    SAME = "its input's scale; only moves numbers"
    SHARED = "its input's range once more, because it computes but may not rescale"
    JOIN = "one range for all inputs, applied to each of them"


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A range that the integer kernel prescribes."""

    minimum: float
    maximum: float


UNIT = Fixed(0.0, 255 / 256)


@dataclasses.dataclass(frozen=True)
class Row:
    """What the engine knows of a layer or operation."""

    kernels: tuple[tuple[str, Granularity], ...] = ()
    output: Output = Output.OWN
    absorbs_relu: bool = False
    """A ReLU that follows is part of the integer op, so nothing is rounded before it."""
    form: forms.Form | None = None
    """Another way to compute the same, where the layer's own has no room for a quantizer."""
    inner: Callable[[Node], dict[str, Fixed | None]] = lambda node: {}
    """Quantizers inside the form, by role; None: a range of its own."""
    refuses: Callable[[Any], str | None] = lambda operation: None
    """The reason why this one cannot be done, or None."""


@dataclasses.dataclass(frozen=True)
class ActivationRow:
    """What the engine knows of an activation function, as an `activation=` or on its own."""

    output: Fixed | None = None
    absorbed: bool = False
    """Part of the integer op before it."""
    form: forms.ActivationForm | None = None
    inner: tuple[tuple[str, Fixed | None], ...] = ()


def _channels_last(layer: Any) -> str | None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "data_format is not channels_last"
    return None


def _last_axis(layer: Any) -> str | None:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)  # tf_keras: a list
    last = layer.input_spec.ndim - 1
    return None if axes in ([-1], [last]) else f"axis {axes} is not the last"


def _softmax(operation: Any) -> str | None:
    axis = getattr(operation, "axis", -1)
    return None if axis == -1 else f"axis {axis} is not the last"


def _upsampling(layer: Any) -> str | None:
    if layer.interpolation != "nearest":
        return f"interpolation {layer.interpolation!r} is not 'nearest'"
    return _channels_last(layer)


_TENSOR = (("kernel", Granularity.TENSOR),)
_CHANNEL = (("kernel", Granularity.CHANNEL),)
_MOVES = Row(output=Output.SAME, refuses=_channels_last)

TABLE: dict[str, Row] = {
    "Dense": Row(_TENSOR, absorbs_relu=True, form=forms.dense),
    "Conv2D": Row(_CHANNEL, absorbs_relu=True, refuses=_channels_last),
    "DepthwiseConv2D": Row(
        (("depthwise_kernel", Granularity.DEPTHWISE),), absorbs_relu=True, refuses=_channels_last
    ),
    "SeparableConv2D": Row(
        (
            ("depthwise_kernel", Granularity.DEPTHWISE),
            ("pointwise_kernel", Granularity.CHANNEL),
        ),
        absorbs_relu=True,
        form=forms.separable_convolution,
        inner=lambda node: {"between": None},
        refuses=_channels_last,
    ),
    "BatchNormalization": Row(
        absorbs_relu=True, form=forms.batch_normalization, refuses=_last_axis
    ),
    "Add": Row(
        absorbs_relu=True,
        form=forms.add,
        inner=lambda node: {f"sum{i}": None for i in range(1, len(node.inputs) - 1)},
    ),
    "Subtract": Row(absorbs_relu=True),
    "Concatenate": Row(output=Output.JOIN, form=forms.concatenate),
    "GlobalAveragePooling1D": Row(refuses=_channels_last),
    "GlobalAveragePooling2D": Row(refuses=_channels_last),
    "AveragePooling1D": Row(output=Output.SHARED, refuses=_channels_last),
    "AveragePooling2D": Row(output=Output.SHARED, refuses=_channels_last),
    "MaxPooling1D": _MOVES,
    "MaxPooling2D": _MOVES,
    "GlobalMaxPooling1D": _MOVES,
    "GlobalMaxPooling2D": _MOVES,
    "Flatten": _MOVES,
    "Reshape": _MOVES,
    "ZeroPadding2D": _MOVES,
    "Cropping2D": _MOVES,
    "Permute": _MOVES,
    "UpSampling2D": Row(output=Output.SAME, refuses=_upsampling),
    "Dropout": _MOVES,
    "SpatialDropout2D": _MOVES,
    "GaussianNoise": _MOVES,
}

ACTIVATIONS: dict[str, ActivationRow] = {
    "relu": ActivationRow(absorbed=True),
    "relu6": ActivationRow(absorbed=True),
    "leaky_relu": ActivationRow(form=forms.leaky_relu),
    "sigmoid": ActivationRow(UNIT),
    "softmax": ActivationRow(UNIT),
    "tanh": ActivationRow(Fixed(-1.0, 127 / 128)),
    "gelu": ActivationRow(),
    "exponential": ActivationRow(),
    "silu": ActivationRow(form=forms.silu, inner=(("gate", UNIT),)),
    "hard_silu": ActivationRow(form=forms.hard_silu),
}

# Operations and layers that are nothing but an activation; those with None say which themselves.
_ACTIVATION_KINDS: dict[str, str | None] = {
    "Activation": None,
    "ReLU": None,
    "Relu": "relu",
    "Relu6": "relu6",
    "LeakyRelu": "leaky_relu",
    "LeakyReLU": "leaky_relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softmax": "softmax",
    "Silu": "silu",
    "Gelu": "gelu",
    "HardSilu": "hard_silu",
}
_ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}


def known(adapter: Adapter, operation: KerasOperation) -> tuple[Row, ActivationRow | None] | str:
    """The row of an operation and of its activation, or the reason why it has none."""
    kind = adapter.kind(operation)
    activation = _activation_name(adapter, operation, kind)
    if activation is not None and activation not in ACTIVATIONS:
        return f"activation {activation!r} is not in the placement table"
    if kind in _ACTIVATION_KINDS:
        row = _MOVES if activation is None else Row(refuses=_softmax)  # None: Activation("linear")
    elif kind in TABLE:
        row = TABLE[kind]
    else:
        return f"{kind or type(operation).__name__} is not in the placement table"
    reason = row.refuses(operation)
    if reason is not None:
        return f"{kind}: {reason}"
    return row, None if activation is None else ACTIVATIONS[activation]


def _activation_name(adapter: Adapter, operation: Any, kind: str) -> str | None:
    """The name of an activation in `ACTIVATIONS`; None for linear or none at all."""
    if kind == "ReLU":
        slope, threshold = float(operation.negative_slope), float(operation.threshold)
        plain = slope == 0 and threshold == 0
        if plain and operation.max_value is None:
            return "relu"
        if plain and float(operation.max_value) == 6:
            return "relu6"
        if threshold == 0 and operation.max_value is None:
            return "leaky_relu"
        return (
            f"relu(max_value={operation.max_value}, negative_slope={slope}, threshold={threshold})"
        )
    if kind in _ACTIVATION_KINDS and kind != "Activation":
        return _ACTIVATION_KINDS[kind]
    function = getattr(operation, "activation", None) if kind else None
    if function is None:
        return None
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", "")
    if not adapter.owns(module) and not module.startswith("tensorflow."):
        return f"{module}.{name}"  # a user's own, which may bear any name
    return None if name == "linear" else _ALIASES.get(name, name)
