"""A plain model out of a compressed one."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_compress.engines.engine import engine_of
from keras_compress.engines.same_answers import check_same
from keras_compress.engines.tfmot.engine import Tfmot, plain_copy
from keras_compress.engines.tfmot.library import is_wrapped
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.frameworks.reviving import derive_anew, follow_trainable, known_classes

OF_EVERY_LAYER = ("name", "trainable", "dtype")
"""What every layer's config has, whether its class takes it or not."""

logger = logging.getLogger("keras_compress")


def strip(model: KerasModel) -> KerasModel:
    """A new plain model with the trained, masked weights, in float; the argument stays as it was.

    It has the original layer names and classes, knows nothing of keras_compress, and is compiled as
    the argument is: a fresh optimizer from its config, loss and metrics rebuilt. A plain copy if
    nothing was compressed. Its weights take no memory of their own until either model is trained,
    where the masks hold in the argument already. Of a model whose channels are pruned it is the
    smaller network without the dropped ones, whose outputs are the same.

    Args:
        model: a built Keras 3 or tf_keras model. One whose class overrides `compile` comes back
            uncompiled, as from Keras' own loading.

    Raises:
        TypeError: `model` is no model of either Keras.
        ValueError: it is not built, or is subclassed and its class cannot be made from its config.
    """
    adapter = adapter_of(model, "strip")
    if not model.built:
        raise ValueError(
            "strip: `model` must be built; call it on a batch of data first. "
            f"Received: model={type(model).__name__} without weights"
        )
    with known_classes(adapter, model):
        plain = uncompiled(adapter, model)
        _compile_like(adapter, plain, model)
    return plain


def uncompiled(adapter: Adapter, model: KerasModel) -> KerasModel:
    """The same, not compiled; inside of `known_classes`."""
    engine = engine_of(model)
    if is_wrapped(model, "strip"):
        return engine.plain_copy() if isinstance(engine, Tfmot) else plain_copy(adapter, model)
    if engine is None:
        plain = _copy(adapter, model, model.get_config)
        values: Iterator[tf.Tensor] = (adapter.tf_variable(v).read_value() for v in model.weights)
    else:
        plain = _copy(adapter, model, engine.shipped_config)
        values = engine.shipped_weights()
    for variable in plain.weights:
        # One by one, and none is kept while the next is made: never all of them a third time.
        variable.assign(next(values))
    derive_anew(adapter, plain)
    if engine is not None and engine.shrinks:
        check_same(adapter, engine, plain)
    return plain


def _copy(adapter: Adapter, model: KerasModel, config: Callable[[], dict[str, Any]]) -> KerasModel:
    """A new model of the same class from its config, with new weights."""
    try:
        plain = _made_again(model, config())
    except Exception as error:  # a user's own `from_config` may raise anything
        raise ValueError(
            "strip: `model` must be Sequential, functional, or subclassed with a `get_config` "
            f"that its class can be made from. Received: model={type(model).__name__}, which "
            f"failed with {type(error).__name__}: {error}"
        ) from error
    if not plain.built:
        adapter.build_as(plain, model)
    if len(plain.weights) != len(model.weights):
        raise ValueError(
            "strip: `model` must have as many weights as its class makes from its config, "
            f"{len(plain.weights)}. Received: model={type(model).__name__} with "
            f"{len(model.weights)}"
        )
    follow_trainable(adapter, plain, model)
    return plain


def _made_again(model: KerasModel, config: dict[str, Any]) -> KerasModel:
    """A model of the same class, from its config."""
    kind = type(model)
    try:
        return kind.from_config(config)
    except TypeError:
        # A subclass with arguments of its own alone does not take what Keras adds to its config.
        takes = inspect.signature(kind.__init__).parameters
        own = {n: value for n, value in config.items() if n in takes or n not in OF_EVERY_LAYER}
        if own.keys() == config.keys():
            raise
    plain = kind.from_config(own)
    if "name" not in takes:
        plain.name = model.name  # type: ignore[misc]  # what it was made with, then
    return plain


def _compile_like(adapter: Adapter, plain: KerasModel, model: KerasModel) -> None:
    arguments = adapter.compile_arguments(model)
    if arguments is None:
        return
    if not adapter.owns(type(model).compile.__module__):
        logger.warning(
            "strip: %s overrides `compile`, so the stripped model is not compiled.",
            type(model).__name__,
        )
        return
    names = {}
    if adapter.functional(model) is not None:  # a wrapped one may call its outputs otherwise
        names = dict(zip(adapter.end_names(model)[1], adapter.end_names(plain)[1], strict=True))
    for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        if isinstance(arguments.get(name), dict):
            arguments[name] = {names.get(key, key): own for key, own in arguments[name].items()}
    try:
        arguments["optimizer"] = _renewed(model.optimizer)
        arguments["loss"] = _mapped(_renewed, arguments["loss"])
        for name in ("metrics", "weighted_metrics"):
            arguments[name] = _mapped(
                lambda metric: _renewed(metric, adapter.metric_prefix(model, metric)),
                arguments[name],
            )
    except _NotRenewableError as error:
        logger.warning("strip: %s, so the stripped model is not compiled.", error)
        return
    plain.compile(**arguments)


class _NotRenewableError(Exception):
    """An object that `compile` got cannot be made again from its config."""


def _renewed(thing: Any, prefix: str = "") -> object:
    """A new object from the config of a stateful one, its name without `prefix`; strings and
    functions as they are.
    """
    if hasattr(thing, "get_config") and not isinstance(thing, type):
        try:
            config = thing.get_config()
            if prefix and "name" in config:
                config = {**config, "name": config["name"].removeprefix(prefix)}
            return type(thing).from_config(config)
        except Exception as error:  # a user's own class may raise anything
            raise _NotRenewableError(
                f"{type(thing).__name__} cannot be made from its config ({error})"
            ) from error
    return thing


def _mapped(function: Callable[[object], object], structure: object) -> object:
    if isinstance(structure, dict):
        return {key: _mapped(function, value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return [_mapped(function, value) for value in structure]
    return function(structure)
