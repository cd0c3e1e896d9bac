"""One picture of a report: the training, the layers, the weights before and after; and what it
shares with other pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from keras_compress._shared.checks import as_text_path, listing, value_error
from keras_compress._shared.extras import require
from keras_compress._shared.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from keras_compress.reports.export import LayerAgreement
    from keras_compress.reports.fit import LayerReport, Report, WeightHistogram

ROWS_SHOWN = 300
"""How many layers are drawn at most, said where there are more; what is drawn has all of them."""
ROW = 0.16
"""Inches of a layer's row, for the smallest letters."""
LONG = 40
"""Rows of an axis that is labelled at both ends: one of them is out of sight."""
HISTOGRAMS_SHOWN = 12
_COLUMNS = 4
_LABEL = 40  # characters of a layer's path, from its end
_TITLE = 34  # of it in a line above a histogram
_NOT_METRICS = ("loss", "sparsity", "quantized", "learning_rate", "lr")
_BEFORE, _AFTER, _SPARSITY = "tab:gray", "tab:blue", "tab:green"


def plot_report(
    report: Report,
    path: str | os.PathLike[str] | None = None,
    kernels: Sequence[str] | None = None,
) -> Figure:
    """See `Report.plot`."""
    path = check_picture("Report.plot", path)
    chosen = _with_histograms(report, kernels)
    compared = [] if report.export is None else report.export.layers
    panels: list[tuple[float, Callable[[SubFigure], None]]] = []  # height in inches, what draws it
    if report.history:
        panels.append((3.2, lambda part: _draw_training(part, report)))
    channels = [] if report.channels is None else report.channels.layers
    if report.layers or compared:
        rows = min(max(len(report.layers), len(compared), len(channels)), ROWS_SHOWN)
        panels.append((1.4 + ROW * max(rows, 5), lambda part: _draw_layers(part, report, compared)))
    if chosen:
        rows = -(-len(chosen) // _COLUMNS)
        panels.append((0.7 + 1.8 * rows, lambda part: _draw_histograms(part, chosen)))
    if not panels:
        raise ValueError(
            "Report.plot: the report must be of a fit, or of a model that is compressed. "
            "Received: a report without epochs and without layers"
        )
    heights = [height for height, _ in panels]
    figure = new_figure((11, sum(heights)))
    parts = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)
    for part, (_, draw) in zip(parts[:, 0], panels, strict=True):
        draw(part)
    return save_figure(figure, path)


# --- what all pictures share


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of that many inches, without pyplot, which would choose a window system and
    keep every figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    layout = _matplotlib().ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure: Figure = _matplotlib().NotebookFigure(figsize=size, layout=layout)
    return figure


def check_picture(owner: str, path: object) -> str | None:
    """`path`, a string or PathLike with the ending of a picture, as a string; None stays None.

    Raises:
        ImportError: matplotlib, which knows the endings, is not installed.
    """
    if path is None:
        return None
    endings = _matplotlib().ENDINGS
    rule = f"None or the path of a file that ends in {listing(endings)}"
    text = as_text_path(owner, "path", path, rule)
    if _ending(text) not in endings:
        raise value_error(owner, "path", text, rule)
    return text


def save_figure(figure: Figure, path: str | None) -> Figure:
    """Writes a picture to `path`, as `check_picture` returned it, whole or not at all, in the form
    that the ending says; None writes nothing. Returns the figure.

    Raises:
        OSError: the folder is missing, not writable or full.
    """
    if path is not None:
        write_atomically(path, _matplotlib().encoded(figure, _ending(path)[1:]))
    return figure


def shortened(labels: Iterable[str], length: int) -> list[str]:
    """Labels of so many characters, from their ends; of more where two would read the same."""
    labels = list(labels)
    while True:
        short = [label if len(label) <= length else f"…{label[1 - length :]}" for label in labels]
        if len(set(short)) == len(set(labels)):
            return short
        length += 1


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _matplotlib() -> ModuleType:
    require("plot", "plot", "matplotlib")
    import keras_compress.reports.notebook_figure as found

    return found


# --- the parts of a report


def _with_histograms(
    report: Report, kernels: Sequence[str] | None
) -> list[tuple[LayerReport, WeightHistogram]]:
    """The kernels whose weights are drawn: those of these layers, or the largest."""
    having = [(each, each.histogram) for each in report.layers if each.histogram is not None]
    if kernels is None:
        largest = sorted(having, key=lambda each: -sum(each[1].after))
        shown = largest[:HISTOGRAMS_SHOWN]
        return [each for each in having if each in shown]
    paths = [layer.path for layer, _ in having]
    unknown = [name for name in kernels if name not in paths]
    if unknown or isinstance(kernels, str):
        raise value_error("Report.plot", "kernels", kernels, f"a list out of {paths}")
    return [(layer, counts) for layer, counts in having if layer.path in kernels]


def _draw_training(part: SubFigure, report: Report) -> None:
    names = dict.fromkeys(name for epoch in report.history for name in epoch.logs)
    plain = [name for name in names if not name.startswith("val_") and name not in _NOT_METRICS]
    metric = plain[:1]
    curves = [(name, [name, f"val_{name}"]) for name in ["loss", *metric] if name in names]
    sparsity = "sparsity" in names
    part.suptitle("training")
    all_axes = part.subplots(1, len(curves) + sparsity, squeeze=False)[0]
    steps = [epoch.step for epoch in report.history if epoch.step is not None]
    counted = len(steps) == len(report.history)
    at = steps if counted else [epoch.epoch + 1 for epoch in report.history]

    def draw(axes: Axes, name: str, factor: float = 1.0, **look: Any) -> None:
        points = [
            (x, factor * epoch.logs[name])
            for x, epoch in zip(at, report.history, strict=True)
            if epoch.logs.get(name) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", **look)

    for axes, (title, both) in zip(all_axes, curves, strict=False):
        draw(axes, both[0], label="training", color=_BEFORE)
        draw(axes, both[1], label="validation", color=_AFTER)
        axes.set_ylabel(title)
    if sparsity:
        draw(all_axes[-1], "sparsity", 100, color=_SPARSITY, label="all pruned kernels")
        all_axes[-1].set_ylabel("sparsity (%)")
        all_axes[-1].set_ylim(-3, 103)
    # A switch in an earlier fit would only squeeze this one to the right.
    first = at[0] - (at[1] - at[0] if len(at) > 1 else at[0])
    switched = counted and report.switched_at is not None and report.switched_at > first
    for axes in all_axes:
        if switched:
            label = f"quantized from {report.switched_at:,}"
            axes.axvline(report.switched_at, color="tab:red", linestyle="--", label=label)
        axes.set_xlabel("update" if counted else "epoch")
        axes.grid(alpha=0.3)
    # One for all, beside what is drawn.
    lines = {line.get_label(): line for axes in all_axes for line in axes.lines}
    part.legend(
        lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), fontsize="small"
    )


def _draw_layers(part: SubFigure, report: Report, compared: Sequence[LayerAgreement]) -> None:
    part.suptitle("layers")
    channels = [] if report.channels is None else report.channels.layers
    count = sum(map(bool, (report.layers, channels, compared)))
    all_axes = iter(part.subplots(1, count, squeeze=False)[0])
    if report.layers:
        axes = next(all_axes)
        paths = [layer.path for layer in report.layers]
        labels = [
            layer.path if paths.count(layer.path) == 1 else f"{layer.path}/{layer.kernel}"
            for layer in report.layers
        ]
        _bars(axes, labels, {"": ([100 * layer.sparsity for layer in report.layers], _AFTER)})
        axes.set_xlim(0, 100)
        axes.set_xlabel("zeros (%)")
    if channels:
        axes = next(all_axes)
        series = {
            "before": ([float(each.before) for each in channels], "lightsteelblue"),
            "left": ([float(each.after) for each in channels], _AFTER),
        }
        _bars(axes, [each.path for each in channels], series)
        axes.set_xlim(left=0)
        axes.set_xlabel("channels")
    if compared:
        axes = next(all_axes)
        labels = [
            layer.path if layer.tensor == "output" else f"{layer.path} ({layer.tensor})"
            for layer in compared
        ]
        series = {
            "largest": ([layer.largest_steps for layer in compared], "lightsteelblue"),
            "mean": ([layer.mean_steps for layer in compared], _AFTER),
        }
        _bars(axes, labels, series)
        axes.set_xlim(left=0)
        axes.set_xlabel("file against network (steps)")


def _bars(axes: Axes, labels: list[str], series: dict[str, tuple[list[float], str]]) -> None:
    """Horizontal bars, the first layer on top, one series over the other."""
    count = min(len(labels), ROWS_SHOWN)
    for label, (values, color) in series.items():
        axes.barh(range(count), values[:count], color=color, label=label, height=0.75)
    axes.set_yticks(range(count), shortened(labels[:count], _LABEL), fontsize="x-small")
    axes.set_ylim(max(count, 5) - 0.4, -0.6)
    if count > LONG:
        axes.tick_params(axis="x", labeltop=True, top=True)
    if count < len(labels):
        axes.set_title(f"the first {count} of {len(labels)}", fontsize="small", loc="left")
    if len(series) > 1:
        above = (1, 1 + 0.35 / (ROW * max(count, 5))) if count > LONG else (1, 1)
        axes.legend(
            fontsize="small", loc="lower right", bbox_to_anchor=above, ncols=2, frameon=False,
            borderaxespad=0.2,
        )  # fmt: skip
    axes.grid(axis="x", alpha=0.3)


def _draw_histograms(
    part: SubFigure, layers: Sequence[tuple[LayerReport, WeightHistogram]]
) -> None:
    rows = -(-len(layers) // _COLUMNS)
    part.suptitle("weights before the fit (line) and after it (filled)")
    all_axes = part.subplots(rows, _COLUMNS, squeeze=False).ravel()
    titles = shortened((layer.path for layer, _ in layers), 2 * _TITLE)
    for axes, title, (layer, counts) in zip(all_axes, titles, layers, strict=False):
        bins = len(counts.after)
        edges = [counts.limit * (2 * i / bins - 1) for i in range(bins + 1)]
        axes.stairs(counts.after, edges, fill=True, color=_AFTER, alpha=0.6)
        axes.stairs(counts.before, edges, color="black", linewidth=1)
        axes.set_yscale("log")
        # So high that two powers of ten are marked; then matplotlib marks nothing between them.
        axes.set_ylim(0.7, max(12, 2 * max(*counts.before, *counts.after)))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", nbins=4)
        lines = [title[at : at + _TITLE] for at in range(0, len(title), _TITLE)]
        lines.append(f"{layer.sparsity:.0%} zeros")
        axes.set_title("\n".join(lines), fontsize="x-small")
        axes.tick_params(labelsize="x-small")
    for axes in all_axes[::_COLUMNS]:
        axes.set_ylabel("weights", fontsize="small")
    for axes in all_axes[len(layers) :]:
        axes.set_axis_off()
