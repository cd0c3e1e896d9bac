"""All that is private to KerasTuner, and how a tf_keras model gets past it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from keras_compress.fit.callback import Compress
from keras_compress.fit.summaries import CompressionSummaries
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel, Method
from keras_compress.frameworks.wrap_method import wrap_method
from keras_compress.tuner.protocols import KerasTunerTrial, Objective, Saver, Tuner
from keras_compress.tuner.space import OWNER
from keras_compress.tuner.trials import check_success

PARENT = "tuner/trial_id"
"""KerasTuner's hyperparameter that names the trial which a Hyperband round goes on with."""

_TELLER, _SAVER = "TunerCallback", "SaveBestEpoch"
"""KerasTuner's classes for the callbacks that it gives to every fit."""

_BEHIND = "_keras_compress_model"
_CHECKED = "_keras_compress_checked"


@dataclasses.dataclass
class CurrentTrial:
    """The trial that a fit is for, as KerasTuner's own callbacks in it know it."""

    tuner: Tuner
    trial: KerasTunerTrial
    saver: Saver

    @classmethod
    def of(cls, callbacks: Sequence[Any]) -> CurrentTrial:
        """The trial of the callbacks that a tuner gives to a fit.

        Raises:
            keras_tuner.errors.FatalRuntimeError: they are not those of a tuner.
        """
        teller = next((each for each in callbacks if _is_tuners(each, _TELLER)), None)
        if teller is None:
            raise keras_tuner.errors.FatalRuntimeError(
                f"{OWNER}: `fit` is called by a tuner's `search`. Received: callbacks without "
                "KerasTuner's own"
            )
        saver = next(each for each in callbacks if _is_tuners(each, _SAVER))
        return cls(teller.tuner, teller.trial, saver)

    @property
    def folder(self) -> Path:
        return Path(self.tuner.get_trial_dir(self.trial.trial_id))

    @property
    def project(self) -> Path:
        return Path(self.tuner.project_dir)

    @property
    def objective(self) -> Objective:
        return self.tuner.oracle.objective

    def metrics(self) -> dict[str, float] | None:
        """What the oracle knows of a trial that it hands out once more; None if it is a new one."""
        known = self.trial.metrics
        if not known.exists(self.objective.name):
            return None
        found = {name: known.get_last_value(name) for name in known.metrics}
        return found if np.isfinite(found[self.objective.name]) else None


def check_success_at_end(tuner: Tuner) -> None:
    """Let the `search` of a tuner raise at its end if no trial has succeeded.

    KerasTuner itself does so after three failures in a row, and has no hook at the end for any but
    the tuner. A trial that fails before its `fit` says nothing to us.
    """
    if _CHECKED in vars(tuner):
        return
    vars(tuner)[_CHECKED] = True

    def checking(original: Method) -> Method:
        def on_search_end() -> None:
            original()
            check_success(Path(tuner.project_dir), OWNER)

        return on_search_end

    wrap_method(tuner, "on_search_end", checking)


def _is_tuners(callback: object, name: str) -> bool:
    kind = type(callback)
    return kind.__name__ == name and kind.__module__.partition(".")[0] == "keras_tuner"


# --- tf_keras, which KerasTuner does not take


def stand_in(model: KerasModel) -> KerasModel:
    """A Keras 3 model of a single weight, with a model of tf_keras behind it."""
    layers = [keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False)]
    made: KerasModel = keras.Sequential(layers)
    vars(made)[_BEHIND] = model  # past the tracker of Keras, which would take it for state
    return made


def behind(model: KerasModel) -> KerasModel:
    """The model that another stands for: itself, mostly."""
    stood_for: KerasModel = vars(model).get(_BEHIND, model)
    return stood_for


def check_stood_for(trial: CurrentTrial, model: KerasModel) -> None:
    """Do with a tf_keras model what KerasTuner does with a Keras 3 one that is built.

    Raises:
        keras_tuner.errors.FailedTrialError: it has too many parameters.
        keras_tuner.errors.FatalValueError: the tuner would compile it.
    """
    limit = trial.tuner.max_model_size
    if limit and model.count_params() > limit:
        raise keras_tuner.errors.FailedTrialError(
            f"Oversized model: {model.count_params()} parameters. Skip model."
        )
    if trial.tuner.optimizer or trial.tuner.loss or trial.tuner.metrics:
        raise keras_tuner.errors.FatalValueError(
            f"{OWNER}: `optimizer`, `loss` and `metrics` must be given to `compile` in `build`, "
            "because KerasTuner cannot compile a tf_keras model. Received: some of them as "
            "arguments of the tuner"
        )


def give_own_logs(callbacks: Sequence[object], trial: CurrentTrial, folder: Path) -> None:
    """Let our summaries, copies made for this fit, write into a folder of their own, in that where
    KerasTuner lets a TensorBoard and the hyperparameters of the trial be written. `folder`: of the
    trial, or of its later execution.
    """
    execution = "execution0" if folder == trial.folder else folder.name.replace("_", "")
    for each in callbacks:
        if isinstance(each, CompressionSummaries):
            own = (trial.trial.trial_id, execution, "compression")
            each.log_dir = os.path.join(each.log_dir, *own)


def callbacks_for_tf_keras(
    adapter: Adapter, trial: CurrentTrial, callbacks: Sequence[object]
) -> list[object]:
    """What of the callbacks of a search a tf_keras `fit` takes: those of its own Keras, ours, and
    KerasTuner's news of epochs; not what saves weights for it.

    Raises:
        keras_tuner.errors.FatalTypeError: the user's own are of another Keras.
    """
    own = adapter.keras.callbacks

    class Telling(own.Callback):  # type: ignore[misc, name-defined]  # untyped
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            trial.tuner.on_epoch_begin(trial.trial, self.model, epoch, logs=logs)

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            trial.tuner.on_epoch_end(trial.trial, self.model, epoch, logs=logs)

    taken = [
        each
        for each in callbacks
        if isinstance(each, own.Callback | Compress | CompressionSummaries)
    ]
    others = {
        f"{type(each).__module__.partition('.')[0]}.{type(each).__name__}"
        for each in callbacks
        # KerasTuner puts one of TensorBoard's beside a TensorBoard of the user's.
        if each not in taken
        and type(each).__module__.partition(".")[0] not in ("keras_tuner", "tensorboard")
    }
    if others:
        raise keras_tuner.errors.FatalTypeError(
            f"{OWNER}: `callbacks` must be those of tf_keras, as the model is. Received: "
            f"{', '.join(sorted(others))}"
        )
    return [*taken, Telling()]
