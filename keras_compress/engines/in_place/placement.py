"""Where the quantizers go: one table, and the walk over the graph that reads it.

A new layer is taught in one row. The rules behind the rows are those of TFLite's integer kernels:
every tensor between two integer ops has a scale; a convolution's batch norm and ReLU become part of
it, so nothing is rounded between them; ops that only move numbers keep their input's scale;
softmax, sigmoid and tanh have fixed scales
(https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Callable, Collection
from typing import Any

from keras_compress.engines.in_place import forms
from keras_compress.engines.in_place.graph import Graph, Node
from keras_compress.frameworks.adapter import Adapter


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


@dataclasses.dataclass
class OperationPlan:
    """What happens to one operation; quantizers go by their keys in `Placement.quantizers`."""

    operation: Any
    path: str
    key: str
    """Position and class, the stem of all keys that belong to this operation."""
    row: Row
    activation: ActivationRow | None = None
    kernels: dict[str, Granularity] = dataclasses.field(default_factory=dict)
    before: str | None = None
    """Rounds before the layer's own activation."""
    output: str | None = None
    joined: str | None = None
    """Rounds every input, and so the output."""
    rescales: dict[int, int] = dataclasses.field(default_factory=dict)
    """The inputs that come with a range of their own, and a number for each, from 1 over the model.
    """
    inner: dict[str, str] = dataclasses.field(default_factory=dict)
    """Role inside the form -> key."""
    source: str | None = None
    """What rounded the input that its kernel meets; None if that differs between calls."""
    norm: OperationPlan | None = None
    """The batch norm behind that becomes part of this layer."""
    front: OperationPlan | None = None
    """The layer that this batch norm becomes part of."""


@dataclasses.dataclass
class Placement:
    """Where every quantizer of a model goes."""

    operations: list[OperationPlan]
    inputs: list[str | None]
    """The quantizer of each flat input; None for one that is not floating."""
    outputs: list[str | None]
    """The quantizer of each flat output; None for one that stays in float."""
    quantizers: dict[str, Fixed | None]
    """Key -> the range, None for one that follows its tensor."""
    nonnegative: set[str]
    """The quantizers whose tensors are never below zero."""
    left_out: dict[str, str]
    """Path -> why this one stays in float."""


def place(
    graph: Graph, adapter: Adapter, allowed: Collection[str] | None, reason: str = ""
) -> Placement:
    """Decide for every operation of a graph what is rounded, and with which range.

    `allowed`: the paths that may be quantized (None: all); the others stay in float, with `reason`.
    """
    rows: dict[int, tuple[Row, ActivationRow | None]] = {}
    left_out: dict[str, str] = {}
    for path, operation in graph.operations():
        found = known(adapter, operation)
        if allowed is not None and path not in allowed:
            found = reason
        if isinstance(found, str):
            left_out[path] = found
        else:
            rows[id(operation)] = found
    return _Walk(graph, adapter, rows).placement(left_out)


def known(adapter: Adapter, operation: Any) -> tuple[Row, ActivationRow | None] | str:
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


class _Walk:
    """One placement under way."""

    def __init__(self, graph: Graph, adapter: Adapter, rows: dict):
        self.graph = graph
        self.rows = rows
        self.quantizers: dict[str, Fixed | None] = {}
        self.plans: dict[int, OperationPlan] = {}
        for position, (path, operation) in enumerate(graph.operations()):
            row, activation = rows.get(id(operation), (Row(), None))
            key = f"{position}/{adapter.kind(operation) or type(operation).__name__}"
            self.plans[id(operation)] = OperationPlan(operation, path, key, row, activation)

    def placement(self, left_out: dict[str, str]) -> Placement:
        inputs = []
        for i, tensor in enumerate(self.graph.inputs):
            floating = self.graph.is_floating[tensor]
            inputs.append(self._new(f"input/{i}") if floating else None)
        self.inputs = dict(zip(self.graph.inputs, inputs, strict=True))
        for plan in self.plans.values():
            if self._is_known(plan.operation):
                self._place(plan)
            elif any(self._feeds_integers(t) for n in self._nodes(plan) for t in n.outputs):
                plan.output = self._new(f"{plan.key}/output")
        for plan in self.plans.values():  # after all others, whose ranges these ones share
            if self._is_known(plan.operation) and plan.row.output is Output.SHARED:
                sources = {self._source(node.inputs[0]) for node in self._nodes(plan)}
                (plan.output,) = (
                    sources if len(sources) == 1 else (self._new(f"{plan.key}/output"),)
                )
        numbers = itertools.count(1)
        for plan in self.plans.values():
            calls = [[self._source(t) for t in node.inputs] for node in self._nodes(plan)]
            if plan.joined is not None:
                # A shared Concatenate rescales an input if any of its calls has to.
                rescaled = sorted({i for keys in calls for i, key in enumerate(keys) if key})
                plan.rescales = {i: next(numbers) for i in rescaled}
            if len({tuple(keys) for keys in calls}) == 1 and calls[0]:
                plan.source = plan.inner.get("between", calls[0][0])
        outputs = [self._source(tensor) for tensor in self.graph.outputs]
        nonnegative = {
            plan.output
            for plan in self.plans.values()
            if plan.output and plan.activation is not None and plan.activation.absorbed
        }
        return Placement(
            list(self.plans.values()), inputs, outputs, self.quantizers, nonnegative, left_out
        )

    def _place(self, plan: OperationPlan) -> None:
        row, activation = plan.row, plan.activation
        plan.kernels = dict(row.kernels)
        self._fold(plan)
        for role, fixed in row.inner(self._nodes(plan)[0]).items():
            plan.inner[role] = self._new(f"{plan.key}/{role}", fixed)
        if activation is not None:
            for role, fixed in activation.inner:
                plan.inner[role] = self._new(f"{plan.key}/{role}", fixed)
            if row.kernels and not activation.absorbed:
                plan.before = self._new(f"{plan.key}/before")
        if row.output is Output.JOIN:
            plan.inner["join"] = plan.joined = self._new(f"{plan.key}/join")
        elif row.output is Output.OWN and not self._rounded_later(plan):
            fixed = activation.output if activation is not None else None
            plan.output = self._new(f"{plan.key}/output", fixed)

    def _fold(self, plan: OperationPlan) -> None:
        """Merge a batch norm with the kernel layer before it, where nothing else sees the tensor
        between.
        """
        if not plan.kernels or plan.activation is not None:
            return
        follower = self.graph.only_consumer(plan.operation)
        if follower is None or not self._is_known(follower):
            return
        after = self.plans[id(follower)]
        if after.row is TABLE["BatchNormalization"]:
            plan.norm, after.front = after, plan
            if plan.row is TABLE["Dense"]:
                plan.kernels = dict.fromkeys(plan.kernels, Granularity.CHANNEL)

    def _rounded_later(self, plan: OperationPlan) -> bool:
        """Whether what comes next is part of the same integer op, or rounds this output itself."""
        follower = self.graph.only_consumer(plan.operation)
        if follower is None or not self._is_known(follower):
            return False
        after = self.plans[id(follower)]
        if after.row.output is Output.JOIN:
            return plan.activation is None or plan.activation.output is None
        if after.row is TABLE["BatchNormalization"]:
            return bool(plan.kernels) and plan.activation is None
        absorbed = after.activation is not None and after.activation.absorbed
        return (
            absorbed and not after.row.kernels and plan.row.absorbs_relu and plan.activation is None
        )

    def _feeds_integers(self, tensor: int) -> bool:
        """Whether an integer op computes with this tensor, perhaps after others moved it."""
        for node in self.graph.consumers[tensor]:
            if self._is_known(node.operation):
                row, _ = self.rows[id(node.operation)]
                if row.output is not Output.SAME or any(map(self._feeds_integers, node.outputs)):
                    return True
        return False

    def _source(self, tensor: int) -> str | None:
        """The key of the range that a tensor has."""
        node = self.graph.producer.get(tensor)
        if node is None:
            return self.inputs[tensor]
        plan = self.plans[id(node.operation)]
        if plan.row.output in (Output.SAME, Output.SHARED) and self._is_known(node.operation):
            return self._source(node.inputs[0])
        return plan.joined or plan.output

    def _is_known(self, operation: Any) -> bool:
        return id(operation) in self.rows

    def _nodes(self, plan: OperationPlan) -> list[Node]:
        return self.graph.nodes_of[id(plan.operation)]

    def _new(self, key: str, fixed: Fixed | None = None) -> str:
        self.quantizers[key] = fixed
        return key
