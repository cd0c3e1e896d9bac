"""A form is a second way to compute what a layer computes, so it is compared with the first before
it is put to use.

With nothing rounded, both get the same numbers; a form that does not give the layer's own, because
of an argument that it does not know, say, is refused by name instead of training another network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.forms.call import ActivationCall, Call, Constant, number
from keras_compress.engines.in_place.graph import Node
from keras_compress.engines.in_place.rows import ActivationRow, Row
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.graphs import is_layer
from keras_compress.frameworks.devices import whole_float32

ROWS = 3
FREE = 8
"""What an open dimension counts as."""
SMALLEST = 1e-6
"""What the largest number of any other counts as at least."""
SPAN = 4.0
"""Numbers are drawn from -SPAN to SPAN, where every activation bends."""
NORMAL = 10.0
"""What the numbers of a batch norm count as at least: its smallest gamma must not be seen."""
CLOSE = 1e-4
"""The largest difference, as a share of the largest number: float32 and another order of sums."""


Checked = set[str]
"""The calls of one network that were compared, and whose form computes the same, in words: large
networks hold hundreds that differ by their weights alone.
"""


def differs(
    adapter: Adapter,
    nodes: Sequence[Node],
    row: Row,
    activation: ActivationRow | None,
    checked: Checked,
) -> str | None:
    """Why an operation's form may not stand in for it, or None. `nodes` are its calls."""
    if row.form is None and (activation is None or activation.form is None):
        return None
    for node in nodes:
        key = _described(adapter, node)
        if key in checked:
            continue
        try:
            difference = _difference(adapter, node, row, activation)
        except Exception as error:  # a form that cannot take what the layer takes
            what = " ".join(str(error).split())[:120]
            return f"its quantized form fails for these arguments ({type(error).__name__}: {what})"
        if not difference <= CLOSE:
            return (
                f"its quantized form does not compute the same: it differs by {difference:.2g} of "
                "the largest number"
            )
        if key is not None:
            checked.add(key)
    return None


def _described(adapter: Adapter, node: Node) -> str | None:
    """A call but for its weights and its name; None where Keras' own class and a config do not say
    all of it.
    """
    operation: Any = node.operation
    if not adapter.is_own(operation) or "call" in vars(operation):
        return None
    try:
        config = {**operation.get_config(), "name": None}
        function = getattr(operation, "activation", None)  # of which a config has only the name
        arguments = node.arguments([f"input {i}" for i in range(len(node.inputs))])
        found = tf.nest.map_structure(_in_words, (config, arguments))
        return repr((type(operation), function, node.shapes, found))
    except Exception:  # some of `keras.applications`' own layers have no config
        return None


def _in_words(value: object) -> str:
    if isinstance(value, np.ndarray) or tf.is_tensor(value):  # NumPy's own words leave most out
        numbers = np.asarray(value)
        return f"{numbers.dtype}{numbers.shape}{hashlib.sha256(numbers.tobytes()).hexdigest()}"
    return repr(value)


def _difference(adapter: Adapter, node: Node, row: Row, activation: ActivationRow | None) -> float:
    operation: Any = node.operation
    generator = np.random.default_rng(0)
    with tf.init_scope():
        inputs = [_drawn(generator, shape, dtype) for shape, dtype in node.shapes]
        if row.is_norm:  # numbers as it gets them, which become some of the order of 1
            deviation = tf.sqrt(tf.convert_to_tensor(operation.moving_variance) + operation.epsilon)
            inputs = [tf.convert_to_tensor(operation.moving_mean) + deviation * inputs[0]]
        args, kwargs = node.arguments(inputs)
        with adapter.in_float32(operation) if is_layer(operation) else whole_float32():
            difference = 0.0
            if row.form is not None:
                call = _call(adapter, operation, args, kwargs)
                least = NORMAL if row.is_norm else SMALLEST
                difference = _far(operation.call(*args, **kwargs), row.form(call), least)
            if activation is not None and activation.form is not None:
                function, x = _activation_of(adapter, operation, args, kwargs, inputs, generator)
                form = activation.form(
                    ActivationCall(x, function, _as_it_is, _constant(adapter), False)
                )
                difference = max(difference, _far(function(x), form))
    return difference


def _activation_of(
    adapter: Adapter,
    operation: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    inputs: list[tf.Tensor],
    generator: np.random.Generator,
) -> tuple[Callable[[tf.Tensor], tf.Tensor], tf.Tensor]:
    """The activation that an operation is or holds, and numbers for it."""
    function = getattr(operation, "activation", None)
    if function is not None:
        return function, _drawn(generator, (None, FREE), "float32")
    call = _call(adapter, operation, args, kwargs)
    return lambda x: call.run_on([x]), inputs[0]


def _call(adapter: Adapter, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return Call(
        operation,
        operation.call,
        args,
        kwargs,
        exporting=False,
        moves=False,
        quantize=_as_it_is,
        folded=False,
        constant=_constant(adapter),
        rescales={},
        offset_on_grid=lambda factor, offset: offset,
        of_weights=lambda compute: compute(),
    )


def _as_it_is(role: str, tensor: tf.Tensor) -> tf.Tensor:
    return tensor


def _constant(adapter: Adapter) -> Constant:
    def constant(
        value: object, shape: Sequence[int] | None = None, by_converter: bool = False
    ) -> tf.Tensor:
        return number(adapter, value, shape)

    return constant


def _drawn(generator: np.random.Generator, shape: Sequence[int | None], dtype: str) -> tf.Tensor:
    sizes = [ROWS, *(FREE if size is None else size for size in shape[1:])]
    if tf.as_dtype(dtype).is_floating:
        return tf.constant(generator.uniform(-SPAN, SPAN, sizes), tf.float32)
    return tf.constant(generator.integers(0, 2, sizes), dtype)


def _far(expected: Any, found: Any, least: float = SMALLEST) -> float:
    """The largest difference, as a share of the largest number, which counts as `least` at least;
    infinite for other shapes.
    """
    difference = 0.0
    for one, other in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
        a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if a.shape != b.shape:
            return np.inf
        largest = max(float(np.abs(a).max(initial=0.0)), least)
        difference = max(difference, float(np.abs(a - b).max(initial=0.0)) / largest)
    return difference
