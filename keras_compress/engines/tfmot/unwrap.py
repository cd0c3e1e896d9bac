"""A plain model out of a wrapped one: original names and classes, trained and masked weights.

It is done on the config of the model, as tfmot itself transforms a graph: wrappers are replaced by
what they hold, the layers that tfmot added are taken out, and the two halves into which it splits
a SeparableConv2D are joined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np

from keras_compress.engines.tfmot.library import (
    WRAPPERS,
    basename,
    is_model,
    is_own,
    tfmot,
    unwrapped_layer,
)
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.graphs import layers_inside
from keras_compress.frameworks.protocols import KerasLayer, KerasModel, KerasVariable
from keras_compress.frameworks.reviving import derive_anew, follow_trainable


def unwrapped(
    adapter: Adapter,
    model: KerasModel,
    separable: dict[str, str] | None = None,
    value: Callable[[KerasVariable], np.ndarray] | None = None,
) -> KerasModel:
    """A new plain model, uncompiled, with the weights of `model` where they hold.

    Args:
        separable: the layer that holds the pointwise half -> the name of the SeparableConv2D that
            was split; without it those that look like it get Keras' own names, since tfmot keeps
            none.
        value: what to read of a kernel; its masked numbers, say. By default `variable.numpy()`.

    Raises:
        ValueError: the model is subclassed, or some layer cannot be made from its config.
    """
    if adapter.functional(model) is None:
        raise ValueError(
            "strip: `model` must be a built Sequential or functional model to be freed of tfmot's "
            f"wrappers. Received: model={type(model).__name__}"
        )
    with tfmot().quantize_scope():
        plan = _Plan(adapter, separable)
        config = plan.config(model)
        try:
            plain = type(model).from_config(config)
        except Exception as error:  # a user's own `from_config` may raise anything
            raise ValueError(
                "strip: `model` must be of layers that can be made from their configs. Received: "
                f"model={type(model).__name__}, which failed with {type(error).__name__}: {error}"
            ) from error
    if not plain.built:
        adapter.build_as(plain, model)
    read = value or (lambda variable: variable.numpy())
    for path, layer in (("", plain), *_walk(plain)):
        parts = plan.parts[path]
        if is_model(layer):
            layer.trainable = parts[0].trainable
            continue
        if len(parts) == 1:  # before its weights are read: those that are trained come first
            follow_trainable(adapter, layer, unwrapped_layer(parts[0]))
        else:
            layer.trainable = all(part.trainable for part in parts)
        found = [variable for part in parts for variable in _own_weights(part)]
        for variable in layer.weights:
            name = plan.renamed.get((path, basename(variable)), basename(variable))
            match = next(own for own in found if basename(own) == name)
            found = [own for own in found if own is not match]
            variable.assign(read(match))
    derive_anew(adapter, plain)
    return plain


class _Plan:
    """The config of the plain model, and the layers of the wrapped one that each of its own is made
    of.
    """

    def __init__(self, adapter: Adapter, separable: dict[str, str] | None):
        self._adapter = adapter
        self._separable = separable
        self.parts: dict[str, list[Any]] = {}
        """Path -> the layers of the wrapped model, wrappers and all; "": the model."""
        self.renamed: dict[tuple[str, str], str] = {}
        """(path, weight) -> what that weight is called in the wrapped model."""

    def config(self, model: KerasModel, prefix: str = "") -> dict[str, Any]:
        config = dict(model.get_config())
        self.parts[prefix[:-1]] = [model]
        nested = "input_layers" in config
        layers = {layer.name: layer for layer in layers_inside(model, deep=False)}
        halves = separable_halves(model)
        if self._separable is not None:
            halves = {name: first for name, first in halves.items() if name in self._separable}
        gone: dict[str, Any] = {}
        now: dict[str, str] = {}
        entries = []
        for entry in config["layers"]:
            name = entry["config"]["name"]
            layer = layers.get(name)
            if is_own(layer, ("QuantizeLayer",)) or name in halves.values():
                gone[name] = entry.get("inbound_nodes")
                continue
            if layer is not None:  # not the input of a Sequential
                entry = self._entry(entry, layer, layers.get(halves.get(name, "")), prefix)
            entries.append(entry)
            now[name] = entry["config"]["name"]
        config["layers"] = entries
        return _redirected(config, gone, now) if nested else config

    def _entry(
        self, entry: dict[str, Any], layer: Any, depthwise: Any, prefix: str
    ) -> dict[str, Any]:
        entry = dict(entry)
        if is_model(layer):
            entry["config"] = self.config(layer, f"{prefix}{layer.name}/")
            return entry
        if not is_own(layer, WRAPPERS):
            self.parts[prefix + layer.name] = [layer]
            return entry
        described = self._adapter.keras.utils.serialize_keras_object(layer.layer)
        described["config"] = _own_activation(described["config"])
        if "batch_input_shape" in entry["config"]:
            described["config"].setdefault(
                "batch_input_shape", entry["config"]["batch_input_shape"]
            )
        if depthwise is not None:
            described = self._joined(described, layer, depthwise, prefix)
        name = described["config"]["name"]
        self.parts.setdefault(prefix + name, [layer])
        for key in ("module", "class_name", "registered_name", "build_config"):
            entry.pop(key, None)
        entry.update(described)
        if "name" in entry:
            entry["name"] = name
        return entry

    def _joined(
        self, conv: dict[str, Any], layer: Any, depthwise: Any, prefix: str
    ) -> dict[str, Any]:
        """The SeparableConv2D of which tfmot made a DepthwiseConv2D and a 1 x 1 Conv2D."""
        first, second = depthwise.layer.get_config(), conv["config"]
        name = separable_name(depthwise.name)
        if self._separable is not None:
            name = self._separable[layer.name]
        config = {
            "name": name,
            "trainable": first["trainable"],
            "dtype": second["dtype"],
            **{
                key: first[key]
                for key in ("kernel_size", "strides", "padding", "data_format", "dilation_rate")
            },
            "depth_multiplier": first["depth_multiplier"],
            **{key: second[key] for key in ("filters", "activation", "use_bias")},
            **{f"depthwise_{what}": first[f"depthwise_{what}"] for what in _KEPT},
            **{f"pointwise_{what}": second[f"kernel_{what}"] for what in _KEPT},
            **{f"bias_{what}": second[f"bias_{what}"] for what in _KEPT},
            "activity_regularizer": second["activity_regularizer"],
        }
        self.parts[prefix + name] = [depthwise, layer]
        self.renamed[prefix + name, "pointwise_kernel"] = "kernel"
        keras = self._adapter.keras
        plain = keras.layers.SeparableConv2D.from_config(config)
        described: dict[str, Any] = keras.utils.serialize_keras_object(plain)
        return described


_KEPT = ("initializer", "regularizer", "constraint")


def _redirected(
    config: dict[str, Any], gone: dict[str, Any], now: dict[str, str]
) -> dict[str, Any]:
    """The config with every reference to a layer pointing at what stands there now.

    `gone`: layer taken out -> its own inbound nodes; `now`: old name -> new name.
    """

    def redirect(nested: object) -> object:
        if _is_reference(nested):
            name, *rest = nested
            if name in gone:
                # What reads this layer reads what it reads.
                return redirect([*_first_reference(gone[name])[:3], *rest[2:]])
            return [now[name], *rest[:2], *map(redirect, rest[2:])]
        if isinstance(nested, list | tuple):
            return [redirect(each) for each in nested]
        if isinstance(nested, dict):
            return {key: redirect(each) for key, each in nested.items()}
        return nested

    for entry in config["layers"]:
        entry["inbound_nodes"] = redirect(entry["inbound_nodes"])
    for ends in ("input_layers", "output_layers"):
        config[ends] = redirect(config[ends])
    return config


def _is_reference(nested: object) -> TypeGuard[Sequence[Any]]:
    """[layer, node, tensor] or [layer, node, tensor, arguments]."""
    return (
        isinstance(nested, list | tuple)
        and len(nested) in (3, 4)
        and isinstance(nested[0], str)
        and all(isinstance(number, int) for number in nested[1:3])
    )


def _first_reference(nested: Any) -> Sequence[Any]:
    return nested if _is_reference(nested) else _first_reference(nested[0])


def _own_activation(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the activation that tfmot's stands for."""
    activation = config.get("activation")
    while isinstance(activation, dict) and activation.get("class_name") in (
        "QuantizeAwareActivation",
        "NoOpActivation",
    ):
        # One that does nothing stands where a batch norm or a ReLU follows.
        activation = activation["config"].get("activation", "linear")
    return {**config, "activation": activation} if "activation" in config else config


def _own_weights(layer: KerasLayer) -> list[KerasVariable]:
    """The variables of a layer, of one in a wrapper without the wrapper's own."""
    kernels = [variable for variable, _, _ in getattr(layer, "_weight_vars", ())]
    found: list[KerasVariable] = []
    # A kernel that was swapped for its rounded tensor may be no weight of its layer any more.
    for variable in [*kernels, *unwrapped_layer(layer).weights]:
        if not any(variable is own for own in found):
            found.append(variable)
    return found


def separable_halves(model: KerasModel) -> dict[str, str]:
    """Name of the 1 x 1 convolution -> name of the depthwise one before it, of each SeparableConv2D
    that tfmot has split.

    It gives both halves automatic names, and the first neither bias nor activation.
    """
    found = {}
    layers: Sequence[Any] = model.layers
    for layer in layers:
        if not (is_own(layer, WRAPPERS) and type(layer.layer).__name__ == "Conv2D"):
            continue
        if not re.fullmatch(r"conv2d(_\d+)?", layer.layer.name):
            continue
        before = [node.inbound_layers for node in layer._inbound_nodes]
        if len(before) != 1 or isinstance(before[0], list | tuple):
            continue
        inner: Any = getattr(before[0], "layer", None)
        if (
            type(inner).__name__ == "DepthwiseConv2D"
            and re.fullmatch(r"depthwise_conv2d(_\d+)?", inner.name)
            and len(before[0]._outbound_nodes) == 1
            and not inner.use_bias
            and layer.layer.kernel_size == (1, 1)
            and layer.layer.strides == (1, 1)
        ):
            found[layer.name] = before[0].name
    return found


def separable_name(depthwise: str) -> str:
    """A name for a SeparableConv2D whose own is lost, from that of its wrapped depthwise half."""
    return depthwise[depthwise.index("depthwise_conv2d") :].replace("depthwise", "separable")


def _walk(model: KerasModel, prefix: str = "") -> Iterator[tuple[str, KerasLayer]]:
    """(path, layer) of a model's layers, nested models before their own."""
    for layer in model.layers:
        yield prefix + layer.name, layer
        if is_model(layer):
            yield from _walk(layer, f"{prefix}{layer.name}/")
