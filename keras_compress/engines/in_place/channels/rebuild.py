"""The network without its dropped channels: its config and its weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_compress.engines.in_place.channels.groups import Call, ChannelMap, Entry, Ids
from keras_compress.engines.in_place.fake_quant import KernelQuantizer
from keras_compress.frameworks.protocols import KerasModel

Cuts = dict[int, list[tuple[int, np.ndarray]]]
"""id of a TensorFlow variable -> (axis, places that are left along it)."""

SHAPES = ("batch_shape", "batch_input_shape")
"""Where the config of an input, or of a layer that was given one, has its shape."""


def small_config(model: KerasModel, channels: ChannelMap, kept: np.ndarray) -> dict[str, Any]:
    """The config of a model with the channels that are `kept` (bool, by id) alone."""
    config = copy.deepcopy(model.get_config())
    _Edit(channels, kept).layers(config["layers"], "")
    return config


def shipped_by_channel(quantizer: KernelQuantizer, each: np.ndarray, cuts: Cuts) -> np.ndarray:
    """Of numbers of the channels of a rounded kernel, () or (channels,), those that ship."""
    if not each.ndim or quantizer.variable is None:
        return each
    shipped = small_weight(quantizer.variable, quantizer.by_weight(each), cuts)
    return quantizer.by_channel(shipped)


def small_weight(variable: object, value: np.ndarray, cuts: Cuts) -> np.ndarray:
    """What is left of a weight; `cuts` are those of `cuts_of`."""
    for axis, places in cuts.get(id(variable), ()):
        value = np.take(value, places, axis)
    return value


def cuts_of(channels: ChannelMap, kept: np.ndarray) -> Cuts:
    """Those of all that becomes smaller."""
    cuts: Cuts = {}
    for slot in channels.slots:
        places = np.flatnonzero(kept[slot.ids])
        if len(places) < len(slot.ids):
            cuts.setdefault(id(slot.kernel), []).append((slot.axis, places))
    return cuts


class _Edit:
    """The changes to one config."""

    def __init__(self, channels: ChannelMap, kept: np.ndarray):
        self._kept = kept
        self._calls: dict[str, Call] = {call.path: call for call in channels.calls}
        self._entries: dict[str, list[Entry]] = {}
        for entry in channels.entries:
            self._entries.setdefault(entry.path, []).append(entry)

    def layers(self, layers: Sequence[dict[str, Any]], prefix: str) -> None:
        for layer in layers:
            config = layer["config"]
            path = prefix + str(layer.get("name") or config["name"])
            call = self._calls.get(path)
            if isinstance(config.get("layers"), list):
                layer.pop("build_config", None)
                self._nested(config, self._entries.get(path, ()))
                self.layers(config["layers"], f"{path}/")
            elif call is not None:
                layer.pop("build_config", None)  # its shapes are those of before
                self._one(config, call)

    def _one(self, config: dict[str, Any], call: Call) -> None:
        left = None if call.made is None else self._left(call.made)
        passing = call.passing
        if left is not None and passing.size is not None and passing.size in config:
            config[passing.size] = left
        if left is not None and passing.config is not None:
            config.update(passing.config(config, left))

    def _nested(self, config: dict[str, Any], entries: Sequence[Entry]) -> None:
        """Give the inputs of a nested model the channels that come in."""
        by_name = {
            layer["config"]["name"]: layer["config"]
            for layer in config["layers"]
            if layer["class_name"] == "InputLayer"
        }
        for entry in entries:
            own = [config]  # of a Sequential, which holds the shape of its input itself
            if entry.name in by_name:
                own.append(by_name[entry.name])
            else:
                own.append(config["layers"][0]["config"])
            for each in own:
                self._cut_shape(each, entry.ids)

    def _cut_shape(self, config: dict[str, Any], ids: Ids) -> None:
        for key in (*SHAPES, "build_input_shape"):
            shape = config.get(key)
            if isinstance(shape, list | tuple) and shape and shape[-1] == len(ids):
                config[key] = type(shape)([*shape[:-1], self._left(ids)])

    def _left(self, ids: Ids) -> int:
        return int(self._kept[ids].sum())
