"""All that is used of tfmot, most of it private, and how its wrappers are recognised.

Importing tfmot turns `tf.keras` into tf_keras for the whole process and sets
`TF_USE_LEGACY_KERAS`, so it is done by one function, and only for models that need it.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeGuard

from keras_compress.frameworks.asked.graphs import layers_inside
from keras_compress.frameworks.protocols import KerasLayer, KerasModel, KerasVariable

_PACKAGE = "tensorflow_model_optimization"
PRUNED = ("PruneLowMagnitude",)
QUANTIZED = ("QuantizeWrapper", "QuantizeWrapperV2", "QuantizeLayer")
WRAPPERS = PRUNED + QUANTIZED[:2]
"""What holds a layer; a `QuantizeLayer` is one of its own."""


class PruneWrapper(KerasLayer, Protocol):
    """A `PruneLowMagnitude`: what it holds, and by what it prunes."""

    pruning_obj: object
    pruning_schedule: object

    @property
    def layer(self) -> KerasLayer: ...

    @property
    def pruning_vars(self) -> Sequence[tuple[KerasVariable, KerasVariable, KerasVariable]]:
        """(kernel, mask, threshold) of each kernel."""

    @property
    def pruning_step(self) -> KerasVariable: ...

    @property
    def block_size(self) -> Sequence[int]: ...

    @property
    def block_pooling_type(self) -> str: ...

    @property
    def sparsity_m_by_n(self) -> tuple[int, int] | None: ...


@functools.cache
def tfmot() -> types.SimpleNamespace:
    """The parts of tfmot that the engine calls or derives from."""
    from tensorflow_model_optimization.python.core.quantization.keras import (
        quant_ops,
        quantize,
        quantizers,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_configs,
        default_8bit_quantize_registry,
        default_8bit_quantize_scheme,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.experimental.default_n_bit import (  # noqa: E501  (a name as long as that)
        default_n_bit_quantize_scheme,
    )
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        prune,
        prune_registry,
        pruning_impl,
        pruning_schedule,
    )

    return types.SimpleNamespace(
        prune_low_magnitude=prune.prune_low_magnitude,
        PruneRegistry=prune_registry.PruneRegistry,
        Pruning=pruning_impl.Pruning,  # private: the public way is through the wrapper only
        schedules=pruning_schedule,
        quantize_model=quantize.quantize_model,
        quantize_annotate_layer=quantize.quantize_annotate_layer,
        quantize_apply=quantize.quantize_apply,
        quantize_scope=quantize.quantize_scope,
        # private: there is no public way to ask whether a layer can be quantized
        QuantizeRegistry=default_8bit_quantize_registry.Default8BitQuantizeRegistry,
        # private: what `quantize_apply` itself puts around a layer of which only the output counts
        OutputQuantizeConfig=default_8bit_quantize_configs.Default8BitOutputQuantizeConfig,
        Default8BitQuantizeScheme=default_8bit_quantize_scheme.Default8BitQuantizeScheme,
        DefaultNBitQuantizeScheme=default_n_bit_quantize_scheme.DefaultNBitQuantizeScheme,
        quantizers=quantizers,
        # private: a moving average takes its decay as an argument here and nowhere else
        MovingAvgQuantize=quant_ops.MovingAvgQuantize,
    )


def is_own(layer: object, names: tuple[str, ...]) -> bool:
    """Whether a layer is of one of tfmot's classes of these names, told without importing it."""
    return any(
        base.__name__ in names and base.__module__.partition(".")[0] == _PACKAGE
        for base in type(layer).__mro__
    )


def is_model(layer: object) -> TypeGuard[KerasModel]:
    """Whether a layer of tf_keras is a Sequential or functional model, whose layers tfmot wraps."""
    return bool(getattr(layer, "_is_graph_network", False))


def wrapped_layers(model: KerasModel) -> Iterator[tuple[str, Any]]:
    """(path, layer) of a model's layers, those of nested models instead of these, none of those
    inside a wrapper. The path is that of the layer before it was wrapped.
    """

    def walk(parent: KerasModel, prefix: str) -> Iterator[tuple[str, Any]]:
        for layer in parent.layers:
            if is_model(layer):
                yield from walk(layer, f"{prefix}{layer.name}/")
            else:
                yield prefix + unwrapped_layer(layer).name, layer

    return walk(model, "")


def wrapper_path(path: str, layer: KerasLayer) -> str:
    """The path of a layer of `wrapped_layers` in the wrapped model."""
    return "".join((*path.rpartition("/")[:2], layer.name))


def unwrapped_layer(layer: Any) -> KerasLayer:
    """The layer in a wrapper of tfmot; any other as it is."""
    inner: KerasLayer = layer.layer if is_own(layer, WRAPPERS) else layer
    return inner


def basename(variable: KerasVariable) -> str:
    """ "kernel" of "block/conv/kernel:0"."""
    return str(variable.name.split(":")[0].rpartition("/")[2])


def is_wrapped(model: KerasModel, owner: str) -> bool:
    """Whether some layer of a model is one of tfmot's wrappers.

    Raises:
        ValueError: one is of a class that we do not know, or stands inside another layer, or
            pruning and quantization wrappers are mixed.
    """
    found = set()
    for path, layer in wrapped_layers(model) if hasattr(model, "layers") else ():
        if is_own(layer, PRUNED):
            found.add("prune_low_magnitude")
        elif is_own(layer, QUANTIZED):
            found.add("quantize_apply")
        for part in (layer, *layers_inside(layer)):
            if _is_tfmots(part) and not (part is layer and is_own(layer, PRUNED + QUANTIZED)):
                raise ValueError(
                    f"{owner}: the model must bear no wrapper of tfmot but those that "
                    "`prune_low_magnitude`, `quantize_model` and `quantize_apply` put around its "
                    "layers; apply or strip it first. "
                    f"Received: layer {path!r} with {type(part).__name__}"
                )
    if len(found) > 1:
        raise ValueError(
            f"{owner}: the model must be wrapped by one of tfmot's functions only; for both at "
            "once wrap the plain one with `keras_compress.wrap`. Received: layers wrapped by "
            f"{sorted(found)}"
        )
    return bool(found)


def _is_tfmots(layer: object) -> bool:
    return type(layer).__module__.partition(".")[0] == _PACKAGE
