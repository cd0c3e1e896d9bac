"""The file: from a network as it answers now to a verified `.tflite` at its path."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

from keras_compress._shared.checks import value_error
from keras_compress._shared.files import write_atomically
from keras_compress.engines import reporting
from keras_compress.engines.engine import Engine
from keras_compress.export.float_ops import named, refuse, rounded_anyway
from keras_compress.export.record import forget_record
from keras_compress.export.rows import SAMPLES, read_rows, specs_of
from keras_compress.export.source import Range, Source
from keras_compress.export.verify import verify
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.inference import input_specs
from keras_compress.ranges import (
    quantization_of_range,
    quantization_of_stats,
    range_of_quantization,
)
from keras_compress.reports.file import ExportReport
from keras_compress.reports.fit import Report
from keras_compress.specs.export import INTEGER_MODES, Export
from keras_compress.tflite import (
    Conversion,
    ConversionError,
    FileReport,
    Progress,
    convert,
    inspect_tflite,
    measure,
    write_c_array,
)
from keras_compress.tflite.file.flatbuffer import custom_ops, unpack
from keras_compress.tflite.probe.probing import check_harmless
from keras_compress.tflite.stats import stats_of_ends

logger = logging.getLogger("keras_compress")

CALIBRATION_SAMPLES = 512  # at most so many rows of representative data


def report_on(source: Source, export: Export | None) -> Report:
    """The report on a network as it is now, before anything is exported."""
    engine = source.engine
    report = Report.of_plain_model() if engine is None else reporting.report_on(engine)
    report.specs["export"] = export and export.get_config()
    return report


def write_file(source: Source, export: Export, progress: Progress | None = None) -> ExportReport:
    """Write the network, as it answers now, to `export.path`, and say how well the file agrees with
    it. The record is not written.

    An int8 file of a network that rounds takes its ranges; those of any other are calibrated on
    `export.representative_dataset`. The file is written whole or not at all, so one that stood at
    the path survives a failure.

    Raises:
        ConversionError: no file could be made, or float ops would be left in an integer one.
        ValueError: the network or the data do not fit the export.
    """
    export.check_folder()
    export.check_data_files()
    quantized = export.mode == "int8" and source.rounds
    if not quantized:
        check_ranges(source.engine, export)
    ranges = input_ranges(source.specs(export.batch_size), export)
    with source.rounding_inputs(ranges) if quantized and ranges else contextlib.nullcontext():
        return _write(source, export, quantized, ranges, progress)


def _write(
    source: Source,
    export: Export,
    quantized: bool,
    ranges: dict[int, Range],
    progress: Progress | None,
) -> ExportReport:
    function = source.function(export.batch_size, quantized=quantized)
    specs = specs_of(function)
    how = Conversion(
        export.mode,
        quantized=quantized,
        input_type=export.input_type,
        output_type=export.output_type,
        input_ranges={} if quantized else {specs[i].name: each for i, each in ranges.items()},
        default_range=export.default_ranges_stats,
        sparse=export.sparse,
        allow_custom_ops=export.allow_custom_ops,
        timeout=export.timeout,
    )
    representative = None
    if how.calibrates and export.representative_dataset is not None:
        representative = read_rows(
            specs,
            export.representative_dataset,
            "representative_dataset",
            CALIBRATION_SAMPLES,
            export.batch_size,
        )
    data = convert(function, how, representative=representative, progress=progress)
    if export.sparse:
        _check_sparse(data, export)
    report = ExportReport(export.path, export.mode, bytes=len(data))
    contents = inspect_tflite(data)
    report.zipped_bytes = contents.zipped_bytes
    report.sha256 = hashlib.sha256(data).hexdigest()
    report.guessed = tuple(_guessed(function, how, contents, representative is not None))
    if export.mode in INTEGER_MODES:
        layers = source.layers_of(contents.outputs, quantized)
        report.float_ops = tuple(named(contents.float_ops, layers))
        by_choice = source.engine.float_by_choice() if quantized and source.engine else set()
        report.rounded_anyway = tuple(rounded_anyway(contents, layers, by_choice))
        if not export.allow_float_ops:
            chooses = quantized and source.engine is not None
            refuse(contents.float_ops, layers, by_choice, chooses)
    if quantized:
        function = source.function(export.batch_size, quantized=True, for_file=False)
    unknown = custom_ops(unpack(data, "export_tflite"))
    if unknown:
        report.verified_on = f"nothing: LiteRT does not have {', '.join(unknown)}"
        if export.c_array:
            raise ConversionError(
                f"no C files are written of ops that LiteRT does not have: {', '.join(unknown)}",
                "Leave `c_array` out",
            )
    else:
        drawn = [source.input_range(i) or ranges.get(i) for i in range(len(specs))]
        verify(
            report, export, function, data, contents, drawn, source.engine if quantized else None
        )
    _measure_float(report, export, source)
    if export.c_array:  # first, so that no file is new whose C source failed
        report.c_files = write_c_array(export.path, data)
    write_atomically(export.path, data)
    forget_record(export.path)
    return report


def _guessed(
    function: Any, how: Conversion, contents: FileReport, calibrated: bool
) -> Iterator[str]:
    """The tensors that have the default range, because nobody knew theirs."""
    if how.default_range is None or calibrated:
        return
    known = set(how.input_ranges)
    if how.quantized:
        without = convert(function, dataclasses.replace(how, default_range=None))
        known |= {each.name for each in inspect_tflite(without).tensors if each.scales}
    expected, _ = quantization_of_range(*how.default_range, "int8")
    for tensor in contents.tensors:
        if tensor.constant or len(tensor.scales) != 1 or tensor.name in known:
            continue
        # What an op prescribes, as a softmax does, is no guess.
        if math.isclose(tensor.scales[0], expected, rel_tol=1e-5):
            yield tensor.name


def _check_sparse(data: bytes, export: Export) -> None:
    """Refuse a sparse file that LiteRT cannot run.

    Raises:
        ConversionError: with what LiteRT says.
    """
    try:
        check_harmless(data, data, "load", "export_tflite")
    except ValueError as error:
        raise ConversionError(
            f"LiteRT cannot run a sparse file of mode {export.mode!r}: {error}",
            "Leave `sparse` out" + (", or use mode 'float32'" if export.mode != "float32" else ""),
        ) from error


def _measure_float(report: ExportReport, export: Export, source: Source) -> None:
    """Note how large the same network is as a float file."""
    if export.mode == "float32" and not export.sparse:
        report.float_bytes, report.float_zipped_bytes = report.bytes, report.zipped_bytes
        return
    try:
        how = Conversion("float32", timeout=export.timeout)
        function = source.function(export.batch_size, quantized=False)
        report.float_bytes, report.float_zipped_bytes = measure(function, how)
    except Exception as error:  # a size to compare with must not cost the file
        logger.warning("No float file to compare sizes with: %s", error)


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
    return {name: stats_of_ends(name, low[name], high[name]) for name in floats}


def check_ranges(engine: Engine | None, export: Export) -> None:
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
            f"{engine.step} of delay={engine.delay}"
        )
    without = " without `quantization`" if export.mode == "int8" else ""
    raise ValueError(
        f"Export: `representative_dataset` must be given in mode {export.mode!r}{without}, to "
        "calibrate the ranges with. Received: representative_dataset=None"
    )


def check_data(model: Any, export: Export) -> None:
    """Read the export's data once, so that what does not fit is said before training.

    Raises:
        ValueError, TypeError: naming the field, the input and what was found; or the model has no
            inputs that a file could have.
    """
    adapter = adapter_of(model)
    if adapter.functional(model) is None and adapter.grows(model):
        return  # a Sequential that gets its inputs with the first batch
    specs = input_specs(adapter, model, export.batch_size)
    input_ranges(specs, export)
    sizes = {"representative_dataset": CALIBRATION_SAMPLES, "verify_data": SAMPLES}
    for field, samples in sizes.items():
        data = getattr(export, field)
        if data is not None:
            for _ in read_rows(specs, data, field, samples):
                pass
