"""The report on one fit: what was done to a model, what was left out and why."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_compress._shared.checks import check_path
from keras_compress._shared.files import write_atomically
from keras_compress._shared.plain import plain
from keras_compress._shared.versions import installed
from keras_compress.reports.channels import ChannelsReport
from keras_compress.reports.export import ExportReport
from keras_compress.reports.plots import plot_report
from keras_compress.reports.shown import (
    Line,
    Part,
    Shown,
    Table,
    as_html,
    as_page,
    can_plot,
    left_out_lines,
    png_of,
)
from keras_compress.reports.validation import ValidationReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class WeightHistogram:
    """How many weights of a kernel lie where, before a fit and after it.

    Attributes:
        limit: the bins are of equal width from -limit to limit; the outermost ones also hold what
            lies beyond.
        before: counts when the fit began.
        after: counts when it ended, masked weights as the zeros that they are.
    """

    limit: float
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclasses.dataclass
class LayerReport:
    """One kernel.

    Attributes:
        path: its layer, `"backbone/conv1"` inside a nested model.
        kernel: its name in the layer.
        shape: as Keras has it.
        sparsity: fraction of zeros, in [0, 1].
        bits: of an integer that stands for a weight; None where it stays in float.
        scale: what one integer step is worth, in the unit of the weights: (scale,) of the whole
            kernel, or (smallest, largest) over its output channels. None where it stays in float.
        histogram: of its weights; None outside of a fit.
    """

    path: str
    kernel: str
    shape: tuple[int, ...]
    sparsity: float
    bits: int | None
    scale: tuple[float, ...] | None = None
    histogram: WeightHistogram | None = None


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """One epoch.

    Attributes:
        epoch: its number, as Keras counts, from 0.
        step: updates done when it ended, over the whole compressed training; None for a model that
            is not compressed.
        logs: name -> value as `History` has it, of what is a single number.
    """

    epoch: int
    step: int | None
    logs: dict[str, float]


@dataclasses.dataclass(repr=False)
class Report(Shown):
    """One fit.

    Attributes:
        step: updates done over the whole compressed training, counted from 1.
        phase: of quantization when the fit ended: "off", "watching", "on" or "frozen".
        switched_at: the first update that was rounded, or would be, where the delay ends with the
            fit; None before that.
        sparsity: fraction of zeros over all pruned kernels together, in [0, 1]; of channels, the
            fraction that is dropped.
        layers: one for each kernel that is pruned or quantized.
        left_out: per spec, path -> reason.
        steps: the updates that fractions became: "delay", "freeze_step" and "schedules" (by path).
        missed: the targets that the fit ended before.
        validation: None if `fit` had no validation data.
        export: None if no file was asked for.
        specs: the plain dicts of "pruning", "quantization" and "export" as they were given.
        history: the epochs of this fit.
        channels: what is left of them; None where none are pruned.
    """

    step: int
    phase: str
    switched_at: int | None
    sparsity: float
    layers: list[LayerReport]
    left_out: dict[str, dict[str, str]]
    steps: dict[str, Any]
    missed: list[str] = dataclasses.field(default_factory=list)
    validation: ValidationReport | None = None
    export: ExportReport | None = None
    specs: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[EpochReport] = dataclasses.field(default_factory=list)
    channels: ChannelsReport | None = None

    @classmethod
    def of_plain_model(cls) -> Report:
        """The report on a model that is not compressed."""
        return cls(0, "off", None, 0.0, [], {}, {})

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON: what is not finite is None."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """The report that `to_dict` described; what was not finite is NaN.

        Raises:
            ValueError: `values` is no such dict.
        """
        import cattrs

        converter = cattrs.Converter(forbid_extra_keys=True)
        converter.register_structure_hook(float, lambda v, _: math.nan if v is None else float(v))
        try:
            return converter.structure(values, cls)
        except Exception as error:
            reasons = "; ".join(cattrs.transform_error(error, path="report"))
            raise ValueError(
                f"Report.from_dict: `values` must be what `to_dict` returns. Received: {reasons}"
            ) from error

    def to_html(
        self, path: str | os.PathLike[str], *, versions: dict[str, str] | None = None
    ) -> None:
        """Write the report as one HTML file that needs no other: its tables, the picture of `plot`
        where matplotlib is installed, the specs and the versions of the packages.

        Args:
            path: ends in ".html"; written whole or not at all.
            versions: of the packages that made it; None for those of this process.
        """
        path = check_path("Report.to_html", "path", path, ".html")
        boxes = {
            "specs": json.dumps(plain(self.specs), indent=2),
            "steps": json.dumps(plain(self.steps), indent=2),
            "versions": json.dumps(versions or installed(), indent=2),
        }
        title = "compressed" if self.export is None else self.export.path
        html = self._repr_html_()
        if not can_plot():
            html += as_html(iter([Line("no picture: matplotlib is not installed", "warning")]))
        write_atomically(path, as_page(title, html, boxes).encode())

    def _picture(self) -> bytes | None:
        return png_of(self.plot) if self.history or self.layers else None

    def plot(
        self, path: str | os.PathLike[str] | None = None, *, kernels: Sequence[str] | None = None
    ) -> Figure:
        """A picture: loss, metric and sparsity over the updates, with a line where the delay ended;
        zeros and error layer by layer; the weights of kernels before the fit and after it.

        Args:
            path: writes it there, whole or not at all, in the form that its ending says: ".png",
                ".pdf", ".svg" or what else matplotlib can write.
            kernels: paths of the layers whose weights are shown; None for the 12 with the most.

        Returns:
            The `matplotlib.figure.Figure`, which a notebook shows as the last value of a cell.

        Raises:
            ImportError: matplotlib is not installed; the extra "plot" brings it.
            ValueError: there is nothing to draw, `kernels` names a layer that is not there, or the
                ending of `path` is none of a picture.
        """
        return plot_report(self, path, kernels)

    def _parts(self) -> Iterator[Part]:
        yield Line(self._title(), "title")
        for what in dict.fromkeys(map(_described, self.steps.get("schedules", {}).values())):
            yield Line(f"pruned by {what}")
        if self.layers:
            columns = ("layer", "kernel", "shape", "sparsity", "bits", "scale")
            yield Table(columns, [_cells(layer) for layer in self.layers], left=2)
        if self.channels is not None:
            yield from self.channels.parts()
        yield from left_out_lines(self.left_out)
        for what in self.missed:
            yield Line(f"missed: {what}", "warning")
        for part in (self.export, self.validation):
            if part is not None:
                yield from part._parts()

    def _title(self) -> str:
        if not self.layers and not any(map(self.specs.get, ("pruning", "quantization"))):
            return "not compressed"
        parts = [f"{self.step} updates"]
        if self.specs.get("quantization", True) is not None:
            switched = "never" if self.switched_at is None else f"from update {self.switched_at}"
            parts.append(f"quantized {switched}")
        elif self.phase != "off":
            parts.append("quantized by the wrappers it had")
        if self.specs.get("pruning", True) is not None:
            what = "the pruned weights are zeros"
            if (self.specs.get("pruning") or {}).get("structure") is not None:
                what = "the channels are dropped"
            parts.append(f"{self.sparsity:.1%} of {what}")
        return "; ".join(parts)


def _described(schedule: dict[str, Any]) -> str:
    """A schedule in a line, its steps resolved."""
    end = schedule["end_step"]
    steps = f"from update {schedule['begin_step']} on"
    if end >= 0:
        steps = f"in updates {schedule['begin_step']} to {end}"
    target = schedule.get("final_sparsity", schedule.get("target_sparsity"))
    return f"{schedule['kind']} to {target:.0%} {steps}, a mask every {schedule['frequency']}"


def _cells(layer: LayerReport) -> tuple[str, ...]:
    scale = "-" if layer.scale is None else "..".join(f"{each:.3g}" for each in layer.scale)
    return (
        layer.path,
        layer.kernel,
        "x".join(map(str, layer.shape)),
        f"{layer.sparsity:.1%}",
        "float" if layer.bits is None else str(layer.bits),
        scale,
    )
