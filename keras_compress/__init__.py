"""Prune, delay quantization and export an integer TFLite file with one Keras callback.

Importing this package loads neither TensorFlow nor Keras: each name below is loaded when it is
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that editors and type checkers know every name; `_PUBLIC` loads them
    from keras_compress.comparison.compare import compare as compare
    from keras_compress.engines.strip import strip as strip
    from keras_compress.export.to_tflite import export_tflite as export_tflite
    from keras_compress.fit.callback import Compress as Compress
    from keras_compress.fit.callback import compression_of as compression_of
    from keras_compress.fit.preview import preview as preview
    from keras_compress.fit.saved_state import load_state as load_state
    from keras_compress.fit.saved_state import save_state as save_state
    from keras_compress.fit.summaries import CompressionSummaries as CompressionSummaries
    from keras_compress.fit.wrap import wrap as wrap
    from keras_compress.frameworks.operation_counts import macs as macs
    from keras_compress.reports.comparison import Comparison as Comparison
    from keras_compress.reports.export import ExportReport as ExportReport
    from keras_compress.reports.fit import Report as Report
    from keras_compress.reports.inspection import FileReport as FileReport
    from keras_compress.reports.preview import Preview as Preview
    from keras_compress.specs.detection import DetectionPostProcess as DetectionPostProcess
    from keras_compress.specs.export import Export as Export
    from keras_compress.specs.pruning import Pruning as Pruning
    from keras_compress.specs.quantization import Quantization as Quantization
    from keras_compress.specs.schedules import ConstantSparsity as ConstantSparsity
    from keras_compress.specs.schedules import PolynomialDecay as PolynomialDecay
    from keras_compress.tflite import ConversionError as ConversionError
    from keras_compress.tflite import TFLiteModel as TFLiteModel
    from keras_compress.tflite import input_stats as input_stats
    from keras_compress.tflite import inspect_tflite as inspect_tflite
    from keras_compress.tflite import load_tflite as load_tflite

__version__ = "0.1.0"

# The public names, and the module that each lives in.
_PUBLIC = {
    "Comparison": "reports.comparison",
    "Compress": "fit.callback",
    "CompressionSummaries": "fit.summaries",
    "ConstantSparsity": "specs.schedules",
    "ConversionError": "tflite",
    "DetectionPostProcess": "specs.detection",
    "Export": "specs.export",
    "ExportReport": "reports.export",
    "FileReport": "reports.inspection",
    "PolynomialDecay": "specs.schedules",
    "Preview": "reports.preview",
    "Pruning": "specs.pruning",
    "Quantization": "specs.quantization",
    "Report": "reports.fit",
    "TFLiteModel": "tflite",
    "compare": "comparison.compare",
    "compression_of": "fit.callback",
    "export_tflite": "export.to_tflite",
    "input_stats": "tflite",
    "inspect_tflite": "tflite",
    "load_state": "fit.saved_state",
    "load_tflite": "tflite",
    "macs": "frameworks.operation_counts",
    "preview": "fit.preview",
    "save_state": "fit.saved_state",
    "strip": "engines.strip",
    "wrap": "fit.wrap",
}

__all__ = ["__version__", *_PUBLIC]


if not TYPE_CHECKING:  # or a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, "tuner"})
