"""The versions of the packages that have a part in a result."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from keras_compress import __version__

PACKAGES = {
    "tensorflow": "tensorflow",
    "keras": "keras",
    "tf_keras": "tf-keras",
    "tensorflow_model_optimization": "tensorflow-model-optimization",
    "ai_edge_litert": "ai-edge-litert",
}
"""The name by which each is imported -> by which it is installed."""


def version_of(module: str) -> str:
    """Of one of `PACKAGES`; "unknown" where it was installed under another name."""
    loaded = sys.modules.get(module)
    if loaded is not None and hasattr(loaded, "__version__"):
        return str(loaded.__version__)
    try:
        return importlib.metadata.version(PACKAGES[module])
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def installed() -> dict[str, str]:
    """All of them, ours and Python's too."""
    found = {"keras_compress": __version__, "python": platform.python_version()}
    return found | {module: version_of(module) for module in PACKAGES}
