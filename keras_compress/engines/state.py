"""What a compressed run carries besides the weights, in one defined form.

The file is one `.npz`: an entry `meta` (JSON) and one array per mask and range. Arrays are keyed by
position in the flattened graph, class and shape, never by name alone, because automatic names
differ between two processes that build the same model.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from keras_compress._shared.checks import is_int
from keras_compress._shared.files import write_atomically

FORMAT = 1


class Phase(enum.StrEnum):
    """The four phases of quantization; a plain or only pruned model stays in `OFF`."""

    OFF = "off"
    WATCHING = "watching"
    """Ranges are followed, nothing is rounded: the last `calibration_steps` updates before the
    delay.
    """
    ON = "on"
    """Weights and activations are rounded to the integers that will ship."""
    FROZEN = "frozen"
    """As `ON`, but ranges and batch-norm statistics stand still."""

    @property
    def rounds(self) -> bool:
        """Whether the network answers as the integer file will."""
        return self in (Phase.ON, Phase.FROZEN)

    @property
    def follows(self) -> bool:
        """Whether an update moves the ranges."""
        return self in (Phase.WATCHING, Phase.ON)


@dataclasses.dataclass
class State:
    """Everything besides the weights that a compressed run needs to go on, as plain values and
    arrays.

    `step` is the number of updates done, `observed` how many of them moved the ranges.
    `restarted_at` is the one after which the optimizer began anew (None: it never did). `pruning`
    and `quantization` are the configs of the specs as they were given (None: not asked for; a
    callable `layers` is replaced by what it chose), and `paths` those of all layers and operations
    that a spec can name: where automatic names differ, they tell which ones are meant. `schedules`
    (by mask) and `steps` (`delay`, `freeze_step`) hold the specs with every fraction turned into an
    update; empty before that. `started` are the masks whose kernel was trainable in an update,
    `kernels` those of the kernels that are rounded. `iterations` is the optimizer's own count at
    the moment of saving (None without an optimizer): it tells which of two states belongs to a
    restored backup; `weights`, a digest of theirs, does so where that counts the same (None: not
    asked for).

    `masks`: bool, the kernel's shape, True where a weight is kept. `ranges`: float32 of shape (2,),
    the minimum and maximum of an activation. `kernel_ranges`: float32, the largest magnitude of a
    kernel, per channel or of shape (); they are kept only from `freeze_step` on, because before
    that they are read off the kernel itself.
    """

    step: int = 0
    phase: Phase = Phase.OFF
    observed: int = 0
    switched_at: int | None = None
    restarted_at: int | None = None
    iterations: int | None = None
    weights: str | None = None
    pruning: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    paths: tuple[str, ...] = ()
    schedules: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    steps: dict[str, int | None] = dataclasses.field(default_factory=dict)
    started: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    masks: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ranges: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    kernel_ranges: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    _ARRAYS = ("masks", "ranges", "kernel_ranges")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to `path`, whole or not at all."""
        meta = {"format": FORMAT}
        for field in dataclasses.fields(self):
            if field.name not in self._ARRAYS:
                meta[field.name] = getattr(self, field.name)
        arrays = {
            f"{group}/{key}": value
            for group in self._ARRAYS
            for key, value in getattr(self, group).items()
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, meta=np.array(json.dumps(meta)), **arrays)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Read what `save` wrote.

        Raises:
            OSError: `path` does not exist, or cannot be read.
            ValueError: the file is not a state of keras_compress, is damaged, or is of a newer
                format.
        """
        with open(path, "rb") as file:
            data = file.read()
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                meta = json.loads(str(archive["meta"]))
                written = meta.pop("format")
                names = archive.files if written == FORMAT else []
                arrays: dict[str, dict[str, np.ndarray]] = {group: {} for group in cls._ARRAYS}
                for name in names:
                    if name != "meta":
                        group, _, key = name.partition("/")
                        arrays[group][key] = archive[name]
        except Exception as error:  # zipfile, zlib, numpy and json each have their own
            raise ValueError(
                "load_state: `path` must be a file that `save_state` wrote; this one cannot be "
                f"read ({type(error).__name__}: {error}). Received: path={os.fspath(path)!r}"
            ) from error
        if written != FORMAT:
            raise ValueError(
                f"load_state: `path` must be a state of format {FORMAT}; a newer keras_compress "
                f"wrote this one. Received: path={os.fspath(path)!r}"
            )
        for name in ("weights", "restarted_at"):  # which states of before had not
            meta.setdefault(name, None)
        _check(os.fspath(path), {**meta, **arrays})
        meta["phase"] = Phase(meta["phase"])
        for name in ("paths", "started", "kernels"):
            meta[name] = tuple(meta[name])
        return cls(**meta, **cast(dict[str, Any], arrays))


def _check(path: str, found: dict[str, Any]) -> None:
    """Refuse what no `save` would have written.

    Raises:
        ValueError: naming the field, its rule and what stands there.
    """
    rules = {field.name: _RULES[field.name] for field in dataclasses.fields(State)}
    if set(found) != set(rules):
        missing, unknown = sorted(set(rules) - set(found)), sorted(set(found) - set(rules))
        raise ValueError(
            f"load_state: the state in {path!r} must have the fields {sorted(rules)}. "
            f"Received: one without {missing}, and with {unknown}"
        )
    for name, (rule, holds) in rules.items():
        value = found[name]
        many = isinstance(value, dict) and name in State._ARRAYS
        for key, each in value.items() if many else [("", value)]:
            if not holds(each):
                shown = f"{name}/{key}" if many else name
                raise ValueError(
                    f"load_state: `{shown}` of the state in {path!r} must be {rule}. "
                    f"Received: {shown}={each!r}"
                )


def _counts(value: object) -> bool:
    return is_int(value) and value >= 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_range(value: np.ndarray) -> bool:
    whole = value.dtype == np.float32 and value.shape == (2,) and np.isfinite(value).all()
    return bool(whole and value[0] <= value[1])


def _are_numbers(value: np.ndarray) -> bool:
    return bool(value.dtype == np.float32 and value.size and np.isfinite(value).all())


_COUNT = ("an int >= 0", _counts)
_COUNT_OR_NONE = ("an int >= 0 or None", lambda value: value is None or _counts(value))
_CONFIG = ("a dict or None", lambda value: value is None or isinstance(value, dict))
_NAMES = ("a list of names", _are_names)

_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "step": _COUNT,
    "phase": (f"one of {[str(phase) for phase in Phase]}", lambda value: value in list(Phase)),
    "observed": _COUNT,
    "switched_at": _COUNT_OR_NONE,
    "restarted_at": _COUNT_OR_NONE,
    "iterations": _COUNT_OR_NONE,
    "weights": ("a string or None", lambda value: value is None or isinstance(value, str)),
    "pruning": _CONFIG,
    "quantization": _CONFIG,
    "paths": _NAMES,
    "schedules": (
        "a dict of configs",
        lambda value: isinstance(value, dict) and all(isinstance(v, dict) for v in value.values()),
    ),
    "steps": (
        "a dict of `delay` and `freeze_step`, each an int >= 0 or None",
        lambda value: (
            isinstance(value, dict)
            and set(value) in (set(), {"delay", "freeze_step"})
            and all(each is None or _counts(each) for each in value.values())
        ),
    ),
    "started": _NAMES,
    "kernels": _NAMES,
    "masks": ("an array of bools", lambda value: value.dtype == bool),
    "ranges": ("a finite minimum and maximum, float32, in this order", _is_range),
    # A magnitude, or a minimum and a maximum: the engine that reads them knows.
    "kernel_ranges": ("finite numbers, float32", _are_numbers),
}
"""Field -> what it must be, in words and as a test."""
