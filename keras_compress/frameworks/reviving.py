"""Making parts of a model again from their configs, where the model itself is at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasLayer, KerasModel

_NEEDS_NO_NAME = {"tensorflow", "builtins", "numpy"}
"""Packages whose classes and functions no config refers to by a registered name."""


@contextlib.contextmanager
def known_classes(adapter: Adapter, model: KerasModel) -> Iterator[None]:
    """While inside, what a config of this model refers to by name is found: the user's own classes
    and functions, and Lambda layers, which come from no file here.
    """
    scope = adapter.keras.utils.custom_object_scope(_custom_objects(adapter, model))
    with scope, adapter.trusting():
        yield


def _custom_objects(adapter: Adapter, model: KerasModel) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def note(thing: object) -> None:
        named = thing if hasattr(thing, "__name__") else type(thing)
        module = getattr(named, "__module__", None) or "builtins"
        if not (adapter.owns(module) or module.partition(".")[0] in _NEEDS_NO_NAME):
            found[named.__name__] = named

    arguments = adapter.compile_arguments(model) or {}
    for name in ("optimizer", "loss", "metrics", "weighted_metrics"):
        for thing in tf.nest.flatten(arguments.get(name)):
            note(thing)
    holders: list[object] = [layer for _, layer in adapter.layers(model)]
    for layer in holders:
        note(layer)
    if getattr(model, "optimizer", None) is not None:
        holders.append(model.optimizer)
    for holder in holders:
        for value in vars(holder).values():
            if callable(value) and not hasattr(value, "__self__"):
                note(value)
    return found


def follow_trainable(adapter: Adapter, copy: KerasLayer, original: KerasLayer) -> None:
    """Freeze in a copy of a model or layer what is frozen in the original.

    The config of a nested model does not say which of its layers are; and weights are listed in the
    order of trainable ones first.
    """
    copy.trainable = original.trainable
    # Containers come first, and set what they hold.
    pairs = zip(adapter.layers(copy), adapter.layers(original), strict=True)
    for (_, mine), (_, theirs) in pairs:
        mine.trainable = theirs.trainable


def deriving(adapter: Adapter, model: KerasLayer) -> Iterator[KerasLayer]:
    """The layers that keep numbers which they once made of their weights, and compute with those:
    a `Normalization` its adapted mean and variance.
    """
    plain = getattr(adapter.keras.layers.Layer, "finalize_state", None)
    for _, layer in adapter.layers(model):
        if layer.weights and getattr(type(layer), "finalize_state", plain) is not plain:
            yield layer


def derive_anew(adapter: Adapter, model: KerasLayer) -> None:
    """Let these layers make them anew, after somebody has written to the weights: both Keras do so
    when they load a file, and Keras 3 not in `set_weights`.
    """
    for layer in deriving(adapter, model):
        layer.finalize_state()
