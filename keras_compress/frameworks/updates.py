"""How an optimizer makes its updates inside of a training step of ours: at a multiple of its
learning rate, and counting from where it has begun anew.

Neither Keras has a road there that leaves alone what callbacks read and write, the variable of the
rate and that of the count. So the instance has, for as long as a step is traced or run, a class of
its own, which derives from the user's and in which an update reads other numbers. All that is
private to one of the two Keras, or to its older optimizers, is in one of the three classes below.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import tensorflow as tf

Scalar = Callable[[], tf.Tensor]


class Updates:
    """What is different in the updates of an optimizer. Whoever reads its rate or its count outside
    of an update sees them as they are.

    Attributes:
        factor: what the learning rate is multiplied by, asked for in the graph of the update; None:
            the rate as it is.
        forgotten: the optimizer's own count in the graph of the update -> how much of it was made
            before it began anew; None: the count as it is.
        were_made, rate_was_read: whether there was an update, and whether one has asked for its
            rate, since these were last set to False.
    """

    def __init__(
        self, factor: Scalar | None, forgotten: Callable[[tf.Tensor], tf.Tensor] | None
    ) -> None:
        self.factor = factor
        self.forgotten = forgotten
        self.were_made = self.rate_was_read = False
        self._lock = threading.Lock()
        self._inside = 0
        """How many steps are going on: each replica of a strategy has a thread of its own."""
        self._plain: type = object
        self._applying = self._counting = 0
        self._seen: dict[object, tf.Tensor] = {}
        """Graph -> the factor in it, of the update that is being made: one for all its weights."""

    @contextlib.contextmanager
    def by(self, optimizer: Any, changed: Callable[[Any, Updates], type]) -> Iterator[None]:
        """While inside, the optimizer makes its updates so; `changed` gives its class."""
        with self._lock:
            if not self._inside:
                self._plain = type(optimizer)
                # Past `__setattr__`, in which both Keras look for what they have to track.
                object.__setattr__(optimizer, "__class__", changed(self._plain, self))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    object.__setattr__(optimizer, "__class__", self._plain)

    @contextlib.contextmanager
    def applying(self) -> Iterator[None]:
        """Around an update: the rate that is read inside is multiplied."""
        self._seen.clear()
        self.were_made = True
        self._applying += 1
        try:
            yield
        finally:
            self._applying -= 1

    @contextlib.contextmanager
    def counting(self, anew: bool = True) -> Iterator[None]:
        """Around what reads the count for its own arithmetic; `anew=False`: for a schedule."""
        before, self._counting = self._counting, int(anew)
        try:
            yield
        finally:
            self._counting = before

    def rate(self, plain: Any) -> Any:
        """The learning rate to go by, where `plain` is the optimizer's."""
        if self.factor is None or not self._applying:
            return plain
        self.rate_was_read = True
        value = tf.convert_to_tensor(plain)
        graph = None if tf.executing_eagerly() else value.graph
        if graph not in self._seen:
            self._seen[graph] = self.factor()
        return value * tf.cast(self._seen[graph], value.dtype)

    def count(self, plain: Any, of: int = 1) -> Any:
        """The count to go by, where `plain` is the optimizer's own; `of` batches make one update
        that counts.
        """
        if self.forgotten is None or not self._counting:
            return None
        own = tf.convert_to_tensor(plain)
        return own // of - self.forgotten(own) // of


def keras3_class(plain: Any, updates: Updates) -> type:
    """The class of an optimizer of Keras 3."""

    class Changed(plain):  # type: ignore[misc]
        def apply(self, *args: Any, **kwargs: Any) -> Any:
            with updates.applying(), updates.counting():
                return super().apply(*args, **kwargs)

        def _get_current_learning_rate(self) -> Any:
            # Private: what the property `learning_rate` is. A schedule is called in it, with the
            # private `_iterations`, which go on.
            return updates.rate(super()._get_current_learning_rate())

        @property
        def iterations(self) -> Any:
            steps = self.gradient_accumulation_steps or 1
            counted = updates.count(self._iterations, steps)
            return super().iterations if counted is None else counted

    return _named(Changed, plain)


def _of_tf_keras(plain: Any, updates: Updates) -> Any:
    """What its optimizers of today and of before have in common."""

    class Changed(plain):  # type: ignore[misc]
        def apply_gradients(self, *args: Any, **kwargs: Any) -> Any:
            with updates.applying():
                return super().apply_gradients(*args, **kwargs)

        @property
        def iterations(self) -> Any:
            own = super().iterations
            counted = updates.count(own)
            return own if counted is None else counted

        @iterations.setter
        def iterations(self, variable: Any) -> None:
            plain.iterations.fset(self, variable)

    return Changed


def tf_keras_class(plain: Any, updates: Updates) -> type:
    """The class of an optimizer of tf_keras."""

    class Changed(_of_tf_keras(plain, updates)):  # type: ignore[misc]
        def update_step(self, *args: Any, **kwargs: Any) -> Any:
            # Alone: what else reads the count is the schedule, and what adds one to it.
            with updates.counting():
                return super().update_step(*args, **kwargs)

        # Private: under XLA, on a GPU, each update is a function of its own. That of the class is
        # traced once for each weight and would keep what it read then.
        @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
        def _update_step_xla(self, gradient: Any, variable: Any, key: int) -> Any:
            return self._update_step(gradient, variable)

        @property
        def learning_rate(self) -> Any:
            return updates.rate(super().learning_rate)

        @learning_rate.setter
        def learning_rate(self, rate: Any) -> None:
            plain.learning_rate.fset(self, rate)

    return _named(Changed, plain)


def legacy_class(plain: Any, updates: Updates) -> type:
    """The class of an optimizer of `tf_keras.optimizers.legacy`."""

    class Changed(_of_tf_keras(plain, updates)):  # type: ignore[misc]
        def _prepare_local(self, *args: Any, **kwargs: Any) -> Any:
            # Private: where its arithmetic of rate and count is done, for all weights at once.
            with updates.counting():
                return super()._prepare_local(*args, **kwargs)

        def _decayed_lr(self, *args: Any, **kwargs: Any) -> Any:
            # Private: where a schedule is called, or its own `decay`, with the count that goes on.
            with updates.counting(anew=False), _aside(updates):
                rate = super()._decayed_lr(*args, **kwargs)
            return updates.rate(rate)

        def _get_hyper(self, name: str, *args: Any, **kwargs: Any) -> Any:
            # Private: Nadam takes its rate from here.
            value = super()._get_hyper(name, *args, **kwargs)
            is_schedule = callable(value)
            return value if name != "learning_rate" or is_schedule else updates.rate(value)

    return _named(Changed, plain)


@contextlib.contextmanager
def _aside(updates: Updates) -> Iterator[None]:
    """While inside, the rate is read as it is."""
    factor, updates.factor = updates.factor, None
    try:
        yield
    finally:
        updates.factor = factor


def _named(changed: type, plain: type) -> type:
    """A class that says of itself what the user's says."""
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(changed, name, getattr(plain, name))
    return changed


# --- slots


def put_back(optimizer: Any, fresh: Any, kept_by: Callable[[Any], list[Any]]) -> None:
    """Give all variables of an optimizer, but those that it keeps, the values of those of a new
    one, which was built on the same weights.
    """
    theirs = dict(_slots(fresh, kept_by(fresh)))
    for place, variable in _slots(optimizer, kept_by(optimizer)):
        new = theirs.get(place)
        if new is not None and new is not variable:  # both know the weights themselves
            variable.assign(tf.convert_to_tensor(new))


def _slots(optimizer: Any, kept: list[Any]) -> Iterator[tuple[object, Any]]:
    """(where it is, variable): in an attribute, or in a list or dict that is one. Not all stand in
    the public `variables`: tf_keras' Nadam keeps one to itself.
    """
    left = {id(each) for each in kept}
    for name, value in vars(optimizer).items():
        if name.startswith("_self_"):  # TensorFlow's list of them all, among others
            continue
        found = [each for each in tf.nest.flatten([value]) if id(each) not in left]
        for number, each in enumerate(found):
            if hasattr(each, "assign") and hasattr(each, "shape"):
                yield (name, number), each


class MakesOptimizers(Protocol):
    """An adapter, as far as it is asked here."""

    def new_like(self, optimizer: Any) -> Any:
        """A new optimizer of the same config, but for its rate."""


def why_not_made_again(adapter: MakesOptimizers, optimizer: Any) -> str | None:
    """Why there is no new optimizer of the same config."""
    try:
        adapter.new_like(optimizer)
    except Exception as error:  # of a user's class
        said = f"{type(error).__name__}: {error}"
        return f"cannot be made again by `from_config(get_config())` ({said})"
    return None
