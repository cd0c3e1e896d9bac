"""From an operation to its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_compress.engines.in_place.graph import Node
from keras_compress.engines.in_place.rows import ActivationRow, Row
from keras_compress.engines.in_place.table import ACTIVATIONS, MOVES, OWN, TABLE
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.kernels import MADE_OF_OTHERS
from keras_compress.frameworks.protocols import KerasOperation

# Operations and layers that are nothing but an activation; those with None say which themselves.
ACTIVATION_KINDS: dict[str, str | None] = {
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
    activation = activation_name(adapter, operation, kind)
    if activation is not None and activation not in ACTIVATIONS:
        return f"activation {activation!r} is not in the placement table"
    if kind in ACTIVATION_KINDS:
        row = MOVES if activation is None else OWN  # None: Activation("linear")
    elif kind in TABLE:
        row = TABLE[kind]
    else:
        return f"{kind or type(operation).__name__} is not in the placement table"
    reasons = [row.refuses(operation), *map(row.refuses_call, calls)]
    reason = next((each for each in reasons if each is not None), None)
    if reason is not None:
        return f"{kind}: {reason}"
    for name, _ in row.kernels:
        if adapter.own_kernel(operation, name) is None:
            return f"{name!r} {MADE_OF_OTHERS}"
    return row, None if activation is None else ACTIVATIONS[activation]


def activation_name(adapter: Adapter, operation: Any, kind: str) -> str | None:
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
    if kind in ACTIVATION_KINDS and kind != "Activation":
        return ACTIVATION_KINDS[kind]
    function = getattr(operation, "activation", None) if kind else None
    if function is None:
        return None
    own_kind = adapter.kind(function)
    if own_kind in ACTIVATION_KINDS:  # a layer, given as the activation of another
        return activation_name(adapter, function, own_kind)
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", "")
    if not adapter.owns(module) and not module.startswith("tensorflow."):
        return f"{module}.{name}"  # a user's own, which may bear any name
    if name == "hard_sigmoid" and adapter.has_tfmot:  # the two Keras mean two functions
        return "steep_hard_sigmoid"
    return None if name == "linear" else _ALIASES.get(name, name)
