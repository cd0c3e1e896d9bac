"""The rows of an export's data, and those that a file is compared with its network on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress.specs.export import Export
from keras_compress.tflite import batches

if TYPE_CHECKING:
    from tensorflow import DType, TensorSpec
    from tensorflow.types.experimental import ConcreteFunction

CALIBRATION_SAMPLES = 512  # at most so many rows of representative data
SAMPLES = 64  # inputs on which a file is compared with its network


def read_rows(
    specs: Sequence[TensorSpec], data: Any, field: str, samples: int, batch_size: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """An export's data as dicts of input name -> one batch, at most so many rows.

    Raises:
        ValueError, TypeError: naming the field, the input and what was found.
    """
    return batches(
        data,
        {spec.name: tuple(spec.shape[1:]) for spec in specs},
        dtypes={spec.name: spec.dtype.name for spec in specs},
        batch_size=batch_size,
        samples=samples,
        name=field,
    )


def specs_of(function: ConcreteFunction) -> list[TensorSpec]:
    """The flat inputs of a network's function."""
    return list(function.structured_input_signature[0])


def rows_to_compare(
    export: Export, function: ConcreteFunction, ranges: Sequence[tuple[float, float] | None]
) -> tuple[list[dict[str, np.ndarray]], int, str]:
    """Whole batches to compare on, how many rows of them count, and where they are from."""
    specs = specs_of(function)
    for field in ("verify_data", "representative_dataset"):
        given = getattr(export, field)
        if given is not None:
            count = sum(1 for _ in read_rows(specs, given, field, SAMPLES))
            return list(read_rows(specs, given, field, SAMPLES, export.batch_size)), count, field
    number = -(-SAMPLES // export.batch_size)
    rows = list(drawn(specs, ranges, number))
    if None not in ranges:
        source = "inputs drawn inside the watched ranges"
    elif any(ranges):
        source = "inputs drawn inside the watched ranges, or from [0, 1) where none was watched"
    else:
        source = "inputs drawn from [0, 1)"
    return rows, number * export.batch_size, source


def drawn(
    specs: Sequence[TensorSpec], ranges: Sequence[tuple[float, float] | None], number: int
) -> Iterator[dict[str, np.ndarray]]:
    """Some batches: numbers within the ranges; where there is none, reals from [0, 1), and 0 and 1,
    the only integers that every input of integers takes.
    """
    generator = np.random.default_rng(0)
    for _ in range(number):
        batch = {}
        for spec, limits in zip(specs, ranges, strict=True):
            if spec.dtype.is_floating:
                numbers = generator.uniform(*(limits or (0.0, 1.0)), spec.shape)
            else:
                low, high = (0, 1) if limits is None else _whole(limits, spec.dtype)
                numbers = generator.integers(low, high, spec.shape, endpoint=True)
            batch[spec.name] = numbers.astype(spec.dtype.as_numpy_dtype)
        yield batch


def _whole(limits: tuple[float, float], dtype: DType) -> tuple[int, int]:
    """The least and the largest integer of that dtype within a range."""
    low, high = limits
    return max(math.ceil(low), dtype.min), min(math.floor(high), dtype.max)
