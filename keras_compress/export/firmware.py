"""What in a file with C source not all firmware can compute."""

from __future__ import annotations

import logging

from keras_compress.specs.export import Export
from keras_compress.tflite import FileReport

logger = logging.getLogger("keras_compress")


def warn_of_firmware(export: Export, contents: FileReport) -> None:
    """Say what in a file not all firmware can compute: a scale for each unit of a dense layer, and
    uint8.
    """
    if any(each.kernel and each.dtype == "uint8" for each in contents.tensors):
        logger.warning(
            "The C files of %s compute in uint8, as the graph's kernels are rounded over ranges "
            "whose middle is not 0; TFLite Micro has kernels for int8 only. Round the graph with "
            "symmetric ranges, or give a graph without fake-quant ops and data to calibrate on.",
            export.path,
        )
    # Of kernels of rank 2 they are the only ones.
    dense = [each for each in contents.tensors if each.kernel and len(each.shape) == 2]
    several = [each.name for each in dense if len(each.scales) > 1]
    if several:
        logger.warning(
            "The C files of %s have dense layers with one scale for each unit (%s), which TFLite "
            "Micro before autumn 2024, NNAPI and older NPUs refuse or compute wrongly: "
            "`Export(per_channel_dense=False)` gives each layer one.",
            export.path,
            ", ".join(several[:3]) + (", ..." if len(several) > 3 else ""),
        )
