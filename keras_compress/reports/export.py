"""The report on one file: what it is worth, or why there is none."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from keras_compress.reports.shown import Line, Part, Shown, Table, Weight

LISTED_LAYERS = 5
"""How many layers of a comparison are printed; `to_dict` has all of them."""


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


@dataclasses.dataclass(repr=False)
class ExportReport(Shown):
    """One file, or why there is none.

    Attributes:
        path: where it stands.
        mode: "int8", "int16x8", "dynamic", "float16" or "float32".
        error: what went wrong and what to do about it; None if nothing did.
        skipped: why none was made: the fit ended before a target, or another worker writes it; None
            if one was.
        record_error: why the record beside the file is missing; None if nothing went wrong.
        bytes: of the file.
        zipped_bytes: of a zip (deflate, level 9) with nothing else in it.
        sha256: of the file, in hexadecimal.
        float_bytes: of the same network, masks and all and without a `postprocess`, as a float32
            file; None if it could not be made.
        float_zipped_bytes: of that one zipped.
        float_ops: what in an integer file computes in float; empty in the modes that compute so.
        rounded_anyway: the layers left out by `Quantization(layers=...)` that the converter
            computes in integers all the same, because the tensors around them are rounded.
        guessed: the tensors whose range is `default_ranges_stats`, because nobody knew theirs.
        inputs, outputs: name -> "dtype", "shape", "scale" and "zero_point" (None where it is no
            quantized number); empty for a file that LiteRT cannot run. With a `postprocess` the
            outputs are those of that op, and what is compared below is what it is given.
        c_files: the pair of C files beside it, if they were asked for.
        verified_on: which inputs the file was compared with its network on.
        samples: how many of them.
        largest_steps: per output, the largest difference between the network and the file run by
            LiteRT, in steps of the output's scale; of a float output as it is, with no unit.
        mean_steps: per output, the mean difference over all elements, likewise.
        predict_steps: per output, the largest difference between what `model.predict` gives, as the
            user calls it, and the file, likewise: a `predict_step` of one's own counts, and so does
            a mixed policy. None where `predict` gives something of another form; empty where the
            model is not the network of the file (a float file of one that rounds), where there is
            no Keras model, and where `predict` failed, which is logged.
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
    record_error: str | None = None
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
    predict_steps: dict[str, float | None] = dataclasses.field(default_factory=dict)
    argmax_agreement: dict[str, float | None] = dataclasses.field(default_factory=dict)
    layers: list[LayerAgreement] = dataclasses.field(default_factory=list)
    layer_samples: int = 0

    @property
    def written(self) -> bool:
        """Whether a file of this export stands at `path`."""
        return self.error is None and self.skipped is None

    def in_a_line(self) -> str:
        """What it is worth, or why there is none."""
        if not self.written:
            return f"{self.path}: not written, {self.error or self.skipped}"
        parts = [f"{self.mode}, {self.bytes:,} bytes"]
        if self.float_bytes not in (None, self.bytes):
            parts[0] += f" ({self.float_bytes:,} as a float file)"
        if self.largest_steps:
            unit = "output steps" if self.mode.startswith("int") else "of an output"
            parts.append(f"at most {max(self.largest_steps.values()):.3g} {unit} from the network")
        same = [share for share in self.argmax_agreement.values() if share is not None]
        if same:
            parts.append(f"{min(same):.1%} equal decisions")
        if self.float_ops:
            parts.append(f"{len(self.float_ops)} float ops")
        if self.guessed:
            parts.append("accuracy is a guess")
        return f"{self.path}: {'; '.join(parts)}"

    def _parts(self) -> Iterator[Part]:
        if not self.written:
            weight: Weight = "error" if self.error else "warning"
            yield Line(self.in_a_line(), weight)
            return
        yield Line(f"{self.path}: {self.mode}", "title")
        yield _sizes(self)
        if self.record_error:
            yield Line(f"without its record: {self.record_error}", "warning")
        if self.float_ops:
            named = dict.fromkeys(str(op) for op in self.float_ops)  # one op of one layer once
            yield Line(f"float ops: {', '.join(named)}", "warning")
        if self.rounded_anyway:
            yield Line(
                "left out, and integer all the same, since all around them is: "
                f"{', '.join(self.rounded_anyway)}"
            )
        if self.guessed:
            yield Line(
                f"ACCURACY IS A GUESS: {len(self.guessed)} tensors have the default range, because "
                f"nothing told theirs: {', '.join(self.guessed)}",
                "warning",
            )
        if self.inputs or self.outputs:
            yield _inputs_and_outputs(self)
        if self.c_files:
            yield Line(f"C files: {', '.join(self.c_files)}")
        if self.verified_on and not self.largest_steps:
            yield Line(f"verified on {self.verified_on}")
        if self.largest_steps:
            unit = "in output steps" if self.mode.startswith("int") else "as they are"
            data = f"{self.samples} samples, {self.verified_on}"
            yield Line(f"differences from the network {unit} ({data}):")
            yield _agreements(self)
            if not set(self.largest_steps) & set(self.outputs):
                ends = " and ".join(self.largest_steps)
                yield Line(f"{ends} are what the op is given that makes the file's outputs of them")
        if self.layers:
            listed, count = self.layers[:LISTED_LAYERS], len(self.layers)
            some = f"the worst {len(listed)} of {count}" if len(listed) < count else "worst first"
            yield Line(
                f"layer by layer on equal inputs, {self.layer_samples} samples, in steps, {some}:"
            )
            rows = [
                (layer.path, layer.tensor, *_steps(layer.largest_steps, layer.mean_steps))
                for layer in listed
            ]
            yield Table(("layer", "tensor", "largest", "mean"), rows, left=2)


def _sizes(report: ExportReport) -> Table:
    rows = [("this file", report.bytes, report.zipped_bytes)]
    if report.bytes != report.float_bytes:
        rows.append(("as a float file", report.float_bytes, report.float_zipped_bytes))
    cells = [(name, *("-" if n is None else f"{n:,}" for n in sizes)) for name, *sizes in rows]
    return Table(("", "bytes", "zipped"), cells)


def _inputs_and_outputs(report: ExportReport) -> Table:
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
    return Table(("", "dtype", "shape", "scale", "zero point"), rows)


def _agreements(report: ExportReport) -> Table:
    rows = []
    for name, largest in report.largest_steps.items():
        same = report.argmax_agreement.get(name)
        steps = _steps(largest, report.mean_steps.get(name, math.nan))
        rows.append((name, *steps, "-" if same is None else f"{same:.1%}"))
    for name, found in report.predict_steps.items():
        cell = "other form" if found is None else f"{found:.3g}"
        rows.append((f"{name}, by model.predict", cell, "-", "-"))
    return Table(("output", "largest", "mean", "equal decisions"), rows)


def _steps(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:.3g}" for value in values)
