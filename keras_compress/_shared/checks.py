"""The one form of every argument error: ``Owner: `name` must be RULE. Received: name=value``."""

import inspect
import math
import numbers
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

Layers = tuple[str, ...] | Callable[[Any], bool] | None
"""As a spec keeps them."""
GivenLayers = Sequence[Any] | Callable[[Any], bool] | None
"""As they may be given: names, or the layers themselves."""

DATA_RULE = (
    "array(s), a tf.data.Dataset, the path of a .npz file or a callable without arguments "
    "that returns an iterable"
)
"""What representative and verification data may be."""


def describe(name: str, value: object) -> str:
    """`name=value` as messages quote it; NumPy scalars read as the plain number they stand for."""
    if isinstance(value, numbers.Real) and hasattr(value, "item"):
        value = value.item()
    return f"{name}={value!r}"


def error_text(owner: str, name: str, value: object, rule: str, *, hint: str = "") -> str:
    """The message for a refused argument; `hint` follows the value in parentheses."""
    tail = f" ({hint})" if hint else ""
    return f"{owner}: `{name}` must be {rule}. Received: {describe(name, value)}{tail}"


def value_error(owner: str, name: str, value: object, rule: str, *, hint: str = "") -> ValueError:
    """For a value of the right type outside its range."""
    return ValueError(error_text(owner, name, value, rule, hint=hint))


def type_error(owner: str, name: str, value: object, rule: str, *, hint: str = "") -> TypeError:
    """For a value of the wrong type."""
    return TypeError(error_text(owner, name, value, rule, hint=hint))


def listing(choices: Iterable[object]) -> str:
    """`'a', 'b' or 'c'`."""
    return joined([repr(choice) for choice in choices], ", ", " or ")


def joined(words: Sequence[str], between: str, last: str) -> str:
    """All words, with something else before the last one than between the others."""
    return words[0] if len(words) == 1 else f"{between.join(words[:-1])}{last}{words[-1]}"


def is_int(value: object) -> TypeGuard[int]:
    """An integer, NumPy's included, that is not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """A real number, NumPy's scalars included, that is not a bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def meant_int(value: object) -> str:
    """The hint for a float that stands for an integer, as `2e3` does; empty for anything else."""
    if is_number(value) and not is_int(value) and float(value).is_integer():
        return f"did you mean {int(value)}?"
    return ""


def check_int(owner: str, name: str, value: object, *, minimum: int | None = None) -> int:
    """`value` as a plain int. TypeError for a float or a bool, ValueError below `minimum`."""
    rule = "an int" if minimum is None else f"an int >= {minimum}"
    in_range = is_number(value) and (minimum is None or value >= minimum)
    if not is_int(value):
        hint = meant_int(value) if in_range else ""
        raise type_error(owner, name, value, rule, hint=hint)
    if not in_range:
        raise value_error(owner, name, value, rule)
    return int(value)


def check_positive(owner: str, name: str, value: object, *, what: str = "a number") -> int | float:
    """`value` as a plain finite int or float above 0."""
    rule = f"{what} > 0"
    if not is_number(value):
        raise type_error(owner, name, value, rule)
    if not (math.isfinite(value) and value > 0):
        raise value_error(owner, name, value, rule)
    return int(value) if is_int(value) else float(value)


def check_fraction(owner: str, name: str, value: object) -> float:
    """`value` as a plain float in [0, 1): a sparsity. NaN and per cents are refused."""
    rule = "a number in [0, 1)"
    if not is_number(value):
        raise type_error(owner, name, value, rule)
    if not 0 <= value < 1:
        raise value_error(owner, name, value, rule)
    return float(value)


def check_pair(owner: str, name: str, value: object, what: str) -> tuple[float, float]:
    """`value` as two finite floats; `what` names them, as "(mean, std)"."""
    rule = f"{what}, two finite numbers"
    if not isinstance(value, list | tuple) or not all(map(is_number, value)):
        raise type_error(owner, name, value, rule)
    if len(value) != 2 or not all(map(math.isfinite, value)):
        raise value_error(owner, name, value, rule)
    return float(value[0]), float(value[1])


def check_step(owner: str, name: str, value: object, *, allow_forever: bool = False) -> int | float:
    """`value` as a plain int >= 0 (updates) or a plain float in [0, 1] (fraction of a fit).

    1 is the first update and 1.0 the whole fit. With `allow_forever` the int -1 passes too.
    """
    rule = "an int >= 0 or a float in [0, 1]"
    if allow_forever:
        rule = "an int >= 0, a float in [0, 1] or -1"
    if not is_number(value):
        raise type_error(owner, name, value, rule)
    if is_int(value):
        if value < 0 and not (allow_forever and value == -1):
            raise value_error(owner, name, value, rule)
        return int(value)
    if not 0 <= value <= 1:
        hint = meant_int(value) if value > 1 or (allow_forever and value == -1) else ""
        raise value_error(owner, name, value, rule, hint=hint)
    return float(value)


def check_resolved(owner: str, name: str, value: int | float) -> int:
    """`value`, a checked step, if it is an int; a fraction of a fit needs `resolve` first."""
    if isinstance(value, float):
        raise value_error(owner, name, value, "an int here: a fraction has to be resolved first")
    return value


def order_error(
    owner: str, rule: str, *steps: tuple[str, int | float | None, int | float]
) -> ValueError:
    """For two steps out of order: `rule` is about the first and names the second in backquotes.

    Each step is (name, as given, as resolved); a resolved one is quoted beside its fraction.
    """
    quoted = [
        describe(name, given) + (f" (step {resolved})" if given != resolved else "")
        for name, given, resolved in steps
    ]
    return ValueError(f"{owner}: `{steps[0][0]}` must be {rule}. Received: {', '.join(quoted)}")


def check_bool(owner: str, name: str, value: object) -> bool:
    """`value`, which is True or False and nothing that merely counts as such."""
    if not isinstance(value, bool):
        raise type_error(owner, name, value, "True or False")
    return value


def check_choice(
    owner: str, name: str, value: object, choices: Iterable[str], where: str = ""
) -> str:
    """`value`, one of the strings `choices`; `where` ends the rule, as in " in mode 'int8'"."""
    choices = tuple(choices)
    rule = listing(choices) + where
    if not isinstance(value, str):
        raise type_error(owner, name, value, rule)
    if value not in choices:
        raise value_error(owner, name, value, rule)
    return value


def check_int_choice(owner: str, name: str, value: object, choices: Iterable[int]) -> int:
    """`value` as a plain int, one of `choices`."""
    choices = tuple(choices)
    rule = listing(choices)
    if not is_int(value):
        hint = meant_int(value) if value in choices else ""
        raise type_error(owner, name, value, rule, hint=hint)
    if value not in choices:
        raise value_error(owner, name, value, rule)
    return int(value)


def check_int_pair(owner: str, name: str, value: object, *, minimum: int) -> tuple[int, int]:
    """`value`, a sequence of two ints >= `minimum`, as a tuple."""
    rule = f"two ints >= {minimum}"
    if not isinstance(value, (tuple, list)):
        raise type_error(owner, name, value, rule)
    if len(value) != 2 or not all(is_int(item) and item >= minimum for item in value):
        raise value_error(owner, name, value, rule)
    return int(value[0]), int(value[1])


def check_keys(
    owner: str, config: object, known: Iterable[str], required: Iterable[str] = ()
) -> dict[str, Any]:
    """`config` as a new dict, if it is a dict with every `required` and only `known` keys."""
    known, required = tuple(known), tuple(required)
    if not isinstance(config, Mapping):
        raise type_error(owner, "config", config, "a dict")
    keys = set(config)
    unknown = sorted(repr(key) for key in keys - set(known))
    missing = sorted(repr(key) for key in set(required) - keys)
    if unknown or missing:
        parts = []
        if unknown:
            parts.append(f"unknown: {', '.join(unknown)}")
        if missing:
            parts.append(f"missing: {', '.join(missing)}")
        rule = "a dict as `get_config` returns it"
        raise value_error(owner, "config", dict(config), rule, hint="; ".join(parts))
    return dict(config)


def check_names(owner: str, layers: Iterable[object]) -> tuple[str, ...]:
    """The names of `layers`, a sequence or the keys of a dict: strings or layers, each once."""
    names: list[Any] = [name_of(each) for each in layers]
    if not names:
        raise value_error(owner, "layers", layers, "None or name at least one layer")
    for name in names:
        if not isinstance(name, str):
            raise type_error(owner, "layers", layers, "names that are strings, or layers")
        if not name or names.count(name) > 1:
            raise value_error(owner, "layers", layers, "names that are not empty or repeated")
    return tuple(names)


class LayerName(str):
    """The name of a Keras layer that was given itself, which may not be the only one of its name.
    Copied or sent to another process it is a name like any other.
    """

    __slots__ = ("layer",)
    layer: "weakref.ref[Any]"

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def name_of(layer: object) -> object:
    """The name of a Keras layer; anything else as it is."""
    name = getattr(layer, "name", None)
    if not (isinstance(name, str) and hasattr(layer, "trainable") and hasattr(layer, "call")):
        return layer
    found = LayerName(name)
    found.layer = weakref.ref(layer)
    return found


def check_layers(owner: str, layers: object, also: str = "") -> Layers:
    """`layers` as None, a tuple of names or a callable."""
    if layers is None:
        return None
    if isinstance(layers, (list, tuple)):
        return check_names(owner, layers)
    if callable(layers) and name_of(layers) is layers:  # a layer can be called too
        accepted: Callable[[Any], bool] = layers
        return accepted
    rule = "None, a list of layer names, a callable `layer -> bool`"
    rule = f"{rule} {also}" if also else rule.replace(", a callable", " or a callable")
    one = name_of(layers)
    hint = f"did you mean [{one!r}]?" if isinstance(one, str) else ""
    raise type_error(owner, "layers", layers, rule, hint=hint)


def as_text_path(owner: str, name: str, path: object, rule: str) -> str:
    """`path`, a string or PathLike, as a string."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise type_error(owner, name, path, rule)
    return text


def check_path(owner: str, name: str, path: object, suffix: str) -> str:
    """`path`, a string or PathLike that ends in `suffix`, as a string."""
    rule = f"the path of a file that ends in {suffix!r}"
    text = as_text_path(owner, name, path, rule)
    if not text.endswith(suffix):
        raise value_error(owner, name, text, rule)
    return text


def check_type(owner: str, name: str, value: object, choices: tuple[str, ...], where: str) -> str:
    """A type, given as a string, a TensorFlow dtype or a NumPy type, as a string."""
    text = value
    if not isinstance(value, str):
        text = getattr(value, "name", None)
        if not isinstance(text, str) and isinstance(value, type) and issubclass(value, np.generic):
            text = np.dtype(value).name
    if not isinstance(text, str):
        raise type_error(owner, name, value, listing(choices) + where)
    return check_choice(owner, name, text, choices, where)


def check_data(owner: str, name: str, value: object) -> object:
    """`value` as it is, if it is data that can be read twice (`DATA_RULE`); a path as a string."""
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        return check_path(owner, name, value, ".npz")
    if isinstance(value, Iterator) and not hasattr(value, "__getitem__"):
        hint = "a generator can be neither copied nor read twice: pass the function that makes it"
        raise type_error(owner, name, value, DATA_RULE, hint=hint)
    if hasattr(value, "__iter__") or hasattr(value, "__getitem__"):
        if isinstance(value, bytes | set | frozenset) or getattr(value, "shape", None) == ():
            raise type_error(owner, name, value, DATA_RULE)
        return value
    if not callable(value):
        raise type_error(owner, name, value, DATA_RULE)
    try:
        signature = inspect.signature(value)
    except ValueError:  # a builtin that does not say what it takes
        return value
    try:
        signature.bind()
    except TypeError:
        hint = f"it takes arguments: {signature}"
        raise type_error(owner, name, value, DATA_RULE, hint=hint) from None
    return value
