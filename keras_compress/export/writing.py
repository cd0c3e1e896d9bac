"""The file: from a network as it answers now to a verified `.tflite` at its path."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from keras_compress._shared.checks import value_error
from keras_compress._shared.files import write_atomically
from keras_compress._shared.heap import give_back
from keras_compress.export.detections import check_heads, check_same_heads, detecting
from keras_compress.export.firmware import warn_of_firmware
from keras_compress.export.float_ops import named, refuse, rounded_anyway
from keras_compress.export.input_ranges import check_calibrated, input_ranges
from keras_compress.export.record import forget_record
from keras_compress.export.rows import (
    CALIBRATION_SAMPLES,
    read_rows,
    rows_to_compare,
    specs_of,
)
from keras_compress.export.source import Range, Source
from keras_compress.export.verify import Expected, described, verify
from keras_compress.ranges import quantization_of_range
from keras_compress.reports.export import ExportReport
from keras_compress.specs.export import INTEGER_MODES, Export
from keras_compress.tflite import (
    Conversion,
    ConversionError,
    FileReport,
    Progress,
    TFLiteModel,
    convert,
    inspect_tflite,
    measure,
    silently,
    write_c_array,
)
from keras_compress.tflite.file.flatbuffer import custom_ops, unpack
from keras_compress.tflite.probe.probing import check_harmless

if TYPE_CHECKING:
    from tensorflow import TensorSpec
    from tensorflow.types.experimental import ConcreteFunction

logger = logging.getLogger("keras_compress")


def write_file(source: Source, export: Export, progress: Progress = silently) -> ExportReport:
    """Write the network, as it answers now, to `export.path`, and say how well the file agrees with
    it. The record is not written.

    An int8 file of a network that rounds takes its ranges; those of any other are calibrated on
    `export.representative_dataset`. The file is written whole or not at all, so one that stood at
    the path survives a failure. Whether a file can be written there is asked before, where nothing
    has been trained or loaded yet.

    Raises:
        ConversionError: no file could be made, or float ops would be left in an integer one.
        ValueError: the network or the data do not fit the export.
    """
    broken = source.not_finite()
    if broken is not None:
        raise ValueError(
            "export_tflite: the weights and ranges must be finite; the training went wrong. "
            f"Received: {broken} with NaN or infinite values"
        )
    quantized = export.mode == "int8" and source.rounds
    if not quantized:
        check_calibrated(source.engine, export)
    ranges = input_ranges(source.specs(export.batch_size), export)
    with source.rounding_inputs(ranges) if quantized and ranges else contextlib.nullcontext():
        progress("tracing", None, None)
        function = source.function(export.batch_size, quantized=quantized)
        check_heads(export, function)
        how = conversion(export, function, quantized, ranges)
        if quantized and source.asymmetric:
            how = _asymmetric(how, export, source, function)
        rows = calibration_rows(export, function, how)
        expected = _expected(export, source, function, ranges, quantized)

        @functools.cache
        def in_float() -> ConcreteFunction:
            if not quantized:
                return function
            return source.function(export.batch_size, quantized=False)

        def meanwhile() -> None:
            """What needs no file is done while the child makes it."""
            expected.compute()
            with contextlib.suppress(Exception):  # it fails again for whoever asks for it
                in_float()

        progress("converting", None, None)
        give_back()  # of the trace; what comes now need not add to it
        data = convert(function, how, representative=rows, progress=progress, meanwhile=meanwhile)
        give_back()
        if export.sparse:
            check_sparse(data, export)
        contents = inspect_tflite(data)
        report = _measured(export, data, contents)
        report.guessed = tuple(guessed(function, how, contents, rows is not None))
        if export.mode in INTEGER_MODES:
            _check_float_ops(report, export, source, contents, quantized)
        with _float_sizes(export, in_float) as sizes:
            progress("comparing with the network", None, None)
            _verify(report, export, source, expected, data, contents, quantized)
            progress("measuring the float file", None, None)
            _measure_float(report, sizes)
        if export.postprocess is not None:
            drawn = drawn_ranges(source, ranges, function)
            data = _with_detections(report, export, function, data, drawn)
        _put_down(report, export, data)
        if export.c_array:
            warn_of_firmware(export, contents)
    return report


def conversion(
    export: Export, function: ConcreteFunction, quantized: bool, ranges: Mapping[int, Range]
) -> Conversion:
    """How the function of an export's network becomes its file."""
    specs = specs_of(function)
    return Conversion(
        export.mode,
        quantized=quantized,
        input_type=export.input_type,
        output_type=export.output_type,
        input_ranges={} if quantized else {specs[i].name: each for i, each in ranges.items()},
        default_range=export.default_ranges_stats,
        sparse=export.sparse,
        per_channel_dense=export.per_channel_dense,
        allow_custom_ops=export.allow_custom_ops,
        timeout=export.timeout,
    )


def _asymmetric(
    how: Conversion, export: Export, source: Source, function: ConcreteFunction
) -> Conversion:
    """The same for a graph with kernels that only uint8 has.

    Raises:
        ValueError: nobody knows the range of an input.
    """
    specs = specs_of(function)
    if export.default_ranges_stats is None:
        _check_input_ranges(source, specs)
    ranges = (source.input_range(i) or export.default_ranges_stats for i in range(len(specs)))
    known = {spec.name: each for spec, each in zip(specs, ranges, strict=True) if each is not None}
    return dataclasses.replace(how, asymmetric=True, input_ranges=known)


def _check_input_ranges(source: Source, specs: Sequence[TensorSpec]) -> None:
    """Refuse a graph that rounds, but not what comes in, where no statistics say how.

    Raises:
        ValueError: naming the input.
    """
    for position, spec in enumerate(specs):
        if spec.dtype.is_floating and source.input_range(position) is None:
            rule = f"given for the input {spec.name!r}, which the graph does not round"
            raise value_error("Export", "quantized_input_stats", None, rule)


def calibration_rows(
    export: Export, function: ConcreteFunction, how: Conversion
) -> Iterator[dict[str, np.ndarray]] | None:
    """The data to calibrate on, where that is done."""
    if not how.calibrates or export.representative_dataset is None:
        return None
    return read_rows(
        specs_of(function),
        export.representative_dataset,
        "representative_dataset",
        CALIBRATION_SAMPLES,
        export.batch_size,
    )


def _measured(export: Export, data: bytes, contents: FileReport) -> ExportReport:
    """The report on a file that is nothing but bytes yet."""
    report = ExportReport(export.path, export.mode, bytes=len(data))
    report.zipped_bytes = contents.zipped_bytes
    report.sha256 = hashlib.sha256(data).hexdigest()
    return report


def _check_float_ops(
    report: ExportReport, export: Export, source: Source, contents: FileReport, quantized: bool
) -> None:
    """Name what computes in float in an integer file, and what was to do so and does not.

    Raises:
        ConversionError: something does, and nobody allowed it.
    """
    layers = source.layers_of(contents.outputs, quantized)
    engine = source.engine if quantized else None
    left_out = set() if engine is None else set(engine.left_out["quantization"])
    report.float_ops = tuple(named(contents.float_ops, layers))
    report.rounded_anyway = tuple(rounded_anyway(contents, layers, left_out))
    if not export.allow_float_ops:
        if contents.float_ops and quantized and source.keras is None:
            _check_input_ranges(source, source.specs(export.batch_size))
        by_choice = set() if engine is None else engine.float_by_choice()
        refuse(
            contents.float_ops,
            layers,
            by_choice,
            chooses=engine is not None,
            lacks_ranges=quantized and source.keras is None and export.default_ranges_stats is None,
        )


def unknown_ops(data: bytes, export: Export) -> list[str]:
    """The ops of a file that LiteRT does not know; of custom ones it has a few.

    Raises:
        ConversionError: C files are asked of such.
    """
    unknown = custom_ops(unpack(data, "export_tflite"))
    if unknown:
        try:
            TFLiteModel(data)
            return []
        except ValueError as error:
            if "custom op" not in str(error):
                return []  # something else is wrong, which verification names
    if unknown and export.c_array:
        raise ConversionError(
            f"no C files are written of ops that LiteRT does not have: {', '.join(unknown)}",
            "Leave `c_array` out",
        )
    return unknown


def _expected(
    export: Export,
    source: Source,
    function: ConcreteFunction,
    ranges: Mapping[int, Range],
    quantized: bool,
) -> Expected:
    """What the network of an export's function gives, as it computes itself."""

    def network() -> ConcreteFunction:
        if not quantized:
            return function
        return source.function(export.batch_size, quantized=True, for_file=False)

    # A graph has none, and of a model that rounds a float file is another network.
    predict = source.predict if source.keras is not None and source.rounds == quantized else None
    return Expected(export, network, drawn_ranges(source, ranges, function), predict)


def _verify(
    report: ExportReport,
    export: Export,
    source: Source,
    expected: Expected,
    data: bytes,
    contents: FileReport,
    quantized: bool,
) -> None:
    """Compare the file with the network as it computes itself, where LiteRT can run it.

    Raises:
        ConversionError: LiteRT cannot, though it knows every op; or C files are asked of ops that
            it does not know.
    """
    unknown = unknown_ops(data, export)
    if unknown:
        report.verified_on = f"nothing: LiteRT does not have {', '.join(unknown)}"
        return
    engine = source.engine if quantized else None
    layers = source.layers_of(contents.outputs, quantized)
    verify(report, export, expected, data, contents, engine, layers)


def drawn_ranges(
    source: Source, ranges: Mapping[int, Range], function: ConcreteFunction
) -> list[Range | None]:
    """The ranges from which inputs are drawn to compare on; None where nobody knows one."""
    return [source.input_range(i) or ranges.get(i) for i in range(len(specs_of(function)))]


def _with_detections(
    report: ExportReport,
    export: Export,
    function: ConcreteFunction,
    raw: bytes,
    drawn: Sequence[Range | None],
) -> bytes:
    """The file with the op behind the heads that have been compared with the network's own.

    Raises:
        ConversionError: LiteRT cannot run it, or computes the heads otherwise.
    """
    data = detecting(export, function, raw)
    check_same_heads(raw, data, rows_to_compare(export, function, drawn)[0])
    final = _measured(export, data, inspect_tflite(data))
    report.bytes, report.zipped_bytes = final.bytes, final.zipped_bytes
    report.sha256 = final.sha256
    report.outputs = described(TFLiteModel(data).outputs)
    return data


def _put_down(report: ExportReport, export: Export, data: bytes) -> None:
    """Write the file, its C source first, so that no file is new whose C source failed."""
    try:
        if export.c_array:
            report.c_files = write_c_array(export.path, data)
        write_atomically(export.path, data)
    except OSError:
        export.check_folder()  # says it better, if the folder has gone since it was asked
        raise
    forget_record(export.path)


def guessed(
    function: ConcreteFunction, how: Conversion, contents: FileReport, calibrated: bool
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


def check_sparse(data: bytes, export: Export) -> None:
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


@contextlib.contextmanager
def _float_sizes(
    export: Export, make: Callable[[], ConcreteFunction]
) -> Iterator[Future[tuple[int, int]] | None]:
    """How large the same network is as a float file, (bytes, zipped bytes): the child makes it
    while this process does what is inside. None: the export is that file. `make`: of its network.
    """
    if export.mode == "float32" and not export.sparse:
        yield None
        return
    beside = ThreadPoolExecutor(1)
    sizes: Future[tuple[int, int]] = Future()
    try:
        sizes = beside.submit(measure, make(), Conversion("float32", timeout=export.timeout))
    except Exception as error:
        sizes.set_exception(error)
    try:
        yield sizes
    finally:
        beside.shutdown(wait=False)  # where the file has failed, nobody asks for another's size


def _measure_float(report: ExportReport, sizes: Future[tuple[int, int]] | None) -> None:
    """Note how large the same network is as a float file, once that is known."""
    if sizes is None:
        report.float_bytes, report.float_zipped_bytes = report.bytes, report.zipped_bytes
        return
    try:
        report.float_bytes, report.float_zipped_bytes = sizes.result()
    except Exception as error:  # a size to compare with must not cost the file
        logger.warning("No float file to compare sizes with: %s", error)
