"""TensorFlow Lite files: made in a worker process, run by LiteRT, inspected, compared, written.

Importing this package loads neither TensorFlow nor LiteRT.
"""

from keras_compress.reports.inspection import (
    FileReport,
    FloatOp,
    OpReport,
    TensorReport,
    zipped_size,
)
from keras_compress.tflite.c_array import write_c_array
from keras_compress.tflite.conversion.convert import (
    Conversion,
    Progress,
    convert,
    measure,
    silently,
)
from keras_compress.tflite.conversion.errors import ConversionError
from keras_compress.tflite.conversion.process import stop_worker
from keras_compress.tflite.data import batches
from keras_compress.tflite.file.inspect import inspect_tflite
from keras_compress.tflite.litert.agreement import OutputAgreement, agreement
from keras_compress.tflite.litert.inner_tensors import ComputedTensor, computed_tensors
from keras_compress.tflite.litert.latency import Latency, latency_ms, measure_latency
from keras_compress.tflite.litert.model import TensorInfo, TFLiteModel, load_tflite
from keras_compress.tflite.probe.probing import trust
from keras_compress.tflite.stats import input_stats

__all__ = [
    "ComputedTensor",
    "Conversion",
    "ConversionError",
    "FileReport",
    "FloatOp",
    "Latency",
    "OpReport",
    "OutputAgreement",
    "Progress",
    "TFLiteModel",
    "TensorInfo",
    "TensorReport",
    "agreement",
    "batches",
    "computed_tensors",
    "convert",
    "input_stats",
    "inspect_tflite",
    "latency_ms",
    "load_tflite",
    "measure",
    "measure_latency",
    "silently",
    "stop_worker",
    "trust",
    "write_c_array",
    "zipped_size",
]
