"""Pictures of a search and of a sensitivity scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_compress.reports.plots import new_figure
from keras_compress.tuner.question import Question
from keras_compress.tuner.trials import Trial, front

if TYPE_CHECKING:
    from keras_compress.tuner.kernel_sensitivity import Sensitivity


def plot_search(trials: Sequence[Trial], question: Question, path: str | Path) -> None:
    """Metric against zipped bytes, with the Pareto front."""
    figure = new_figure((8, 5))
    axes = figure.subplots()
    name = f"tflite_{question.metric}"
    finished = [trial for trial in trials if trial.metrics]
    for feasible, label, marker in ((True, "keeps to the limit", "o"), (False, "breaks it", "x")):
        group = [trial for trial in finished if trial.feasible is feasible]
        axes.scatter(
            [trial.metrics["tflite_zipped_bytes"] / 1024 for trial in group],
            [trial.metrics[name] for trial in group],
            marker=marker,
            color="tab:blue" if feasible else "tab:red",
            label=f"{label} ({len(group)})",
            zorder=3,
        )
    best = front(finished, question)
    axes.step(
        [trial.metrics["tflite_zipped_bytes"] / 1024 for trial in best],
        [trial.metrics[name] for trial in best],
        where="post",
        color="tab:gray",
        label="Pareto front",
    )
    if question.max_bytes is not None:
        axes.axvline(question.max_bytes / 1024, color="tab:red", linestyle=":", label="limit")
    reference = question.reference(trial.metrics for trial in finished)
    if reference is not None:
        axes.axhline(reference, color="tab:green", linestyle="--", label="float model")
        if question.max_accuracy_drop is not None:
            sign = -1 if question.direction == "max" else 1
            limit = reference + sign * question.max_accuracy_drop
            axes.axhline(limit, color="tab:red", linestyle=":", label="limit")
    axes.set_xlabel("zipped file (KiB)")
    axes.set_ylabel(f"{question.metric} of the integer file")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def plot_sensitivity(found: Sensitivity, path: str | Path) -> None:
    """The metric over the sparsity of each layer alone."""
    figure = new_figure((8, 5))
    axes = figure.subplots()
    for layer, values in found.values.items():
        tried = sorted(values)
        metric = [found.baseline, *(values[at] for at in tried)]
        axes.plot([0, *(100 * at for at in tried)], metric, marker="o", label=layer)
    axes.axhline(found.baseline, color="tab:gray", linestyle="--", label="untouched")
    axes.set_xlabel("sparsity of this layer alone (%)")
    axes.set_ylabel(found.metric)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
