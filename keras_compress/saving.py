"""`save_state` and `load_state`: what a compressed run carries besides the weights, as a file."""

from __future__ import annotations

import os
from typing import Any

from keras_compress.callbacks import Compress, continue_in_bare_fits
from keras_compress.engines.base import engine_of
from keras_compress.engines.in_place import plan
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.selection import renamed
from keras_compress.engines.snapshot import restore, take
from keras_compress.engines.tfmot.engine import Tfmot, plain_copy
from keras_compress.engines.tfmot.library import PRUNED, is_own, is_wrapped, wrapped_layers
from keras_compress.frameworks.choose import adapter_of
from keras_compress.specs import Pruning, Quantization
from keras_compress.state import State


def save_state(model: Any, path: str | os.PathLike[str]) -> None:
    """Write everything that a compressed model carries besides its weights: masks, ranges, phase,
    step and specs.

    Raises:
        ValueError: the model is not compressed.
        OSError: the file cannot be written; one that stood there survives.
    """
    adapter_of(model)  # refuses what is no model
    engine = engine_of(model)
    if engine is None:
        raise ValueError(
            "save_state: `model` must be compressed, by a fit with Compress. "
            f"Received: model={type(model).__name__} without compression"
        )
    take(engine).save(path)


def load_state(model: Any, path: str | os.PathLike[str]) -> None:
    """Compress a plain model, compiled or not, as the one was whose state was saved; or let a model
    that was just wrapped go on from there.

    Its weights stay as they are: load those that belong to the state. From then on `evaluate` gives
    the quantized network's number, and a fit goes on where the saved one ended.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is no state, belongs to another model, or `model` is compressed already
            or not built.
    """
    adapter_of(model)  # refuses what is no model
    state = State.load(path)
    engine = engine_of(model)
    if engine is not None and engine.step:
        raise ValueError(
            "load_state: `model` must be plain, or freshly wrapped; `strip` it first. "
            f"Received: model={type(model).__name__} compressed for {engine.step} updates"
        )
    if not model.built:
        raise ValueError(
            "load_state: `model` must be built; call it on a batch of data first. "
            f"Received: model={type(model).__name__} without weights"
        )
    if engine is not None:
        restore(engine, state)
        return
    engine = _wrapped(model, state) if is_wrapped(model, "load_state") else _in_place(model, state)
    engine.owner = Compress(pruning=engine.pruning, quantization=engine.quantization)
    engine.attach()
    try:
        restore(engine, state)
    except Exception:
        engine.detach()
        raise
    continue_in_bare_fits(model)


def _wrapped(model: Any, state: State) -> Tfmot:
    """The engine that a state asks for on a model that was wrapped by hand."""
    adapter = adapter_of(model)
    if any(is_own(layer, PRUNED) for _, layer in wrapped_layers(model)):
        return Tfmot(adapter, model, None, None)  # pruned as its wrappers say
    here = [path for path, _ in adapter.layers(plain_copy(adapter, model))]
    return Tfmot(adapter, model, *_specs(state, here))


def _in_place(model: Any, state: State) -> InPlace:
    """The engine that a state asks for on a plain model, whose automatic names may be others."""
    adapter = adapter_of(model)
    return InPlace(adapter, model, *_specs(state, plan.paths(adapter, model)))


def _specs(state: State, here: list[str]) -> tuple[Pruning | None, Quantization | None]:
    """The specs of a state, for a model whose layers and operations are these."""
    pruning = quantization = None
    if state.pruning is not None:
        pruning = Pruning.from_config(renamed(state.pruning, state.paths, here))
    if state.quantization is not None:
        quantization = Quantization.from_config(renamed(state.quantization, state.paths, here))
    return pruning, quantization
