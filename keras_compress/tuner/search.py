"""The question asked directly: how small can it get, or how good, under a limit."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_tuner

from keras_compress._checks import check_choice, check_int, type_error, value_error
from keras_compress._files import write_atomically
from keras_compress._tables import WIDTH, table
from keras_compress.frameworks.adapter import Adapter
from keras_compress.tuner.hypermodel import FILE, CompressionHyperModel

OWNER = "SparsitySearch"
SCORE = "search_score"
"""What KerasTuner minimizes: below 1 for what keeps to the limit, above it for what does not; both
on a scale on which a surrogate model can tell trials apart.
"""

QUESTION = "question.json"
"""What the scores of a project's trials are an answer to."""

COLUMN = 16
"""Characters that a column of the table of trials may take."""

TUNERS = {
    "bayesian": keras_tuner.BayesianOptimization,
    "random": keras_tuner.RandomSearch,
    "grid": keras_tuner.GridSearch,
}


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """One trial of a search.

    Attributes:
        id: KerasTuner's.
        status: "COMPLETED", "FAILED", "RUNNING" (in another process, or killed), ...
        values: hyperparameter -> value.
        metrics: metric -> value; empty unless it is completed.
        feasible: whether it keeps to the limit of the search.
        reason: the last line of what went wrong; None if nothing did.
        folder: where its file, weights and state stand.
    """

    id: str
    status: str
    values: dict[str, Any]
    metrics: dict[str, float]
    feasible: bool
    reason: str | None
    folder: Path

    @property
    def export(self) -> Path:
        """The integer file."""
        return self.folder / FILE


class SparsitySearch:
    """Searches the sparsity target, and whatever else is left open, under a hard limit.

    Either the smallest zipped file whose metric is at most `max_accuracy_drop` worse than the float
    model's (the best of them, where `build` makes several), or the best metric of a file of at most
    `max_bytes` (zipped). A trial that breaks the limit never wins, however good it is otherwise.

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
        max_bytes: how large the zipped file may be. Exactly one of the two is given.
        metric: what the model was compiled with; "accuracy" by default.
        direction: "max" or "min": which way the metric is better.
        tuner: "bayesian", "random" or "grid".
        max_trials: how many, at most.
        directory, project_name, overwrite: where the project is kept, and whether it begins anew.
            Otherwise a search that was stopped or killed goes on; with the same question.
        seed: of the search.
        **hypermodel: the other arguments of `CompressionHyperModel`: `float_epochs`, the space ...

    Raises:
        TypeError, ValueError: an argument that cannot be, a space with nothing to tune, a folder
            that cannot be written to.
    """

    def __init__(
        self,
        build: Any,
        *,
        max_accuracy_drop: float | None = None,
        max_bytes: int | None = None,
        metric: str = "accuracy",
        direction: str = "max",
        tuner: str = "bayesian",
        max_trials: int = 20,
        directory: str = ".",
        project_name: str = "sparsity_search",
        overwrite: bool = False,
        seed: int | None = None,
        **hypermodel: Any,
    ):
        if (max_accuracy_drop is None) == (max_bytes is None):
            raise ValueError(
                "SparsitySearch: exactly one of `max_accuracy_drop` and `max_bytes` must be given. "
                f"Received: max_accuracy_drop={max_accuracy_drop}, max_bytes={max_bytes}"
            )
        if max_accuracy_drop is not None and (
            isinstance(max_accuracy_drop, bool) or not isinstance(max_accuracy_drop, int | float)
        ):
            raise type_error(OWNER, "max_accuracy_drop", max_accuracy_drop, "a number")
        if max_bytes is not None:
            check_int(OWNER, "max_bytes", max_bytes, minimum=1)
        self.max_accuracy_drop, self.max_bytes = max_accuracy_drop, max_bytes
        self.metric = metric
        self.direction = check_choice(OWNER, "direction", direction, ("max", "min"))
        kind = TUNERS[check_choice(OWNER, "tuner", tuner, TUNERS)]
        check_int(OWNER, "max_trials", max_trials, minimum=1)
        folder = Path(directory) / project_name
        _check_folder(folder)
        question = {
            "metric": metric,
            "direction": direction,
            "max_accuracy_drop": max_accuracy_drop,
            "max_bytes": max_bytes,
        }
        if not overwrite:
            _check_question(folder, question)
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
        self.tuner = kind(
            self.hypermodel,
            objective=keras_tuner.Objective(SCORE, "min"),
            max_trials=max_trials,
            directory=str(directory),
            project_name=project_name,
            overwrite=overwrite,
            seed=seed,
            # KerasTuner's own limit of 3 would end a search whose other trials may do well.
            max_consecutive_failed_trials=max_trials + 1,
        )
        write_atomically(folder / QUESTION, json.dumps(question).encode())

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Run the trials, or those that are left; the arguments are those of `fit`, with
        `validation_data`.

        Raises:
            RuntimeError: no trial succeeded, with the reason of the last.
        """
        self.tuner.search(*args, **kwargs)
        trials = self.trials()
        if trials and all(trial.status == "FAILED" for trial in trials):
            raise RuntimeError(
                f"SparsitySearch: none of {len(trials)} trials succeeded; the last failed with: "
                f"{trials[-1].reason}"
            )

    # --- judging

    def is_feasible(self, metrics: dict[str, float]) -> bool:
        """Whether the metrics of a trial keep to the limit."""
        return self._excess(metrics, self.reference(metrics)) <= 0

    def score(self, metrics: dict[str, float]) -> float:
        """What KerasTuner minimizes; NaN, which fails the trial, where the metric is none."""
        excess = self._excess(metrics, self.reference(metrics))
        if not excess <= 0:
            return 1 + _squeezed(10 * excess)
        if self.max_bytes is not None:
            value = metrics[f"tflite_{self.metric}"]
            return _squeezed(-value if self.direction == "max" else value)
        return _squeezed(math.log(metrics["tflite_zipped_bytes"]) / 20)

    def _excess(self, metrics: dict[str, float], reference: float | None) -> float:
        """By how much the limit is broken; at most 0 where it is kept, NaN where nobody knows."""
        if self.max_bytes is not None:
            return metrics["tflite_zipped_bytes"] / self.max_bytes - 1
        if reference is None:
            return math.nan
        drop = self._badness(metrics[f"tflite_{self.metric}"]) - self._badness(reference)
        # Differences of float32 numbers are not exact: a drop of just the limit is no excess.
        return drop - self.max_accuracy_drop - 1e-7

    def reference(self, *metrics: dict[str, float]) -> float | None:
        """The float model's metric: of the best, where trials differ in their architecture."""
        name = f"float_{self.metric}"
        known = [own[name] for own in (*metrics, *self._all_metrics()) if name in own]
        return min(known, key=self._badness, default=None)

    def _badness(self, value: float) -> float:
        return -value if self.direction == "max" else value

    # --- results

    def _states(self) -> list[tuple[dict[str, Any], Path]]:
        """What KerasTuner has written of every trial, and its folder."""
        found = []
        for file in Path(self.tuner.project_dir).glob("trial_*/trial.json"):
            # Another process may be writing it at this moment; then its trial is not through.
            with contextlib.suppress(json.JSONDecodeError):
                found.append((json.loads(file.read_text()), file.parent))
        return sorted(found, key=lambda each: int(each[0]["trial_id"]))

    def _all_metrics(self) -> list[dict[str, float]]:
        return [_metrics_in(state) for state, _ in self._states()]

    def trials(self) -> list[TrialResult]:
        """All trials of the project, in the order of their ids; also those of other processes, and
        of a search that was stopped.
        """
        states = self._states()
        reference = self.reference(*(_metrics_in(state) for state, _ in states))
        return [self._result(state, folder, reference) for state, folder in states]

    def _result(self, state: dict[str, Any], folder: Path, reference: float | None) -> TrialResult:
        metrics = _metrics_in(state)
        lines = (state.get("message") or "").strip().splitlines()
        return TrialResult(
            id=state["trial_id"],
            status=state["status"],
            values=dict(state["hyperparameters"]["values"]),
            metrics=metrics,
            feasible=bool(metrics) and self._excess(metrics, reference) <= 0,
            reason=lines[-1] if lines else None,
            folder=folder,
        )

    def pareto(self) -> list[TrialResult]:
        """The trials that no other beats in metric and zipped bytes at once, smallest first."""
        finished = [
            trial
            for trial in self.trials()
            if trial.metrics and all(map(math.isfinite, self._point(trial)))
        ]
        points = [self._point(trial) for trial in finished]
        front = [
            trial
            for trial, own in zip(finished, points, strict=True)
            if not any(dominates(other, own) for other in points)
        ]
        return sorted(front, key=self._point)

    def _point(self, trial: TrialResult) -> tuple[float, float]:
        """(bytes, badness): both better when smaller."""
        badness = self._badness(trial.metrics[f"tflite_{self.metric}"])
        return trial.metrics["tflite_zipped_bytes"], badness

    def best_trial(self) -> TrialResult:
        """The winner: of the trials that keep to the limit the smallest, or the best.

        Raises:
            RuntimeError: none does, with the nearest.
        """
        feasible = [trial for trial in self.trials() if trial.feasible]
        if not feasible:
            finished = [trial for trial in self.trials() if trial.metrics]
            reference = self.reference()
            nearest = min(
                (t for t in finished if math.isfinite(self._excess(t.metrics, reference))),
                key=lambda trial: self._excess(trial.metrics, reference),
                default=None,
            )
            known = (
                f"the nearest is trial {nearest.id}, {_told(nearest)}" if nearest else "none ran"
            )
            raise RuntimeError(
                f"SparsitySearch: no trial keeps to {self._limit}; {known}. Widen the space, train "
                "longer, or relax the limit."
            )
        size, badness = (0, 1) if self.max_bytes is None else (1, 0)
        return min(
            feasible, key=lambda trial: (self._point(trial)[size], self._point(trial)[badness])
        )

    def best_model(self) -> Any:
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
        trials = self.trials()
        front = {trial.id for trial in self.pareto()}
        names = list(dict.fromkeys(name for trial in trials for name in trial.values))
        shown = [f"tflite_{self.metric}", "tflite_zipped_bytes", "sparsity"]
        if path is not None:
            metrics = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
            with open(path, "w", newline="") as file:
                writer = csv.writer(file)
                flags = ["trial", "status", "feasible", "pareto"]
                writer.writerow([*flags, *names, *metrics, "reason"])
                for trial in trials:
                    cells = [trial.values.get(name, "") for name in names]
                    cells += [trial.metrics.get(name, "") for name in metrics]
                    own = [trial.id, trial.status, trial.feasible, trial.id in front]
                    writer.writerow([*own, *cells, trial.reason or ""])
        rows = [
            [
                trial.id,
                _verdict(trial, trial.id in front),
                *(_cell(trial.values.get(name)) for name in names if not name.startswith("tuner/")),
                *(_cell(trial.metrics.get(name)) for name in shown),
            ]
            for trial in trials
        ]
        heads = [name for name in names if not name.startswith("tuner/")]
        columns = ["trial", "verdict", *heads, *shown]
        drawn = table(columns, rows, left=2, width=max(WIDTH, COLUMN * len(columns)))
        return f"limit: {self._limit}\n{drawn}"

    def plot(self, path: str | Path) -> None:
        """Write a picture of metric against zipped bytes, with the front drawn, as PNG (or what the
        ending of `path` says). Needs matplotlib: `pip install 'keras_compress[plot]'`.
        """
        from keras_compress.tuner.plots import plot_search

        plot_search(self, path)

    @property
    def _limit(self) -> str:
        if self.max_bytes is not None:
            return f"at most {self.max_bytes:,} zipped bytes"
        return f"{self.metric} at most {self.max_accuracy_drop:g} worse than the float model's"


class _Judged(CompressionHyperModel):
    """Adds the score of the search to the metrics of its trials."""

    def __init__(self, search: SparsitySearch, build: Any, **arguments: Any):
        super().__init__(build, **arguments)
        self._search = search

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = super().fit(hp, model, *args, **kwargs)
        return {**metrics, SCORE: self._search.score(metrics)}

    def _reported(self, adapter: Adapter, model: Any) -> list[str]:
        reported = super()._reported(adapter, model)
        needed = f"tflite_{self._search.metric}"
        if needed not in reported:
            names = [name.removeprefix("val_") for name in reported if name.startswith("val_")]
            raise keras_tuner.errors.FatalValueError(
                "SparsitySearch: `metric` must be one that the model was compiled with: "
                f"{', '.join(names)}. Received: metric={self._search.metric!r}"
            )
        return [*reported, SCORE]


def _metrics_in(state: dict[str, Any]) -> dict[str, float]:
    """The metrics of a completed trial; of any other none."""
    metrics = {}
    if state["status"] == "COMPLETED":
        for name, history in state["metrics"]["metrics"].items():
            values = history["observations"][-1]["value"]
            metrics[name] = sum(values) / len(values)
    return metrics


def _check_question(folder: Path, question: dict[str, Any]) -> None:
    """Refuse to go on with a project whose scores answer another question."""
    if not (folder / QUESTION).exists():
        return
    asked = json.loads((folder / QUESTION).read_text())
    for name, value in question.items():
        if asked.get(name) != value:
            raise value_error(
                OWNER,
                name,
                value,
                f"{asked.get(name)!r}, as in the search that stands in {str(folder)!r}; or give "
                "another `project_name`, or `overwrite=True`",
            )


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a point is nowhere larger than another, and somewhere smaller."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _squeezed(value: float) -> float:
    """Any number into (-1, 1), in order."""
    return value / (1 + abs(value))


def _verdict(trial: TrialResult, on_front: bool) -> str:
    if not trial.metrics:
        return trial.status.lower()
    words = ["feasible" if trial.feasible else "breaks the limit"]
    return ", ".join([*words, *(["pareto"] if on_front else [])])


def _told(trial: TrialResult) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in trial.metrics.items())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _check_folder(folder: Path) -> None:
    """Refuse a project that could not be written, before anything is trained."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            "SparsitySearch: `directory` must be a folder that can be written to. "
            f"Received: {str(folder)!r}, {error}"
        ) from error
