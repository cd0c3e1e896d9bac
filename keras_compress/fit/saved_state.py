"""`save_state` and `load_state`: what a compressed run carries besides the weights, as a file."""

from __future__ import annotations

import os

from keras_compress.engines.attaching import attach_state
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import digest_of, take
from keras_compress.engines.state import State
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.fit.callback import Compress, continue_in_bare_fits
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasModel


def save_state(model: KerasModel, path: str | os.PathLike[str]) -> None:
    """Write everything that a compressed model carries besides its weights: masks, ranges, phase,
    step and specs.

    Raises:
        ValueError: the model is not compressed.
        OSError: the file cannot be written; one that stood there survives.
    """
    adapter_of(model, "save_state")  # refuses what is no model
    engine = engine_of(model)
    if engine is None:
        raise ValueError(
            "save_state: `model` must be compressed, by a fit with Compress. "
            f"Received: model={type(model).__name__} without compression"
        )
    state = take(engine)
    if not is_wrapped(model, "save_state"):  # a wrapped one is saved as the plain one too
        with engine.readers.masked():  # as a file of the model has its weights
            state.weights = digest_of(engine.adapter, model)
    state.save(path)


def load_state(model: KerasModel, path: str | os.PathLike[str]) -> None:
    """Compress a plain model, compiled or not, as the one was whose state was saved; or let a model
    that was just wrapped go on from there.

    Its weights stay as they are: load those that belong to the state. From then on `evaluate` gives
    the quantized network's number, and a fit goes on where the saved one ended.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is no state, belongs to another model, or `model` is compressed already
            or not built.
    """
    adapter_of(model, "load_state")  # refuses what is no model
    state = State.load(path)
    engine = attach_state(model, state)
    if engine.owner is None:
        engine.owner = Compress(pruning=engine.pruning, quantization=engine.quantization)
        engine.owner.set_model(model)
    continue_in_bare_fits(model)
