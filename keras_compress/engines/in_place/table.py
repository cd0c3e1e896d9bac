"""What the engine knows of layers, operations and activations: one row each.

A new layer is taught in one row. The rules behind the rows are those of TFLite's integer kernels:
every tensor between two integer ops has a scale; a convolution's batch norm and ReLU become part of
it, so nothing is rounded between them; ops that only move numbers keep their input's scale;
softmax, sigmoid and tanh have fixed scales
(https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from keras_compress.engines.in_place import refusals
from keras_compress.engines.in_place.forms import activations, kernels, normalizations, operators
from keras_compress.engines.in_place.graph import Node
from keras_compress.engines.in_place.rows import (
    SIGNED_UNIT,
    UNIT,
    ActivationRow,
    Fixed,
    Granularity,
    Output,
    Row,
)


def _counted(role: str) -> Callable[[Node], dict[str, Fixed | None]]:
    """Roles for what is rounded between several operands."""
    return lambda node: {f"{role}{i}": None for i in range(1, len(node.inputs) - 1)}


_TENSOR = (("kernel", Granularity.TENSOR),)
_CHANNEL = (("kernel", Granularity.CHANNEL),)
_DEPTHWISE = (("depthwise_kernel", Granularity.DEPTHWISE),)
_SEPARABLE = (*_DEPTHWISE, ("pointwise_kernel", Granularity.CHANNEL))
MOVES = Row(output=Output.SAME, refuses=refusals.channels_first)
_MAX_POOLS = dataclasses.replace(MOVES, is_max_pooling=True)
_JOINS = Row(output=Output.JOIN, form=operators.join)
OWN = Row()
_POOLS = Row(refuses=refusals.channels_first)
_NORMALIZES = Row(inner=normalizations.normalization_roles)

TABLE: dict[str, Row] = {
    # --- kernels
    "Dense": Row(_TENSOR, absorbs_relu=True, form=kernels.dense, folded=Granularity.CHANNEL),
    "EinsumDense": Row(_TENSOR),
    "Embedding": Row((("embeddings", Granularity.TENSOR),)),
    "Conv1D": Row(
        _CHANNEL,
        absorbs_relu=True,
        form=kernels.convolution_1d,
        lifts=True,
        refuses=refusals.channels_first,
    ),
    "Conv2D": Row(
        _CHANNEL, absorbs_relu=True, refuses=refusals.channels_first, folded=Granularity.CHANNEL
    ),
    "Conv2DTranspose": Row(_TENSOR, refuses=refusals.channels_first),
    "DepthwiseConv1D": Row(
        _DEPTHWISE,
        absorbs_relu=True,
        form=kernels.depthwise_convolution_1d,
        lifts=True,
        refuses=refusals.channels_first,
    ),
    "DepthwiseConv2D": Row(
        _DEPTHWISE, absorbs_relu=True, refuses=refusals.channels_first, folded=Granularity.DEPTHWISE
    ),
    "SeparableConv1D": Row(
        _SEPARABLE,
        absorbs_relu=True,
        form=kernels.separable_convolution_1d,
        inner=lambda node: {"between": None},
        lifts=True,
        source="between",
        refuses=refusals.channels_first,
    ),
    "SeparableConv2D": Row(
        _SEPARABLE,
        absorbs_relu=True,
        form=kernels.separable_convolution,
        inner=lambda node: {"between": None},
        folded=Granularity.CHANNEL,
        source="between",
        refuses=refusals.channels_first,
    ),
    "PReLU": Row(form=activations.parametric_relu),
    # --- normalizations
    "BatchNormalization": Row(
        absorbs_relu=True,
        form=normalizations.batch_normalization,
        is_norm=True,
        refuses=refusals.inner_axis,
    ),
    "LayerNormalization": dataclasses.replace(
        _NORMALIZES, form=normalizations.layer_normalization, refuses=refusals.layer_norm_options
    ),
    "GroupNormalization": dataclasses.replace(
        _NORMALIZES, form=normalizations.group_normalization, refuses=refusals.inner_groups
    ),
    "RMSNormalization": dataclasses.replace(
        _NORMALIZES,
        form=normalizations.root_mean_square_normalization,
        refuses=refusals.inner_axes,
    ),
    "UnitNormalization": dataclasses.replace(_NORMALIZES, form=normalizations.unit_normalization),
    "Rescaling": Row(form=normalizations.rescaling, casts=True),
    "Normalization": Row(
        form=normalizations.normalization,
        refuses=refusals.inversion,
        refuses_call=refusals.statistics_along_inner_axes,
        casts=True,
    ),
    # Of keras.applications: ConvNeXt, InceptionResNetV2.
    "LayerScale": Row(form=operators.layer_scale),
    "CustomScaleLayer": Row(form=operators.scaled_residual, inner=lambda node: {"scaled": None}),
    # --- operators and merging layers
    "Add": Row(absorbs_relu=True, form=operators.add, inner=_counted("sum")),
    "Subtract": Row(absorbs_relu=True, form=operators.subtract),
    "Multiply": Row(form=operators.multiply, inner=_counted("product")),
    "TrueDivide": Row(form=operators.divide_by_constant, refuses_call=refusals.division),
    "Divide": Row(form=operators.divide_by_constant, refuses_call=refusals.division),
    "Negative": Row(form=operators.negate),
    "Average": Row(
        form=operators.average,
        inner=lambda node: {f"sum{i}": None for i in range(1, len(node.inputs))},
    ),
    "Dot": OWN,
    "Matmul": OWN,
    "Maximum": _JOINS,
    "Minimum": _JOINS,
    "Concatenate": _JOINS,
    "Stack": _JOINS,
    # --- pooling and means over axes
    "GlobalAveragePooling1D": _POOLS,
    "GlobalAveragePooling2D": _POOLS,
    "Mean": OWN,
    "Sum": OWN,
    "AveragePooling1D": Row(output=Output.SHARED, refuses=refusals.channels_first),
    "AveragePooling2D": Row(output=Output.SHARED, refuses=refusals.channels_first),
    "MaxPooling1D": _MAX_POOLS,
    "MaxPooling2D": _MAX_POOLS,
    "GlobalMaxPooling1D": _MAX_POOLS,
    "GlobalMaxPooling2D": _MAX_POOLS,
    "Max": MOVES,
    # --- interpolation, which computes on its input's scale
    "UpSampling2D(bilinear)": Row(output=Output.SHARED, refuses=refusals.upsampling_by_curves),
    "Resizing(bilinear)": Row(output=Output.SHARED, refuses=refusals.resizing_otherwise),
    # --- what only moves numbers
    "Cast": Row(output=Output.SAME, refuses_call=refusals.casting_to_others, casts=True),
    "Flatten": MOVES,
    "Reshape": MOVES,
    "Permute": MOVES,
    "Transpose": MOVES,
    "Swapaxes": MOVES,
    "Squeeze": MOVES,
    "ExpandDims": MOVES,
    "GetItem": MOVES,
    "Split": dataclasses.replace(MOVES, form=operators.split),
    "RepeatVector": MOVES,
    "Pad": dataclasses.replace(MOVES, refuses_call=refusals.padding_with_numbers),
    "ZeroPadding1D": MOVES,
    "ZeroPadding2D": MOVES,
    "Cropping1D": MOVES,
    "Cropping2D": MOVES,
    "CenterCrop": MOVES,
    "UpSampling1D": MOVES,
    "UpSampling2D": dataclasses.replace(MOVES, refuses=refusals.upsampling_by_curves),
    "Resizing": dataclasses.replace(MOVES, refuses=refusals.resizing_otherwise),
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
        MOVES,
    ),
}

SOFTPLUS = (("positive", None), ("size", None), ("gate", UNIT), ("log", Fixed(-0.75, 0.0)))
ELU_ROLES = ("positive", "negative", "slower", "below", "times", "scaled")

ACTIVATIONS: dict[str, ActivationRow] = {
    "relu": ActivationRow(absorbed=True, relu_to=math.inf),
    "relu6": ActivationRow(absorbed=True, relu_to=6.0),
    "limited_relu": ActivationRow(absorbed=True, form=activations.limited_relu),
    "leaky_relu": ActivationRow(form=activations.leaky_relu),
    "limited_leaky_relu": ActivationRow(form=activations.limited_leaky_relu),
    "sigmoid": ActivationRow(UNIT),
    "softmax": ActivationRow(UNIT),
    "tanh": ActivationRow(SIGNED_UNIT),
    "gelu": ActivationRow(),
    "exponential": ActivationRow(),
    "silu": ActivationRow(form=activations.silu, inner=(("gate", UNIT),)),
    "hard_silu": ActivationRow(form=activations.hard_silu),
    "hard_sigmoid": ActivationRow(
        Fixed(0.0, 1.0), form=activations.hard_sigmoid, inner=(("clip", Fixed(0.0, 6.0)),)
    ),
    "steep_hard_sigmoid": ActivationRow(
        Fixed(0.0, 1.0), form=activations.steep_hard_sigmoid, inner=(("clip", Fixed(0.0, 5.0)),)
    ),
    "hard_tanh": ActivationRow(
        SIGNED_UNIT, form=activations.hard_tanh, inner=(("clip", Fixed(0.0, 255 / 128)),)
    ),
    "elu": ActivationRow(
        form=activations.elu,
        inner=(("exp", Fixed(0.0, 1.0)), *((role, None) for role in ELU_ROLES)),
    ),
    "softplus": ActivationRow(form=activations.softplus, inner=SOFTPLUS),
    "mish": ActivationRow(
        form=activations.mish, inner=(*SOFTPLUS, ("softplus", None), ("tanh", SIGNED_UNIT))
    ),
}
