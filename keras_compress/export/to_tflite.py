"""`export_tflite`: from whatever holds a trained network to a file with its record."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from keras_compress._shared.checks import type_error, value_error
from keras_compress.export import writing
from keras_compress.export.model_files import OWNER, ChosenInputs, source_of_file
from keras_compress.export.model_source import ModelSource
from keras_compress.export.progress import progress_line
from keras_compress.export.record import write_record
from keras_compress.export.source import report_before_export
from keras_compress.reports.export import ExportReport
from keras_compress.specs.detection import OP, DetectionPostProcess
from keras_compress.specs.export import Export
from keras_compress.tflite import silently


def export_tflite(
    source: Any,
    export: Export,
    *,
    state: str | os.PathLike[str] | None = None,
    inputs: ChosenInputs = None,
    outputs: Sequence[str] | None = None,
    signature: str | None = None,
    tags: Sequence[str] | None = None,
    progress: bool = True,
) -> ExportReport:
    """Write a network, as it answers now, to `export.path`, and say how well the file agrees with
    it.

    An int8 file of a network whose quantization is on takes its ranges; of any other they are
    calibrated on `export.representative_dataset`, or are `export.default_ranges_stats`. The
    conversion runs in a child process; the file is written whole or not at all, so one that stood
    at the path survives a failure. Beside it, at the path with ".json" behind it, stands what made
    it and what it is worth (`report.schema.json` in this package describes the form).

    ```python
    kc.export_tflite(model, kc.Export("net.tflite", mode="float16"))
    kc.export_tflite("net.keras", kc.Export("net.tflite", representative_dataset=images))
    ```

    Args:
        source: a Keras 3 or tf_keras model, or the path of a `.keras` or `.h5` file (which Keras
            wrote it is read from the file), of a SavedModel folder, or of TF1's frozen graph `.pb`.
        export: what to write.
        state: of a file of Keras', the path that `save_state` wrote to; None is the same path with
            the ending ".npz", if a state lies there. With it the file's quantization is on.
        inputs: of a frozen graph or SavedModel, the names of its inputs, or a dict of name -> shape
            where the graph leaves more open than the batch; None is all placeholders. Of a
            SavedModel they are those of its signature, or of the nodes behind them.
        outputs: of one, the names of its outputs; None is all that nothing reads.
        signature: of a SavedModel, which of its signatures; None is "serving_default", or its only
            one.
        tags: of a SavedModel with several graphs, the tags of one.
        progress: tell what is being done in a line on standard error, where that is a terminal.

    Raises:
        ConversionError: no file could be made, or float ops would be left in an integer one.
        FileNotFoundError: there is nothing at the path `source`.
        ValueError: the source, or the data, do not fit the export.
    """
    if not isinstance(export, Export):
        raise type_error(OWNER, "export", export, "an Export")
    export.check_folder()  # before a model is loaded
    export.check_data_files()
    if isinstance(source, str | os.PathLike):
        network = source_of_file(
            source,
            state=state,
            inputs=inputs,
            outputs=outputs,
            signature=signature,
            tags=tags,
            input_shape=export.input_shape,
        )
    else:
        of_files = {
            "state": state, "inputs": inputs, "outputs": outputs, "signature": signature,
            "tags": tags,
        }  # fmt: skip
        for name, value in of_files.items():
            if value is not None:
                raise value_error(OWNER, name, value, "None for a model, which has its own")
        network = ModelSource(source, export.input_shape)
    if network.detections is not None:
        export = _with_own_detections(export, network.detections)
    line = progress_line(export.path) if progress else contextlib.nullcontext(silently)
    with network.masked(), line as told:
        written = writing.write_file(network, export, told)
        report = report_before_export(network, export)
    report.export = written
    write_record(report, network.keras)
    return written


def _with_own_detections(export: Export, op: DetectionPostProcess) -> Export:
    """The export of a graph that has the op, whose outputs are real numbers."""
    if export.postprocess is not None:
        rule = f"None for a graph with a {OP} of its own"
        raise value_error("Export", "postprocess", export.postprocess, rule)
    return dataclasses.replace(export, postprocess=op, inference_output_type=None)
