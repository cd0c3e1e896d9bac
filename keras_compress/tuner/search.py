"""The question asked directly: how small can it get, or how good, under a limit."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras_tuner

from keras_compress._shared.checks import check_choice, check_int, value_error
from keras_compress._shared.files import check_writable
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.reports.shown import Line, Part, Shown, png_of
from keras_compress.tuner import trials
from keras_compress.tuner.hypermodel import CompressionHyperModel
from keras_compress.tuner.protocols import Build, HyperParameters, Tuner
from keras_compress.tuner.question import OWNER, Metrics, Question
from keras_compress.tuner.trials import Trial, Trials

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE = "search_score"
"""What KerasTuner minimizes."""

TUNERS = {
    "bayesian": keras_tuner.BayesianOptimization,
    "random": keras_tuner.RandomSearch,
    "grid": keras_tuner.GridSearch,
    "hyperband": keras_tuner.Hyperband,
}

FACTOR = 3
"""How many times fewer trials and more epochs a round of Hyperband has than the one before."""


class SparsitySearch(Shown):
    """Searches the sparsity target, and whatever else is left open, under a hard limit.

    Either the smallest zipped file whose metric is at most `max_accuracy_drop` worse than the float
    model's (the best of them, where `build` makes several), or the best metric of a file of at most
    `max_bytes` (zipped), `max_macs` or `max_latency_ms`. A trial that breaks the limit never wins,
    however good it is otherwise.

    ```python
    search = SparsitySearch(build, max_accuracy_drop=0.01, float_epochs=10)
    search.search(x, y, epochs=5, validation_data=(x_val, y_val))
    print(search.trials_table())
    model, path = search.best_model(), search.best_export()
    ```

    Args:
        build: as for `CompressionHyperModel`.
        max_accuracy_drop: how much worse than the float model's the file's metric may be, in the
            metric's own unit (0.01: a point of accuracy).
        max_bytes: how large the zipped file may be. Exactly one of these four is given.
        max_macs: how many multiply-accumulates the network may have, as `kc.macs` counts them:
            pruned channels make them fewer, single weights do not.
        max_latency_ms: how long LiteRT may take for one batch of the file, measured on this
            machine on one thread.
        metric: what the model was compiled with; "accuracy" by default.
        direction: "max" or "min": which way the metric is better.
        tuner: "bayesian", "random", "grid" or "hyperband".
        max_trials: how many, at most; 20 if it is not given. Not for "hyperband", where the number
            follows from `max_epochs`.
        max_epochs: only for "hyperband", and needed there: the epochs of its longest trials, at
            least 3. Most trials end after a part of them, a third or a ninth, and the best go on
            from where they were: as sparse as they are, since schedule and delay are fractions of
            a trial's first round. `search` is given no `epochs` then.
        directory, project_name, overwrite: where the project is kept, and whether it begins anew.
            Otherwise a search that was stopped or killed goes on; with the same question.
        seed: of the search; 0 is none to KerasTuner, so begin with 1.
        **hypermodel: the other arguments of `CompressionHyperModel`: `float_epochs`, the space ...

    Raises:
        TypeError, ValueError: an argument that cannot be, a space with nothing to tune, a folder
            that cannot be written to.
    """

    def __init__(
        self,
        build: Build,
        *,
        max_accuracy_drop: float | None = None,
        max_bytes: int | None = None,
        max_macs: int | None = None,
        max_latency_ms: float | None = None,
        metric: str = "accuracy",
        direction: str = "max",
        tuner: str = "bayesian",
        max_trials: int | None = None,
        max_epochs: int | None = None,
        directory: str = ".",
        project_name: str = "sparsity_search",
        overwrite: bool = False,
        seed: int | None = None,
        **hypermodel: Any,
    ):
        self.question = Question(
            metric=metric,
            direction=direction,
            max_accuracy_drop=max_accuracy_drop,
            max_bytes=max_bytes,
            max_epochs=max_epochs,
            max_macs=max_macs,
            max_latency_ms=max_latency_ms,
        )
        if max_macs is not None:
            hypermodel["macs"] = True
        if max_latency_ms is not None:
            hypermodel["latency"] = True
        kind = TUNERS[check_choice(OWNER, "tuner", tuner, TUNERS)]
        size = _check_size(tuner, max_trials, max_epochs)
        folder = Path(directory) / project_name
        _check_folder(folder)
        if not overwrite:
            self.question.check(folder)
        self.hypermodel = _Judged(self, build, **hypermodel)
        if max_accuracy_drop is not None and not (
            self.hypermodel.float_epochs or self.hypermodel.trained
        ):
            raise value_error(
                OWNER,
                "float_epochs",
                0,
                "at least 1 for `max_accuracy_drop`, unless `build` is a trained model: the drop "
                "is from the float one",
            )
        self.tuner: Tuner = kind(
            self.hypermodel,
            objective=keras_tuner.Objective(SCORE, "min"),
            **size,
            directory=str(directory),
            project_name=project_name,
            overwrite=overwrite,
            seed=seed,
            # KerasTuner's own limit of 3 would end a search whose other trials may do well.
            max_consecutive_failed_trials=sys.maxsize,
        )
        folder.mkdir(parents=True, exist_ok=True)  # KerasTuner has removed the old one
        self.question.write(folder)

    def search(self, *args: object, **kwargs: object) -> None:
        """Run the trials, or those that are left; the arguments are those of `fit`, with
        `validation_data`.

        Raises:
            RuntimeError: no trial succeeded, with the reason of the last.
        """
        if self.question.max_epochs is not None and "epochs" in kwargs:
            rule = "left out with the tuner 'hyperband', whose trials have those of `max_epochs`"
            raise value_error(OWNER, "epochs", kwargs["epochs"], rule)
        self.tuner.search(*args, **kwargs)
        trials.check_success(self._project, OWNER)  # of the chief of several processes too

    # --- judging

    def reference(self, *more: Metrics) -> float | None:
        """The float model's metric, as `more` and the trials that are through have it."""
        known = (trials.metrics_in(state) for _, state in trials.states(self._project))
        return self.question.reference([*more, *known])

    def score(self, metrics: Metrics) -> float:
        """What KerasTuner minimizes; NaN, which fails the trial, where the metric is none."""
        return self.question.score(metrics, self.reference(metrics))

    # --- results

    def _parts(self) -> Iterator[Part]:
        found = self.trials()
        yield from found._parts()
        best = trials.winner(found, self.question)
        if best is not None:
            yield Line(f"the winner is trial {best.id}: {best.export}")

    def _picture(self) -> bytes | None:
        return png_of(self.plot) if trials.comparable(self.trials(), self.question) else None

    @property
    def _project(self) -> Path:
        return Path(self.tuner.project_dir)

    def trials(self) -> Trials:
        """All trials of the project, in the order of their ids; also those of other processes, and
        of a search that was stopped.
        """
        return trials.results(self._project, self.question)

    def pareto(self) -> list[Trial]:
        """The trials that no other beats in metric and zipped bytes at once, smallest first."""
        return trials.front(self.trials(), self.question)

    def best_trial(self) -> Trial:
        """The winner: of the trials that keep to the limit the smallest, or the best.

        Raises:
            RuntimeError: none does, with the nearest.
        """
        found = self.trials()
        best = trials.winner(found, self.question)
        if best is not None:
            return best
        reference = self.question.reference(trial.metrics for trial in found)
        excess = {
            trial.id: self.question.excess(trial.metrics, reference)
            for trial in found
            if trial.metrics
        }
        nearest = min(
            (trial for trial in found if math.isfinite(excess.get(trial.id, math.nan))),
            key=lambda trial: excess[trial.id],
            default=None,
        )
        known = "none ran"
        if nearest is not None:
            known = f"the nearest is trial {nearest.id}, {trials.told(nearest)}"
        raise RuntimeError(
            f"SparsitySearch: no trial keeps to {self.question.limit}; {known}. Widen the space, "
            "train longer, or relax the limit."
        )

    def best_model(self) -> KerasModel:
        """The winner's trained model as it answers in its file: quantized. `strip` gives the float
        one.
        """
        best = self.best_trial()
        trial = keras_tuner.engine.trial.Trial.load(str(best.folder / "trial.json"))
        return self.hypermodel.load(self.tuner, trial)

    def best_export(self) -> Path:
        """The winner's integer file."""
        return self.best_trial().export

    def trials_table(self, path: str | Path | None = None) -> str:
        """All trials as a table; also written to `path` as CSV, with every hyperparameter and
        metric, if it is given.
        """
        found = self.trials()
        if path is not None:
            trials.write_csv(found, self.question, path)
        return str(found)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A picture of metric against zipped bytes: the trials with their ids, the winner, the
        limit, and the front of those that keep to it.

        Args:
            path: writes it there, whole or not at all, in the form that its ending says: ".png",
                ".pdf", ".svg" or what else matplotlib can write.

        Returns:
            The `matplotlib.figure.Figure`, which a notebook shows as the last value of a cell.

        Raises:
            ImportError: matplotlib is not installed; the extra "plot" brings it.
            ValueError: no trial is completed, or the ending of `path` is none of a picture.
        """
        from keras_compress.tuner.plots import plot_search

        return plot_search(self.trials(), self.question, path)


class _Judged(CompressionHyperModel):
    """Adds the score of the search to the metrics of its trials."""

    def __init__(self, search: SparsitySearch, build: Build, **arguments: Any):
        super().__init__(build, **arguments)
        self._search = search

    def fit(
        self, hp: HyperParameters, model: KerasModel, *args: object, **kwargs: Any
    ) -> dict[str, float]:
        metrics = super().fit(hp, model, *args, **kwargs)
        return {**metrics, SCORE: self._search.score(metrics)}

    def _reported(self, adapter: Adapter, model: KerasModel) -> list[str]:
        reported = super()._reported(adapter, model)
        metric = self._search.question.metric
        if f"tflite_{metric}" not in reported:
            names = [name.removeprefix("val_") for name in reported if name.startswith("val_")]
            raise keras_tuner.errors.FatalValueError(
                "SparsitySearch: `metric` must be one that the model was compiled with: "
                f"{', '.join(names)}. Received: metric={metric!r}"
            )
        return [*reported, SCORE]


def _check_size(tuner: str, max_trials: int | None, max_epochs: int | None) -> dict[str, int]:
    """What KerasTuner is told of how long a search is."""
    if tuner != "hyperband":
        if max_epochs is not None:
            rule = f"None for the tuner {tuner!r}: `search` is given the epochs of a trial"
            raise value_error(OWNER, "max_epochs", max_epochs, rule)
        given = 20 if max_trials is None else max_trials
        return {"max_trials": check_int(OWNER, "max_trials", given, minimum=1)}
    if max_trials is not None:
        rule = "None for the tuner 'hyperband': how many trials there are follows from `max_epochs`"
        raise value_error(OWNER, "max_trials", max_trials, rule)
    if max_epochs is None:
        rule = "given for the tuner 'hyperband': the epochs of its longest trials"
        raise value_error(OWNER, "max_epochs", max_epochs, rule)
    # Below that there is one round only, and nothing to stop.
    check_int(OWNER, "max_epochs", max_epochs, minimum=FACTOR)
    return {"max_epochs": max_epochs, "factor": FACTOR}


def _check_folder(folder: Path) -> None:
    """Refuse a project that could not be written, before anything is trained."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        raise ValueError(
            "SparsitySearch: `directory` must be a folder that can be written to. "
            f"Received: {str(folder)!r}, {error}"
        ) from error
