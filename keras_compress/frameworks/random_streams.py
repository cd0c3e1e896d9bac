"""Random numbers that go on when a training step is traced anew.

The layers of tf_keras draw with TensorFlow's stateful ops, and how far they are lives in the op: a
step that is traced anew would draw other numbers than a plain fit, which never is. Here a draw is
the stateless op of the same algorithm (Philox, Salmon et al., "Parallel Random Numbers: As Easy as
1, 2, 3", 2011) with its place in a variable, so that each number is the one that the stateful op
would have given. Keras 3 keeps variables itself.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

PHILOX = 1
"""What TensorFlow calls the algorithm in the op."""

RESERVED = 256
"""Places of the stream that a stateful op leaves behind itself for each number it gives
(`ReserveRandomOutputs(size, 256)` in TensorFlow's random_op.cc).
"""

Draw = tuple[int, str, tuple[int | None, ...]]
"""A generator, what it draws, the static shape of that."""

RawOp = Callable[..., tf.Tensor]

_aside = threading.local()


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
    """While inside, this thread's draws are TensorFlow's own: of a trace that nobody runs."""
    before, _aside.now = getattr(_aside, "now", False), True
    try:
        yield
    finally:
        _aside.now = before


@dataclasses.dataclass(frozen=True)
class Stream:
    """The numbers that one stateful op would give.

    Args:
        seeds: the op's attributes `seed` and `seed2`.
        place: a scalar int64 variable.
    """

    seeds: tuple[int, int]
    place: tf.Variable

    @classmethod
    def beginning(cls, seeds: tuple[int, int]) -> Stream:
        # Private: `tf.Variable` asks the function that is being traced, which wants all variables
        # to be made by its first trace; this class itself asks nobody.
        from tensorflow.python.ops.resource_variable_ops import ResourceVariable

        with tf.init_scope():
            return cls(seeds, ResourceVariable(0, dtype=tf.int64, trainable=False, name="place"))

    def draw(self, op: RawOp, shape: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """The next numbers of a shape, by a stateless raw op of TensorFlow."""
        shape = tf.convert_to_tensor(shape, tf.int32)
        skipped = tf.reduce_prod(tf.cast(shape, tf.int64)) * RESERVED
        place = tf.convert_to_tensor(self.place.assign_add(skipped)) - skipped
        key, upper = (tf.constant(seed, tf.uint64) for seed in self.seeds)
        counter = tf.stack([tf.bitcast(place, tf.uint64), upper])
        return op(shape=shape, key=[key], counter=counter, alg=PHILOX, dtype=dtype)


@dataclasses.dataclass
class _Trace:
    """What one trace draws of one kind, shape and layer, in turn."""

    graph: weakref.ref[Any]
    streams: list[Stream]
    drawn: int = 0


class RandomStreams:
    """The streams of one model's random layers.

    A trace of ours goes on with the streams of the trace in whose place it comes. What Keras
    traces itself, as for batches of another shape, begins its own ones, as in a plain fit.
    """

    def __init__(self) -> None:
        self._kept: dict[Draw, list[list[Stream]]] = {}
        """Of the traces before `traced_anew`, in turn."""
        self._traces: dict[Draw, list[_Trace]] = collections.defaultdict(list)
        """Those since then."""

    def traced_anew(self) -> None:
        """From now on traces come in the place of those before."""
        with tf.init_scope():
            for draw, traces in self._traces.items():
                # The first call of a function may trace it twice, and run the second one alone.
                ran = [
                    trace.streams
                    for trace in traces
                    if any(stream.place.numpy() for stream in trace.streams)
                ]
                self._kept[draw] = ran + self._kept.get(draw, [])[len(traces) :]
        self._traces.clear()

    @contextlib.contextmanager
    def going_on(self, generators: Iterable[Any]) -> Iterator[None]:
        """While inside, in a graph, these `RandomGenerator`s of tf_keras draw from the streams."""
        generators = list(generators)
        methods: dict[str, Callable[..., Any]] = {
            "dropout": self._dropout,
            "random_normal": self._normal,
            "random_uniform": self._uniform,
        }
        for generator in generators:
            # In the instance, past its own `__setattr__`, which keeps account of what it holds.
            vars(generator).update(
                {name: functools.partial(method, generator) for name, method in methods.items()}
            )
        try:
            yield
        finally:
            for generator in generators:
                for name in methods:
                    vars(generator).pop(name, None)

    def _stream(self, generator: Any, kind: str, shape: Any) -> Stream | None:
        """The stream of a draw that is being traced; None if it has to be TensorFlow's own."""
        if tf.executing_eagerly() or getattr(_aside, "now", False):
            return None
        draw = id(generator), kind, _known(shape)
        trace = self._trace(draw)
        if trace.drawn == len(trace.streams):
            seeds = tf.compat.v1.random.get_seed(generator.make_legacy_seed())
            if None in seeds:  # nobody gave one: no two trainings are equal
                return None
            trace.streams.append(Stream.beginning(seeds))
        trace.drawn += 1
        return trace.streams[trace.drawn - 1]

    def _trace(self, draw: Draw) -> _Trace:
        """That of the function that is being traced, loops and branches in it included."""
        graph: Any = tf.compat.v1.get_default_graph()
        while hasattr(graph.outer_graph, "outer_graph"):  # not so outside of all functions
            graph = graph.outer_graph
        traces, kept = self._traces[draw], self._kept.get(draw, [])
        for trace in traces:
            if trace.graph() is graph:
                return trace
        streams = kept[len(traces)] if len(traces) < len(kept) else []
        traces.append(_Trace(weakref.ref(graph), streams))
        return traces[-1]

    def _dropout(self, generator: Any, inputs: Any, rate: Any, noise_shape: Any = None) -> Any:
        shape = inputs.shape if noise_shape is None else noise_shape
        stream = self._stream(generator, "dropout", shape)
        if stream is None:
            return type(generator).dropout(generator, inputs, rate, noise_shape)
        op = tf.raw_ops.StatelessRandomUniformV2
        return tf.nn.experimental.general_dropout(
            inputs,
            rate=rate,
            noise_shape=noise_shape,
            uniform_sampler=lambda shape, dtype: stream.draw(op, shape, dtype),
        )

    def _normal(
        self,
        generator: Any,
        shape: Any,
        mean: float = 0.0,
        stddev: float = 1.0,
        dtype: Any = None,
        nonce: int | None = None,
    ) -> Any:
        stream = self._stream(generator, "normal", shape)
        if stream is None:
            return type(generator).random_normal(generator, shape, mean, stddev, dtype, nonce)
        numbers = stream.draw(tf.raw_ops.StatelessRandomNormalV2, shape, _floating(dtype))
        return numbers * tf.cast(stddev, numbers.dtype) + tf.cast(mean, numbers.dtype)

    def _uniform(
        self,
        generator: Any,
        shape: Any,
        minval: float = 0.0,
        maxval: float | None = None,
        dtype: Any = None,
        nonce: int | None = None,
    ) -> Any:
        stream = self._stream(generator, "uniform", shape)
        if stream is None:
            return type(generator).random_uniform(generator, shape, minval, maxval, dtype, nonce)
        numbers = stream.draw(tf.raw_ops.StatelessRandomUniformV2, shape, _floating(dtype))
        low = tf.cast(minval, numbers.dtype)
        high = tf.cast(1.0 if maxval is None else maxval, numbers.dtype)
        return numbers * (high - low) + low


def _known(shape: Any) -> tuple[int | None, ...]:
    """What is known of a shape in the trace; it may be a tensor, or have some in it."""
    if tf.is_tensor(shape):
        shape = tf.get_static_value(shape, partial=True)
        if shape is None:
            return (None,)
    return tuple(size if isinstance(size, int) else None for size in map(_number, shape))


def _number(size: Any) -> Any:
    return tf.get_static_value(size) if tf.is_tensor(size) else size


def _floating(dtype: Any) -> tf.DType:
    import tf_keras

    return tf.as_dtype(dtype or tf_keras.backend.floatx())
