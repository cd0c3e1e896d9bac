"""What is asked about the `fit` that is running, which tells callbacks little."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import sys
import types
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_compress.frameworks.asked.one_keras import OneKeras
from keras_compress.frameworks.protocols import KerasModel


@dataclasses.dataclass(frozen=True)
class ValidationData:
    """The arguments with which `fit` calls `evaluate`."""

    x: object
    y: object
    sample_weight: object
    batch_size: int | None
    steps: int | None
    """None: all batches there are."""


class Fits(OneKeras):
    """One Keras, asked about a `fit`."""

    def in_fit(self, model: KerasModel) -> bool:
        """Whether a `fit` of this Keras is training the model right now."""
        return self._fit_under_way(model) is not None

    def validation_data(self, model: KerasModel) -> ValidationData | None:
        """What the `fit` that is running evaluates the model on after each epoch; None for nothing,
        or where no `fit` of this Keras runs.

        In `fit` alone `validation_split` has been taken apart.
        """
        found = self._fit_under_way(model)
        if found is None or "val_x" not in found:
            return None
        return ValidationData(
            found["val_x"],
            found["val_y"],
            found["val_sample_weight"],
            found["validation_batch_size"] or found["batch_size"],
            found["validation_steps"],
        )

    def fit_inputs(self, model: KerasModel) -> object | None:
        """What the `fit` that is running calls the model with, as nested `tf.TensorSpec`s; None
        where no `fit` of this Keras runs, or its data do not tell.
        """
        found = self._fit_under_way(model)
        if found is None:
            return None
        spec = self.batch_spec(found)
        x = spec[0] if isinstance(spec, tuple) else spec
        # Private: under a strategy a spec is one per replica, all alike.
        x = self.tree.map_structure(lambda own: getattr(own, "_value_specs", [own])[0], x)
        flat = self.tree.flatten(x)
        # Not what is sparse or ragged.
        told = all(isinstance(own, tf.TensorSpec) and own.shape.rank for own in flat)
        return x if flat and told else None

    @abc.abstractmethod
    def batch_spec(self, fit: dict[str, Any]) -> object:
        """The `tf.TensorSpec`s of the batches of a `fit` with these local variables."""

    def updates_of_epoch(self, model: KerasModel, steps: int) -> int:
        """How many updates the `fit` that is running makes in an epoch of so many steps."""
        return steps

    def in_fit_state(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        """While inside, what is frozen is so as a `fit` would have it."""
        return contextlib.nullcontext()

    def _fit_under_way(self, model: KerasModel) -> dict[str, Any] | None:
        """The local variables of the `fit` of this Keras that is running; None where there is none.

        What callbacks are not told is read off them. Both Keras use the same names.
        """
        for frame in callers():
            is_fit = frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model
            if is_fit and self.owns(frame.f_globals.get("__name__")):
                return frame.f_locals
        return None


def callers() -> Iterator[types.FrameType]:
    """The frames that the caller of this stands on, innermost first."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
