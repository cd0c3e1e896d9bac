"""From a plain tf_keras model to one in tfmot's wrappers, by tfmot's own calls.

What tfmot refuses is left unwrapped, with its reason; both at once, which it refuses in either
order, are its quantize wrappers only, and the kernels inside them are pruned from the train step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from keras_compress.engines.layers_argument import LEFT_BY_USER, select
from keras_compress.engines.tfmot.kernels import (
    HeldKernel,
    by_holder,
    check_unnamed,
    held_kernels,
    single_layers,
)
from keras_compress.engines.tfmot.library import (
    WRAPPERS,
    is_own,
    tfmot,
    unwrapped_layer,
    wrapped_layers,
)
from keras_compress.engines.tfmot.masks import as_tfmot
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasLayer, KerasModel
from keras_compress.frameworks.reviving import follow_trainable, known_classes
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.quantization import Quantization
from keras_compress.specs.schedules import Schedule

KNOWN_ACTIVATIONS = ("linear", "relu", "swish", "softmax", "sigmoid", "tanh", "gelu")
FLOAT_ACTIVATIONS = ("swish", "silu")
"""tfmot rounds them; the converter leaves them in float."""


@dataclasses.dataclass
class Wrapped:
    """A model in wrappers, and what was done to it.

    `paths`: all layers of the plain model; `kernels`: what is pruned; `left_out`: per spec, path ->
    reason; `separable`: the SeparableConv2D layers that were split, in order.
    """

    model: KerasModel
    paths: list[str]
    kernels: list[HeldKernel]
    left_out: dict[str, dict[str, str]]
    separable: list[str]


def wrapped(
    adapter: Adapter, model: KerasModel, pruning: Pruning | None, quantization: Quantization | None
) -> Wrapped:
    """`model` in tfmot's wrappers: a new model; its layers are shared when it is only pruned, as
    tfmot does.

    Raises:
        ValueError: the model is not a built functional or Sequential one, or of a class that tfmot
            does not keep; a layer is unknown, or named and refused by tfmot; nothing can be
            wrapped.
    """
    if adapter.functional(model) is None or not model.built:
        raise ValueError(
            "wrap: `model` must be a Sequential or functional model whose input shape is known, "
            'for tfmot; use `engine="in_place"` for a subclassed one. '
            f"Received: model={type(model).__name__}"
        )
    if adapter.keras.mixed_precision.global_policy().name != "float32" or any(
        getattr(layer.dtype_policy, "name", "float32") != "float32" for layer in model.layers
    ):
        raise ValueError(
            'wrap: `model` must have the policy float32 for tfmot; use `engine="in_place"`. '
            "Received: a model of another dtype policy"
        )
    paths = [path for path, _ in adapter.layers(model)]
    result = Wrapped(model, paths, [], {"pruning": {}, "quantization": {}}, [])
    with known_classes(adapter, model):
        if pruning is not None:
            result.kernels, result.left_out["pruning"] = held_kernels(adapter, model, pruning)
        if quantization is not None:
            result.model = _Quantizing(adapter, model, quantization, result).run()
            _restore(adapter, model, result.model)
            there = {path for path, _ in wrapped_layers(result.model)}
            result.separable = [
                layer.name
                for layer in model.layers
                if type(layer).__name__ == "SeparableConv2D" and layer.name not in there
            ]
        elif pruning is not None:
            result.model = _pruned(adapter, model, pruning, result)
    if type(result.model) is not type(model):
        raise ValueError(
            "wrap: `model` must be of a class of Keras' own for tfmot, which makes a new "
            f"{type(result.model).__name__} without what a class of yours adds; use "
            f'`engine="in_place"`. Received: model={type(model).__name__}'
        )
    return result


def _pruned(adapter: Adapter, model: KerasModel, spec: Pruning, result: Wrapped) -> KerasModel:
    registry = tfmot().PruneRegistry
    holders = dict(single_layers(adapter, model))
    # All that a wrapper would prune, whichever part of it the spec means.
    alike = dataclasses.replace(spec, schedule=spec.schedules[0], layers=None)
    everything = by_holder(held_kernels(adapter, model, alike)[0])
    schedules: dict[str, Schedule] = {}
    for holder, group in by_holder(result.kernels).items():
        kind = type(holders[holder]).__name__
        # tfmot knows no depthwise kernel, and wraps such a layer without pruning it.
        if not registry.supports(holders[holder]) or "Depthwise" in kind:
            reason = f"tfmot does not prune {kind}"
        elif [(p.number, p.kernel) for p in group] != [
            (p.number, p.kernel) for p in everything[holder]
        ] or len({held.schedule for held in group}) > 1:
            reason = f"tfmot prunes all kernels of {kind} alike"
        else:
            schedules[holder] = group[0].schedule
            continue
        for path in dict.fromkeys(held.path for held in group):
            check_unnamed("wrap", spec.layers, path, "tfmot prunes", reason)
            result.left_out["pruning"][path] = reason
    result.kernels = [held for held in result.kernels if held.holder in schedules]
    if not schedules:
        raise ValueError(
            "wrap: tfmot must be able to prune some layer of `model`. "
            f"Received: a model of which it refuses {result.left_out['pruning']}"
        )

    def parameters(schedule: Schedule) -> dict[str, Any]:
        return {
            "pruning_schedule": as_tfmot(schedule),
            "block_size": spec.block_size,
            "block_pooling_type": spec.block_pooling_type,
            "sparsity_m_by_n": spec.sparsity_m_by_n,
        }

    whole = not result.left_out["pruning"] and spec.layers is None
    if whole and all(map(registry.supports, holders.values())):
        made: KerasModel = tfmot().prune_low_magnitude(model, **parameters(spec.schedules[0]))
        return made

    def clone(container: KerasModel, prefix: str) -> KerasModel:
        def wrap(layer: KerasLayer) -> object:
            path = prefix + layer.name
            if isinstance(layer, adapter.keras.Model):
                return clone(layer, f"{path}/")
            if path in schedules:
                return tfmot().prune_low_magnitude(layer, **parameters(schedules[path]))
            return layer

        made: KerasModel = adapter.keras.models.clone_model(container, clone_function=wrap)
        return made

    return clone(model, "")


def _restore(adapter: Adapter, model: KerasModel, copy: KerasModel) -> None:
    """Bring back what tfmot's copying loses of layers that hold others: which of these are frozen,
    and with it the order of their weights.
    """
    originals = dict(single_layers(adapter, model))
    for path, layer in wrapped_layers(copy):
        if path in originals:
            follow_trainable(adapter, unwrapped_layer(layer), originals[path])
            if not is_own(layer, WRAPPERS):
                layer.set_weights(originals[path].get_weights())


class Registry(Protocol):
    """What of its own layers tfmot takes."""

    def supports(self, layer: KerasLayer) -> bool: ...


class _Quantizing:
    """Annotates what can be quantized, applies, and drops what tfmot refuses until it does not."""

    def __init__(self, adapter: Adapter, model: KerasModel, spec: Quantization, result: Wrapped):
        self._adapter = adapter
        self._model = model
        self._spec = spec
        self._layers: dict[str, Any] = {
            layer.name: layer for layer in model.layers if not adapter.is_input(layer)
        }
        self._left_out = result.left_out["quantization"]
        selected = select("Quantization", spec.layers, self._layers)
        registry = tfmot().QuantizeRegistry()
        for name, layer in self._layers.items():
            if name not in selected:
                self._left_out[name] = LEFT_BY_USER
            elif reason := _refused(adapter, registry, layer):
                self._refuse(name, reason)

    def run(self) -> KerasModel:
        quantize = tfmot()
        with quantize.quantize_scope():
            if not self._left_out and self._spec.weight_bits == 8:
                return self._attempt(lambda: quantize.quantize_model(self._model))
            return self._attempt(self._apply)

    def _attempt(self, make: Callable[[], KerasModel]) -> KerasModel:
        while True:
            if len(self._left_out) == len(self._layers):
                raise ValueError(
                    "wrap: tfmot must be able to quantize some layer of `model`; use "
                    f'`engine="in_place"`. Received: a model of which it refuses {self._left_out}'
                )
            try:
                model = make()
            except (ValueError, RuntimeError) as error:
                message = str(error)
                culprit = next(
                    (
                        n
                        for n in self._layers
                        if f"Layer {n}:" in message and n not in self._left_out
                    ),
                    None,
                )
                if culprit is None:
                    raise
                self._refuse(culprit, f"tfmot: {message.split('. ')[0]}")
                make = self._apply
                continue
            self._note_silent_floats()
            return model

    def _refuse(self, name: str, reason: str) -> None:
        check_unnamed("wrap", self._spec.layers, name, "tfmot quantizes", reason)
        self._left_out[name] = reason

    def _apply(self) -> KerasModel:
        quantize, spec = tfmot(), self._spec

        def annotate(layer: KerasLayer) -> object:
            if layer.name in self._left_out:
                if _activation(layer) in KNOWN_ACTIVATIONS:
                    return layer
                # Before a quantized layer it gets a wrapper for its output whatever we say, and
                # that of `quantize_apply` fails on its activation.
                return quantize.quantize_annotate_layer(layer, quantize.OutputQuantizeConfig())
            return quantize.quantize_annotate_layer(layer)

        annotated = self._adapter.keras.models.clone_model(self._model, clone_function=annotate)
        scheme = quantize.Default8BitQuantizeScheme()
        if spec.weight_bits != 8:
            scheme = quantize.DefaultNBitQuantizeScheme(
                num_bits_weight=spec.weight_bits, num_bits_activation=spec.activation_bits
            )
        made: KerasModel = quantize.quantize_apply(annotated, scheme)
        return made

    def _note_silent_floats(self) -> None:
        """What tfmot wraps and TFLite leaves in float all the same."""
        for name, layer in self._layers.items():
            if name in self._left_out:
                continue
            activation = _activation(layer)
            if activation in FLOAT_ACTIVATIONS:
                self._left_out[name] = f"TFLite computes tfmot's {activation} in float"
            elif type(layer).__name__ == "BatchNormalization":
                before = layer._inbound_nodes[0].inbound_layers
                kind = type(before).__name__
                if kind in ("Dense", "Conv2DTranspose"):
                    self._left_out[name] = f"TFLite computes tfmot's {kind} with it in float"


def _refused(adapter: Adapter, registry: Registry, layer: KerasLayer) -> str | None:
    """Why tfmot would not quantize a layer, as far as the layer alone tells."""
    kind = type(layer).__name__
    if isinstance(layer, adapter.keras.Model):
        return "tfmot does not quantize a model inside a model"
    # Batch norm and separable convolutions depend on what stands before them; tfmot tells.
    if not registry.supports(layer) and kind not in ("BatchNormalization", "SeparableConv2D"):
        return f"tfmot does not quantize {kind}"
    if _activation(layer) not in KNOWN_ACTIVATIONS:
        return f"tfmot does not quantize the activation {_activation(layer)}"
    return None


def _activation(layer: object) -> str:
    """The name of a layer's activation; "linear" where there is none."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return "linear"
    return getattr(activation, "__name__", type(activation).__name__)
