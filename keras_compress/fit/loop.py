"""A training loop of one's own: the life of a run without a `fit` that would tell of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import tensorflow as tf

from keras_compress.engines.engine import Engine
from keras_compress.engines.quantizers import STALE
from keras_compress.engines.state import Phase
from keras_compress.fit.run import Member, Run
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasCallbackList, KerasModel
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization


@dataclasses.dataclass
class NoCallbacks:
    """In the place of a `CallbackList`, with nobody in it."""

    params: dict[str, Any]
    callbacks: tuple[()] = ()


class Loop:
    """One training loop: begin, step, epoch end, finish, as a `fit` would go through them."""

    def __init__(
        self,
        member: Member,
        model: KerasModel,
        steps: int | None,
        pruning: Pruning | None,
        quantization: Quantization | None,
        optimizer: object = None,
    ):
        self._model = model
        self._own_optimizer = optimizer
        self._adapter = adapter_of(model, "Compress.begin")
        if not model.built:
            raise ValueError(
                "Compress.begin: `model` must be built; call it on a batch of data first. "
                f"Received: model={type(model).__name__} without weights"
            )
        replicas = model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "Compress.begin: a loop of one's own must run on one device, because nobody can "
                "tell when its replicas have to agree on their ranges; use `fit`. "
                f"Received: a model of a strategy with {replicas} replicas"
            )
        params = {"steps": steps, "epochs": 1}
        self._run = Run(model, self._adapter, cast(KerasCallbackList, NoCallbacks(params)))
        self._run.join(member, pruning, quantization)
        if self.engine is not None:
            self._take_optimizer(self.engine)
        self._run.epoch_begin(0)
        if self.engine is not None:
            self.engine.in_loop = True
        self._epochs = 0
        self._traced_in = Phase.OFF if self.engine is None else self.engine.phase
        """The last phase in which the network was seen to be called anew."""
        self._updates_as_asked = False

    @property
    def engine(self) -> Engine | None:
        return self._run.engine

    def _take_optimizer(self, engine: Engine) -> None:
        """Know which optimizer it is that is to go by the recipe.

        Raises:
            ValueError: nobody does.
        """
        engine.recipe.optimizer = self._own_optimizer
        if engine.recipe.asks and engine.recipe.used is None:
            self._run.withdraw()
            raise ValueError(
                "Compress.begin: `optimizer` must be given for a model that is not compiled, "
                "because a `learning_rate_factor` or `restart_optimizer` is about it. "
                "Received: optimizer=None"
            )

    @functools.cached_property
    def _before_step(self) -> Callable[[tf.Tensor], None]:
        """The part of the masks, compiled: it has an op for each kernel."""
        pruner = self.engine.pruner if self.engine is not None else None
        return tf.function(pruner.before_step) if pruner is not None else lambda step: None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around everything that one update of the weights takes.

        Raises:
            RuntimeError: there was not one update inside, or a compiled function that was traced in
                an earlier phase.
        """
        engine = self.engine
        self._run.step_begin()
        if engine is None:  # an export of a plain model
            yield
            return
        step, counted = engine.step + 1, self._count()
        with self._counting(engine, counted):
            yield
        moved = 1 if counted is None else (self._count() or 0) - counted
        if engine.step != step:
            moved = engine.step - step + 1
        # One that scales the loss leaves an update out now and then.
        if moved != 1 and not (moved == 0 and hasattr(self._optimizer, "inner_optimizer")):
            raise RuntimeError(
                "Compress.step: there must be one update of the weights inside, by your own code "
                "and not by `train_on_batch`, which counts for itself. "
                f"Received: {moved} updates"
            )

    @contextlib.contextmanager
    def _counting(self, engine: Engine, counted: int | None) -> Iterator[None]:
        """What the wrapped `train_step` does around an update, around one that it does not make."""
        before, quantizers = engine.step, engine.quantizers
        step = tf.constant(before + 1, tf.int64)
        engine.step = before + 1
        following: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        calls = observed = 0
        if quantizers is not None:
            calls, observed = quantizers.mode.calls, int(quantizers.observed.numpy())
            following = quantizers.training_step(compiled_inside=True)
        try:
            self._before_step(step)
            with following, engine.recipe.updating():
                yield
        except BaseException as error:
            if quantizers is not None and quantizers.mode.calls != calls:
                self._traced_in = engine.phase  # the next try may use what was traced
            if self._count() == counted:  # an update that has failed is none
                engine.step = before
                if quantizers is not None:
                    quantizers.observed.assign(observed)
            if isinstance(error, tf.errors.InvalidArgumentError) and STALE in str(error):
                raise RuntimeError(STALE) from error
            raise
        if self._count() != counted and not self._updates_as_asked:
            engine.recipe.check_it_was_done()
            self._updates_as_asked = True  # what was traced goes on so
        if engine.pruner is not None:
            engine.pruner.after_step(step)
        if quantizers is not None and self._traced_in is not engine.phase:
            # One that was traced before all this has nothing in it that could complain.
            if quantizers.mode.calls == calls:
                raise RuntimeError(STALE)
            self._traced_in = engine.phase

    @property
    def _optimizer(self) -> Any:
        return self._model.optimizer if self._own_optimizer is None else self._own_optimizer

    def _count(self) -> int | None:
        """Of the optimizer that updates the weights; None where nobody knows it."""
        optimizer = self._optimizer
        return None if optimizer is None else int(self._adapter.count_of(optimizer).numpy())

    def epoch_end(self, logs: dict[str, float] | None) -> None:
        self._run.epoch_end(self._epochs, logs)
        self._epochs += 1

    def finish(self) -> None:
        self.abandon()
        self._run.finish()

    def abandon(self) -> None:
        """Leave the loop where it is."""
        if self.engine is not None:
            self.engine.in_loop = False
            self.engine.recipe.optimizer = None


def enter_phase_of_next(engine: Engine) -> None:
    """Do by the phase of the next update, which comes outside of a `fit`."""
    timetable = engine.timetable
    if not engine.is_placed or timetable.has_fractions:
        return
    if timetable.resolved is None:
        engine.resolve(engine.step, 0)
        engine.begin_fit()
    engine.enter(timetable.phase_after(engine.step, 1), engine.step + 1)
    engine.recipe.restart_if_due(engine.step, 1)
