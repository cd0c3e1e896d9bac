"""What every spec does with its fields: set when it is made, written to a plain dict, read back."""

import dataclasses
from typing import Any

from keras_compress._shared import checks


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
