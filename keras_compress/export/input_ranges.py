"""Where the ranges of a file come from: statistics of its inputs, data to calibrate on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_compress._shared.checks import value_error
from keras_compress.engines.engine import Engine
from keras_compress.export.rows import CALIBRATION_SAMPLES, read_rows
from keras_compress.export.source import Range
from keras_compress.ranges import (
    quantization_of_stats,
    range_of_quantization,
)
from keras_compress.specs.export import INTEGER_MODES, Export
from keras_compress.tflite.stats import stats_between


def input_ranges(specs: Sequence[Any], export: Export) -> dict[int, Range]:
    """Position of an input -> the real range that the export's statistics give it.

    Raises:
        ValueError: statistics of an input that there is not, or that is no float.
    """
    stats = export.quantized_input_stats
    if stats is None:
        return {}
    names = [spec.name for spec in specs]
    floats = [spec.name for spec in specs if spec.dtype.is_floating]
    if isinstance(stats, str):  # "auto"
        if export.representative_dataset is None:
            rule = "numbers, unless `representative_dataset` is given to take them from"
            raise value_error("Export", "quantized_input_stats", stats, rule)
        stats = _stats_of_data(specs, export)
    elif not isinstance(stats, dict):
        stats = dict.fromkeys(floats, stats)
    if not set(stats) <= set(floats):
        rule = f"for inputs of real numbers, {floats}"
        raise value_error("Export", "quantized_input_stats", export.quantized_input_stats, rule)
    return {
        names.index(name): range_of_quantization(*quantization_of_stats(*pair), "uint8")
        for name, pair in stats.items()
    }


def _stats_of_data(specs: Sequence[Any], export: Export) -> dict[str, tuple[float, float]]:
    """The statistics of every input of real numbers in the data that calibrates."""
    floats = [spec.name for spec in specs if spec.dtype.is_floating]
    low, high = dict.fromkeys(floats, 0.0), dict.fromkeys(floats, 0.0)
    data = export.representative_dataset
    rows = read_rows(specs, data, "representative_dataset", CALIBRATION_SAMPLES)
    for batch in rows:
        for name in floats:
            low[name] = min(low[name], float(batch[name].min()))
            high[name] = max(high[name], float(batch[name].max()))
    return {name: stats_between(name, low[name], high[name]) for name in floats}


def check_calibrated(engine: Engine | None, export: Export) -> None:
    """Refuse an integer export of a network that does not round, if its ranges could come from
    nowhere.

    Raises:
        ValueError: neither data nor a default range; in mode "int8" of a model whose delay is not
            reached, that is said.
    """
    if export.mode not in INTEGER_MODES or export.representative_dataset is not None:
        return
    if export.default_ranges_stats is not None:
        return
    if export.mode == "int8" and engine is not None and engine.quantization is not None:
        raise ValueError(
            "Export: `mode` must be 'float32' before the delay is reached, or "
            "`representative_dataset` be given. Received: mode='int8' at step "
            f"{engine.step} of delay={engine.timetable.delay}"
        )
    without, guess = "", ""
    if export.mode == "int8":
        without, guess = " without `quantization`", ", or `default_ranges_stats` as a guess"
    raise ValueError(
        f"Export: `representative_dataset` must be given in mode {export.mode!r}{without}, to "
        f"calibrate the ranges with{guess}. Received: representative_dataset=None"
    )
