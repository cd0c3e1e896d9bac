"""Pictures of a search and of a sensitivity scan."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress.reports.plots import (
    LONG,
    ROW,
    ROWS_SHOWN,
    check_picture,
    new_figure,
    save_figure,
    shortened,
)
from keras_compress.tuner.point_labels import label_points
from keras_compress.tuner.question import Question
from keras_compress.tuner.trials import Trial, comparable, front, winner

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_compress.tuner.kernel_sensitivity import Sensitivity

_LABEL = 60  # characters of a layer's path, from its end
_LETTER = 0.068  # inches, of the smallest letters
_CELL = 0.62  # inches of a column
_WIDEST = 12.0  # inches of all columns
_MARKER, _STAR = 6.0, 15.0  # across, in points


# --- a search


def plot_search(
    trials: Sequence[Trial],
    question: Question,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """See `SparsitySearch.plot`."""
    owner = "SparsitySearch.plot"
    path = check_picture(owner, path)
    drawn = comparable(trials, question)
    left_out = _told([trial for trial in trials if trial not in drawn])
    if not drawn:
        raise ValueError(
            f"{owner}: the search must have a completed trial. Received: {left_out or 'no trials'}"
        )
    factor = min(max(math.sqrt(len(drawn) / 30), 1), 1.6)
    figure = new_figure((8 * factor, 5.5 * factor))
    axes = figure.subplots()
    best = winner(drawn, question)
    _draw_trials(axes, drawn, question, best)
    _draw_limits(axes, drawn, question)
    notes = [] if best is not None else ["no trial keeps to it"]
    notes += [f"not drawn: {left_out}"] if left_out else []
    axes.set_title("\n".join([f"limit: {question.limit}", *notes]), fontsize="medium")
    axes.set_xlabel("zipped file (bytes)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=7)
    axes.set_ylabel(f"{question.metric} of the integer file")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    drawn.sort(key=lambda trial: trial is not best)  # whose label has the first choice of a place
    label_points(
        figure,
        axes,
        [_at(trial, question) for trial in drawn],
        [trial.id for trial in drawn],
        [(_STAR if trial is best else _MARKER) / 2 + 1 for trial in drawn],
    )
    return save_figure(figure, path)


def _draw_trials(
    axes: Axes, drawn: Sequence[Trial], question: Question, best: Trial | None
) -> None:
    feasible = [trial for trial in drawn if trial.feasible]
    broken = [trial for trial in drawn if not trial.feasible]
    groups = (
        (feasible, "keeps to the limit", "o", "tab:blue"),
        (broken, "breaks the limit", "x", "tab:red"),
    )
    for group, label, marker, color in groups:
        if group:
            x, y = zip(*(_at(trial, question) for trial in group), strict=True)
            label = f"{label} ({len(group)})"
            axes.scatter(x, y, s=_MARKER**2, marker=marker, color=color, label=label, zorder=3)
    if best is not None:
        x, y = zip(*(_at(trial, question) for trial in front(feasible, question)), strict=True)
        label = "front of those that keep to it"
        axes.step(x, y, where="post", color="tab:gray", linewidth=1.2, label=label)
        size, value = _at(best, question)
        label = f"winner: trial {best.id} ({size:,.0f} bytes, {question.metric} {value:.4g})"
        axes.scatter(
            [size], [value], s=_STAR**2, marker="*", color="gold", edgecolor="black", label=label,
            zorder=4,
        )  # fmt: skip


def _draw_limits(axes: Axes, drawn: Sequence[Trial], question: Question) -> None:
    limit: dict[str, Any] = {"color": "tab:red", "linestyle": ":", "label": "limit"}
    if question.max_bytes is not None:
        axes.axvline(question.max_bytes, **limit)
    reference = question.reference(trial.metrics for trial in drawn)
    if reference is not None:
        label = f"float model ({reference:.4g})"
        axes.axhline(reference, color="tab:green", linestyle="--", label=label)
        if question.max_accuracy_drop is not None:
            sign = -1 if question.direction == "max" else 1
            axes.axhline(reference + sign * question.max_accuracy_drop, **limit)


def _at(trial: Trial, question: Question) -> tuple[float, float]:
    return trial.metrics["tflite_zipped_bytes"], trial.metrics[f"tflite_{question.metric}"]


def _told(trials: Sequence[Trial]) -> str:
    """How many trials there are of each status; a completed one has no finite metric."""
    words = ["not finite" if trial.metrics else trial.status.lower() for trial in trials]
    return ", ".join(f"{count} {word}" for word, count in collections.Counter(words).items())


# --- a scan


def plot_sensitivity(found: Sensitivity, path: str | os.PathLike[str] | None = None) -> Figure:
    """See `Sensitivity.plot`."""
    owner = "Sensitivity.plot"
    path = check_picture(owner, path)
    layers = found.worst_first()
    if not layers:
        raise ValueError(f"{owner}: there must be layers to draw. Received: values={{}}")
    shown = layers[:ROWS_SHOWN]
    tried = found.tried
    drops = np.array([[found.drops(layer).get(at, math.nan) for at in tried] for layer in shown])
    labels = shortened(shown, _LABEL)
    cell = min(max(_CELL, 3 / len(tried)), _WIDEST / len(tried))
    width = _LETTER * max(map(len, labels)) + cell * len(tried) + 0.6
    height = ROW * max(len(shown), 5)
    figure = new_figure((max(width, 6), height + 2))
    bar, axes = figure.subplots(2, 1, height_ratios=[0.15, height])
    _draw_cells(axes, drops, cell)
    word = "drop" if found.direction == "max" else "rise"
    figure.colorbar(axes.collections[0], cax=bar, orientation="horizontal")
    finite = drops[np.isfinite(drops)]
    if finite.any():  # as much of the bar as there is in the cells
        bar.set_xlim(finite.min(initial=0.0), finite.max(initial=0.0))
    bar.set_title(f"{word} in {found.metric}", fontsize="small")
    bar.tick_params(labelsize="x-small")
    title = f"one layer pruned alone; untouched, {found.metric} is {found.baseline:.4g}\n"
    count = "worst first"
    if len(shown) < len(layers):
        count = f"the worst {len(shown)} of {len(layers)}, {count}"
    if not np.isfinite(drops).all():
        count = f"{count}; gray: no finite number"
    figure.suptitle(title + count, fontsize="medium")
    axes.set_xticks(range(len(tried)), [f"{100 * at:g} %" for at in tried], fontsize="x-small")
    axes.set_yticks(range(len(shown)), labels, fontsize="x-small")
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labeltop=True, labelbottom=len(shown) > LONG)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("sparsity", fontsize="small")
    return save_figure(figure, path)


def _draw_cells(axes: Axes, drops: np.ndarray, width: float) -> None:
    """Colours around white for no change: red is worse, blue is better; the numbers where a cell of
    so many inches has room for them.
    """
    rows, columns = drops.shape
    finite = drops[np.isfinite(drops)]
    largest = float(np.abs(finite).max(initial=0.0)) or 1.0
    # Red and blue are told apart by those, too, who do not see red and green.
    mesh = axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(drops),
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
        edgecolors="white",
        linewidth=0.5,
    )
    mesh.set_cmap(mesh.cmap.with_extremes(bad="silver"))
    axes.set_facecolor("silver")
    axes.invert_yaxis()
    texts = [[_number(drop, largest) for drop in row] for row in drops]
    if _LETTER * (1 + max(len(text) for row in texts for text in row)) > width:
        return
    for row, column in np.ndindex(rows, columns):
        dark = 0.6 * largest < abs(drops[row, column]) < math.inf
        axes.text(
            column, row, texts[row][column], ha="center", va="center_baseline",
            fontsize="x-small", color="white" if dark else "black",
        )  # fmt: skip


def _number(drop: float, largest: float) -> str:
    """With as many decimals as the largest needs for three digits."""
    if not math.isfinite(drop):
        return f"{drop}"
    if not 1e-4 <= largest < 1e5:
        return f"{drop:.1e}"
    decimals = max(2 - math.floor(math.log10(largest)), 0)
    return f"{round(drop, decimals) + 0.0:.{decimals}f}"
