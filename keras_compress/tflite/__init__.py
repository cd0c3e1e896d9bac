"""TensorFlow Lite files: made in a worker process, run by LiteRT, inspected, compared, written.

Importing this package loads neither TensorFlow nor LiteRT.
"""

from keras_compress.tflite.c_array import write_c_array
from keras_compress.tflite.convert import Conversion, ConversionError, Progress, convert, measure
from keras_compress.tflite.data import batches
from keras_compress.tflite.file_report import (
    FileReport,
    FloatOp,
    OpReport,
    TensorReport,
    zipped_size,
)
from keras_compress.tflite.inspect import inspect_tflite
from keras_compress.tflite.latency import Latency, latency_ms, measure_latency
from keras_compress.tflite.probing import trust
from keras_compress.tflite.process import stop_worker
from keras_compress.tflite.run import TensorInfo, TFLiteModel, load_tflite
from keras_compress.tflite.stats import input_stats
from keras_compress.tflite.tensors import ComputedTensor, computed_tensors
from keras_compress.tflite.verify import OutputAgreement, agreement

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
    "stop_worker",
    "trust",
    "write_c_array",
    "zipped_size",
]
