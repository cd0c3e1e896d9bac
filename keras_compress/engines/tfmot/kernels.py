"""Where the kernels stand that tfmot prunes: in a plain model, and in what became of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_compress._shared.checks import Layers
from keras_compress.engines.prunable_kernels import plan_pruning
from keras_compress.engines.tfmot.library import PruneWrapper, basename, unwrapped_layer
from keras_compress.engines.tfmot.masks import TfmotTarget
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasLayer, KerasModel, KerasVariable
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class HeldKernel:
    """One kernel, in a model and in every copy of it.

    `holder` is the path of the layer that tfmot would wrap, and `number` says which of the layers
    in that one has the kernel (0: itself), because their automatic names differ between copies.
    """

    path: str
    holder: str
    number: int
    kernel: str
    schedule: Schedule


def held_kernels(
    adapter: Adapter, model: KerasModel, spec: Pruning
) -> tuple[list[HeldKernel], dict[str, str]]:
    """The kernels that `spec` means in a plain model; path -> reason of the layers it leaves out.

    Raises:
        ValueError: as `plan_pruning` does; or tfmot's blocks do not fit a layer that is named.
    """
    plan = plan_pruning(adapter, model, spec)
    holders = {
        id(layer): (holder, number)
        for holder, top in single_layers(adapter, model)
        for number, layer in enumerate(_with_inner(adapter, top))
    }
    found, left_out = [], dict(plan.left_out)
    for path, layer, name, variable, schedule in plan.kernels:
        if spec.block_size != (1, 1) and _is_spanned(variable.shape, spec.block_size):
            reason = "tfmot prunes no kernel that is not larger than a block in each dimension"
            check_unnamed("Pruning", spec.layers, path, "can be pruned by tfmot", reason)
            left_out[path] = reason
        else:
            found.append(HeldKernel(path, *holders[id(layer)], name, schedule))
    return found, left_out


def check_unnamed(
    owner: str, layers: Layers | Mapping[str, Schedule], path: str, rule: str, reason: str
) -> None:
    """Refuse to leave out a layer that `layers` names."""
    names = layers if isinstance(layers, list | tuple | dict) else ()
    if any(name in (path, path.rpartition("/")[2]) for name in names):
        raise ValueError(
            f"{owner}: `layers` must name layers that {rule}; {path!r} cannot: {reason}; "
            f'use `engine="in_place"`. Received: layers containing {path!r}'
        )


def _is_spanned(shape: Sequence[int], block: Sequence[int]) -> bool:
    return any(size <= side for size, side in zip(shape, block, strict=True))


def single_layers(
    adapter: Adapter, model: KerasModel, prefix: str = ""
) -> Iterator[tuple[str, KerasLayer]]:
    """(path, layer) of all layers that are wrapped one by one."""
    for layer in model.layers:
        if isinstance(layer, adapter.keras.Model):
            yield from single_layers(adapter, layer, f"{prefix}{layer.name}/")
        elif not adapter.is_input(layer):
            yield prefix + layer.name, layer


def by_holder(found: Sequence[HeldKernel]) -> dict[str, list[HeldKernel]]:
    groups: dict[str, list[HeldKernel]] = {}
    for held in found:
        groups.setdefault(held.holder, []).append(held)
    return groups


def _with_inner(adapter: Adapter, layer: KerasLayer) -> list[KerasLayer]:
    """A layer and those in it, in the order of `HeldKernel.number`."""
    return [layer, *(inner for _, inner in adapter.layers(layer))]


def in_wrappers(
    adapter: Adapter, layers: Mapping[str, Any], found: Sequence[HeldKernel]
) -> Iterator[TfmotTarget]:
    """The targets in `PruneLowMagnitude` wrappers. `layers`: path -> layer of the wrapped model."""
    for holder, group in by_holder(found).items():
        wrapper = layers[holder]
        inner = _with_inner(adapter, wrapper.layer)
        for held, (kernel, mask, threshold) in zip(group, wrapper.pruning_vars, strict=True):
            layer = inner[held.number]
            yield _target(adapter, held, layer, kernel, mask, threshold, wrapper)


def in_kernels(
    adapter: Adapter,
    layers: Mapping[str, Any],
    found: Sequence[HeldKernel],
    halves: Mapping[str, Any],
) -> Iterator[TfmotTarget]:
    """The targets in quantize wrappers and in bare layers, with masks of our own.

    `halves`: path of a SeparableConv2D that was split -> the wrapper of its pointwise half.
    """
    for held in found:
        half = halves.get(held.holder)
        holder = layers[held.holder] if half is None else half
        layer = _with_inner(adapter, unwrapped_layer(holder))[held.number]
        name = held.kernel if half is None else "kernel"
        # A rounded kernel is no weight of its layer any more.
        raw = [variable for variable, _, _ in getattr(holder, "_weight_vars", ())]
        kernel = next(own for own in (*raw, *layer.weights) if basename(own) == name)
        mask = tf.Variable(tf.ones_like(kernel), trainable=False, name="mask")
        threshold = tf.Variable(0.0, trainable=False, name="threshold")
        yield _target(adapter, held, layer, kernel, mask, threshold)


def _target(
    adapter: Adapter,
    held: HeldKernel,
    layer: KerasLayer,
    kernel: KerasVariable,
    mask: tf.Variable,
    threshold: tf.Variable,
    wrapper: PruneWrapper | None = None,
) -> TfmotTarget:
    name, shape = basename(kernel), "x".join(map(str, kernel.shape))
    return TfmotTarget(
        f"{type(layer).__name__}/{name}/{shape}",
        held.path,
        name,
        layer,
        kernel,
        adapter.tf_variable(kernel),
        held.schedule,
        mask,
        threshold=threshold,
        wrapper=wrapper,
    )
