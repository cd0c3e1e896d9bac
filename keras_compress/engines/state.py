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
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

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

    `step` is the number of updates done, `observed` how many of them moved the ranges. `pruning`
    and `quantization` are the configs of the specs as they were given (None: not asked for; a
    callable `layers` is replaced by what it chose), and `paths` those of all layers and operations
    that a spec can name: where automatic names differ, they tell which ones are meant. `schedules`
    (by mask) and `steps` (`delay`, `freeze_step`) hold the specs with every fraction turned into an
    update; empty before that. `started` are the masks whose kernel was trainable in an update,
    `kernels` those of the kernels that are rounded. `iterations` is the optimizer's own count at
    the moment of saving (None without an optimizer): it tells which of two states belongs to a
    restored backup.

    `masks`: bool, the kernel's shape, True where a weight is kept. `ranges`: float32 of shape (2,),
    the minimum and maximum of an activation. `kernel_ranges`: float32, the largest magnitude of a
    kernel, per channel or of shape (); they are kept only from `freeze_step` on, because before
    that they are read off the kernel itself.
    """

    step: int = 0
    phase: Phase = Phase.OFF
    observed: int = 0
    switched_at: int | None = None
    iterations: int | None = None
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
        meta["phase"] = Phase(meta["phase"])
        for name in ("paths", "started", "kernels"):
            meta[name] = tuple(meta[name])
        return cls(**meta, **cast(dict[str, Any], arrays))
