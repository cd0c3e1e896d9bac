"""What every spec does with its fields: set when it is made, written to a plain dict, read back."""

import dataclasses
from typing import Any, Protocol

from keras_compress._shared import checks

OF_UPDATES = ("learning_rate_factor", "restart_optimizer")
"""The fields, of more than one spec, that say how the optimizer makes its updates."""


class OfUpdates(Protocol):
    """A spec with those fields."""

    @property
    def learning_rate_factor(self) -> float | None: ...

    @property
    def restart_optimizer(self) -> bool: ...


def set_field(spec: object, name: str, value: object) -> None:
    """Store a checked value in a frozen dataclass that is being made."""
    object.__setattr__(spec, name, value)


def read_config(
    cls: type, config: object, without: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(cls) if field.name not in without]
    required = [name for name in names if name not in optional]
    return checks.check_keys(cls.__name__, config, names, required)


def writable_layers(owner: str, layers: checks.Layers) -> list[str] | None:
    if callable(layers):
        rule = "None or names to be written down: a callable has no plain form"
        raise checks.value_error(owner, "layers", layers, rule)
    return None if layers is None else list(layers)


def check_of_updates(owner: str, spec: OfUpdates) -> None:
    """Check what a spec says of the optimizer, and store it as plain values."""
    name = "learning_rate_factor"
    if spec.learning_rate_factor is not None:
        factor = checks.check_positive(owner, name, spec.learning_rate_factor)
        set_field(spec, name, float(factor))
    checks.check_bool(owner, "restart_optimizer", spec.restart_optimizer)


def config_of_updates(spec: OfUpdates) -> dict[str, Any]:
    """Those that were asked for: without, a config is what it was before there were any."""
    found = {name: getattr(spec, name) for name in OF_UPDATES}
    return {name: value for name, value in found.items() if value not in (None, False)}
