"""From a `Pruning` to the kernels that it means in one model, refusing what cannot be done."""

from __future__ import annotations

import dataclasses
from typing import cast

import tensorflow as tf

from keras_compress.engines.layers_argument import resolve_names, select
from keras_compress.engines.masks import Target
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.kernels import MADE_OF_OTHERS
from keras_compress.frameworks.protocols import KerasLayer, KerasModel, KerasVariable
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.schedules import Schedule

# The kernels that tfmot prunes (its prune_registry), by the classes of both Keras; the sublayers of
# MultiHeadAttention are EinsumDense.
PRUNABLE = {
    "Dense": ("kernel",),
    "EinsumDense": ("kernel",),
    "Conv1D": ("kernel",),
    "Conv2D": ("kernel",),
    "Conv3D": ("kernel",),
    "Conv1DTranspose": ("kernel",),
    "Conv2DTranspose": ("kernel",),
    "Conv3DTranspose": ("kernel",),
    "LocallyConnected1D": ("kernel",),
    "LocallyConnected2D": ("kernel",),
    "SeparableConv1D": ("pointwise_kernel",),
    "SeparableConv2D": ("pointwise_kernel",),
    "Embedding": ("embeddings",),
    "SimpleRNNCell": ("kernel", "recurrent_kernel"),
    "GRUCell": ("kernel", "recurrent_kernel"),
    "LSTMCell": ("kernel", "recurrent_kernel"),
}
# Pruned only when named: few weights, each of them needed.
PRUNABLE_WHEN_NAMED = {
    "DepthwiseConv1D": ("depthwise_kernel",),
    "DepthwiseConv2D": ("depthwise_kernel",),
}


@dataclasses.dataclass
class PruningPlan:
    """(path, layer, name, variable, schedule) of each kernel to prune, and what is left alone."""

    kernels: list[tuple[str, KerasLayer, str, KerasVariable, Schedule]]
    left_out: dict[str, str]


def plan_pruning(adapter: Adapter, model: KerasModel, spec: Pruning) -> PruningPlan:
    """Which kernels `spec` means in this model.

    Raises:
        ValueError: a layer is unknown, ambiguous, or named and cannot be pruned; or nothing can be.
    """
    layers = {path: layer for path, layer in adapter.layers(model) if not adapter.is_input(layer)}
    schedules: dict[str, Schedule] = {}
    if isinstance(spec.layers, dict):
        names = resolve_names("Pruning", spec.layers, layers)
        named = {path: spec.layers[name] for path, name in names.items()}
        selected = dict.fromkeys(named, True)
        if spec.schedule is not None:
            selected = {path: path in named for path in layers}
        schedules = named
    else:
        selected = select("Pruning", spec.layers, layers)
    plan = PruningPlan([], {})
    for path, layer in layers.items():
        if path not in selected:
            continue
        is_named = selected[path]
        found = _kernels(adapter, layer, spec, is_named or callable(spec.layers))
        if not found and is_named:
            found = f"{type(layer).__name__} has no kernel that pruning knows"
        if isinstance(found, str):
            if is_named:
                raise ValueError(
                    f"Pruning: `layers` must name layers that can be pruned; {path!r} cannot: "
                    f"{found}. Received: layers containing {path!r}"
                )
            if found:
                plan.left_out[path] = found
            continue
        for name, variable in found:
            # `Pruning` has seen to it that there is one of the two.
            schedule = cast(Schedule, schedules.get(path, spec.schedule))
            plan.kernels.append((path, layer, name, variable, schedule))
    if not plan.kernels:
        raise ValueError(
            "Pruning: `layers` must leave something to prune; no kernel of this model can be. "
            f"Received: layers={spec.layers!r}; left out: {plan.left_out}"
        )
    return plan


def _kernels(
    adapter: Adapter, layer: KerasLayer, spec: Pruning, named: bool
) -> list[tuple[str, KerasVariable]] | str:
    """(name, variable) of a layer's prunable kernels, or why none ("": nothing to say)."""
    names: tuple[str, ...] = ()
    for kind in adapter.kinds(layer):
        if kind in PRUNABLE_WHEN_NAMED and not named:
            return "depthwise kernels are pruned only when named"
        names = PRUNABLE.get(kind) or PRUNABLE_WHEN_NAMED.get(kind) or ()
        if names:
            break
    if not names:
        own = [w for w in getattr(layer, adapter.own_weights) if len(w.shape) > 1]
        if own:
            return f"{type(layer).__name__} has no kernel that pruning knows"
        return ""
    found: list[tuple[str, KerasVariable]] = []
    for name in names:
        variable = adapter.own_kernel(layer, name)
        if variable is None:
            return f"{name!r} {MADE_OF_OTHERS}"
        found.append((name, variable))
    rank = len(found[0][1].shape)
    if spec.block_size != (1, 1) and rank != 2:
        return f"blocks apply to rank-2 kernels, this one has rank {rank}"
    if spec.sparsity_m_by_n is not None and rank not in (2, 4):
        return f"m by n applies to kernels of rank 2 and 4, this one has rank {rank}"
    return found


def make_targets(adapter: Adapter, plan: PruningPlan) -> list[Target]:
    """A target with an all-True mask for each planned kernel."""
    targets = []
    for position, (path, layer, name, variable, schedule) in enumerate(plan.kernels):
        kernel = adapter.tf_variable(variable)
        shape = "x".join(map(str, kernel.shape))
        mask = tf.Variable(tf.ones(kernel.shape, tf.bool), trainable=False, name="mask")
        key = f"{position}/{type(layer).__name__}/{name}/{shape}"
        targets.append(Target(key, path, name, layer, variable, kernel, schedule, mask))
    return targets
