"""Prune, delay quantization and export an integer TFLite file with one Keras callback.

Importing this package loads neither TensorFlow nor Keras: each name below is loaded when it is
first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# The public names, and the module that each lives in.
_PUBLIC = {
    "Compress": "fit.callback",
    "ConstantSparsity": "specs.schedules",
    "ConversionError": "tflite",
    "Export": "specs.export",
    "PolynomialDecay": "specs.schedules",
    "Pruning": "specs.pruning",
    "Quantization": "specs.quantization",
    "compare": "comparison.compare",
    "compression_of": "fit.callback",
    "export_tflite": "export.to_tflite",
    "input_stats": "tflite",
    "inspect_tflite": "tflite",
    "load_state": "fit.saved_state",
    "load_tflite": "tflite",
    "save_state": "fit.saved_state",
    "strip": "engines.strip",
    "wrap": "fit.wrap",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
