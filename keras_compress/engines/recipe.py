"""What pruning and quantization change in the optimizer's updates: a multiple of its learning rate,
and where it begins anew. Without either nothing is added to a step.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_compress.frameworks.updates import Updates

if TYPE_CHECKING:
    from keras_compress.engines.engine import Engine

NEVER = -(2**62)
"""As the update before which the optimizer begins anew: all that it counts, counts."""


class Recipe:
    """Of one engine's model.

    What holds at an update follows from our own count of them, which stands in the graph: it is
    right inside of an execution of many steps, and in a run that is resumed.

    Attributes:
        optimizer: what updates the weights where it is not the one that the model was compiled
            with, in a loop of the user's own; None: that one.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self.optimizer: Any = None
        self._restarted: tf.Variable | None = None
        self._traced_with: object = None
        if self.restarts:
            with engine.model.distribute_strategy.scope():
                self._restarted = tf.Variable(NEVER, dtype=tf.int64, trainable=False)
        factor = self._factor if self.has_factor else None
        self.updates = Updates(factor, self._forgotten if self.restarts else None)

    # --- what is asked for

    @property
    def has_factor(self) -> bool:
        """Whether some update is made with a multiple of the learning rate."""
        specs = self._asked.values()
        return any(spec is not None and spec.learning_rate_factor is not None for spec in specs)

    @property
    def restarts(self) -> bool:
        """Whether the optimizer begins anew somewhere."""
        return any(spec is not None and spec.restart_optimizer for spec in self._asked.values())

    @property
    def asks(self) -> bool:
        return self.has_factor or self.restarts

    @property
    def _asked(self) -> dict[str, Any]:
        return self._engine.asked

    @property
    def used(self) -> Any:
        """The optimizer of the next update; None where nobody knows it."""
        return self.optimizer or getattr(self._engine.model, "optimizer", None)

    def planned(self, quantized_from: int | None) -> tuple[list[tuple[int, float]], list[int]]:
        """([(update, factor from it on)], [update before which the optimizer begins anew]), both in
        order, of a plan whose first rounded update is known.
        """
        pruned_from, pruned, quantized = self._factors()
        factors = []
        if pruned is not None and pruned_from is not None:
            factors.append((pruned_from, pruned))
        if quantized is not None and quantized_from is not None:
            factors = [each for each in factors if each[0] < quantized_from]
            factors.append((quantized_from, quantized))
        froms = {"pruning": pruned_from, "quantization": quantized_from}
        restarts = {
            froms[name]
            for name, spec in self._asked.items()
            if spec is not None and spec.restart_optimizer
        }
        return factors, sorted(each for each in restarts if each is not None)

    def check(self, owner: str = "Compress") -> None:
        """Refuse an optimizer with which this cannot be done.

        Raises:
            ValueError: naming it, and the reason.
        """
        if not self.asks or self.used is None:
            return
        adapter = self._engine.adapter
        why = adapter.why_not_changed(self.used)
        asked = "learning_rate_factor" if self.has_factor else "restart_optimizer"
        if why is None and self.restarts:
            why, asked = adapter.why_not_begun_anew(self.used), "restart_optimizer"
        if why is not None:
            raise ValueError(
                f"{owner}: `{asked}` must be left at its default with this optimizer, which {why}. "
                f"Received: {asked} with optimizer={type(self.used).__name__}"
            )

    # --- inside of a step

    def updating(self) -> contextlib.AbstractContextManager[None]:
        """While inside, the optimizer makes its updates as it is asked for."""
        if not self.asks or self.used is None:
            return contextlib.nullcontext()
        self._traced_with = self._holding
        self.updates.were_made = self.updates.rate_was_read = False
        return self._engine.adapter.making(self.used, self.updates)

    def check_it_was_done(self) -> None:
        """Refuse a step that would have gone another way without a word.

        Raises:
            RuntimeError: no update inside of it was the optimizer's, or has asked it for its rate.
        """
        if not self.asks or not any(each.trainable for each in self._engine.model.weights):
            return
        what = "" if self.updates.were_made else "made no update"
        if self.has_factor and not self.updates.rate_was_read:
            what = what or "was not asked for its learning rate"
        if what:
            raise RuntimeError(
                "Compress: with a `learning_rate_factor` or `restart_optimizer` the updates must "
                "be made by the optimizer that is known here, by its `apply_gradients` or `apply`, "
                "and a compiled step be traced inside of a step of ours. Received: a step in which "
                f"{type(self.used).__name__} {what}"
            )

    @property
    def is_stale(self) -> bool:
        """Whether the step was traced by what holds no more."""
        return self._traced_with not in (None, self._holding)

    @property
    def _holding(self) -> tuple[object, ...]:
        """What a trace of now goes by."""
        first, pruned, quantized = self._factors()
        return first, pruned, quantized, self._engine.phase.rounds and quantized is not None

    def _factors(self) -> tuple[int | None, float | None, float | None]:
        """(update of the first mask, factor from it on, factor of rounded updates)."""
        pruning, quantization = self._engine.pruning, self._engine.quantization
        pruned = None if pruning is None else pruning.learning_rate_factor
        quantized = None if quantization is None else quantization.learning_rate_factor
        return self._engine.timetable.pruned_from, pruned, quantized

    def _factor(self) -> tf.Tensor:
        """The multiple of this update, whose number the counter has."""
        first, pruned, quantized = self._factors()
        if quantized is not None and self._engine.phase.rounds:
            return tf.constant(quantized)
        if pruned is None or first is None:
            return tf.constant(1.0)
        return tf.where(self._update() >= first, tf.constant(pruned), tf.constant(1.0))

    def _forgotten(self, own: tf.Tensor) -> tf.Tensor:
        """How much of the optimizer's own count was made before it began anew. A new optimizer,
        which a `compile` since then has given the model, has counted less than lies behind that.
        """
        since = self._update() - 1 - tf.convert_to_tensor(self._restarted)
        return tf.maximum(own - tf.cast(since, own.dtype), tf.zeros((), own.dtype))

    def _update(self) -> tf.Tensor:
        return tf.convert_to_tensor(self._engine.counter)

    # --- between two steps

    @property
    def restarted_at(self) -> int | None:
        """The update after which the optimizer began anew for the last time; None: never."""
        if self._restarted is None:
            return None
        at = int(self._restarted.numpy())
        return None if at == NEVER else at

    @restarted_at.setter
    def restarted_at(self, update: int | None) -> None:
        if self._restarted is not None:
            self._restarted.assign(NEVER if update is None else update)

    def next_restart(self, done: int) -> int | None:
        """The update after `done` before which the optimizer begins anew, as far as it is known."""
        engine = self._engine
        edges = []
        if engine.pruning is not None and engine.pruning.restart_optimizer:
            edges.append(engine.timetable.pruned_from)
        if engine.quantization is not None and engine.quantization.restart_optimizer:
            edges.append(engine.switched_at)
        later = [edge for edge in edges if edge is not None and edge > done]
        return min(later, default=None)

    def restart_if_due(self, done: int, span: int) -> bool:
        """Let the optimizer begin anew if it has to before one of the updates `done + 1` ..
        `done + span`, which run in one execution. Whether it did.
        """
        edge = self.next_restart(done) if self.restarts else None
        if edge is None or edge > done + span:
            return False
        last = self.restarted_at
        if last is not None and edge - span <= last and self.next_restart(last) == edge:
            return False  # for this one, before an execution that was shorter than it might be
        engine = self._engine
        if self.used is not None and engine.adapter.begin_anew(self.used, engine.model):
            engine.retrace()
        self.restarted_at = done
        return True
