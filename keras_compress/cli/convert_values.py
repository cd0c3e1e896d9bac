"""What the values of `convert`'s options mean: modes and types, shapes, statistics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import rich_click as click

from keras_compress.specs.export import INTEGER_MODES, InputStats

Tell = Callable[[str], None]
"""Told what is accepted and of no effect, in one line each."""

_OLD_TYPES = {
    "float": "float32",
    "quantized_uint8": "uint8",
    "quantized_int8": "int8",
    "quantized_int16": "int16",
}
"""Their words for types -> what they are in a file."""
_MODE_OF_TYPE = {"float32": "float32", "uint8": "int8", "int8": "int8", "int16": "int16x8"}
_ANY = ("none", "-1", "?", "null")
"""How a size that is left open is written."""


def mode_and_types(
    given: Mapping[str, Any], old: bool, tell: Tell
) -> tuple[str, str | None, str | None]:
    """The mode and the types of inputs and outputs; tflite_convert's command makes float files."""
    mode, kind = given["mode"], _type(given["inference_type"])
    ends = [_type(given["inference_input_type"]), _type(given["inference_output_type"])]
    if kind is not None and kind not in _MODE_OF_TYPE:
        raise click.UsageError(
            "--inference-type must be FLOAT, QUANTIZED_UINT8, QUANTIZED_INT8 or QUANTIZED_INT16. "
            f"Received: {given['inference_type']}."
        )
    weights = _mode_of_weights(given)
    if weights is not None:
        option, weights_mode = weights
        if mode not in (None, weights_mode):
            raise click.UsageError(f"--mode {mode} and {option} contradict.")
        if kind not in (None, "float32"):  # as they did
            tell(f"--inference_type={given['inference_type']} gives way to {option}.")
        mode, kind = weights_mode, None
    if kind is not None:
        if mode not in (None, _MODE_OF_TYPE[kind]):
            raise click.UsageError(f"--mode {mode} and --inference-type {kind} contradict.")
        mode = _MODE_OF_TYPE[kind]
        if kind == "uint8":
            ends = [end or kind for end in ends]
    mode = mode or ("float32" if old else "int8")
    if mode not in INTEGER_MODES:
        for option, end in zip(("input", "output"), ends, strict=True):
            if end not in (None, "float32"):
                raise click.UsageError(
                    f"--inference-{option}-type must be FLOAT in a file of floats (mode {mode}); "
                    "integers are those of --inference_type=QUANTIZED_UINT8 or QUANTIZED_INT8. "
                    f"Received: {given[f'inference_{option}_type']}."
                )
    return mode, ends[0], ends[1]


def _mode_of_weights(given: Mapping[str, Any]) -> tuple[str, str] | None:
    """The option that asks for smaller weights alone, and its mode."""
    if given["quantize_to_float16"]:
        return "--quantize_to_float16", "float16"
    for name in ("post_training_quantize", "quantize_weights"):
        if given[name]:
            return f"--{name}", "dynamic"
    return None


def _type(name: str | None) -> str | None:
    return None if name is None else _OLD_TYPES.get(name.lower(), name.lower())


def split(names: str | None) -> list[str] | None:
    """Names between commas. The shell of Windows leaves the quotes around them."""
    return None if names is None else [name.strip("'\" ") for name in names.split(",")]


def is_graph(model: str) -> bool:
    """Whether a model is a graph, whose ends have to be named."""
    return os.path.isdir(model) or not model.endswith((".keras", ".h5", ".hdf5"))


def shapes(
    given: Mapping[str, Any], names: Sequence[str] | None, tell: Tell
) -> dict[str, list[int]] | None:
    """Name of an input -> its shape with the batch, the same of all."""
    written, batch_size = given["input_shapes"], given["batch_size"]
    if written is None:
        return None
    parts = [part.strip() for part in written.split(":")]
    if names is None or len(parts) != len(names):
        raise click.UsageError("--input-shapes are one for each of --input-arrays, split by ':'.")
    found = {}
    for name, part in zip(names, parts, strict=True):
        first, *others = (size.strip().lower() for size in part.split(","))
        if first in _ANY:
            first = str(batch_size or 1)
            tell(f"--input_shapes={written}: a file has a fixed batch, here {first}.")
        try:
            found[name] = [int(size) for size in (first, *others)]
        except ValueError:
            raise click.UsageError(
                "--input-shapes must be integers between commas, as 1,28,28,1: all sizes in a file "
                f"are fixed. Received: {written}."
            ) from None
        if min(found[name]) < 1:
            raise click.UsageError(f"--input-shapes must be integers >= 1. Received: {written}.")
    batches = {shape[0] for shape in found.values()}
    if len({*batches, batch_size or found[names[0]][0]}) > 1:
        also = "" if batch_size is None else f" and --batch-size {batch_size}"
        raise click.UsageError(
            "--input-shapes must all begin with the same number, the rows that the file takes at "
            f"once. Received: {written}{also}."
        )
    return found


def stats(means: Sequence[str], stds: Sequence[str], names: Sequence[str] | None) -> InputStats:
    """`Export.quantized_input_stats`."""
    if list(means) == ["auto"] and not stds:
        return "auto"
    mean, std = _numbers("--mean", means, names), _numbers("--std", stds, names)
    if set(mean) != set(std):
        raise click.UsageError("--mean and --std go together, for the same inputs.")
    pairs = {name: (mean[name], std[name]) for name in mean}
    if not pairs:
        return None
    return cast(InputStats, pairs.get(None, pairs))  # there is None or there are names


def _numbers(
    option: str, values: Sequence[str], names: Sequence[str] | None
) -> dict[str | None, float]:
    """Input name -> number; the name is None of the only number, which is for all inputs."""
    parts = [part for value in values for part in value.split(",")]
    found: dict[str | None, float] = {}
    for position, part in enumerate(parts):
        name, _, number = part.rpartition("=")
        own = name or (names[position] if names and len(names) == len(parts) > 1 else None)
        try:
            found[own] = float(number)
        except ValueError:
            raise click.UsageError(f"{option} must be a number. Received: {part}.") from None
    if len(found) != len(parts) or (None in found and len(found) > 1):
        raise click.UsageError(
            f"{option} must be one number, or NAME=NUMBER for each input. "
            f"Received: {' '.join(values)}."
        )
    return found


def default_range(given: Mapping[str, Any]) -> tuple[float, float] | None:
    """`Export.default_ranges_stats`."""
    low, high = given["default_ranges_min"], given["default_ranges_max"]
    if (low is None) != (high is None):
        raise click.UsageError("--default-ranges-min and --default-ranges-max go together.")
    return None if low is None else (low, high)
