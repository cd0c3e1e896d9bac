"""Metrics of the networks that a fit made, on its validation data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from keras_compress.reports.shown import Line, Part, Shown, Table


@dataclasses.dataclass(repr=False)
class ValidationReport(Shown):
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

    def _parts(self) -> Iterator[Part]:
        if self.metrics:
            found = [name for each in self.metrics.values() for name in each]
            names = sorted(dict.fromkeys(found), key=lambda name: name != "loss")
            yield Line(f"metrics on the {self.rows} rows of the validation data:")
            rows = [
                (network, *(_value(each[name]) if name in each else "-" for name in names))
                for network, each in self.metrics.items()
            ]
            yield Table(("network", *names), rows)
        for why in dict.fromkeys(self.reasons.values()):
            networks = ", ".join(name for name, each in self.reasons.items() if each == why)
            yield Line(f"no metrics of {networks}: {why}", "warning")


def _value(value: float | list[Any] | None) -> str:
    if value is None:  # as a record has what was not finite
        return "nan"
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return f"{value:.4f}"
