"""The layers inside of a unit: told apart while it is traced dry, and while it runs."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast

import tensorflow as tf

from keras_compress.engines.in_place.by_ops.op_plan import OpPlan, plan_ops
from keras_compress.engines.in_place.by_ops.pieces import LeafCall, Place, Refused
from keras_compress.engines.in_place.lookup import known
from keras_compress.engines.in_place.rows import ActivationRow, Output, Row
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.graphs import is_layer
from keras_compress.frameworks.graph_capture import DryTrace
from keras_compress.frameworks.protocols import KerasLayer, KerasOperation, Method
from keras_compress.frameworks.wrap_method import wrap_method


class Run(Protocol):
    """Whoever runs a unit to a graph, and is told when a layer inside is called."""

    graph: tf.Graph | None
    """None for one that does not care which."""

    def leaf(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A layer that counts as one op."""

    def inner(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Any other."""


class _Silent:
    """Runs what is inside of a leaf, which is nobody's business."""

    graph = None

    def leaf(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return original(*args, **kwargs)

    inner = leaf


_INSIDE_A_LEAF = _Silent()


class Insides:
    """The layers inside of units, patched so that whoever runs a unit learns of their calls.

    Those of the table that have no kernel are *leaves*: one op each, whatever they are made of,
    which may differ between training and inference. What has a kernel goes by its ops.
    """

    def __init__(self, adapter: Adapter, units: Iterable[KerasOperation]):
        self._adapter = adapter
        self._local = threading.local()
        self.below: dict[int, list[tuple[str, KerasLayer]]] = {}
        """id of a unit -> (path below it, layer), itself first."""
        self._leaves: dict[int, tuple[KerasLayer, str, Row, ActivationRow | None]] = {}
        self._keep = list(units)
        for unit in self._keep:
            below: list[tuple[str, Any]] = [("", unit)]
            if is_layer(unit):
                below += list(adapter.layers(cast(KerasLayer, unit)))
            self.below[id(unit)] = below
            for _, layer in below[1:]:
                found = known(adapter, layer) if layer.built else ""
                if isinstance(found, tuple) and self._is_leaf(found[0]):
                    self._leaves[id(layer)] = (layer, adapter.kind(layer), *found)

    @staticmethod
    def _is_leaf(row: Row) -> bool:
        return not row.kernels and row.output is not Output.JOIN

    def patch(self) -> list[Callable[[], None]]:
        """Returns what undoes it."""
        every = {id(layer): layer for below in self.below.values() for _, layer in below[1:]}
        return [
            wrap_method(layer, "call", functools.partial(self._patched, layer))
            for layer in every.values()
        ]

    def _patched(self, layer: KerasLayer, original: Method) -> Method:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            run = self.current
            if run is None or run.graph not in (None, tf.compat.v1.get_default_graph()):
                return original(*args, **kwargs)  # or in a loop, whose inside is a graph of its own
            if id(layer) not in self._leaves:
                return run.inner(layer, original, args, kwargs)
            with self.running(_INSIDE_A_LEAF):
                return run.leaf(layer, original, args, kwargs)

        return call

    @property
    def current(self) -> Run | None:
        return getattr(self._local, "run", None)

    @contextlib.contextmanager
    def running(self, run: Run | None) -> Iterator[None]:
        before, self._local.run = self.current, run
        try:
            yield
        finally:
            self._local.run = before

    def plan(
        self,
        unit: KerasOperation,
        original: Method,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        left: Collection[str] = (),
    ) -> OpPlan:
        """Trace a call dry and plan it. `left`: the paths below it of what stays in float.

        Raises:
            Refused: its inside cannot be quantized.
        """
        dry = _Dry(self, self.below[id(unit)])
        layers = [layer for _, layer in self.below[id(unit)]]
        with self._adapter.traceless(layers), self.running(dry):
            try:
                trace = DryTrace(lambda: dry.begin(original, args, kwargs))
            except Exception as error:  # a user's own code, which may need more than a trace gives
                first = next(iter(str(error).strip().splitlines()), "")
                where = f"in {dry.failing!r}: " if dry.failing else ""
                raise Refused(
                    f"{where}its call cannot be traced on its own ({type(error).__name__}: {first})"
                ) from error
        return plan_ops(trace, tensors_of((args, kwargs)), dry.calls, dry.places, left)

    def weights_of(self, layer: KerasOperation) -> Iterator[tuple[str, tf.Variable]]:
        """(name, variable) of the weights that a layer made itself."""
        for variable in getattr(layer, self._adapter.own_weights, ()):
            name = variable.name.rpartition("/")[2].partition(":")[0]
            yield name, self._adapter.tf_variable(variable)

    def leaf_call(
        self, layer: KerasLayer, given: tf.Tensor, outputs: Any, first: int, last: int
    ) -> LeafCall | None:
        """A call of a leaf; None for one that gave its input back."""
        flat = tensors_of(outputs)
        if any(tensor is given for tensor in flat):
            return None
        return LeafCall(layer, *self._leaves[id(layer)][1:], given, flat, first, last)


class _Dry:
    """One dry trace under way."""

    def __init__(self, insides: Insides, below: Sequence[tuple[str, KerasLayer]]):
        self._insides = insides
        self._paths = {id(layer): path for path, layer in below}
        self.graph: tf.Graph | None = None
        self.calls: list[LeafCall | None] = []
        self.places: list[Place] = []
        self.failing = ""
        """The path of the innermost layer that raised."""

    def begin(self, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.graph = tf.compat.v1.get_default_graph()
        return original(*args, **kwargs)

    def leaf(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        outputs = self.inner(layer, original, args, kwargs)
        given = only_number((args, kwargs))
        if given is not None:
            place = self.places[-1]
            call = self._insides.leaf_call(layer, given, outputs, place.first, place.last)
            self.calls.append(call)
        return outputs

    def inner(
        self, layer: KerasLayer, original: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path, first = self._paths[id(layer)], self._count
        try:
            outputs = original(*args, **kwargs)
        except Exception:
            self.failing = self.failing or path
            raise
        self.places.append(Place(path, first, self._count))
        return outputs

    @property
    def _count(self) -> int:
        return len(cast(tf.Graph, self.graph).get_operations())


def tensors_of(structure: Any) -> list[tf.Tensor]:
    return [part for part in tf.nest.flatten(structure) if tf.is_tensor(part)]


def only_number(structure: Any) -> tf.Tensor | None:
    """The one floating tensor in a structure; None where there are several or none."""
    floats = [tensor for tensor in tensors_of(structure) if tensor.dtype.is_floating]
    return floats[0] if len(floats) == 1 else None
