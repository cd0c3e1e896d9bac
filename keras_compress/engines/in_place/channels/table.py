"""How a channel passes: one row for each kind of layer and operation.

A channel is a place along the last axis. It can be dropped where everything that depends on it is
known: the weights that hang on it, and whoever reads it. What has no row here stops the channels
that meet it. Of the idea: dependency graphs between layers [1]; here channels are followed one by
one, through the same flat graph that the placement table is read along.

References:
    [1] Fang et al., "DepGraph: Towards Any Structural Pruning", 2023, arXiv:2301.12900.
"""

from __future__ import annotations

from typing import Any

from keras_compress.engines.in_place.channels import stops
from keras_compress.engines.in_place.channels.rows import How, Passing, Side, Weight
from keras_compress.engines.in_place.lookup import ACTIVATION_KINDS
from keras_compress.engines.in_place.table import ACTIVATIONS


def _weight(name: str, *axes: tuple[int, Side], **more: bool) -> Weight:
    return Weight(name, axes, **more)


_BIAS = _weight("bias", (0, Side.OUT))
_CONVOLVES = Passing(
    How.ENDS,
    (_weight("kernel", (-2, Side.IN), (-1, Side.OUT)), _BIAS),
    size="filters",
    activated=True,
    refuses=stops.of_convolution,
)
_TRANSPOSED = Passing(
    How.ENDS,
    (_weight("kernel", (-1, Side.IN), (-2, Side.OUT)), _BIAS),
    size="filters",
    activated=True,
    refuses=stops.of_convolution,
)
_DEPTHWISE = Passing(
    How.KEEPS,
    (_weight("depthwise_kernel", (-2, Side.IN)), _weight("bias", (0, Side.SPREAD))),
    spreads=True,
    activated=True,
    refuses=stops.channels_first,
)
_SEPARABLE = Passing(
    How.ENDS,
    (
        _weight("depthwise_kernel", (-2, Side.IN)),
        _weight("pointwise_kernel", (-2, Side.SPREAD), (-1, Side.OUT)),
        _BIAS,
    ),
    size="filters",
    activated=True,
    refuses=stops.channels_first,
)
_KEEPS = Passing(How.KEEPS, refuses=stops.channels_first)
_MERGES = Passing(How.MERGES, refuses_call=stops.constants)
_LAYS_OUT = Passing(How.LAYS_OUT)


def _reshaped(config: dict[str, Any], channels: int) -> dict[str, Any]:
    """The target of a Reshape whose last axis holds the channels, each as often as before."""
    *front, last = config["target_shape"]
    return {"target_shape": [*front, last if last == -1 else channels]}


CHANNELS: dict[str, Passing] = {
    # --- kernels: what they read ends there, what they make begins there
    "Dense": Passing(
        How.ENDS,
        (_weight("kernel", (-2, Side.IN), (-1, Side.OUT)), _BIAS),
        size="units",
        activated=True,
    ),
    "Conv1D": _CONVOLVES,
    "Conv2D": _CONVOLVES,
    "Conv3D": _CONVOLVES,
    "Conv1DTranspose": _TRANSPOSED,
    "Conv2DTranspose": _TRANSPOSED,
    "Conv3DTranspose": _TRANSPOSED,
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    # --- what computes each channel by itself, with weights that hang on it
    "DepthwiseConv1D": _DEPTHWISE,
    "DepthwiseConv2D": _DEPTHWISE,
    "BatchNormalization": Passing(
        How.KEEPS,
        (
            _weight("gamma", (0, Side.IN)),
            _weight("beta", (0, Side.IN)),
            # Zero too: where there is no gamma, what a dropped channel had before would be left.
            _weight("moving_mean", (0, Side.IN), learned=False),
            _weight("moving_variance", (0, Side.IN), masked=False, learned=False),
        ),
        refuses_call=stops.other_axis,
    ),
    "PReLU": Passing(How.KEEPS, (_weight("alpha", (-1, Side.IN)),), refuses=stops.shared_slopes),
    # --- what computes each channel by itself
    **dict.fromkeys(
        (
            "ActivityRegularization",
            "AveragePooling1D",
            "AveragePooling2D",
            "AveragePooling3D",
            "Cropping1D",
            "Cropping2D",
            "Cropping3D",
            "Dropout",
            "GaussianDropout",
            "GaussianNoise",
            "GlobalAveragePooling1D",
            "GlobalAveragePooling2D",
            "GlobalAveragePooling3D",
            "GlobalMaxPooling1D",
            "GlobalMaxPooling2D",
            "GlobalMaxPooling3D",
            "Identity",
            "MaxPooling1D",
            "MaxPooling2D",
            "MaxPooling3D",
            "Resizing",
            "SpatialDropout1D",
            "SpatialDropout2D",
            "SpatialDropout3D",
            "UpSampling1D",
            "UpSampling2D",
            "UpSampling3D",
            "ZeroPadding1D",
            "ZeroPadding2D",
            "ZeroPadding3D",
        ),
        _KEEPS,
    ),
    **dict.fromkeys(ACTIVATION_KINDS, Passing(How.KEEPS, activated=True)),
    "Cast": _KEEPS,
    "Negative": _KEEPS,
    "Square": _KEEPS,
    "Rescaling": Passing(How.KEEPS, refuses=stops.scales_by_channel),
    # --- several inputs
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _MERGES),
    "TrueDivide": Passing(How.MERGES, refuses_call=stops.quotients),
    "Divide": Passing(How.MERGES, refuses_call=stops.quotients),
    "CustomScaleLayer": _MERGES,  # of keras.applications' InceptionResNetV2: x + scale * y
    "Concatenate": Passing(How.JOINS),
    # --- what only moves numbers
    "Flatten": Passing(How.LAYS_OUT, config=lambda config, channels: {}),
    "Reshape": Passing(How.LAYS_OUT, config=_reshaped, refuses=stops.constant_sizes),
    "Permute": _LAYS_OUT,
    "Transpose": _LAYS_OUT,
    "Squeeze": _LAYS_OUT,
    "ExpandDims": _LAYS_OUT,
    "GetItem": _LAYS_OUT,
    "Pad": _LAYS_OUT,
    "RepeatVector": _LAYS_OUT,
    "Mean": _LAYS_OUT,
    "Max": _LAYS_OUT,
}

ELEMENTWISE = frozenset({*ACTIVATIONS, "softsign", "log_sigmoid"} - {"softmax"})
"""Activations of each number by itself. Those of a limited or moved ReLU are too."""


def is_elementwise(activation: str | None) -> bool:
    return activation is None or activation in ELEMENTWISE or activation.startswith("relu(")
