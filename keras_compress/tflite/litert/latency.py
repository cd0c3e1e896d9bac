"""How long a file takes for one batch."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from keras_compress._shared.checks import check_int
from keras_compress.tflite.litert.model import TFLiteModel


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time of LiteRT for one batch of a file, in milliseconds.

    Attributes:
        p95_ms: 95 of 100 runs took no longer.
        runs: that were measured.
        threads: that LiteRT computed with.
    """

    median_ms: float
    min_ms: float
    p95_ms: float
    runs: int
    threads: int


def measure_latency(file: TFLiteModel, runs: int = 50) -> Latency:
    """Runs a file `runs` times, and a tenth as often before that, which allocates and warms up.

    The inputs are zeros: how long an op takes does not depend on its numbers. Sizes and indices are
    ones where the file cannot take zeros.

    Raises:
        ValueError: it takes neither.
    """
    check_int("measure_latency", "runs", runs, minimum=1)
    counts = _taken(file) if file.counts else 0
    for _ in range(runs // 10):
        file.run_on_zeros(counts)
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        file.run_on_zeros(counts)
        times.append(1000.0 * (time.perf_counter() - begin))
    median, p95 = np.percentile(times, [50, 95])
    return Latency(float(median), min(times), float(p95), runs, file.num_threads)


def _taken(file: TFLiteModel) -> int:
    """What the sizes and indices among a file's inputs may be."""
    for counts in (0, 1):
        try:
            file.run_on_zeros(counts)
            return counts
        except ValueError as error:
            said = error
    raise ValueError(
        "measure_latency: `file` must compute where its sizes and indices are all 0, or all 1. "
        f"Received: {said}"
    )


def latency_ms(file: TFLiteModel, runs: int = 50) -> float:
    """The median of `measure_latency`."""
    return measure_latency(file, runs).median_ms
