"""What a search asks, and how the metrics of a trial answer it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from keras_compress._shared.checks import (
    check_choice,
    check_int,
    is_number,
    type_error,
    value_error,
)
from keras_compress._shared.files import write_atomically

OWNER = "SparsitySearch"
QUESTION_FILE = "question.json"
"""What the scores of a project's trials are an answer to."""

LATENCY = "tflite_latency_ms"
MACS = "macs"

MOST = {
    "max_bytes": ("tflite_zipped_bytes", "zipped bytes"),
    "max_macs": (MACS, "multiply-accumulates"),
    "max_latency_ms": (LATENCY, "ms in LiteRT"),
}
"""Limit -> (the metric that it is of, its unit in words)."""

Metrics = Mapping[str, float]
"""The metrics of one trial."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """How small can it get, or how good, under a limit: the arguments of a search of these names.

    Exactly one of `max_accuracy_drop` and the `MOST` is given; `max_epochs` with Hyperband alone.
    """

    metric: str
    direction: str
    max_accuracy_drop: float | None
    max_bytes: int | None
    max_epochs: int | None
    max_macs: int | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        check_choice(OWNER, "direction", self.direction, ("max", "min"))
        limits = {name: getattr(self, name) for name in ("max_accuracy_drop", *MOST)}
        if sum(limit is not None for limit in limits.values()) != 1:
            raise ValueError(
                "SparsitySearch: exactly one of `max_accuracy_drop`, `max_bytes`, `max_macs` and "
                "`max_latency_ms` must be given. "
                f"Received: {', '.join(f'{name}={limit}' for name, limit in limits.items())}"
            )
        if self.max_accuracy_drop is not None and not is_number(self.max_accuracy_drop):
            raise type_error(OWNER, "max_accuracy_drop", self.max_accuracy_drop, "a number")
        if self.max_bytes is not None:
            check_int(OWNER, "max_bytes", self.max_bytes, minimum=1)
        if self.max_macs is not None:
            check_int(OWNER, "max_macs", self.max_macs, minimum=1)
        longest = self.max_latency_ms
        if longest is not None and not (is_number(longest) and longest > 0):
            raise type_error(OWNER, "max_latency_ms", longest, "a number above 0")

    @property
    def most(self) -> tuple[str, float] | None:
        """(metric, the largest value of it); None where the limit is one of accuracy."""
        for name, (metric, _) in MOST.items():
            if getattr(self, name) is not None:
                return metric, getattr(self, name)
        return None

    @property
    def limit(self) -> str:
        """In words."""
        for name, (_, what) in MOST.items():
            if getattr(self, name) is not None:
                return f"at most {getattr(self, name):,} {what}"
        return f"{self.metric} at most {self.max_accuracy_drop:g} worse than the float model's"

    def score(self, metrics: Metrics, reference: float | None) -> float:
        """What KerasTuner minimizes: below 1 for what keeps to the limit, above it for what does
        not, both on a scale on which a surrogate model can tell trials apart. NaN, which fails the
        trial, where the metric is none.
        """
        excess = self.excess(metrics, reference)
        if not excess <= 0:
            return 1 + _squeezed(10 * excess)
        size, badness = self.point(metrics)
        return _squeezed(math.log(size) / 20 if self.most is None else badness)

    def excess(self, metrics: Metrics, reference: float | None) -> float:
        """By how much the limit is broken; at most 0 where it is kept, NaN where nobody knows.

        Args:
            reference: the float model's metric, if it is known.
        """
        if self.most is not None:
            metric, largest = self.most
            return metrics[metric] / largest - 1
        if reference is None or self.max_accuracy_drop is None:
            return math.nan
        drop = self._badness(metrics[f"tflite_{self.metric}"]) - self._badness(reference)
        # Differences of float32 numbers are not exact: a drop of just the limit is no excess.
        return drop - self.max_accuracy_drop - 1e-7

    def reference(self, trials: Iterable[Metrics]) -> float | None:
        """The float model's metric: of the best, where trials differ in their architecture."""
        name = f"float_{self.metric}"
        known = [metrics[name] for metrics in trials if name in metrics]
        return min(known, key=self._badness, default=None)

    def point(self, metrics: Metrics) -> tuple[float, float]:
        """(zipped bytes, badness): both better when smaller."""
        return metrics["tflite_zipped_bytes"], self._badness(metrics[f"tflite_{self.metric}"])

    def rank(self, metrics: Metrics) -> tuple[float, float]:
        """The smallest of this, among those that keep to the limit, wins."""
        size, badness = self.point(metrics)
        return (size, badness) if self.most is None else (badness, size)

    def _badness(self, value: float) -> float:
        return -value if self.direction == "max" else value

    def check(self, folder: Path) -> None:
        """Refuse to go on with a project whose scores answer another question."""
        if not (folder / QUESTION_FILE).exists():
            return
        asked = json.loads((folder / QUESTION_FILE).read_text())
        for name, value in dataclasses.asdict(self).items():
            if asked.get(name) != value:
                raise value_error(
                    OWNER,
                    name,
                    value,
                    f"{asked.get(name)!r}, as in the search that stands in {str(folder)!r}; or "
                    "give another `project_name`, or `overwrite=True`",
                )

    def write(self, folder: Path) -> None:
        """Leave it in the project, for `check`."""
        write_atomically(folder / QUESTION_FILE, json.dumps(dataclasses.asdict(self)).encode())


def _squeezed(value: float) -> float:
    """Any number into (-1, 1), in order."""
    return value / (1 + abs(value))
