"""What was done to a model, what was left out and why, and what the file is worth: data, text and
plain dict.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from keras_compress._plain import plain
from keras_compress._tables import table
from keras_compress.plots import plot_report

LISTED_LAYERS = 5
"""How many layers of a comparison are printed; `to_dict` has all of them."""


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
class FloatOpReport:
    """An op of an integer file that computes in float.

    Attributes:
        op: its name in the TFLite schema.
        layer: the path of the layer that it computes, of a QUANTIZE or DEQUANTIZE that of the float
            op beside it; None where the file does not tell.
        tensor: the name of its (first) output in the file.
    """

    op: str
    layer: str | None
    tensor: str

    def __str__(self) -> str:
        return f"{self.op} of {self.layer!r}" if self.layer else f"{self.op} ({self.tensor})"


@dataclasses.dataclass(frozen=True)
class LayerAgreement:
    """What one layer of the network and of the file make of equal inputs.

    Attributes:
        path: the layer.
        tensor: "output", or which of the numbers that are rounded inside the layer ("before" its
            activation, "between" the halves of a separable convolution, ...).
        largest_steps: largest difference of any element, in steps of the tensor's scale: 1 is one
            rounding the other way.
        mean_steps: mean difference over all elements, likewise.
    """

    path: str
    tensor: str
    largest_steps: float
    mean_steps: float


@dataclasses.dataclass
class ExportReport:
    """One file, or why there is none.

    Attributes:
        path: where it stands.
        mode: "int8", "int16x8", "dynamic", "float16" or "float32".
        error: what went wrong and what to do about it; None if nothing did.
        skipped: why none was made, because the fit ended before a target; None if one was.
        bytes: of the file.
        zipped_bytes: of a zip (deflate, level 9) with nothing else in it.
        sha256: of the file, in hexadecimal.
        float_bytes: of the same network, masks and all, as a float32 file; None if it could not be
            made.
        float_zipped_bytes: of that one zipped.
        float_ops: what in an integer file computes in float; empty in the modes that compute so.
        rounded_anyway: the layers left out by `Quantization(layers=...)` that the converter
            computes in integers all the same, because the tensors around them are rounded.
        guessed: the tensors whose range is `default_ranges_stats`, because nobody knew theirs.
        inputs, outputs: name -> "dtype", "shape", "scale" and "zero_point" (None where it is no
            quantized number); empty for a file that LiteRT cannot run.
        c_files: the pair of C files beside it, if they were asked for.
        verified_on: which inputs the file was compared with its network on.
        samples: how many of them.
        largest_steps: per output, the largest difference between the network and the file run by
            LiteRT, in steps of the output's scale; of a float output as it is, with no unit.
        mean_steps: per output, the mean difference over all elements, likewise.
        argmax_agreement: per output, the share of equal decisions, in [0, 1]; None for an output
            without classes.
        layers: layer by layer on equal inputs, worst first; empty where this is not known: of files
            that are float or were quantized after training.
        layer_samples: on how many inputs.
    """

    path: str
    mode: str
    error: str | None = None
    skipped: str | None = None
    bytes: int | None = None
    zipped_bytes: int | None = None
    sha256: str | None = None
    float_bytes: int | None = None
    float_zipped_bytes: int | None = None
    float_ops: tuple[FloatOpReport, ...] = ()
    rounded_anyway: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    inputs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    c_files: tuple[str, ...] = ()
    verified_on: str | None = None
    samples: int = 0
    largest_steps: dict[str, float] = dataclasses.field(default_factory=dict)
    mean_steps: dict[str, float] = dataclasses.field(default_factory=dict)
    argmax_agreement: dict[str, float | None] = dataclasses.field(default_factory=dict)
    layers: list[LayerAgreement] = dataclasses.field(default_factory=list)
    layer_samples: int = 0

    @property
    def written(self) -> bool:
        """Whether a file of this export stands at `path`."""
        return self.error is None and self.skipped is None

    def __str__(self) -> str:
        if not self.written:
            return f"{self.path}: not written, {self.error or self.skipped}"
        parts = [f"{self.path}: {self.mode}", _sizes(self)]
        if self.float_ops:
            named = dict.fromkeys(str(op) for op in self.float_ops)  # one op of one layer once
            parts.append(f"float ops: {', '.join(named)}")
        if self.rounded_anyway:
            parts.append(
                "left out, and integer all the same, since all around them is: "
                f"{', '.join(self.rounded_anyway)}"
            )
        if self.guessed:
            parts.append(
                f"ACCURACY IS A GUESS: {len(self.guessed)} tensors have the default range, because "
                f"nothing told theirs: {', '.join(self.guessed)}"
            )
        if self.inputs or self.outputs:
            parts.append(_ends(self))
        if self.c_files:
            parts.append(f"C files: {', '.join(self.c_files)}")
        if self.verified_on and not self.largest_steps:
            parts.append(f"verified on {self.verified_on}")
        if self.largest_steps:
            unit = "in output steps" if self.mode.startswith("int") else "as they are"
            data = f"{self.samples} samples, {self.verified_on}"
            parts.append(f"differences from the network {unit} ({data}):")
            parts.append(_agreements(self))
        if self.layers:
            listed, count = self.layers[:LISTED_LAYERS], len(self.layers)
            some = f"the worst {len(listed)} of {count}" if len(listed) < count else "worst first"
            parts.append(
                f"layer by layer on equal inputs, {self.layer_samples} samples, in steps, {some}:"
            )
            parts.append(
                table(
                    ("layer", "tensor", "largest", "mean"),
                    [
                        (layer.path, layer.tensor, *_steps(layer.largest_steps, layer.mean_steps))
                        for layer in listed
                    ],
                    left=2,
                )
            )
        return "\n".join(parts)


@dataclasses.dataclass
class ValidationReport:
    """Metrics on the validation data that `fit` had.

    Attributes:
        rows: how many samples were evaluated; None if none of the networks could be.
        metrics: network -> name -> value, as the model's own `evaluate` names and computes them, a
            list where it has one for each class. The networks are "float" (trained and masked,
            nothing rounded), "fake-quantized" (what the model itself computes once quantization is
            on) and "tflite" (the file, run by LiteRT). What layers add to the loss by themselves
            (`activity_regularizer`, `add_loss`) is in that of "float" only.
        reasons: network -> why it has no metrics.
    """

    rows: int | None = None
    metrics: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        parts = []
        if self.metrics:
            found = [name for each in self.metrics.values() for name in each]
            names = sorted(dict.fromkeys(found), key=lambda name: name != "loss")
            parts.append(f"metrics on the {self.rows} rows of the validation data:")
            rows = [
                (network, *(_value(each[name]) if name in each else "-" for name in names))
                for network, each in self.metrics.items()
            ]
            parts.append(table(("network", *names), rows))
        parts += [f"no metrics of {name}: {why}" for name, why in self.reasons.items()]
        return "\n".join(parts)


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


@dataclasses.dataclass
class Report:
    """One fit.

    Attributes:
        step: updates done over the whole compressed training, counted from 1.
        phase: of quantization when the fit ended: "off", "watching", "on" or "frozen".
        switched_at: the first update that was rounded, or would be, where the delay ends with the
            fit; None before that.
        sparsity: fraction of zeros over all pruned kernels together, in [0, 1].
        layers: one for each kernel that is pruned or quantized.
        left_out: per spec, path -> reason.
        steps: the updates that fractions became: "delay", "freeze_step" and "schedules" (by path).
        missed: the targets that the fit ended before.
        validation: None if `fit` had no validation data.
        export: None if no file was asked for.
        specs: the plain dicts of "pruning", "quantization" and "export" as they were given.
        history: the epochs of this fit.
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

    @classmethod
    def of_plain_model(cls) -> Report:
        """The report on a model that is not compressed."""
        return cls(0, "off", None, 0.0, [], {}, {})

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON: what is not finite is None."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return values

    def plot(
        self, path: str | os.PathLike[str] | None = None, *, kernels: Sequence[str] | None = None
    ) -> Any:
        """A picture: loss, metric and sparsity over the updates, with a line where the delay ended;
        zeros and error layer by layer; the weights of kernels before the fit and after it.

        Args:
            path: writes it there as PNG, whole or not at all.
            kernels: paths of the layers whose weights are shown; None for the 12 with the most.

        Returns:
            The `matplotlib.figure.Figure`, which a notebook shows.

        Raises:
            ImportError: matplotlib is not installed; the extra "plot" brings it.
            ValueError: there is nothing to draw, or `kernels` names a layer that is not there.
        """
        return plot_report(self, path, kernels)

    def __str__(self) -> str:
        parts = [self._title()]
        if self.layers:
            columns = ("layer", "kernel", "shape", "sparsity", "bits", "scale")
            parts.append(table(columns, map(_cells, self.layers), left=2))
        for what, reasons in self.left_out.items():
            parts += [f"left out of {what}: {path} ({why})" for path, why in reasons.items()]
        parts += [f"missed: {what}" for what in self.missed]
        parts += [str(part) for part in (self.export, self.validation) if part is not None]
        return "\n".join(parts)

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
            parts.append(f"{self.sparsity:.1%} of the pruned weights are zeros")
        return "; ".join(parts)


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


def _sizes(report: ExportReport) -> str:
    rows = [("this file", report.bytes, report.zipped_bytes)]
    if report.bytes != report.float_bytes:
        rows.append(("as a float file", report.float_bytes, report.float_zipped_bytes))
    cells = [(name, *("-" if n is None else f"{n:,}" for n in sizes)) for name, *sizes in rows]
    return table(("", "bytes", "zipped"), cells)


def _ends(report: ExportReport) -> str:
    rows = [
        (
            f"{what} {name}",
            end["dtype"],
            "x".join(map(str, end["shape"])),
            "-" if end["scale"] is None else f"{end['scale']:.6g}",
            "-" if end["zero_point"] is None else str(end["zero_point"]),
        )
        for what, ends in (("input", report.inputs), ("output", report.outputs))
        for name, end in ends.items()
    ]
    return table(("", "dtype", "shape", "scale", "zero point"), rows)


def _agreements(report: ExportReport) -> str:
    rows = []
    for name, largest in report.largest_steps.items():
        same = report.argmax_agreement.get(name)
        steps = _steps(largest, report.mean_steps.get(name, math.nan))
        rows.append((name, *steps, "-" if same is None else f"{same:.1%}"))
    return table(("output", "largest", "mean", "equal decisions"), rows)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return f"{value:.4f}"


def _steps(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.3g}" for value in values)
