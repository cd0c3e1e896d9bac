"""What a row of the placement table says of a layer, an operation or an activation."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from keras_compress.engines.in_place.forms.call import ActivationForm, Form
from keras_compress.engines.in_place.graph import Node


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


IN_BYTES = {"int8": Fixed(-128.0, 127.0), "uint8": Fixed(0.0, 255.0)}
"""What an input of such integers can hold: over these ranges the file takes the very same numbers.
"""
UNIT = Fixed(0.0, 255 / 256)
SIGNED_UNIT = Fixed(-1.0, 127 / 128)


@dataclasses.dataclass(frozen=True)
class Row:
    """What the engine knows of a layer or operation."""

    kernels: tuple[tuple[str, Granularity], ...] = ()
    output: Output = Output.OWN
    absorbs_relu: bool = False
    """A ReLU that follows is part of the integer op, so nothing is rounded before it."""
    form: Form | None = None
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
    casts: bool = False
    """It takes integers too, of which it makes floats before it does anything else."""
    is_max_pooling: bool = False
    """It gives the largest number of each of its windows."""


@dataclasses.dataclass(frozen=True)
class ActivationRow:
    """What the engine knows of an activation function, as an `activation=` or on its own."""

    output: Fixed | None = None
    absorbed: bool = False
    """Part of the integer op before it."""
    relu_to: float | None = None
    """Where it ends, of a ReLU whose gradient is zero at both its ends; infinite for one that never
    does. Rounding can be one with it.
    """
    form: ActivationForm | None = None
    inner: tuple[tuple[str, Fixed | None], ...] = ()
