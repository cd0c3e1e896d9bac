"""A KerasTuner `HyperModel` whose trials are scored by the integer file that they would ship."""

from __future__ import annotations

import dataclasses
import importlib.util
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import keras
import keras_tuner
import numpy as np

from keras_compress._shared.checks import check_bool, check_int, type_error, value_error
from keras_compress.engines.in_place.channels.plan import plan_channels
from keras_compress.engines.in_place.plan import plan_quantization
from keras_compress.engines.prunable_kernels import plan_pruning
from keras_compress.engines.strip import strip
from keras_compress.fit.callback import Compress
from keras_compress.fit.saved_state import load_state, save_state
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.graph_memory import forget_graphs
from keras_compress.frameworks.operation_counts import macs
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.reports.export import ExportReport
from keras_compress.reports.fit import Report
from keras_compress.reports.validation import ValidationReport
from keras_compress.specs.export import Export
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization
from keras_compress.tflite import ConversionError, load_tflite
from keras_compress.tflite.litert.latency import latency_ms
from keras_compress.tuner import baseline, bridge
from keras_compress.tuner.protocols import Build, HyperParameters, KerasTunerTrial, Tuner
from keras_compress.tuner.question import LATENCY, MACS
from keras_compress.tuner.space import OWNER, Space
from keras_compress.tuner.trials import STATE, TFLITE_FILE, WEIGHTS
from keras_compress.tuner.weights import load_weights, save_weights

Specs = Callable[[HyperParameters], tuple[Pruning | None, Quantization]]
"""KerasTuner's HyperParameters -> what to do in a trial."""

# The metrics of a trial besides those of the networks.
SIZES = ("tflite_bytes", "tflite_zipped_bytes", "sparsity")


class CompressionHyperModel(keras_tuner.HyperModel):  # type: ignore[misc]  # untyped
    """Searches how far a model can be compressed, with any of KerasTuner's tuners.

    ```python
    hypermodel = CompressionHyperModel(build, float_epochs=10)
    objective = keras_tuner.Objective("tflite_accuracy", "max")
    tuner = keras_tuner.RandomSearch(hypermodel, objective, max_trials=10)
    tuner.search(x, y, epochs=5, validation_data=(x_val, y_val))
    ```

    A trial is one compressed `fit` of `search`'s epochs. Its metrics are, for each metric `m` that
    the model was compiled with, and for the loss: `val_m` of the quantized network at the end,
    `tflite_m` of its file run by LiteRT, and `float_m` of the network before it was compressed,
    all on the validation data; and `tflite_bytes`, `tflite_zipped_bytes`, `sparsity`, and
    `tflite_latency_ms` if it is asked for. The folder of a trial keeps the file (`model.tflite`,
    with its record), the weights and the state.

    `load(tuner, trial)` gives the model of a trial; KerasTuner's own `get_best_models` knows
    nothing of quantization, nor of tf_keras.

    A `search` that is through raises if no trial has succeeded. KerasTuner alone does so after
    three failures in a row; so it remains where trials fail in `build` already.

    Hyperband's later rounds go on from the weights, masks and ranges of the round before: what was
    reached there stays, and is trained on.

    Args:
        build: a function of KerasTuner's HyperParameters that returns a built, compiled model, of
            Keras 3 or tf_keras; or such a model, trained already, of which every trial gets a copy.
        float_epochs: how long a model that `build` returns is trained before it is compressed. All
            trials with the same layers, compile and data share one such training, whose weights are
            kept in the project's folder. 0: no training in front; schedules and delay then divide a
            trial's fit, and there is no `float_m` unless `build` is a model.
        specs: in place of a space: a function that gets hyperparameters and returns the
            `(Pruning or None, Quantization)` of a trial.
        export: arguments of `Export` other than the path, for every trial.
        latency: whether to measure how long LiteRT takes for one batch of the file (one input, if
            `export` does not say otherwise), on one thread.
        macs: whether to count the multiply-accumulates of the network that ships, as `kc.macs`
            does: the metric `macs`.
        verbose: of `Compress`: 1 prints what happens in a trial.
        **space: the fields of `Space`, the search space: `final_sparsity=(0.3, 0.9)` and so on.

    Raises:
        ImportError: `tensorboard` is missing, which KerasTuner needs and does not ask for.
        TypeError, ValueError: an argument that cannot be.
    """

    def __init__(
        self,
        build: Build,
        *,
        float_epochs: int = 0,
        specs: Specs | None = None,
        export: Mapping[str, Any] | None = None,
        latency: bool = False,
        macs: bool = False,
        verbose: int = 0,
        **space: Any,
    ):
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "CompressionHyperModel: KerasTuner needs `tensorboard`, or every trial fails; "
                "install it with `pip install 'keras_compress[tuner]'`."
            )
        self.float_epochs = check_int(OWNER, "float_epochs", float_epochs, minimum=0)
        self.latency = check_bool(OWNER, "latency", latency)
        self.macs = check_bool(OWNER, "macs", macs)
        self.verbose = check_int(OWNER, "verbose", verbose, minimum=0)
        self.export = dict(export or {})
        if "path" in self.export:
            raise value_error(OWNER, "export", self.export, "without a path, which the trial has")
        Export(TFLITE_FILE, **self.export)  # what it refuses, it refuses now
        if specs is not None and space:
            raise value_error(OWNER, "specs", specs, f"None when a space is given: {sorted(space)}")
        if specs is not None and not callable(specs):
            raise type_error(OWNER, "specs", specs, "a function of hyperparameters")
        known = {field.name for field in dataclasses.fields(Space)}
        if unknown := sorted(set(space) - known):
            raise type_error(OWNER, unknown[0], space[unknown[0]], f"one of {sorted(known)}")
        self._specs = specs or Space(**space).specs
        self.trained = not callable(build) or hasattr(build, "get_weights")
        self._users = cast(Callable[[HyperParameters], KerasModel], build)
        if self.trained:
            model = cast(KerasModel, build)
            _check_model(model)
            if self.float_epochs:
                rule = "0 for a model that is trained already"
                raise value_error(OWNER, "float_epochs", float_epochs, rule)
            self._users = lambda hp: strip(model)
        self._clear: Callable[[], None] | None = None
        self._execution: tuple[Any, int] = (None, 0)
        super().__init__()

    def build(self, hp: HyperParameters) -> KerasModel:
        """The model of a trial, or, for tf_keras, a Keras 3 model that stands for it before
        KerasTuner, which takes no other.

        Raises:
            ValueError: the model is not built and compiled, the specs do not fit it, or there is
                nothing to tune.
        """
        if self._clear is not None:  # KerasTuner does it for Keras 3
            self._clear()
        forget_graphs()
        model = self._users(hp)
        adapter = _check_model(model)
        if adapter.keras is not keras:
            self._clear = adapter.keras.backend.clear_session
        pruning, quantization = self._specs(hp)
        if pruning is not None:
            plan = plan_pruning if pruning.structure is None else plan_channels
            plan(adapter, model, pruning)
        plan_quantization(adapter, model, quantization)
        if not hp.space:
            raise ValueError(
                "CompressionHyperModel: the space must have something to tune: a range (low, high) "
                "or a list of values, or a hyperparameter in `build`. Received: fixed values only"
            )
        return model if adapter.keras is keras else bridge.stand_in(model)

    def fit(
        self, hp: HyperParameters, model: KerasModel, *args: object, **kwargs: Any
    ) -> dict[str, float]:
        """Run a trial; called by KerasTuner.

        Returns:
            The metrics of the trial.

        Raises:
            keras_tuner.errors.FailedTrialError: no file, with the reason.
            keras_tuner.errors.FatalError: no trial could succeed.
        """
        given, standing = list(kwargs.pop("callbacks", None) or []), model
        model = bridge.behind(standing)
        adapter = adapter_of(model, OWNER)
        trial = bridge.CurrentTrial.of(given)
        bridge.check_success_at_end(trial.tuner)
        done = trial.metrics()
        if done is not None and trial.tuner.executions_per_trial == 1:
            return done  # it was killed on its way to the oracle's list of ended trials
        self._check_search(trial, kwargs, self._reported(adapter, model))
        if standing is not model:
            bridge.check_stood_for(trial, model)
            given = bridge.callbacks_for_tf_keras(adapter, trial, given)
        folder = self._folder(trial)
        bridge.give_own_logs(given, trial, folder)
        floats: dict[str, float] = {}
        if self.float_epochs or self.trained:
            floats = baseline.bring(
                adapter,
                model,
                trial.project / "float",
                self.float_epochs,
                (args, kwargs),
                self._of_the_model(hp),
                kwargs.get("verbose", "auto"),
            )
        if bridge.PARENT in hp.values:
            before = Path(trial.tuner.get_trial_dir(hp.values[bridge.PARENT]))
            load_weights(model, before / WEIGHTS)
            load_state(model, before / STATE)
        pruning, quantization = self._specs(hp)
        compress = Compress(
            pruning=pruning,
            quantization=quantization,
            export=Export(str(folder / TFLITE_FILE), **self.export),
            verbose=self.verbose,
        )
        # KerasTuner tells of the trials, and nobody of the files in them.
        compress.shows_progress = kwargs.get("verbose", "auto") != 0
        try:
            model.fit(*args, **kwargs, callbacks=[*given, compress])
        except ConversionError as error:  # of the rehearsal, once for trials of one structure
            raise keras_tuner.errors.FailedTrialError(f"No file: {error}") from error
        metrics = self._metrics(cast(Report, compress.report), folder, floats)
        if self.macs:
            metrics[MACS] = float(macs(strip(model)))
        save_weights(model, folder / WEIGHTS)
        save_state(model, folder / STATE)
        if standing is not model:  # where Hyperband will look for the weights of this trial
            standing.save_weights(trial.saver.filepath)
        objective = trial.objective
        if objective.name not in metrics and hasattr(objective, "objectives"):
            metrics[objective.name] = objective.get_value(metrics)  # several, as it sums them
        return metrics

    def _of_the_model(self, hp: HyperParameters) -> dict[str, Any]:
        """The hyperparameters that `build` has drawn, name -> value."""
        ours = keras_tuner.HyperParameters()
        ours.values = dict(hp.values)
        self._specs(ours)
        known = {entry.name for entry in ours.space}
        return {
            name: value
            for name, value in hp.values.items()
            if name not in known and not name.startswith("tuner/")
        }

    def load(self, tuner: Tuner, trial: KerasTunerTrial) -> KerasModel:
        """The trained model of a finished trial as it answers in the end, quantized; `strip` gives
        the float one.
        """
        model = bridge.behind(self.build(trial.hyperparameters))
        folder = Path(tuner.get_trial_dir(trial.trial_id))
        load_weights(model, folder / WEIGHTS)
        load_state(model, folder / STATE)
        return model

    def _metrics(self, report: Report, folder: Path, floats: dict[str, float]) -> dict[str, float]:
        # There are both: the fit was given a file to write, and validation data.
        export = cast(ExportReport, report.export)
        validation = cast(ValidationReport, report.validation)
        if not export.written:
            raise keras_tuner.errors.FailedTrialError(f"No file: {export.error or export.skipped}")
        metrics = {f"float_{name}": value for name, value in floats.items()}
        for network, prefix in (("fake-quantized", "val"), ("tflite", "tflite")):
            if network not in validation.metrics:
                raise keras_tuner.errors.FailedTrialError(
                    f"No metrics of the {network} network: {validation.reasons.get(network)}"
                )
            for name, value in validation.metrics[network].items():
                if np.ndim(value) == 0:
                    metrics[f"{prefix}_{name}"] = float(value)
        sizes: tuple[Any, ...] = (export.bytes, export.zipped_bytes, report.sparsity)
        metrics.update(zip(SIZES, map(float, sizes), strict=True))
        if self.latency:
            metrics[LATENCY] = latency_ms(load_tflite(folder / TFLITE_FILE))
        return metrics

    def _check_search(
        self, trial: bridge.CurrentTrial, kwargs: dict[str, Any], reported: Sequence[str]
    ) -> None:
        """Refuse what would fail in every trial, before the first is trained."""
        if hasattr(kwargs.get("validation_data"), "__next__"):
            raise keras_tuner.errors.FatalTypeError(
                "CompressionHyperModel: `validation_data` must be data that can be read again for "
                "every network and trial: arrays or a tf.data.Dataset. Received: "
                f"validation_data={type(kwargs['validation_data']).__name__}"
            )
        if kwargs.get("validation_data") is None:
            raise keras_tuner.errors.FatalValueError(
                "CompressionHyperModel: `validation_data` must be given to `search`, because the "
                "file of a trial is scored on it. Received: validation_data=None"
            )
        objectives = getattr(trial.objective, "objectives", [trial.objective])
        missing = [objective.name for objective in objectives if objective.name not in reported]
        if missing:
            raise keras_tuner.errors.FatalValueError(
                "CompressionHyperModel: `objective` must be a metric that trials report: "
                f"{', '.join(reported)}. Received: objective={', '.join(missing)}"
            )

    def _reported(self, adapter: Adapter, model: KerasModel) -> list[str]:
        """The names of the metrics that a trial of this model will have."""
        names = ["loss", *sorted(adapter.metric_names(model) - {"loss", "compile_metrics"})]
        outputs = adapter.end_names(model)[1]
        if len(outputs) > 1:
            names += [f"{output}_{name}" for output in outputs for name in names]
        prefixes = ["tflite", "val", *(["float"] if self.float_epochs or self.trained else [])]
        found = [f"{prefix}_{name}" for prefix in prefixes for name in names]
        return [
            *found,
            *SIZES,
            *([LATENCY] if self.latency else []),
            *([MACS] if self.macs else []),
        ]

    def _folder(self, trial: bridge.CurrentTrial) -> Path:
        """Of a trial; of its second and later executions, folders in it."""
        folder = trial.folder
        # All executions of one try share the callback that saves for KerasTuner.
        last, number = self._execution
        number = number + 1 if last is not None and last() is trial.saver else 0
        self._execution = (weakref.ref(trial.saver), number)
        folder = folder / f"execution_{number}" if number else folder
        folder.mkdir(exist_ok=True)
        return folder


def _check_model(model: KerasModel) -> Adapter:
    """Refuse what a trial could not train."""
    adapter = adapter_of(model, OWNER)
    if not adapter.is_compiled(model) or not model.built:
        lacks = "compiled" if model.built else "built"
        raise ValueError(
            "CompressionHyperModel: `build` must return, or be, a built and compiled model. "
            f"Received: {type(model).__name__} that is not {lacks}"
        )
    return adapter
