"""What the trials of a project came to, read from the files that KerasTuner keeps of them."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_compress.reports.shown import Line, Part, Shown, Table
from keras_compress.tuner.question import Question

TFLITE_FILE, WEIGHTS, STATE = "model.tflite", "weights.npz", "state.npz"
"""What stands in the folder of a trial when it is through."""


@dataclasses.dataclass(frozen=True, repr=False)
class Trial(Shown):
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
        return self.folder / TFLITE_FILE

    def _parts(self) -> Iterator[Part]:
        found = told(self) if self.metrics else self.reason or "nothing yet"
        yield Line(f"{self.id}, {_verdict(self, on_front=False)}: {found}", "title")
        values = [(name, _cell(value)) for name, value in _values(self).items()]
        yield Table(("hyperparameter", "value"), values)


class Trials(Shown, list[Trial]):
    """The trials of one search, in the order of their ids; shown as a table."""

    def __init__(self, trials: Sequence[Trial], question: Question):
        super().__init__(trials)
        self._question = question

    def _parts(self) -> Iterator[Part]:
        yield Line(f"limit: {self._question.limit}", "title")
        yield _table(self, self._question)


# --- reading


def states(project: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The folder of every trial, in the order of their ids, and what KerasTuner has written of it,
    in whatever process.
    """
    found = []
    for file in project.glob("trial_*/trial.json"):
        # Another process may be writing it at this moment; then its trial is not through.
        with contextlib.suppress(json.JSONDecodeError):
            found.append((file.parent, json.loads(file.read_text())))
    return sorted(found, key=lambda each: int(each[1]["trial_id"]))


def metrics_in(state: dict[str, Any]) -> dict[str, float]:
    """The metrics of a completed trial; of any other none."""
    if state["status"] != "COMPLETED":
        return {}
    last = {
        name: history["observations"][-1]["value"]
        for name, history in state["metrics"]["metrics"].items()
    }
    return {name: sum(values) / len(values) for name, values in last.items()}


def results(project: Path, question: Question) -> Trials:
    """All trials of a project, judged."""
    found = [(folder, state, metrics_in(state)) for folder, state in states(project)]
    reference = question.reference(metrics for _, _, metrics in found)
    judged = [
        Trial(
            id=state["trial_id"],
            status=state["status"],
            values=dict(state["hyperparameters"]["values"]),
            metrics=metrics,
            feasible=bool(metrics) and question.excess(metrics, reference) <= 0,
            reason=_last_line(state.get("message")),
            folder=folder,
        )
        for folder, state, metrics in found
    ]
    return Trials(judged, question)


def check_success(project: Path, owner: str) -> None:
    """Refuse a search that is through, in which nothing has come of any trial.

    Raises:
        RuntimeError: with the reason of the last.
    """
    found = [state for _, state in states(project)]
    if found and all(state["status"] == "FAILED" for state in found):
        raise RuntimeError(
            f"{owner}: none of {len(found)} trials succeeded; the last failed with: "
            f"{_last_line(found[-1]['message'])}"
        )


def _last_line(message: str | None) -> str | None:
    lines = (message or "").strip().splitlines()
    return lines[-1] if lines else None


# --- the front


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a point is nowhere larger than another, and somewhere smaller."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def comparable(trials: Sequence[Trial], question: Question) -> list[Trial]:
    """The completed trials whose metric and bytes are numbers."""
    completed = [trial for trial in trials if trial.metrics]
    return [t for t in completed if all(map(math.isfinite, question.point(t.metrics)))]


def front(trials: Sequence[Trial], question: Question) -> list[Trial]:
    """The trials that no other beats in metric and zipped bytes at once, smallest first."""
    finished = [(question.point(t.metrics), t) for t in comparable(trials, question)]
    kept = [
        (point, trial)
        for point, trial in finished
        if not any(dominates(other, point) for other, _ in finished)
    ]
    return [trial for _, trial in sorted(kept, key=lambda each: each[0])]


def winner(trials: Sequence[Trial], question: Question) -> Trial | None:
    """Of the trials that keep to the limit the smallest, or the best; None where none does."""
    feasible = [trial for trial in trials if trial.feasible]
    return min(feasible, key=lambda trial: question.rank(trial.metrics), default=None)


# --- for people


def _table(trials: Sequence[Trial], question: Question) -> Table:
    on_front = {trial.id for trial in front(trials, question)}
    names = list(dict.fromkeys(name for trial in trials for name in _values(trial)))
    shown = [f"tflite_{question.metric}", "tflite_zipped_bytes", "sparsity"]
    rows = [
        [
            trial.id,
            _verdict(trial, trial.id in on_front),
            *(_cell(trial.values.get(name)) for name in names),
            *(_cell(trial.metrics.get(name)) for name in shown),
        ]
        for trial in trials
    ]
    return Table(["trial", "verdict", *names, *shown], rows, left=2, unfolded=True)


def _values(trial: Trial) -> dict[str, Any]:
    """The hyperparameters, without what a tuner notes of its own among them."""
    return {name: v for name, v in trial.values.items() if not name.startswith("tuner/")}


def write_csv(trials: Sequence[Trial], question: Question, path: str | Path) -> None:
    """Write all hyperparameters and metrics of trials."""
    on_front = {trial.id for trial in front(trials, question)}
    names, metrics = _names(trials, "values"), _names(trials, "metrics")
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "status", "feasible", "pareto", *names, *metrics, "reason"])
        for trial in trials:
            cells = [trial.values.get(name, "") for name in names]
            cells += [trial.metrics.get(name, "") for name in metrics]
            own = [trial.id, trial.status, trial.feasible, trial.id in on_front]
            writer.writerow([*own, *cells, trial.reason or ""])


def told(trial: Trial) -> str:
    """The metrics of a trial in a line."""
    return ", ".join(f"{name} {_cell(value)}" for name, value in trial.metrics.items())


def _names(trials: Sequence[Trial], field: str) -> list[str]:
    """All keys of a field of trials, each once."""
    return list(dict.fromkeys(name for trial in trials for name in getattr(trial, field)))


def _verdict(trial: Trial, on_front: bool) -> str:
    if not trial.metrics:
        return trial.status.lower()
    return ("feasible" if trial.feasible else "breaks the limit") + (", pareto" if on_front else "")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
