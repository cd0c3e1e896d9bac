"""Other ways to compute what a layer computes, with room for the quantizers that its integer kernel
needs.

Each gives the layer's own numbers but for the rounding. `exporting` forms only choose other
TensorFlow ops for the file.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasVariable, Method


class Constant(Protocol):
    """Rounds a number, an array of them or a weight over its own range, zero included."""

    def __call__(
        self, value: object, shape: Sequence[int] | None = None, by_converter: bool = False
    ) -> tf.Tensor:
        """`shape`: to give it first. `by_converter`: in the graph of a file it stays as it is, as
        the converter rounds it itself, symmetrically.
        """


def number(adapter: Adapter, value: object, shape: Sequence[int] | None) -> tf.Tensor:
    """What a `Constant` rounds, as it is."""
    if not isinstance(value, int | float | np.ndarray | np.number):
        value = adapter.tf_variable(cast(KerasVariable, value))
    own = tf.cast(tf.convert_to_tensor(value), tf.float32)
    return own if shape is None else tf.reshape(own, shape)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a patched operation, and what its form may ask of the patches."""

    operation: Any
    """Of the kind that the form is for."""
    original: Method
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    exporting: bool
    """The graph becomes a file."""
    quantize: Callable[[str, tf.Tensor], tf.Tensor]
    """The quantizer of a role inside the operation."""
    folded: bool
    """Dense: a batch norm follows and becomes part of it. BatchNormalization: it is such a one."""
    constant: Constant
    rescales: dict[int, int]
    """The inputs that come with a range of their own, and a number for each, from 1 over the model.
    """
    offset_on_grid: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    """(factor, offset) of a batch norm -> the offset that its integers can hold."""

    def run(self) -> tf.Tensor:
        return self.original(*self.args, **self.kwargs)

    @functools.cached_property
    def inputs(self) -> list[tf.Tensor]:
        """The tensors that it is called on, in order, however they were passed."""
        return [value for value in self._data() if tf.is_tensor(value)]

    @property
    def input(self) -> tf.Tensor:
        """The one tensor that it is called on."""
        (only,) = self.inputs
        return only

    @property
    def operands(self) -> list[Any]:
        """The tensors and the numbers that an operator is called on, in order."""
        numbers = (int, float, np.ndarray, np.number)
        return [
            value
            for value in self._data()
            if tf.is_tensor(value) or (isinstance(value, numbers) and not isinstance(value, bool))
        ]

    def run_on(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """What the operation itself computes of other tensors in the place of `inputs`."""
        others = iter(inputs)
        data = {name: value for name, value in self.kwargs.items() if name not in NOT_DATA}
        args, kwargs = tf.nest.map_structure(
            lambda value: next(others) if tf.is_tensor(value) else value, (self.args, data)
        )
        return self.original(*args, **{**self.kwargs, **kwargs})

    def argument(self, name: str) -> Any:
        """An argument by its name, however it was passed; None where it was not."""
        return bound(self.original, self.args, self.kwargs).get(name)

    def _data(self) -> Iterator[Any]:
        data = {name: value for name, value in self.kwargs.items() if name not in NOT_DATA}
        yield from tf.nest.flatten((self.args, data))


NOT_DATA = ("mask", "training", "name")
"""Arguments that say how to compute, not on what."""


def bound(
    original: Method, args: tuple[object, ...], kwargs: dict[str, object]
) -> dict[str, object]:
    """The arguments of a call by name, as far as the signature names them."""
    try:
        return dict(inspect.signature(original).bind(*args, **kwargs).arguments)
    except TypeError:  # the call itself will say what is wrong with them
        return dict(kwargs)


Form = Callable[[Call], tf.Tensor]

SMALLEST_GAMMA = 1e-4
"""What a batch norm's gamma counts as when it is (nearly) zero."""

SMALLEST_EXCESS = 2.0**-23
"""What the first float32 above 1 has more."""


def dense(call: Call) -> tf.Tensor:
    """In the file, a Dense with batch norm behind it is a 1x1 convolution.

    The integer fully-connected op has one scale per tensor, and batch norm spreads the channels too
    far apart for one.
    """
    if not (call.exporting and call.folded):
        return call.run()
    layer = call.operation
    inputs = call.input
    kernel = tf.convert_to_tensor(layer.kernel)  # of an export: (1, 1, in, out)
    rows = tf.reshape(inputs, (inputs.shape[0], -1, 1, inputs.shape[-1]))
    outputs = tf.nn.conv2d(rows, kernel, strides=1, padding="VALID")
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
    outputs = tf.reshape(outputs, (*inputs.shape[:-1], outputs.shape[-1]))
    return outputs if layer.activation is None else layer.activation(outputs)


def batch_normalization(call: Call) -> tf.Tensor:
    """Batch norm with the statistics that ship, its offset as the file's int32 bias holds it.

    In the file, one that no convolution takes in is a depthwise 1x1 convolution: written out it is
    a product and a sum, with a tensor between them that would need a scale of its own.
    """
    layer, inputs = call.operation, call.inputs[0]
    if call.argument("training") and layer.trainable:
        return call.run()  # with the batch's own statistics
    mean, variance = map(tf.convert_to_tensor, (layer.moving_mean, layer.moving_variance))
    gamma = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones_like(mean)
    beta = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros_like(mean)
    # A gamma of zero gives float ops, and one near it overflows the int32 bias.
    gamma = tf.where(tf.abs(gamma) < SMALLEST_GAMMA, SMALLEST_GAMMA, gamma)
    factor = gamma * tf.math.rsqrt(variance + layer.epsilon)
    unmoved = beta - mean * factor
    offset = call.offset_on_grid(factor, unmoved)
    if not call.exporting or call.folded:
        beta += offset - unmoved
        numbers = tf.cast(inputs, tf.float32)
        outputs = tf.nn.batch_normalization(numbers, mean, variance, beta, gamma, layer.epsilon)
        return tf.cast(outputs, layer.compute_dtype)
    return affine(inputs, factor, offset)


def affine(inputs: tf.Tensor, factor: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """inputs * factor + offset, by channel, as one integer op: a depthwise 1x1 convolution."""
    channels = inputs.shape[-1]
    rows = inputs
    if inputs.shape.rank != 4:
        rows = tf.reshape(inputs, (inputs.shape[0], -1, 1, channels))
    # One number per channel: a symmetric range of its own magnitude holds it exactly.
    magnitude = tf.abs(factor)
    kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        tf.reshape(factor, (1, 1, channels)), -magnitude, magnitude, narrow_range=True
    )
    outputs = tf.nn.depthwise_conv2d(
        rows, tf.reshape(kernel, (1, 1, channels, 1)), strides=(1, 1, 1, 1), padding="VALID"
    )
    return tf.reshape(tf.nn.bias_add(outputs, offset), inputs.shape)


def separable_convolution(call: Call) -> tf.Tensor:
    """Depthwise, rounded, then pointwise: two integer ops, where the layer computes both in one."""
    layer = call.operation
    inputs = call.input
    strides = (1, *layer.strides, 1)
    padding = layer.padding.upper()
    depthwise = tf.nn.depthwise_conv2d(
        inputs,
        tf.convert_to_tensor(layer.depthwise_kernel),
        strides=strides,
        padding=padding,
        dilations=layer.dilation_rate,
    )
    between = call.quantize("between", depthwise)
    outputs = tf.nn.conv2d(
        between, tf.convert_to_tensor(layer.pointwise_kernel), strides=1, padding="VALID"
    )
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
    return outputs if layer.activation is None else layer.activation(outputs)


def add(call: Call) -> tf.Tensor:
    """A sum, rounded after each addition but the last, as the integer op takes two."""
    return _chained(call, "sum", lambda one, other: one + other)


def multiply(call: Call) -> tf.Tensor:
    """A product, likewise."""
    return _chained(call, "product", lambda one, other: one * other)


def _chained(
    call: Call, role: str, combine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    if len(call.inputs) == len(call.operands) == 2:
        return call.run()
    first, *others, last = _with_constants(call)
    total = first
    for i, other in enumerate(others, start=1):
        total = call.quantize(f"{role}{i}", combine(total, other))
    return combine(total, last)


def _with_constants(call: Call) -> list[tf.Tensor]:
    """The operands, those that are no tensors rounded over their own range."""
    return [each if tf.is_tensor(each) else call.constant(each) for each in call.operands]


def layer_scale(call: Call) -> tf.Tensor:
    """inputs * gamma."""
    return call.input * call.constant(call.operation.gamma)


def scaled_residual(call: Call) -> tf.Tensor:
    """The first input, plus a share of the second."""
    first, second = call.inputs
    scale = float(call.operation.scale)
    return first + call.quantize("scaled", second * call.constant(scale))


def subtract(call: Call) -> tf.Tensor:
    if len(call.inputs) == 2:
        return call.run()
    one, other = _with_constants(call)
    return one - other


def divide_by_constant(call: Call) -> tf.Tensor:
    """A product, since there is no integer division."""
    one, other = call.operands
    return one * call.constant(1.0 / np.asarray(other, np.float64))


def negate(call: Call) -> tf.Tensor:
    """A product, since there is no integer negation."""
    return call.input * call.constant(-1.0)


def average(call: Call) -> tf.Tensor:
    """A sum, times the share of each."""
    first, *others = call.inputs
    total = first
    for i, other in enumerate(others, start=1):
        total = call.quantize(f"sum{i}", total + other)
    return total * call.constant(1.0 / len(call.inputs))


def split(call: Call) -> Any:
    """In the file, slices: the op that splits wants every part to be used."""
    parts = call.run()
    if not call.exporting:
        return parts
    whole, begin, slices = call.input, 0, []
    changed = [i for i in range(whole.shape.rank) if parts[0].shape[i] != whole.shape[i]]
    axis = changed[0] if changed else 0
    for part in parts:
        begins = [begin if i == axis else 0 for i in range(whole.shape.rank)]
        slices.append(tf.slice(whole, begins, part.shape))
        begin += part.shape[axis]
    return type(parts)(slices)


def join(call: Call) -> tf.Tensor:
    """Every input rounded over one range, as the integer op takes a single scale."""
    parts = []
    for i, part in enumerate(call.inputs):
        if call.exporting and i in call.rescales:
            # The converter takes two roundings in a row for one. A product keeps them apart; with
            # exactly 1 it would be optimized away, and two equal ones would be merged.
            part = part * (1.0 + call.rescales[i] * SMALLEST_EXCESS)
        parts.append(call.quantize("join", part))
    return call.run_on(parts)


# --- kernels of rank 3: the converter cannot reshape scales by channel, so the kernel is lifted to
# rank 4 before it is rounded


def convolution_1d(call: Call) -> tf.Tensor:
    """In the file, a convolution of images that are one row high."""
    if not call.exporting:
        return call.run()
    layer = call.operation
    outputs = tf.nn.conv2d(
        _row_images(layer, call.input),
        tf.convert_to_tensor(layer.kernel),
        strides=(1, layer.strides[0]),
        padding=_padding(layer),
        dilations=(1, layer.dilation_rate[0]),
    )
    return _finished_rows(layer, outputs)


def depthwise_convolution_1d(call: Call) -> tf.Tensor:
    """Likewise. Strides are the same along both axes, of which one has length 1."""
    if not call.exporting:
        return call.run()
    layer = call.operation
    outputs = _depthwise_rows(layer, call.input, tf.convert_to_tensor(_depthwise_kernel(layer)))
    return _finished_rows(layer, outputs)


def separable_convolution_1d(call: Call) -> tf.Tensor:
    """Depthwise, rounded, then pointwise, likewise."""
    layer = call.operation
    kernel, pointwise = map(tf.convert_to_tensor, (layer.depthwise_kernel, layer.pointwise_kernel))
    if not call.exporting:
        kernel, pointwise = kernel[None], pointwise[None]
    between = call.quantize("between", _depthwise_rows(layer, call.input, kernel))
    return _finished_rows(layer, tf.nn.conv2d(between, pointwise, strides=1, padding="VALID"))


def _row_images(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """(rows, steps, channels) as images one row high, padded in front where `layer` is causal."""
    images = inputs[:, None]
    if layer.padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        images = tf.pad(images, [[0, 0], [0, 0], [before, 0], [0, 0]])
    return images


def _padding(layer: Any) -> str:
    return "VALID" if layer.padding == "causal" else layer.padding.upper()


def _depthwise_kernel(layer: Any) -> Any:
    kernel = getattr(layer, "depthwise_kernel", None)
    return layer.kernel if kernel is None else kernel  # as Keras 3 calls it


def _depthwise_rows(layer: Any, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    stride = layer.strides[0]
    return tf.nn.depthwise_conv2d(
        _row_images(layer, inputs),
        kernel,
        strides=(1, stride, stride, 1),
        padding=_padding(layer),
        dilations=(1, layer.dilation_rate[0]),
    )


def _finished_rows(layer: Any, outputs: tf.Tensor) -> tf.Tensor:
    """What comes behind the convolution, as the layer has it, without the axis of one row."""
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
    outputs = tf.squeeze(outputs, 1)
    return outputs if layer.activation is None else layer.activation(outputs)


# --- normalizations


def normalization_roles(node: object) -> dict[str, Any]:
    return dict.fromkeys(
        ("mean", "centred", "square", "power", "variance", "inverse", "normalized", "scaled")
    )


def layer_normalization(call: Call) -> tf.Tensor:
    """Mean, squared difference, mean, reciprocal root, product, sum: each has an integer op, which
    the negation in Keras' own has not.
    """
    layer, inputs = call.operation, tf.cast(call.inputs[0], tf.float32)
    rank = inputs.shape.rank
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    axes = sorted(axis % rank for axis in axes)
    outputs = _normalized(call, inputs, axes, layer.epsilon)
    shape = [inputs.shape[axis] if axis in axes else 1 for axis in range(rank)]
    outputs = _scaled(call, outputs, shape, layer.gamma, layer.beta)
    return tf.cast(outputs, layer.compute_dtype)


def group_normalization(call: Call) -> tf.Tensor:
    """The same, over the groups of the last axis."""
    layer, inputs = call.operation, tf.cast(call.inputs[0], tf.float32)
    channels = inputs.shape[-1]
    groups = channels if layer.groups == -1 else layer.groups
    first = inputs.shape[0] if inputs.shape[0] is not None else tf.shape(inputs)[0]
    middle = inputs.shape[1:-1].num_elements()
    # Of rank 4, which integer differences with broadcasting are limited to.
    grouped = tf.reshape(inputs, (first, middle, groups, channels // groups))
    normalized = _normalized(call, grouped, (1, 3), layer.epsilon)
    outputs = tf.reshape(normalized, (first, *inputs.shape[1:]))
    shape = [1] * (inputs.shape.rank - 1) + [channels]
    outputs = _scaled(call, outputs, shape, layer.gamma, layer.beta)
    return tf.cast(outputs, layer.compute_dtype)


def _normalized(call: Call, inputs: tf.Tensor, axes: Sequence[int], epsilon: float) -> tf.Tensor:
    mean = call.quantize("mean", tf.reduce_mean(inputs, axes, keepdims=True))
    centred = call.quantize("centred", inputs - mean)
    square = call.quantize("square", tf.math.squared_difference(inputs, mean))
    return centred * _inverse_root(call, tf.reduce_mean(square, axes, keepdims=True), epsilon)


def _inverse_root(call: Call, power: tf.Tensor, epsilon: float) -> tf.Tensor:
    """1 / root of (power + epsilon), the sum rounded on its own."""
    variance = call.quantize("power", power) + call.constant(epsilon)
    return _finite_inverse_root(call, call.quantize("variance", variance))


def _finite_inverse_root(call: Call, variance: tf.Tensor) -> tf.Tensor:
    """Of what may have been rounded to zero, where the integer op gives its largest number, as the
    range does here; an infinite one would have no gradient.
    """
    if not call.exporting:
        variance = tf.maximum(variance, SMALLEST_VARIANCE)
    return call.quantize("inverse", tf.math.rsqrt(variance))


SMALLEST_VARIANCE = 1e-12
"""What both Keras take for the smallest square of a length in `UnitNormalization`."""


def _scaled(
    call: Call, outputs: tf.Tensor, shape: Sequence[int], gamma: Any, beta: Any
) -> tf.Tensor:
    """Times gamma, plus beta, where a layer has them."""
    if gamma is not None:
        outputs = call.quantize("normalized", outputs)
        outputs = outputs * call.constant(gamma, shape)
    if beta is not None:
        outputs = call.quantize("scaled", outputs)
        outputs += call.constant(beta, shape)
    return outputs


def root_mean_square_normalization(call: Call) -> tf.Tensor:
    layer, inputs = call.operation, tf.cast(call.inputs[0], tf.float32)
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    square = call.quantize("square", inputs * inputs)
    power = tf.reduce_mean(square, axes, keepdims=True)
    inverse = _inverse_root(call, power, layer.epsilon)
    shape = [1] * (inputs.shape.rank - 1) + [inputs.shape[-1]]
    outputs = _scaled(call, inputs * inverse, shape, layer.scale, None)
    return tf.cast(outputs, layer.compute_dtype)


def unit_normalization(call: Call) -> tf.Tensor:
    layer, inputs = call.operation, tf.cast(call.inputs[0], tf.float32)
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    square = call.quantize("square", inputs * inputs)
    length = call.quantize("variance", tf.reduce_sum(square, axes, keepdims=True))
    return tf.cast(inputs * _finite_inverse_root(call, length), layer.compute_dtype)


def rescaling(call: Call) -> tf.Tensor:
    """inputs * scale + offset: one op in the file, which takes the raw numbers."""
    return _by_constants(call, call.operation.scale, call.operation.offset)


def normalization(call: Call) -> tf.Tensor:
    """(inputs - mean) / root of the variance, likewise."""
    with tf.init_scope():
        mean, variance = (
            np.asarray(each, np.float32).reshape(-1)
            for each in (call.operation.mean, call.operation.variance)
        )
    factor = 1.0 / np.maximum(np.sqrt(variance), SMALLEST_DEVIATION)
    return _by_constants(call, factor, -mean * factor)


SMALLEST_DEVIATION = 1e-7
"""What both Keras' `Normalization` takes for a root of the variance that is nearly zero."""


def _by_constants(call: Call, factor: object, offset: object) -> tf.Tensor:
    inputs = call.input
    channels = inputs.shape[-1]
    factors, offsets = (
        tf.constant(np.broadcast_to(np.asarray(each, np.float32), (channels,)))
        for each in (factor, offset)
    )
    offsets = call.offset_on_grid(factors, offsets)
    if call.exporting:
        return affine(inputs, factors, offsets)
    outputs = tf.cast(inputs, tf.float32) * factors + offsets
    return tf.cast(outputs, call.operation.compute_dtype)


def parametric_relu(call: Call) -> tf.Tensor:
    """relu(x) - alpha relu(-x), in the one way that the converter takes for a PRELU."""
    x = call.input
    alpha = call.constant(call.operation.alpha, by_converter=True)
    return tf.nn.relu(x) + -alpha * tf.nn.relu(-x)


@dataclasses.dataclass(frozen=True)
class ActivationCall:
    """One call of an activation function, as part of a layer or on its own."""

    x: tf.Tensor
    function: Callable[[tf.Tensor], tf.Tensor]
    """The activation itself."""
    quantize: Callable[[str, tf.Tensor], tf.Tensor]
    constant: Constant
    exporting: bool

    def at(self, x: float) -> float:
        """The value of the function at one place, which tells its parameters."""
        with tf.init_scope():
            return float(np.asarray(self.function(tf.constant([[x]], tf.float32)))[0, 0])

    def clipped(self, role: str, x: tf.Tensor, low: float, high: float) -> tf.Tensor:
        """`x` cut off at both ends of the range that the role has: in the file, by the integers."""
        return self.quantize(role, x if self.exporting else tf.clip_by_value(x, low, high))


ActivationForm = Callable[[ActivationCall], tf.Tensor]


def silu(call: ActivationCall) -> tf.Tensor:
    """x * sigmoid(x), with the sigmoid rounded between: the integer file has no op for both."""
    return call.x * call.quantize("gate", tf.sigmoid(call.x))


def hard_silu(call: ActivationCall) -> tf.Tensor:
    """x * relu6(x + 3) / 6, in the one way that the converter knows as HARD_SWISH."""
    return call.x * tf.nn.relu6(call.x + 3.0) / 6.0


def leaky_relu(call: ActivationCall) -> tf.Tensor:
    """In the file, a PRELU: LiteRT computes that one exactly, and LEAKY_RELU with 8-bit factors."""
    if not call.exporting:
        return call.function(call.x)
    slope = -call.at(-1.0)
    slopes = tf.fill((1,) * (call.x.shape.rank - 1), -slope)  # negated, as the converter wants it
    return tf.nn.relu(call.x) + slopes * tf.nn.relu(-call.x)


def limited_leaky_relu(call: ActivationCall) -> tf.Tensor:
    """Likewise; the upper limit is where the integers end."""
    return leaky_relu(call) if call.exporting else call.function(call.x)


def limited_relu(call: ActivationCall) -> tf.Tensor:
    """In the file, a plain one: its integers end where the range does, which is the limit."""
    return tf.nn.relu(call.x) if call.exporting else call.function(call.x)


def hard_sigmoid(call: ActivationCall) -> tf.Tensor:
    """relu6(x + 3) / 6."""
    return call.clipped("clip", call.x + call.constant(3.0), 0.0, 6.0) * call.constant(1 / 6)


def steep_hard_sigmoid(call: ActivationCall) -> tf.Tensor:
    """What tf_keras calls so: 0.2 x + 0.5, cut off at 0 and 1."""
    return call.clipped("clip", call.x + call.constant(2.5), 0.0, 5.0) * call.constant(0.2)


def elu(call: ActivationCall) -> tf.Tensor:
    """a relu(x) + b (exp(min(x, 0) / c) - 1), of which ELU, SELU and CELU are cases: there is no
    integer op for any of them.
    """
    a, b = call.at(1.0), -call.at(-1e4)
    is_celu = not np.isclose(call.at(-1.0), b * np.expm1(-1.0), rtol=1e-5)
    c = b / a if is_celu else 1.0
    positive = call.quantize("positive", tf.nn.relu(call.x))
    negative = call.quantize("negative", call.x - positive)
    if c != 1.0:
        negative = call.quantize("slower", negative * call.constant(1.0 / c))
    below = call.quantize("below", call.quantize("exp", tf.exp(negative)) - call.constant(1.0))
    if b != 1.0:
        below = call.quantize("times", below * call.constant(b))
    if a != 1.0:
        positive = call.quantize("scaled", positive * call.constant(a))
    return positive + below


def softplus(call: ActivationCall) -> tf.Tensor:
    """relu(x) - log(sigmoid(|x|)), which is log(1 + exp(x)) without large numbers."""
    positive = call.quantize("positive", tf.nn.relu(call.x))
    size = call.quantize("size", tf.abs(call.x))
    gate = call.quantize("gate", tf.sigmoid(size))
    return positive - call.quantize("log", tf.math.log(gate))


def mish(call: ActivationCall) -> tf.Tensor:
    """x tanh(softplus(x))."""
    bent = call.quantize("softplus", softplus(call))
    return call.x * call.quantize("tanh", tf.tanh(bent))


def hard_tanh(call: ActivationCall) -> tf.Tensor:
    """x, cut off at -1 and 1. Both ranges have steps of 1/128, so that no number is a tie."""
    return call.clipped("clip", call.x + call.constant(1.0), 0.0, 2.0) - call.constant(1.0)
