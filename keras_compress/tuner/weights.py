"""The weights of a model in a file of their own, without those of its optimizer."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from keras_compress._shared.files import write_atomically
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.frameworks.reviving import derive_anew


def save_weights(model: KerasModel, path: Path) -> None:
    """Write all weights in the model's order."""
    buffer = io.BytesIO()
    np.savez(buffer, *model.get_weights())
    write_atomically(path, buffer.getvalue())


def load_weights(model: KerasModel, path: Path) -> None:
    """Take weights that a model with the same layers has saved."""
    with np.load(path) as arrays:
        model.set_weights([arrays[name] for name in arrays.files])
    derive_anew(adapter_of(model, "CompressionHyperModel"), model)
