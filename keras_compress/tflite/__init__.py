"""TensorFlow Lite files: made in a worker process, run by LiteRT, inspected, compared, written.

Importing this package loads neither TensorFlow nor LiteRT.
"""

from keras_compress.tflite.convert import Conversion, ConversionError, convert, measure
from keras_compress.tflite.data import batches
from keras_compress.tflite.inspect import (
    FileReport,
    FloatOp,
    OpReport,
    TensorReport,
    inspect_tflite,
    zipped_size,
)
from keras_compress.tflite.process import stop_worker
from keras_compress.tflite.run import TensorInfo, TFLiteModel, load_tflite
from keras_compress.tflite.tensors import ComputedTensor, computed_tensors
from keras_compress.tflite.verify import OutputAgreement, agreement

__all__ = [
    "ComputedTensor",
    "Conversion",
    "ConversionError",
    "FileReport",
    "FloatOp",
    "OpReport",
    "OutputAgreement",
    "TFLiteModel",
    "TensorInfo",
    "TensorReport",
    "agreement",
    "batches",
    "computed_tensors",
    "convert",
    "inspect_tflite",
    "load_tflite",
    "measure",
    "stop_worker",
    "zipped_size",
]
