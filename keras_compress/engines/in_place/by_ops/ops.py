"""What the engine knows of TensorFlow's ops, for the inside of layers that the table does not know:
one row each.

The rules are those of `table.py`, one level lower: what moves numbers keeps their scale, what joins
needs one scale for all, what computes has a range of its own. What only computes with weights and
constants is a kernel or a constant, and what gives no floats (shapes, comparisons, indices) needs
no row. An op without a row is refused, and so is one with a reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.rows import UNIT, Fixed, Granularity, Output


@dataclasses.dataclass(frozen=True)
class Op:
    """What the engine knows of one TensorFlow op."""

    output: Output = Output.OWN
    name: str | None = None
    """The name of its rounding in keys, the same for ops that stand in for one another (Keras picks
    by static shape); its own type if None.
    """
    kernel: Granularity | None = None
    """It computes sums of products. An input that depends on weights and constants only is its
    kernel, with scales over these elements.
    """
    adds: bool = False
    """Behind a kernel, a constant per channel becomes the bias of the integer op."""
    absorbs_relu: bool = False
    absorbed: bool = False
    """A ReLU: part of the integer op before it."""
    keeps_channels: bool = False
    """Of those that move: the last axis stays what it is, so a bias may follow behind."""
    hides: bool = False
    """It has an inside of its own, so it is refused even where it gives no floats."""
    fixed: Fixed | None = None
    refuses: Callable[[tf.Operation], str | None] = lambda op: None
    """The reason why this one cannot be done, or None."""
    in_file: Callable[[tf.Operation, Sequence[tf.Tensor]], Sequence[tf.Tensor]] | None = None
    """The same by ops that have integer kernels, for a file. (its op, its inputs) -> its outputs,
    none where the op itself will do."""


def _refused(reason: str, hides: bool = False) -> Op:
    return Op(refuses=lambda op: reason, hides=hides)


def _flat_kernel(op: tf.Operation) -> str | None:
    if op.get_attr("data_format") not in (b"NHWC", b"NWC"):
        return "data_format is not channels_last"
    return None


def _floats_to_floats(op: tf.Operation) -> str | None:
    if op.inputs[0].dtype.is_floating:
        return None
    return "its floats are made of integers or booleans inside the layer"


def _padded_with_zero(op: tf.Operation) -> str | None:
    value = tf.get_static_value(op.inputs[2])
    return None if value == 0 else "it pads with other numbers than zero"


def _by_a_number(op: tf.Operation) -> str | None:
    value = tf.get_static_value(op.inputs[1])
    if value is not None and value.size == 1 and value.item():
        return None
    return "LiteRT has no integer division but by a number; multiply by the reciprocal"


def _two(op: tf.Operation) -> str | None:
    return None if len(op.inputs) <= 2 else "a sum of more than two tensors at once"


Tensors = Sequence[tf.Tensor]


def _negated(op: tf.Operation, inputs: Tensors) -> Tensors:
    return [inputs[0] * tf.constant(-1.0, inputs[0].dtype)]


def _squared(op: tf.Operation, inputs: Tensors) -> Tensors:
    return [inputs[0] * inputs[0]]


def _added(op: tf.Operation, inputs: Tensors) -> Tensors:
    return [inputs[0] + inputs[1]] if len(inputs) == 2 else [tf.identity(inputs[0])]


def _multiplied(op: tf.Operation, inputs: Tensors) -> Tensors:
    factor = 1.0 / tf.get_static_value(op.inputs[1]).item()
    low, high = min(factor, 0.0), max(factor, 0.0)
    rounded = tf.quantization.fake_quant_with_min_max_args(tf.constant(factor), low, high)
    return [inputs[0] * tf.cast(rounded, inputs[0].dtype)]


def _as_prelu(op: tf.Operation, inputs: Tensors) -> Tensors:
    (x,) = inputs
    slopes = tf.fill((1,) * (x.shape.rank - 1), -op.get_attr("alpha"))
    return [tf.nn.relu(x) + slopes * tf.nn.relu(-x)]


def _gathered(op: tf.Operation, inputs: Tensors) -> Tensors:
    x = inputs[0]
    for axis in np.atleast_1d(tf.get_static_value(inputs[1])):
        x = tf.gather(x, list(reversed(range(x.shape[axis]))), axis=int(axis))
    return [x]


def _sliced(op: tf.Operation, inputs: Tensors) -> Tensors:
    """By slices, if a part is not used: the converter gives a scale to what is used only."""
    if all(tensor.consumers() for tensor in op.outputs):
        return []
    x = inputs[1] if op.type == "Split" else inputs[0]
    if op.type == "Unpack":
        axis = op.get_attr("axis")
        return [tf.gather(x, i, axis=axis) for i in range(len(op.outputs))]
    axis = int(tf.get_static_value(inputs[0] if op.type == "Split" else inputs[2]))
    parts, begin = [], 0
    for tensor in op.outputs:
        size = int(tensor.shape[axis])
        places = tf.constant(list(range(begin, begin + size)), tf.int32)  # of none no reals
        parts.append(tf.gather(x, places, axis=axis))
        begin += size
    return parts


_MOVES = Op(output=Output.SAME)
_PASSES = Op(output=Output.SAME, keeps_channels=True)
_JOINS = Op(output=Output.JOIN)
_MATMUL = Op(name="MatMul", kernel=Granularity.TENSOR, absorbs_relu=True)
_CONV = Op(kernel=Granularity.CHANNEL, absorbs_relu=True, refuses=_flat_kernel)
_ADD = Op(name="Add", adds=True, absorbs_relu=True)
_COMPUTES = Op()
_LOOP = _refused("a loop, whose inside stays in float", hides=True)
_BRANCH = _refused("a branch that the data decides, whose inside stays in float", hides=True)
_OPAQUE = _refused(
    "a function of its own (@tf.function), into which no rounding reaches", hides=True
)
_NO_KERNEL = _refused("LiteRT has no integer kernel for it")

OPS: dict[str, Op] = {
    # Kernels.
    "MatMul": _MATMUL,
    "BatchMatMul": _MATMUL,
    "BatchMatMulV2": _MATMUL,
    "BatchMatMulV3": _MATMUL,
    "Einsum": _MATMUL,
    "Conv2D": _CONV,
    "DepthwiseConv2dNative": dataclasses.replace(_CONV, kernel=Granularity.DEPTHWISE),
    "Conv2DBackpropInput": dataclasses.replace(_CONV, kernel=Granularity.TENSOR),
    "Conv3D": _refused("no scale per channel fits through the reshape of its kernel"),
    "Conv3DBackpropInputV2": _refused("LiteRT has no integer kernel for it"),
    # Sums and products.
    "Add": _ADD,
    "AddV2": _ADD,
    "BiasAdd": _ADD,
    "AddN": dataclasses.replace(_ADD, refuses=_two, in_file=_added),
    "Sub": Op(absorbs_relu=True),
    "Mul": _COMPUTES,
    "SquaredDifference": _COMPUTES,
    "Neg": Op(in_file=_negated),
    "Square": Op(in_file=_squared),
    "RealDiv": Op(refuses=_by_a_number, in_file=_multiplied),
    # Over axes.
    "Mean": _COMPUTES,
    "Sum": _COMPUTES,
    "Max": _MOVES,
    "Min": _MOVES,
    "MaxPool": _MOVES,
    "AvgPool": Op(output=Output.SHARED),
    # Functions of one number.
    "Relu": Op(absorbed=True),
    "Relu6": Op(absorbed=True),
    "LeakyRelu": Op(in_file=_as_prelu),
    "Sigmoid": Op(fixed=UNIT),
    "Softmax": Op(fixed=UNIT),
    "Tanh": Op(fixed=Fixed(-1.0, 127 / 128)),
    "Exp": _COMPUTES,
    "Log": _COMPUTES,
    "Rsqrt": _COMPUTES,
    "Abs": _COMPUTES,
    "Elu": _NO_KERNEL,
    "Selu": _NO_KERNEL,
    "Softplus": _NO_KERNEL,
    "Softsign": _NO_KERNEL,
    "Sqrt": _NO_KERNEL,
    "Pow": _NO_KERNEL,
    "Erf": _NO_KERNEL,
    # What joins.
    "ConcatV2": _JOINS,
    "Pack": _JOINS,
    "Maximum": _JOINS,
    "Minimum": _JOINS,
    "SelectV2": _JOINS,
    # What only moves.
    "Identity": _PASSES,
    "IdentityN": _PASSES,
    "StopGradient": _PASSES,
    "PreventGradient": _PASSES,
    "EnsureShape": _PASSES,
    "Snapshot": _PASSES,
    "Cast": Op(output=Output.SAME, keeps_channels=True, refuses=_floats_to_floats),
    "Reshape": _PASSES,
    "ExpandDims": _PASSES,
    "Squeeze": _PASSES,
    "BatchToSpaceND": _PASSES,
    "SpaceToBatchND": _PASSES,
    "StridedSlice": _MOVES,
    "Slice": _MOVES,
    "Transpose": _MOVES,
    "GatherV2": _MOVES,
    "ResourceGather": _MOVES,
    "Pad": _MOVES,
    "PadV2": dataclasses.replace(_MOVES, refuses=_padded_with_zero),
    "MirrorPad": _MOVES,
    "Split": dataclasses.replace(_MOVES, in_file=_sliced),
    "SplitV": dataclasses.replace(_MOVES, in_file=_sliced),
    "Unpack": dataclasses.replace(_MOVES, in_file=_sliced),
    "Tile": _MOVES,
    "BroadcastTo": _MOVES,
    "DepthToSpace": _MOVES,
    "SpaceToDepth": _MOVES,
    "ReverseV2": dataclasses.replace(_MOVES, in_file=_gathered),
    "ResizeNearestNeighbor": _MOVES,
    # What has an inside that no rounding reaches.
    "While": _LOOP,
    "StatelessWhile": _LOOP,
    "If": _BRANCH,
    "StatelessIf": _BRANCH,
    "Case": _BRANCH,
    "StatelessCase": _BRANCH,
    "PartitionedCall": _OPAQUE,
    "StatefulPartitionedCall": _OPAQUE,
    "SymbolicGradient": _OPAQUE,
    "PyFunc": _refused("Python code, which no file can hold"),
    "EagerPyFunc": _refused("Python code, which no file can hold"),
    "PyFuncStateless": _refused("Python code, which no file can hold"),
}

COMPOSITES: dict[str, Op] = {"Gelu": _COMPUTES}
"""Functions that the converter knows by the ops they are made of, so that nothing is rounded
between: the scope that TensorFlow gives them -> the row of the whole.
"""


def rule_of(op: tf.Operation) -> Op | str:
    """The row of an op, or the reason why it cannot be done."""
    row = OPS.get(op.type)
    if row is None:
        return f"TensorFlow's {op.type} is not in the table of ops"
    reason = row.refuses(op)
    return row if reason is None else f"TensorFlow's {op.type}: {reason}"
