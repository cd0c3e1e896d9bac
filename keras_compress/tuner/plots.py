"""Pictures of a search and of a sensitivity scan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_compress.tuner.search import SparsitySearch
    from keras_compress.tuner.sensitivity import Sensitivity


def _figure() -> tuple[Any, Any]:
    try:
        # Without pyplot, which would choose a window system and keep every figure.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot: `matplotlib` is needed; install it with `pip install 'keras_compress[plot]'`."
        ) from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    return figure, figure.subplots()


def plot_search(search: SparsitySearch, path: str | Path) -> None:
    """Metric against zipped bytes, with the Pareto front."""
    figure, axes = _figure()
    name = f"tflite_{search.metric}"
    finished = [trial for trial in search.trials() if trial.metrics]
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
    front = search.pareto()
    axes.step(
        [trial.metrics["tflite_zipped_bytes"] / 1024 for trial in front],
        [trial.metrics[name] for trial in front],
        where="post",
        color="tab:gray",
        label="Pareto front",
    )
    if search.max_bytes is not None:
        axes.axvline(search.max_bytes / 1024, color="tab:red", linestyle=":", label="limit")
    reference = search.reference()
    if reference is not None:
        axes.axhline(reference, color="tab:green", linestyle="--", label="float model")
        if search.max_accuracy_drop is not None:
            sign = -1 if search.direction == "max" else 1
            limit = reference + sign * search.max_accuracy_drop
            axes.axhline(limit, color="tab:red", linestyle=":", label="limit")
    axes.set_xlabel("zipped file (KiB)")
    axes.set_ylabel(f"{search.metric} of the integer file")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def plot_sensitivity(found: Sensitivity, path: str | Path) -> None:
    """The metric over the sparsity of each layer alone."""
    figure, axes = _figure()
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
