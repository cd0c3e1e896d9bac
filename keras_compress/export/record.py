"""The recipe beside the file: how a `.tflite` was made and what it is worth, as JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import types
from typing import Any

from keras_compress._shared.files import write_atomically
from keras_compress._shared.versions import installed
from keras_compress.reports.fit import Report
from keras_compress.tflite.probe.probing import RECORD_SUFFIX

logger = logging.getLogger("keras_compress")

FORMAT = 1
"""Of the JSON; `report.schema.json` describes it."""

_NUMBERS = re.compile(r"\[[-+.\deE,\s]+\]")
"""A list of numbers, which is easier to read on one line."""


def record_path(path: str) -> str:
    """Where the record of the file at `path` stands: `lenet.tflite.json` beside `lenet.tflite`."""
    return f"{path}{RECORD_SUFFIX}"


def record(report: Report, keras: types.ModuleType | None) -> dict[str, Any]:
    """The report with its specs and the versions that made it, as plain values.

    `keras`: the package that the model belongs to; None where there is no model.
    """
    return {"format": FORMAT, "versions": versions(keras), "report": report.to_dict()}


def versions(keras: types.ModuleType | None) -> dict[str, str]:
    """The packages that had a part in it, by the name they are imported by."""
    absent = {"keras", "tf_keras"} - {keras.__name__ if keras is not None else None}
    if "tensorflow_model_optimization" not in sys.modules:
        absent.add("tensorflow_model_optimization")
    return {name: version for name, version in installed().items() if name not in absent}


def write_record(report: Report, keras: types.ModuleType | None) -> None:
    """Write the record of a file that was written.

    A record that cannot be written must not cost the file: that is logged, and the report says it.
    """
    export = report.export
    if export is None or not export.written:
        return
    path = record_path(export.path)
    try:
        text = json.dumps(record(report, keras), indent=2, allow_nan=False)
        text = _NUMBERS.sub(lambda found: "".join(found[0].split()).replace(",", ", "), text)
        write_atomically(path, f"{text}\n".encode())
    except Exception as error:
        logger.warning("No record at %s: %s", path, error)
        export.record_error = f"{type(error).__name__}: {error}"
        forget_record(export.path)


def forget_record(path: str) -> None:
    """Remove the record of an older file at `path`: it would speak of the new one."""
    with contextlib.suppress(OSError):
        os.unlink(record_path(path))
