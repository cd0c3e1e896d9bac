"""From a `Pruning` of channels to the groups that it means in one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import cast

from keras_compress.engines.in_place.channels.groups import ChannelMap, Group, map_channels
from keras_compress.engines.layers_argument import resolve_names, select
from keras_compress.engines.prunable_kernels import PruningPlan, plan_pruning
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasLayer, KerasModel
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.schedules import Schedule


@dataclasses.dataclass
class ChannelPlan:
    """Which groups are pruned, and when.

    Attributes:
        groups: those of which channels are dropped.
        schedules: path -> schedule, of every layer that makes channels of such a group.
        kernels: what of single weights is pruned besides, as for a `Pruning` of them alone.
        left_out: path -> why a layer, or some of its channels, is left alone.
    """

    channels: ChannelMap
    groups: list[Group]
    schedules: dict[str, Schedule]
    left_out: dict[str, str]
    kernels: PruningPlan | None = None


def plan_channels(adapter: Adapter, model: KerasModel, spec: Pruning) -> ChannelPlan:
    """Which channels `spec` means in this model.

    Raises:
        ValueError: the model has no graph, or no config to make a smaller one from; a layer is
            unknown, ambiguous, or named and cannot be pruned; layers that go together have
            different schedules; `multiple_of` is larger than a layer; or nothing can be pruned.
    """
    _check_model(adapter, model)
    layers = {path: layer for path, layer in adapter.layers(model) if not adapter.is_input(layer)}
    channels = map_channels(adapter, model)
    chosen, own = _chosen(spec, layers)
    plan = ChannelPlan(channels, [], {}, {})
    for group in channels.groups:
        if not any(path in chosen for path in group.layers):
            continue
        reason = group.stopped or _unwanted(group, chosen) or _unscored(group, channels, spec)
        if reason is None:
            _take(plan, group, spec, own)
            continue
        for path in group.layers:
            plan.left_out.setdefault(path, reason)
    _check_named(spec, chosen, plan)
    for path in plan.schedules:
        if path in plan.left_out:
            plan.left_out[path] = f"some of its channels stay: {plan.left_out[path]}"
    if spec.weights is not None:
        plan.kernels = plan_pruning(adapter, model, Pruning(spec.weights))
        for path, reason in plan.kernels.left_out.items():
            plan.left_out.setdefault(path, f"of its single weights: {reason}")
    if not plan.groups:
        raise ValueError(
            "Pruning: `layers` must leave something to prune; no channel of this model can be "
            f"dropped. Received: layers={spec.layers!r}; left out: {plan.left_out}"
        )
    return plan


def _check_model(adapter: Adapter, model: KerasModel) -> None:
    rule = (
        'Pruning: `structure` must be None for this model; "channels" are followed through a graph '
        "of layers"
    )
    received = f'Received: structure="channels", model={type(model).__name__}'
    if adapter.graph_inside(model) is None:
        raise ValueError(
            f"{rule}, which a model with a `call` of its own has not: make it Sequential or "
            f"functional. {received}"
        )
    if not isinstance(model.get_config().get("layers"), list):
        raise ValueError(
            f"{rule}, and a smaller network is made from its config, in which there are no "
            f"`layers`: let its class have the `get_config` of Keras. {received}"
        )


def _chosen(
    spec: Pruning, layers: Mapping[str, KerasLayer]
) -> tuple[dict[str, bool], dict[str, Schedule]]:
    """Path -> whether it was named, of all that `layers` takes in; and the schedules of its own."""
    if not isinstance(spec.layers, dict):
        return select("Pruning", spec.layers, layers), {}
    names = resolve_names("Pruning", spec.layers, layers)
    own = {path: spec.layers[name] for path, name in names.items()}
    if spec.schedule is None:
        return dict.fromkeys(own, True), own
    return {path: path in own for path in layers}, own


def _unwanted(group: Group, chosen: Mapping[str, bool]) -> str | None:
    left = [path for path in group.layers if path not in chosen]
    if not left:
        return None
    return f"its channels go together with those of {', '.join(map(repr, left))}, left by `layers`"


def _unscored(group: Group, channels: ChannelMap, spec: Pruning) -> str | None:
    if len(group.members) == 1:
        return "one channel is always kept, and it has no other"
    if spec.score != "gamma":
        return None
    scaled = {
        each for slot in channels.slots if slot.weight.name == "gamma" for each in slot.ids.tolist()
    }
    if all(scaled.intersection(member.tolist()) for member in group.members):
        return None
    return 'score="gamma", and no batch norm scales them'


def _take(plan: ChannelPlan, group: Group, spec: Pruning, own: Mapping[str, Schedule]) -> None:
    # `Pruning` has seen to it that there is one of the two.
    schedules = {path: cast(Schedule, own.get(path, spec.schedule)) for path in group.layers}
    if len(set(map(repr, schedules.values()))) > 1:
        raise ValueError(
            "Pruning: `layers` must give layers whose channels go together the same schedule. "
            f"Received: {schedules}"
        )
    if spec.multiple_of > len(group.members):
        raise ValueError(
            "Pruning: `multiple_of` must be at most the channels that there are; leave layers with "
            f"fewer out by `layers`. Received: multiple_of={spec.multiple_of}, and "
            f"{len(group.members)} channels of {', '.join(map(repr, group.layers))}"
        )
    plan.groups.append(group)
    plan.schedules.update(schedules)


def _check_named(spec: Pruning, chosen: Mapping[str, bool], plan: ChannelPlan) -> None:
    for path, is_named in chosen.items():
        if not is_named or path in plan.schedules:
            continue
        reason = plan.left_out.get(path, "it makes no channels that pruning knows")
        raise ValueError(
            f"Pruning: `layers` must name layers whose channels can be dropped; those of {path!r} "
            f"cannot: {reason}. Received: layers containing {path!r}"
        )
