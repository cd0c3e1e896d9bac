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
from collections.abc import Callable, Sequence
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
    INSIDE = "rounded inside already, each of its outputs for itself"


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A range that the integer kernel prescribes."""

    minimum: float
    maximum: float


UNIT = Fixed(0.0, 255 / 256)
SIGNED_UNIT = Fixed(-1.0, 127 / 128)


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
    refuses_call: Callable[[Node], str | None] = lambda node: None
    """The reason why one of its calls cannot be done, or None."""
    folded: Granularity | None = None
    """Of a layer that takes in a batch norm that follows: over what its kernel's scale is shared
    then. None: it takes in none.
    """
    is_norm: bool = False
    """A batch norm, which becomes part of such a layer."""
    lifts: bool = False
    """The kernels get an axis in front before they are rounded, as the op of the file has one
    more.
    """
    source: str | None = None
    """The role of the tensor that the (last) kernel meets; None: the input."""
    output_range: Fixed | None = None
    """Of the output, where the operation itself limits it."""
    ends: tuple[str | None, ...] = ()
    """With `Output.INSIDE`: by which role each output is rounded; None for one that is not."""


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


SOFTPLUS = (("positive", None), ("size", None), ("gate", UNIT), ("log", Fixed(-0.75, 0.0)))


def _last_axis_of_any(layer: Any) -> str | None:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    return None if axes == [-1] else f"axis {axes} is not the last"


def _last_axis(layer: Any) -> str | None:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)  # tf_keras: a list
    last = layer.input_spec.ndim - 1
    return None if axes in ([-1], [last]) else f"axis {axes} is not the last"


def _upsampling(layer: Any) -> str | None:
    if layer.interpolation not in ("nearest", "bilinear"):
        return f"interpolation {layer.interpolation!r} is not 'nearest' or 'bilinear'"
    return _channels_last(layer)


def _resizing(layer: Any) -> str | None:
    if layer.interpolation not in ("nearest", "bilinear"):
        return f"interpolation {layer.interpolation!r} is not 'nearest' or 'bilinear'"
    for name in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if getattr(layer, name, False):
            return f"{name} is set"
    return _channels_last(layer)


def _padding_with_zeros(node: Node) -> str | None:
    arguments = forms.bound(node.operation.call, *node.arguments(node.inputs))
    for name in ("constant_values", "value"):
        value = arguments.get(name, getattr(node.operation, name, None))
        if value not in (None, 0):
            return f"{name}={value} is not 0"
    return None


def _by_constant(node: Node) -> str | None:
    return None if len(node.inputs) == 1 else "there is no integer division of tensors"


def _numerator(node: Node) -> str | None:
    """Divided by a constant, not a constant by it."""
    (args, kwargs) = node.arguments([_PLACE])
    values = [each for each in (*args, *kwargs.values()) if each is not None]
    return None if values and values[0] is _PLACE else "there is no integer reciprocal"


_PLACE = object()


def _division(node: Node) -> str | None:
    return _by_constant(node) or _numerator(node)


def _inverted(layer: Any) -> str | None:
    return "invert is set" if getattr(layer, "invert", False) else None


def _along_others(node: Node) -> str | None:
    """Of a normalization by constants: only along the last axis."""
    layer: Any = node.operation
    axis = layer.axis
    axes = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    last = len(node.shapes[0][0]) - 1
    return None if axes in ((), (-1,), (last,)) else f"axis {axes} is not the last"


def _group_norm(layer: Any) -> str | None:
    return None if layer.axis in (-1,) else f"axis {layer.axis} is not the last"


def _positive_axes(layer: Any) -> str | None:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if getattr(layer, "rms_scaling", False):
        return "rms_scaling is set"
    return None if axes else "no axis"


def _counted(role: str) -> Callable[[Node], dict[str, Fixed | None]]:
    """Roles for what is rounded between several operands."""
    return lambda node: {f"{role}{i}": None for i in range(1, len(node.inputs) - 1)}


_TENSOR = (("kernel", Granularity.TENSOR),)
_CHANNEL = (("kernel", Granularity.CHANNEL),)
_DEPTHWISE = (("depthwise_kernel", Granularity.DEPTHWISE),)
_SEPARABLE = (*_DEPTHWISE, ("pointwise_kernel", Granularity.CHANNEL))
_MOVES = Row(output=Output.SAME, refuses=_channels_last)
_JOINS = Row(output=Output.JOIN, form=forms.join)
_OWN = Row()
_POOLS = Row(refuses=_channels_last)
_NORMALIZES = Row(inner=forms.normalization_roles)

TABLE: dict[str, Row] = {
    # --- kernels
    "Dense": Row(_TENSOR, absorbs_relu=True, form=forms.dense, folded=Granularity.CHANNEL),
    "EinsumDense": Row(_TENSOR),
    "Embedding": Row((("embeddings", Granularity.TENSOR),)),
    "Conv1D": Row(
        _CHANNEL,
        absorbs_relu=True,
        form=forms.convolution_1d,
        lifts=True,
        refuses=_channels_last,
    ),
    "Conv2D": Row(_CHANNEL, absorbs_relu=True, refuses=_channels_last, folded=Granularity.CHANNEL),
    "Conv2DTranspose": Row(_TENSOR, refuses=_channels_last),
    "DepthwiseConv1D": Row(
        _DEPTHWISE,
        absorbs_relu=True,
        form=forms.depthwise_convolution_1d,
        lifts=True,
        refuses=_channels_last,
    ),
    "DepthwiseConv2D": Row(
        _DEPTHWISE, absorbs_relu=True, refuses=_channels_last, folded=Granularity.DEPTHWISE
    ),
    "SeparableConv1D": Row(
        _SEPARABLE,
        absorbs_relu=True,
        form=forms.separable_convolution_1d,
        inner=lambda node: {"between": None},
        lifts=True,
        source="between",
        refuses=_channels_last,
    ),
    "SeparableConv2D": Row(
        _SEPARABLE,
        absorbs_relu=True,
        form=forms.separable_convolution,
        inner=lambda node: {"between": None},
        folded=Granularity.CHANNEL,
        source="between",
        refuses=_channels_last,
    ),
    "PReLU": Row(form=forms.parametric_relu),
    # --- normalizations
    "BatchNormalization": Row(
        absorbs_relu=True, form=forms.batch_normalization, is_norm=True, refuses=_last_axis
    ),
    "LayerNormalization": dataclasses.replace(
        _NORMALIZES, form=forms.layer_normalization, refuses=_positive_axes
    ),
    "GroupNormalization": dataclasses.replace(
        _NORMALIZES, form=forms.group_normalization, refuses=_group_norm
    ),
    "RMSNormalization": dataclasses.replace(
        _NORMALIZES, form=forms.root_mean_square_normalization, refuses=_last_axis_of_any
    ),
    "UnitNormalization": dataclasses.replace(_NORMALIZES, form=forms.unit_normalization),
    "Rescaling": Row(form=forms.rescaling),
    "Normalization": Row(form=forms.normalization, refuses=_inverted, refuses_call=_along_others),
    # Of keras.applications: ConvNeXt, InceptionResNetV2.
    "LayerScale": Row(form=forms.layer_scale),
    "CustomScaleLayer": Row(form=forms.scaled_residual, inner=lambda node: {"scaled": None}),
    # --- operators and merging layers
    "Add": Row(absorbs_relu=True, form=forms.add, inner=_counted("sum")),
    "Subtract": Row(absorbs_relu=True, form=forms.subtract),
    "Multiply": Row(form=forms.multiply, inner=_counted("product")),
    "TrueDivide": Row(form=forms.divide_by_constant, refuses_call=_division),
    "Divide": Row(form=forms.divide_by_constant, refuses_call=_division),
    "Negative": Row(form=forms.negate),
    "Average": Row(
        form=forms.average,
        inner=lambda node: {f"sum{i}": None for i in range(1, len(node.inputs))},
    ),
    "Dot": _OWN,
    "Matmul": _OWN,
    "Maximum": _JOINS,
    "Minimum": _JOINS,
    "Concatenate": _JOINS,
    "Stack": _JOINS,
    # --- pooling and means over axes
    "GlobalAveragePooling1D": _POOLS,
    "GlobalAveragePooling2D": _POOLS,
    "Mean": _OWN,
    "Sum": _OWN,
    "AveragePooling1D": Row(output=Output.SHARED, refuses=_channels_last),
    "AveragePooling2D": Row(output=Output.SHARED, refuses=_channels_last),
    "MaxPooling1D": _MOVES,
    "MaxPooling2D": _MOVES,
    "GlobalMaxPooling1D": _MOVES,
    "GlobalMaxPooling2D": _MOVES,
    "Max": _MOVES,
    # --- interpolation, which computes on its input's scale
    "UpSampling2D(bilinear)": Row(output=Output.SHARED, refuses=_upsampling),
    "Resizing(bilinear)": Row(output=Output.SHARED, refuses=_resizing),
    # --- what only moves numbers
    "Flatten": _MOVES,
    "Reshape": _MOVES,
    "Permute": _MOVES,
    "Transpose": _MOVES,
    "Swapaxes": _MOVES,
    "Squeeze": _MOVES,
    "ExpandDims": _MOVES,
    "GetItem": _MOVES,
    "Split": dataclasses.replace(_MOVES, form=forms.split),
    "RepeatVector": _MOVES,
    "Pad": dataclasses.replace(_MOVES, refuses_call=_padding_with_zeros),
    "ZeroPadding1D": _MOVES,
    "ZeroPadding2D": _MOVES,
    "Cropping1D": _MOVES,
    "Cropping2D": _MOVES,
    "CenterCrop": _MOVES,
    "UpSampling1D": _MOVES,
    "UpSampling2D": dataclasses.replace(_MOVES, refuses=_upsampling),
    "Resizing": dataclasses.replace(_MOVES, refuses=_resizing),
    # --- what does nothing in inference
    **dict.fromkeys(
        (
            "ActivityRegularization",
            "AlphaDropout",
            "Dropout",
            "GaussianDropout",
            "GaussianNoise",
            "Identity",
            "RandomBrightness",
            "RandomContrast",
            "RandomFlip",
            "RandomRotation",
            "RandomTranslation",
            "RandomZoom",
            "SpatialDropout1D",
            "SpatialDropout2D",
        ),
        _MOVES,
    ),
}

ELU_ROLES = ("positive", "negative", "slower", "below", "times", "scaled")

ACTIVATIONS: dict[str, ActivationRow] = {
    "relu": ActivationRow(absorbed=True),
    "relu6": ActivationRow(absorbed=True),
    "limited_relu": ActivationRow(absorbed=True, form=forms.limited_relu),
    "leaky_relu": ActivationRow(form=forms.leaky_relu),
    "limited_leaky_relu": ActivationRow(form=forms.limited_leaky_relu),
    "sigmoid": ActivationRow(UNIT),
    "softmax": ActivationRow(UNIT),
    "tanh": ActivationRow(SIGNED_UNIT),
    "gelu": ActivationRow(),
    "exponential": ActivationRow(),
    "silu": ActivationRow(form=forms.silu, inner=(("gate", UNIT),)),
    "hard_silu": ActivationRow(form=forms.hard_silu),
    "hard_sigmoid": ActivationRow(
        Fixed(0.0, 1.0), form=forms.hard_sigmoid, inner=(("clip", Fixed(0.0, 6.0)),)
    ),
    "steep_hard_sigmoid": ActivationRow(
        Fixed(0.0, 1.0), form=forms.steep_hard_sigmoid, inner=(("clip", Fixed(0.0, 5.0)),)
    ),
    "hard_tanh": ActivationRow(
        SIGNED_UNIT, form=forms.hard_tanh, inner=(("clip", Fixed(0.0, 255 / 128)),)
    ),
    "elu": ActivationRow(
        form=forms.elu, inner=(("exp", Fixed(0.0, 1.0)), *((role, None) for role in ELU_ROLES))
    ),
    "softplus": ActivationRow(form=forms.softplus, inner=SOFTPLUS),
    "mish": ActivationRow(
        form=forms.mish, inner=(*SOFTPLUS, ("softplus", None), ("tanh", SIGNED_UNIT))
    ),
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
    "HardSigmoid": "hard_sigmoid",
    "HardTanh": "hard_tanh",
    "ELU": "elu",
    "Elu": "elu",
    "Selu": "elu",
    "Celu": "elu",
    "Softplus": "softplus",
    "Mish": "mish",
    "Exp": "exponential",
}
_ALIASES = {
    "swish": "silu",
    "hard_swish": "hard_silu",
    "selu": "elu",
    "celu": "elu",
}


def known(
    adapter: Adapter, operation: KerasOperation, calls: Sequence[Node] = ()
) -> tuple[Row, ActivationRow | None] | str:
    """The row of an operation and of its activation, or the reason why it has none. `calls` are
    those of the graph, where it stands in one.
    """
    kind = adapter.kind(operation)
    if getattr(operation, "interpolation", None) == "bilinear" and f"{kind}(bilinear)" in TABLE:
        kind = f"{kind}(bilinear)"
    activation = _activation_name(adapter, operation, kind)
    if activation is not None and activation not in ACTIVATIONS:
        return f"activation {activation!r} is not in the placement table"
    if kind in _ACTIVATION_KINDS:
        row = _MOVES if activation is None else _OWN  # None: Activation("linear")
    elif kind in TABLE:
        row = TABLE[kind]
    else:
        return f"{kind or type(operation).__name__} is not in the placement table"
    reasons = [row.refuses(operation), *map(row.refuses_call, calls)]
    reason = next((each for each in reasons if each is not None), None)
    if reason is not None:
        return f"{kind}: {reason}"
    return row, None if activation is None else ACTIVATIONS[activation]


def _activation_name(adapter: Adapter, operation: Any, kind: str) -> str | None:
    """The name of an activation in `ACTIVATIONS`; None for linear or none at all."""
    if kind == "ReLU":
        slope, threshold = float(operation.negative_slope), float(operation.threshold)
        if threshold != 0:
            return f"relu(threshold={threshold})"
        if slope != 0:
            return "leaky_relu" if operation.max_value is None else "limited_leaky_relu"
        if operation.max_value is None:
            return "relu"
        return "relu6" if float(operation.max_value) == 6 else "limited_relu"
    if kind in _ACTIVATION_KINDS and kind != "Activation":
        return _ACTIVATION_KINDS[kind]
    function = getattr(operation, "activation", None) if kind else None
    if function is None:
        return None
    own_kind = adapter.kind(function)
    if own_kind in _ACTIVATION_KINDS:  # a layer, given as the activation of another
        return _activation_name(adapter, function, own_kind)
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", "")
    if not adapter.owns(module) and not module.startswith("tensorflow."):
        return f"{module}.{name}"  # a user's own, which may bear any name
    if name == "hard_sigmoid" and adapter.has_tfmot:  # the two Keras mean two functions
        return "steep_hard_sigmoid"
    return None if name == "linear" else _ALIASES.get(name, name)
