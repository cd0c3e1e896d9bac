"""`layers=`: which layers a spec names, in all its forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

from keras_compress._shared.checks import LayerName
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.schedules import Schedule

LEFT_BY_USER = "left out by `layers`"


def resolve_name(owner: str, name: str, paths: Collection[str]) -> str:
    """The path that `name` means: itself, or the only path that ends in it; of a layer that was
    given itself, where that is.

    Raises:
        ValueError: no layer, or more than one, bears the name.
    """
    layer = name.layer() if isinstance(name, LayerName) else None
    if layer is not None and isinstance(paths, Mapping):
        for path, each in paths.items():
            if each is layer:
                return str(path)
    if name in paths:
        return name
    matches = [path for path in paths if path.rpartition("/")[2] == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(
            f"{owner}: `layers` must name one layer each; {name!r} is ambiguous, write one of "
            f"the paths {sorted(matches)}. Received: layers containing {name!r}"
        )
    raise ValueError(
        f"{owner}: `layers` must name layers of the model; it has {sorted(paths)}. "
        f"Received: layers containing {name!r}"
    )


def select(
    owner: str,
    layers: Collection[str] | Callable[[Any], bool] | None,
    candidates: Mapping[str, Any],
) -> dict[str, bool]:
    """Path -> whether it was *named* (and so must be possible), for every candidate that `layers`
    takes in.
    """
    if layers is None:
        return dict.fromkeys(candidates, False)
    if callable(layers):
        return {path: False for path, layer in candidates.items() if layers(layer)}
    return dict.fromkeys(resolve_names(owner, layers, candidates), True)


def resolve_names(owner: str, names: Collection[str], paths: Collection[str]) -> dict[str, str]:
    """Path -> the name that means it, of every name.

    Raises:
        ValueError: as `resolve_name` does, or two names mean one layer.
    """
    found: dict[str, str] = {}
    for name in names:
        path = resolve_name(owner, name, paths)
        if path in found:
            raise ValueError(
                f"{owner}: `layers` must name each layer once; {found[path]!r} and {name!r} are "
                "the same. Received: layers containing both"
            )
        found[path] = name
    return found


def with_insides(selected: Mapping[str, bool], paths: Collection[str]) -> set[str]:
    """What `select` found, and what lies in a layer that was named, unless some of that was named
    too.
    """
    chosen = set(selected)
    for path, is_named in selected.items():
        inside = {other for other in paths if other.startswith(f"{path}/")}
        if is_named and not inside & selected.keys():
            chosen |= inside
    return chosen


def with_names(spec: Any, chosen: list[str]) -> Any:
    """The same `Pruning` or `Quantization` with the names of what its `layers` chose."""
    if isinstance(spec, Pruning):
        schedule = cast(Schedule, spec.schedule)  # there is one, where `layers` is no dict
        return dataclasses.replace(spec, schedule=None, layers=dict.fromkeys(chosen, schedule))
    return dataclasses.replace(spec, layers=tuple(chosen))


def renamed(
    owner: str, config: dict[str, Any], before: Sequence[str], now: Sequence[str]
) -> dict[str, Any]:
    """The config of a spec of one model, for an equal one whose automatic names are others.

    Raises:
        ValueError: the models differ in the number of their layers.
    """
    layers = config.get("layers")  # without, it is refused when a spec is made of it
    if layers is None or list(before) == list(now):
        return config
    if len(before) != len(now):
        raise ValueError(
            f"{owner}: the state must belong to this model; the one it was saved of has "
            f"{len(before)} layers and operations. Received: a model with {len(now)}"
        )
    path_now = dict(zip(before, now, strict=True))

    def rename(name: str) -> str:
        path = path_now[resolve_name(owner, name, path_now)]
        return path if name in path_now else path.rpartition("/")[2]

    if isinstance(layers, dict):
        return {**config, "layers": {rename(name): each for name, each in layers.items()}}
    return {**config, "layers": [rename(name) for name in layers]}
