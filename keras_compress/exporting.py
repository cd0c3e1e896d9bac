"""The file: from a model as it answers now to a verified `.tflite` at its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_compress._files import write_atomically
from keras_compress.engines.base import engine_of
from keras_compress.engines.tfmot.engine import reader
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.inference import inference_function, input_specs
from keras_compress.report import ExportReport
from keras_compress.specs import Export
from keras_compress.tflite import (
    ConversionError,
    FileReport,
    agreement,
    batches,
    convert,
    inspect_tflite,
    load_tflite,
)

SAMPLES = 64  # inputs on which a file is compared with its network
CALIBRATION_SAMPLES = 512  # at most so many rows of representative data


def export_tflite(model: Any, export: Export) -> ExportReport:
    """Write the model, as it answers now, to `export.path`, and say how well the file agrees with
    it.

    An int8 file of a model whose quantization is on takes its ranges; of any other model they are
    calibrated on `export.representative_dataset` after training. The conversion runs in a child
    process; the file is written whole or not at all, so one that stood at the path survives a
    failure.

    Raises:
        ConversionError: no file could be made, or float ops would be left in an integer one.
        ValueError: the model or the data do not fit the export.
    """
    export.check_folder()
    export.check_data_files()
    adapter, engine = adapter_of(model), engine_of(model)
    if engine is None and is_wrapped(model):
        engine = reader(adapter, model)
    quantized = export.mode == "int8" and engine is not None and engine.phase.rounds
    check_source(engine, export)
    if engine is None:
        function = inference_function(adapter, model, export.batch_size)
    else:
        engine.apply_masks()
        function = engine.inference_function(export.batch_size, quantized=quantized)
    representative = None
    if export.mode == "int8" and not quantized:
        representative = _data(function, export, "representative_dataset", CALIBRATION_SAMPLES)
    data = convert(
        function,
        mode=export.mode,
        quantized=quantized,
        input_type=export.input_type,
        output_type=export.output_type,
        representative=representative,
        timeout=export.timeout,
    )
    report = ExportReport(export.path, export.mode, bytes=len(data))
    contents = inspect_tflite(data)
    report.zipped_bytes = contents.zipped_bytes
    if export.mode == "int8":
        report.float_ops = tuple(f"{op.op} ({op.tensor})" for op in contents.float_ops)
        by_choice = quantized and engine.left_by_user
        if report.float_ops and not (export.allow_float_ops or by_choice):
            raise ConversionError(
                f"float ops would be left in the integer file: {', '.join(report.float_ops)}",
                "Set `allow_float_ops=True` to write it all the same, or leave these layers out "
                "by `layers=`",
            )
    if quantized:
        function = engine.inference_function(export.batch_size, for_file=False)
    _verify(report, export, function, data, contents, engine if quantized else None)
    write_atomically(export.path, data)
    return report


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
            for _ in _rows(specs, data, field, samples):
                pass


def _specs(function: Any) -> list[Any]:
    return list(function.structured_input_signature[0])


def _data(
    function: Any, export: Export, field: str, samples: int
) -> Iterator[dict[str, np.ndarray]]:
    return _rows(_specs(function), getattr(export, field), field, samples, export.batch_size)


def _rows(
    specs: list[Any], data: Any, field: str, samples: int, batch_size: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    return batches(
        data,
        {spec.name: tuple(spec.shape[1:]) for spec in specs},
        dtypes={spec.name: spec.dtype.name for spec in specs},
        batch_size=batch_size,
        samples=samples,
        name=field,
    )


def _verify(
    report: ExportReport,
    export: Export,
    function: Any,
    data: bytes,
    contents: FileReport,
    engine: Any,
) -> None:
    for field in ("verify_data", "representative_dataset"):
        if getattr(export, field) is not None:
            rows, report.verified_on = list(_data(function, export, field, SAMPLES)), field
            break
    else:
        rows = list(_drawn(function, export, engine))
        report.verified_on = "inputs drawn inside the watched ranges"
        if engine is None:
            report.verified_on = "inputs drawn from [0, 1)"
    file = load_tflite(data)
    names = [output.name for output in file.outputs]
    steps = dict(zip(names, contents.output_scales, strict=True))
    expected: dict[str, list[np.ndarray]] = {name: [] for name in names}
    answers: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for batch in rows:
        outputs = function(*(batch[spec.name] for spec in _specs(function)))
        given = file.predict(batch)
        if not isinstance(given, dict):
            given = {names[0]: given}
        for name in names:
            expected[name].append(outputs[name].numpy())
            answers[name].append(given[name])
    results = agreement(
        {name: np.concatenate(parts) for name, parts in expected.items()},
        {name: np.concatenate(parts) for name, parts in answers.items()},
        {name: step or 1.0 for name, step in steps.items()},  # a float file is compared as it is
    )
    report.samples = len(rows) * export.batch_size
    for name, result in results.items():
        report.largest_steps[name] = result.largest_steps
        report.mean_steps[name] = result.mean_steps
        report.argmax_agreement[name] = result.argmax_agreement


def _drawn(function: Any, export: Export, engine: Any) -> Iterator[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    for _ in range(-(-SAMPLES // export.batch_size)):
        batch = {}
        for i, spec in enumerate(_specs(function)):
            low, high = (0.0, 1.0) if engine is None else engine.input_range(i)
            numbers = generator.uniform(low, high, spec.shape)
            batch[spec.name] = numbers.astype(spec.dtype.as_numpy_dtype)
        yield batch
