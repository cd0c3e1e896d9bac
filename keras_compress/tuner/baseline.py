"""Train once, compress many: the float training that trials of one architecture share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import filelock
import numpy as np

from keras_compress._shared.files import write_atomically
from keras_compress.engines.strip import strip
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.tuner.weights import load_weights, save_weights

PER_FIT = ("epochs", "initial_epoch", "callbacks", "verbose")
"""Arguments of `fit` that are those of the compression, not of the float training."""


def bring(
    adapter: Adapter,
    model: KerasModel,
    folder: Path,
    epochs: int,
    arguments: tuple[Sequence[Any], Mapping[str, Any]],
    drawn: Mapping[str, Any],
    verbose: object,
) -> dict[str, float]:
    """Give a new model the weights of its float training, which is done for the first that asks.

    Processes that ask at the same time wait for one of them; one that is killed lets the next begin
    anew. `folder` keeps the weights by a key of all that the training depends on and that can be
    read: layers, what `compile` was given, what the hyperparameters of `build` are, epochs,
    arguments of `fit`, and the numbers of arrays (of a dataset or a generator only that it is one).

    Args:
        epochs: of the training; 0: the weights stay, and are only evaluated.
        arguments: what `fit` is given, by position and by name.
        drawn: the hyperparameters of the model, name -> value.

    Returns:
        The metrics of the float network on the validation data, by their names.

    Raises:
        ValueError: the model cannot be made and compiled again like this one.
    """
    args, named = arguments
    own = {name: value for name, value in named.items() if name not in PER_FIT}
    key = _key(adapter, model, epochs, (args, own, drawn))
    folder.mkdir(parents=True, exist_ok=True)
    weights, metrics = folder / f"{key}.npz", folder / f"{key}.json"
    with filelock.FileLock(folder / f"{key}.lock"):
        if not metrics.exists():  # it is written last
            floats = model
            if epochs:
                # A copy, so that this trial too begins with an optimizer that is new.
                floats = strip(model)
                if not adapter.is_compiled(floats):
                    raise ValueError(
                        "CompressionHyperModel: `build` must return a model that can be compiled "
                        "again from its own config, as each trial is evaluated in a copy. "
                        f"Received: {type(model).__name__}"
                    )
                floats.fit(*args, **own, epochs=epochs, verbose=verbose)
                save_weights(floats, weights)
            write_atomically(metrics, json.dumps(_evaluated(adapter, floats, own)).encode())
        if epochs:
            load_weights(model, weights)
        return dict(json.loads(metrics.read_text()))


def _evaluated(adapter: Adapter, model: KerasModel, named: Mapping[str, Any]) -> dict[str, float]:
    x, y, weights = adapter.keras.utils.unpack_x_y_sample_weight(named["validation_data"])
    logs = model.evaluate(
        x,
        y,
        sample_weight=weights,
        batch_size=named.get("validation_batch_size"),
        steps=named.get("validation_steps"),
        verbose=0,
        return_dict=True,
    )
    return {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}


def _key(adapter: Adapter, model: KerasModel, epochs: int, arguments: object) -> str:
    """Of what two models that may share a float training have in common."""
    digest = hashlib.sha256()
    config = model.get_config()
    names = [model.name, *_listed(config), *(layer.name for _, layer in adapter.layers(model))]
    alike = _renamed(config, {name: f"#{i}" for i, name in enumerate(dict.fromkeys(names))})
    compiled = adapter.compile_arguments(model) or {}
    for part in (alike, compiled, epochs):
        digest.update(json.dumps(part, sort_keys=True, default=_described).encode())
    if not epochs:
        _feed(digest, model.get_weights())
    _feed(digest, arguments)
    return digest.hexdigest()[:32]


class Digest(Protocol):
    """One of `hashlib`, which is given bytes."""

    def update(self, data: bytes, /) -> None: ...


NAMES = ("name", "inbound_nodes", "input_layers", "output_layers", "keras_history")
"""Where a config has the names of layers. Automatic ones count on from model to model."""


def _listed(config: Mapping[str, Any]) -> Iterator[str]:
    """The names of the layers that a config lists, those of its inputs too."""
    for layer in config.get("layers", ()):
        yield layer["config"]["name"]
        yield from _listed(layer["config"])


def _renamed(config: object, names: Mapping[str, str], inside: bool = False) -> object:
    if isinstance(config, Mapping):
        return {
            key: _renamed(value, names, inside or key in NAMES) for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [_renamed(each, names, inside) for each in config]
    return names.get(config, config) if inside and isinstance(config, str) else config


def _described(thing: object) -> object:
    """What JSON does not know, as something that is the same in another process."""
    if hasattr(thing, "get_config") and not isinstance(thing, type):
        config = dict(thing.get_config())
        if hasattr(thing, "iterations"):
            config.pop("name", None)  # Keras 3 numbers its optimizers
        return [type(thing).__name__, config]
    return getattr(thing, "__name__", type(thing).__name__)


def _feed(digest: Digest, thing: object) -> None:
    if isinstance(thing, Mapping):
        thing = sorted(thing.items())
    if isinstance(thing, tuple | list):
        digest.update(f"{len(thing)} of".encode())
        for each in thing:
            _feed(digest, each)
    elif hasattr(thing, "__array__"):
        thing = np.asarray(thing)
        digest.update(f"{thing.dtype} {thing.shape}".encode())
        if thing.dtype.kind == "O":
            digest.update(repr(thing.tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(thing).tobytes())
    elif thing is None or isinstance(thing, str | int | float | bool):
        digest.update(repr(thing).encode())
    else:
        digest.update(type(thing).__name__.encode())
