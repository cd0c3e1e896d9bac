"""What is noted while a fit runs, for the pictures of its report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_compress.engines.engine import Engine
from keras_compress.engines.reporting import compressed_kernels, in_place
from keras_compress.reports.fit import EpochReport, Report, WeightHistogram

BINS = 64
DOUBLINGS = 3
"""How often the widest weight may double before weights are counted in the outermost bins."""

AT_ONCE = 1 << 16
"""Weights that are looked at together: of a whole kernel several copies would be made."""


class PlotData:
    """Of one fit: its epochs, and the weights of its kernels before it and after."""

    def __init__(self) -> None:
        self._epochs: list[EpochReport] = []
        self._before: dict[int, tuple[float, np.ndarray]] = {}

    def begin(self, engine: Engine) -> None:
        """Count the weights before the first update; some 10 ns for each."""
        kernels = compressed_kernels(engine)
        self._before = {id(kernel): spread(in_place(kernel)) for _, _, kernel in kernels}

    def epoch_end(self, epoch: int, step: int | None, logs: Mapping[str, object] | None) -> None:
        """Keep what `History` gets, as far as it is numbers."""
        values = {name: np.asarray(value) for name, value in (logs or {}).items()}
        numbers = {
            name: float(value)
            for name, value in values.items()
            if value.ndim == 0 and value.dtype.kind in "biuf"
        }
        self._epochs.append(EpochReport(epoch, step, numbers))

    def write(self, report: Report, engine: Engine | None) -> None:
        """Put all of it into the report on the fit."""
        report.history = list(self._epochs)
        found = () if engine is None else compressed_kernels(engine)
        kernels = {(path, name): kernel for path, name, kernel in found}
        for layer in report.layers:
            kernel = kernels.get((layer.path, layer.kernel))
            before = self._before.get(id(kernel))
            if kernel is not None and before is not None:
                layer.histogram = histogram(*before, in_place(kernel))


def spread(weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest magnitude, and counts so fine and wide that `histogram` can choose its bins when
    it is known how far the weights have moved.
    """
    widest = _widest(weights)
    limit = widest if 0 < widest < np.inf else 1.0
    return limit, _counts(weights, limit * 2**DOUBLINGS, BINS * 2**DOUBLINGS)


def histogram(limit: float, spread: np.ndarray, after: np.ndarray) -> WeightHistogram:
    """Both counts over the same bins, from what `spread` gave before and the weights now."""
    widest = _widest(after)
    doublings = next((n for n in range(DOUBLINGS) if widest <= limit * 2**n), DOUBLINGS)
    each = 2**doublings  # fine bins in one
    middle, half = len(spread) // 2, BINS // 2 * each
    before = spread[middle - half : middle + half].reshape(BINS, each).sum(axis=1)
    before[-1] += spread[middle + half :].sum()  # the widest weight itself, if it is positive
    limit *= each
    return WeightHistogram(
        limit, tuple(before.tolist()), tuple(_counts(after, limit, BINS).tolist())
    )


def _widest(weights: np.ndarray) -> float:
    return float(np.maximum(weights.max(initial=0.0), -weights.min(initial=0.0)))


def _counts(weights: np.ndarray, limit: float, bins: int) -> np.ndarray:
    flat, counts = weights.reshape(-1), np.zeros(bins, np.int64)
    for begin in range(0, len(flat), AT_ONCE):
        clipped = np.clip(flat[begin : begin + AT_ONCE], -limit, limit)
        counts += np.histogram(clipped, bins, (-limit, limit))[0]
    return counts
