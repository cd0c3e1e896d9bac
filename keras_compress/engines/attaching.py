"""A saved state onto a model: the engine that it asks for, with nobody in charge of it yet."""

from __future__ import annotations

import contextlib

from keras_compress.engines.engine import Engine, engine_of
from keras_compress.engines.in_place import plan
from keras_compress.engines.in_place.engine import InPlace
from keras_compress.engines.layers_argument import renamed
from keras_compress.engines.snapshot import restore
from keras_compress.engines.state import State
from keras_compress.engines.tfmot.engine import Tfmot, plain_copy
from keras_compress.engines.tfmot.library import PRUNED, is_own, is_wrapped, wrapped_layers
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization

OWNER = "load_state"


def attach_state(model: KerasModel, state: State) -> Engine:
    """Compress a plain model as the one was whose state this is; or let one that was just wrapped
    go on from there. The weights stay as they are.

    Raises:
        ValueError: the state belongs to another model, or `model` is compressed already or not
            built.
    """
    engine = engine_of(model)
    if engine is not None and engine.step:
        raise ValueError(
            f"{OWNER}: `model` must be plain, or freshly wrapped; `strip` it first. "
            f"Received: model={type(model).__name__} compressed for {engine.step} updates"
        )
    if not model.built:
        raise ValueError(
            f"{OWNER}: `model` must be built; call it on a batch of data first. "
            f"Received: model={type(model).__name__} without weights"
        )
    if engine is not None:
        restore(engine, state, OWNER)
        return engine
    engine = _wrapped(model, state) if is_wrapped(model, OWNER) else _in_place(model, state)
    try:
        return _restored(engine, state)
    except ValueError:
        quantizers = engine.quantizers
        if not isinstance(engine, InPlace) or quantizers is None or not quantizers.planned_by_ops:
            raise
        older = _in_place(model, state)
        older.by_ops = False
        with contextlib.suppress(ValueError):
            return _restored(older, state)
        raise


def _restored(engine: Engine, state: State) -> Engine:
    engine.attach()
    try:
        restore(engine, state, OWNER)
    except Exception:
        engine.detach()
        raise
    return engine


def _wrapped(model: KerasModel, state: State) -> Tfmot:
    """The engine that a state asks for on a model that was wrapped by hand."""
    adapter = adapter_of(model, OWNER)
    if any(is_own(layer, PRUNED) for _, layer in wrapped_layers(model)):
        return Tfmot(adapter, model, None, None)  # pruned as its wrappers say
    here = [path for path, _ in adapter.layers(plain_copy(adapter, model))]
    return Tfmot(adapter, model, *_specs(state, here))


def _in_place(model: KerasModel, state: State) -> InPlace:
    """The engine that a state asks for on a plain model, whose automatic names may be others."""
    adapter = adapter_of(model, OWNER)
    return InPlace(adapter, model, *_specs(state, plan.paths(adapter, model)))


def _specs(state: State, here: list[str]) -> tuple[Pruning | None, Quantization | None]:
    """The specs of a state, for a model whose layers and operations are these."""
    pruning = quantization = None
    if state.pruning is not None:
        pruning = Pruning.from_config(renamed(OWNER, state.pruning, state.paths, here))
    if state.quantization is not None:
        quantization = Quantization.from_config(
            renamed(OWNER, state.quantization, state.paths, here)
        )
    return pruning, quantization
