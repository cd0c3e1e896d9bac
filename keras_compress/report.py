"""What was done to a model, what was left out and why, and what the file is worth: data, text and
plain dict.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any


@dataclasses.dataclass
class LayerReport:
    """One kernel. `sparsity` is its fraction of zeros in [0, 1]; bits are None where it stays in
    float.
    """

    path: str
    kernel: str
    shape: tuple[int, ...]
    sparsity: float
    bits: int | None


@dataclasses.dataclass
class ExportReport:
    """One file, or why there is none.

    `largest_steps` and `mean_steps` are differences between the network and the file run by LiteRT,
    in steps of the output's scale (float outputs: absolute), `argmax_agreement` the share of equal
    decisions, each per output and over `samples` inputs taken from `verified_on`.
    """

    path: str
    mode: str
    error: str | None = None
    skipped: str | None = None
    bytes: int | None = None
    zipped_bytes: int | None = None
    float_ops: tuple[str, ...] = ()
    verified_on: str | None = None
    samples: int = 0
    largest_steps: dict[str, float] = dataclasses.field(default_factory=dict)
    mean_steps: dict[str, float] = dataclasses.field(default_factory=dict)
    argmax_agreement: dict[str, float | None] = dataclasses.field(default_factory=dict)

    @property
    def written(self) -> bool:
        """Whether a file of this export stands at `path`."""
        return self.error is None and self.skipped is None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.path}: not written, {self.error}"
        if self.skipped is not None:
            return f"{self.path}: not written, {self.skipped}"
        lines = [f"{self.path}: {self.mode}, {self.bytes:,} bytes, zipped {self.zipped_bytes:,}"]
        if self.float_ops:
            lines.append(f"  float ops: {', '.join(self.float_ops)}")
        for name, steps in self.largest_steps.items():
            text = f"  {name}: at most {steps:.3g} output steps from the trained network"
            agreement = self.argmax_agreement.get(name)
            if agreement is not None:
                text += f", {agreement:.1%} equal decisions"
            lines.append(f"{text} ({self.samples} samples: {self.verified_on})")
        return "\n".join(lines)


@dataclasses.dataclass
class Report:
    """One fit. `step` counts updates over the whole compressed training, `switched_at` is the first
    rounded one.

    `missed` says which targets the fit ended before; `left_out` is, per spec, path -> reason.
    """

    step: int
    phase: str
    switched_at: int | None
    sparsity: float
    layers: list[LayerReport]
    left_out: dict[str, dict[str, str]]
    steps: dict[str, Any]
    missed: list[str] = dataclasses.field(default_factory=list)
    export: ExportReport | None = None

    @classmethod
    def of_plain_model(cls) -> Report:
        """The report on a model that is not compressed."""
        return cls(0, "off", None, 0.0, [], {}, {})

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        import rich.console
        import rich.table

        table = rich.table.Table()
        for name in ("layer", "kernel", "shape", "sparsity", "bits"):
            table.add_column(name, justify="left" if name in ("layer", "kernel") else "right")
        for layer in self.layers:
            table.add_row(
                layer.path,
                layer.kernel,
                " x ".join(map(str, layer.shape)),
                f"{layer.sparsity:.1%}",
                "float" if layer.bits is None else str(layer.bits),
            )
        text = io.StringIO()
        rich.console.Console(file=text, width=100, color_system=None).print(table)
        lines = [self._title(), text.getvalue().rstrip()]
        for what, reasons in self.left_out.items():
            lines += [f"left out of {what}: {path} ({why})" for path, why in reasons.items()]
        lines += [f"missed: {what}" for what in self.missed]
        if self.export is not None:
            lines.append(str(self.export))
        return "\n".join(lines)

    def _title(self) -> str:
        switched = "never" if self.switched_at is None else f"from update {self.switched_at}"
        zeros = f"{self.sparsity:.1%} of the pruned kernels are zeros"
        return f"{self.step} updates; quantized {switched}; {zeros}"
