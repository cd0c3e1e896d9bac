"""The user's own `train_step`, and what compression does around it: count, prune, watch, tell."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_compress.engines.state import Phase
from keras_compress.frameworks.protocols import Method

if TYPE_CHECKING:
    from keras_compress.engines.engine import Engine

LOG_NAMES = ("sparsity", "quantized")

logger = logging.getLogger("keras_compress")


class TrainStep:
    """The wrapped step of one engine's model, and the counter of its updates."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._traced_trainable: tuple[bool, ...] | None = None
        self._trained: tuple[object, dict[int, str]] | None = None
        """The optimizer when the step was last traced, and the weights that it trained: id -> name.
        """
        self._called_in: Phase | None = None
        """The last phase of which it is known that its steps call the model."""
        with engine.model.distribute_strategy.scope():
            self.counter = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")

    def around(self, original: Method) -> Method:
        """The model's `train_step` with ours around it."""
        engine = self._engine

        @functools.wraps(original)
        def train_step(data: Any) -> Any:
            if not engine.is_placed:
                engine.place_with(data)
            with contextlib.ExitStack() as following:
                # A dataset of unknown length ends in a step without a batch, which must not count.
                with tf.control_dependencies(_tensors(data)):
                    step = self._count()
                    if engine.quantizers is not None:
                        # Where ops are run as they are called, a function of the user's may have
                        # been traced in an earlier step.
                        eager = tf.executing_eagerly()
                        following.enter_context(engine.quantizers.training_step(eager))
                if not tf.executing_eagerly():  # where every step would look for all layers
                    self._check_what_is_trained()
                    by_ops = () if engine.quantizers is None else engine.quantizers.planned_by_ops
                    generators = engine.adapter.random_generators(engine.model, by_ops)
                    following.enter_context(engine.streams.going_on(generators))
                following.enter_context(engine.recipe.updating())
                with self._calling_the_model():
                    logs = original(data)
                engine.recipe.check_it_was_done()
            if engine.pruner is not None:
                engine.pruner.after_step(step)
            return self._with_ours(logs)

        return train_step

    @property
    def is_stale(self) -> bool:
        """Whether a kernel has thawed or frozen since the step was traced, or an update is made in
        another way.
        """
        return (
            self._traced_trainable not in (None, self._trainable()) or self._engine.recipe.is_stale
        )

    def _count(self) -> tf.Tensor | None:
        engine = self._engine
        if engine.timetable.has_fractions:
            raise ValueError(
                "Compress: steps must be ints outside of `fit`, whose length the fractions are of. "
                f"Received: {engine.pruning or ''} {engine.quantization or ''}"
            )
        if engine.pruner is None:
            # Not read: while off, this one op is all that is added to the plain graph.
            self.counter.assign_add(1, read_value=False)
            return None
        step = tf.convert_to_tensor(self.counter.assign_add(1))
        engine.pruner.before_step(step)
        self._traced_trainable = self._trainable()
        return step

    def _check_what_is_trained(self) -> None:
        """Notice what has become trainable, or frozen, since the step was last traced, for which a
        plain fit would wait for `compile`.

        Raises:
            ValueError: the optimizer does not know what has become trainable.
        """
        engine = self._engine
        adapter, model = engine.adapter, engine.model
        optimizer = getattr(model, "optimizer", None)
        now = {id(own): adapter.weight_name(own) for own in model.trainable_variables}
        of, before = self._trained or (None, now)
        self._trained = optimizer, now
        if of is not optimizer or now.keys() == before.keys():
            return
        known = {id(own) for own in adapter.slotted(adapter.at_work(optimizer), model)}
        new = [now[key] for key in now.keys() - before.keys() - known]
        if new and known:
            self._trained = of, before
            raise ValueError(
                "Compress: what `trainable` makes of a layer holds from the next `compile` on; the "
                "step is traced anew here, and its optimizer knows nothing of the weights that "
                "have become trainable without one. What can be done: compile the model, which "
                "ends the fit that is running; or leave `trainable` as it was. "
                f"Received: {sorted(new)}"
            )
        frozen = sorted(before[key] for key in before.keys() - now.keys())
        if frozen:
            logger.warning(
                "`trainable` was changed without `compile`: the step is traced anew here, and "
                "trains %s no longer, nor are their masks made anew.",
                frozen,
            )

    @contextlib.contextmanager
    def _calling_the_model(self) -> Iterator[None]:
        """What is inside calls the model, by which its inputs are rounded and ranges know that they
        are followed.

        Raises:
            ValueError: it does not, in the first step of a phase: later ones may be functions of
                the user's that were traced then.
        """
        engine = self._engine
        quantizers = engine.quantizers
        if quantizers is None or self._called_in is engine.phase:
            yield
            return
        calls, weights = quantizers.calls_of_model, list(engine.model.weights)
        before = [own.numpy() for own in weights] if tf.executing_eagerly() else []
        yield
        if calls is not None and quantizers.calls_of_model == calls:
            for own, value in zip(weights, before, strict=False):  # in a graph none has moved
                own.assign(value)
            raise ValueError(
                "Quantization: `train_step` must call the model itself, as `self(x, "
                "training=True)`, and anew whenever it is traced: what it computes by a part of "
                "the model, or by a function traced before, is not rounded as the file is. "
                f"Received: a step of {type(engine.model).__name__} without a call, while "
                f"quantization is {str(engine.phase)!r}. What can be done: call the model; or give "
                "the part that ships to `Compress`, as a model that is trained by itself"
            )
        self._called_in = engine.phase

    def _with_ours(self, logs: Any) -> Any:
        if not isinstance(logs, dict):  # a user's train_step may return anything
            return logs
        if taken := sorted(set(LOG_NAMES).intersection(logs)):
            raise ValueError(
                f"Compress: the logs of `train_step` must leave the names {list(LOG_NAMES)} to "
                f"what compression logs; call yours otherwise. Received: logs named {taken}"
            )
        engine = self._engine
        zero = tf.constant(0.0)
        sparsity = zero if engine.pruner is None else tf.convert_to_tensor(engine.pruner.sparsity)
        quantized = tf.constant(1.0 if engine.phase.rounds else 0.0)
        values = (engine.adapter.log_value(sparsity), engine.adapter.log_value(quantized))
        return {**logs, **dict(zip(LOG_NAMES, values, strict=True))}

    def _trainable(self) -> tuple[bool, ...]:
        pruner = self._engine.pruner
        return () if pruner is None else tuple(target.trainable for target in pruner.targets)


def _tensors(data: Any) -> list[tf.Tensor]:
    """The tensors of a batch, those inside sparse and ragged ones too."""
    return [part for part in tf.nest.flatten(data, expand_composites=True) if tf.is_tensor(part)]
