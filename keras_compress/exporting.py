"""The file: from a model as it answers now to a verified `.tflite` at its path."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras_compress._files import write_atomically
from keras_compress.engines import reporting
from keras_compress.engines.base import Engine, engine_of
from keras_compress.engines.tfmot.engine import reader
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.inference import inference_function, input_specs
from keras_compress.frameworks.naming import Naming
from keras_compress.record import forget_record, write_record
from keras_compress.report import ExportReport, FloatOpReport, Report
from keras_compress.specs import Export
from keras_compress.tflite import (
    Conversion,
    ConversionError,
    FloatOp,
    convert,
    inspect_tflite,
    measure,
)
from keras_compress.verification import SAMPLES, read_rows, specs_of, verify

logger = logging.getLogger("keras_compress")

CALIBRATION_SAMPLES = 512  # at most so many rows of representative data

LayersOf = Callable[[str], list[str]]
"""The name of a file's tensor -> the paths of the layers that computed it."""


def export_tflite(model: Any, export: Export) -> ExportReport:
    """Write the model, as it answers now, to `export.path`, and say how well the file agrees with
    it.

    An int8 file of a model whose quantization is on takes its ranges; of any other model they are
    calibrated on `export.representative_dataset` after training. The conversion runs in a child
    process; the file is written whole or not at all, so one that stood at the path survives a
    failure. Beside it, at the path with ".json" behind it, stands what made it and what it is
    worth (`report.schema.json` in this package describes the form).

    Raises:
        ConversionError: no file could be made, or float ops would be left in an integer one.
        ValueError: the model or the data do not fit the export.
    """
    written = write_file(model, export)
    report = report_on(model, export)
    report.export = written
    write_record(report, adapter_of(model).keras)
    return written


def report_on(model: Any, export: Export | None) -> Report:
    """The report on the model as it is now, before anything is exported."""
    engine = _engine_for(model)
    report = Report.of_plain_model() if engine is None else reporting.report_on(engine)
    report.specs["export"] = export and export.get_config()
    return report


def _engine_for(model: Any) -> Engine | None:
    """The engine of a model, or one to read it with that tfmot's wrappers alone have driven."""
    engine = engine_of(model)
    if engine is None and is_wrapped(model, "export_tflite"):
        return reader(adapter_of(model), model)
    return engine


def write_file(model: Any, export: Export) -> ExportReport:
    """`export_tflite` without the record. Raises what that raises."""
    export.check_folder()
    export.check_data_files()
    adapter, engine = adapter_of(model), _engine_for(model)
    quantized = export.mode == "int8" and engine is not None and engine.phase.rounds
    check_source(engine, export)

    def network(**how: bool) -> Any:
        if engine is None:
            return inference_function(adapter, model, export.batch_size)
        return engine.inference_function(export.batch_size, **how)

    if engine_of(model) is not None:
        engine.apply_masks()
    function = network(quantized=quantized)
    representative = None
    if export.mode == "int8" and not quantized:
        specs, given = specs_of(function), export.representative_dataset
        representative = read_rows(
            specs, given, "representative_dataset", CALIBRATION_SAMPLES, export.batch_size
        )
    how = Conversion(
        export.mode,
        quantized=quantized,
        input_type=export.input_type,
        output_type=export.output_type,
        timeout=export.timeout,
    )
    data = convert(function, how, representative=representative)
    report = ExportReport(export.path, export.mode, bytes=len(data))
    contents = inspect_tflite(data)
    report.zipped_bytes = contents.zipped_bytes
    report.sha256 = hashlib.sha256(data).hexdigest()
    if export.mode == "int8":
        traced = model if engine is None else engine.network_behind(quantized)
        naming = Naming(adapter, traced, contents.outputs)

        def layers(tensor: str) -> list[str]:
            found = naming.layers(tensor)
            return list(found) if engine is None else [engine.user_path(path) for path in found]

        report.float_ops = tuple(_named(contents.float_ops, layers))
        if not export.allow_float_ops:
            by_choice = engine.float_by_choice() if quantized else set()
            _refuse(contents.float_ops, layers, by_choice)
    if quantized:
        function = network(for_file=False)
    verify(report, export, function, data, contents, engine if quantized else None)
    _measure_float(report, export, network)
    write_atomically(export.path, data)
    forget_record(export.path)
    return report


def _named(ops: Sequence[FloatOp], layers_of: LayersOf) -> Iterator[FloatOpReport]:
    """The float ops with the layers they come from."""
    for op in ops:
        # What leads from integers to floats is there on account of what computes in them.
        tensors = op.beside if op.converts and op.beside else (op.tensor,)
        layers = [layer for tensor in tensors for layer in layers_of(tensor)]
        yield FloatOpReport(op.op, layers[0] if layers else None, op.tensor)


def _refuse(ops: Sequence[FloatOp], layers_of: LayersOf, by_choice: set[str]) -> None:
    """Raise if an op computes in float that `layers` did not leave out.

    Raises:
        ConversionError: naming the ops and their layers.
    """
    passing = set()
    for op in ops:
        layers = layers_of(op.tensor)
        if layers and by_choice.issuperset(layers) and not op.converts:
            passing.add(op.tensor)
    # What leads there and back, and what the converter moved to their side of it, is part of it.
    grown = -1
    while grown != len(passing):
        grown = len(passing)
        passing |= {op.tensor for op in ops if op.moves and passing.intersection(op.beside)}
    passing |= {op.tensor for op in ops if op.converts and passing.intersection(op.beside)}
    refused = [op for op in ops if op.tensor not in passing]
    if not refused:
        return
    computing = [op for op in refused if not (op.converts or op.moves)]
    # Those that only lead there and back are not what has to be changed, if there are others.
    named = dict.fromkeys(map(str, _named(computing or refused, layers_of)))
    raise ConversionError(
        f"float ops would be left in the integer file: {', '.join(named)}",
        "Set `allow_float_ops=True` to write it all the same, or leave these layers out "
        "by `layers=`",
    )


def _measure_float(report: ExportReport, export: Export, network: Any) -> None:
    """Note how large the same network is as a float file."""
    if export.mode == "float32":
        report.float_bytes, report.float_zipped_bytes = report.bytes, report.zipped_bytes
        return
    try:
        how = Conversion("float32", timeout=export.timeout)
        report.float_bytes, report.float_zipped_bytes = measure(network(quantized=False), how)
    except Exception as error:  # a size to compare with must not cost the file
        logger.warning("No float file to compare sizes with: %s", error)


def check_source(engine: Any, export: Export) -> None:
    """Refuse an integer export whose ranges could come from nowhere.

    Raises:
        ValueError: mode "int8" without quantization, its delay not reached included, and without
            data.
    """
    if export.mode != "int8" or export.representative_dataset is not None:
        return
    if engine is None or engine.quantization is None:
        raise ValueError(
            "Export: `representative_dataset` must be given in mode 'int8' without "
            "`quantization`, to calibrate the ranges with. Received: representative_dataset=None"
        )
    if not engine.phase.rounds:
        raise ValueError(
            "Export: `mode` must be 'float32' before the delay is reached, or "
            "`representative_dataset` be given. Received: mode='int8' at step "
            f"{engine.step} of delay={engine.delay}"
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
    sizes = {"representative_dataset": CALIBRATION_SAMPLES, "verify_data": SAMPLES}
    for field, samples in sizes.items():
        data = getattr(export, field)
        if data is not None:
            for _ in read_rows(specs, data, field, samples):
                pass
