"""A detector's file with the op behind its heads, and that the heads are still what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_compress.specs.detection import DetectionPostProcess
from keras_compress.specs.export import Export
from keras_compress.tflite import ConversionError, TFLiteModel
from keras_compress.tflite.file.detection import with_detections
from keras_compress.tflite.file.flatbuffer import end_names, text, unpack

if TYPE_CHECKING:
    from tensorflow.types.experimental import ConcreteFunction

ROWS = 8
"""On how many inputs the heads of the two files are compared."""


def check_heads(export: Export, function: ConcreteFunction) -> None:
    """Refuse an export whose op does not fit the network.

    Raises:
        ValueError: with the shapes.
    """
    if export.postprocess is not None:
        _heads(export.postprocess, function)


def detecting(export: Export, function: ConcreteFunction, data: bytes) -> bytes:
    """The file with the op behind it, if it is asked for; else as it is."""
    if export.postprocess is None:
        return data
    return with_detections(data, *_heads(export.postprocess, function), export.postprocess)


def _heads(op: DetectionPostProcess, function: ConcreteFunction) -> tuple[str, str]:
    outputs = function.structured_outputs
    return op.heads({name: tuple(tensor.shape) for name, tensor in outputs.items()})


def check_same_heads(raw: bytes, data: bytes, rows: Sequence[dict[str, np.ndarray]]) -> None:
    """See that the op is given, to the last bit, what the file without it gives.

    Raises:
        ConversionError: it is not, or LiteRT cannot run the file.
    """
    try:
        before, after = (TFLiteModel(each, keep_all=True) for each in (raw, data))
        tensors = [
            text(tensor.name) for tensor in unpack(data, "export_tflite").subgraphs[0].tensors
        ]
        names = end_names(unpack(raw, "export_tflite"))[1]
        for batch in rows[:ROWS]:
            expected = before.answers(batch)
            after.answers(batch)
            for name in names:
                given = after.tensor(tensors.index(name))
                if not np.array_equal(given, expected[name]):
                    raise ValueError(f"it computes {name!r} otherwise with the op behind it")
    except ValueError as error:
        raise ConversionError(
            f"LiteRT cannot run the file with its detections: {error}",
            "Leave `postprocess` out, and choose from boxes and scores yourself",
        ) from error
