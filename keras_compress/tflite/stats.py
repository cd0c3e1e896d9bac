"""The `(mean, std)` of TF1's quantized inputs, from the data that the inputs get."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_compress._shared.checks import DATA_RULE, value_error
from keras_compress.ranges import stats_of_range
from keras_compress.tflite.data import ExpectedInputs, elements

_OWNER = "input_stats"


def input_stats(data: Any) -> tuple[float, float] | dict[str, tuple[float, float]]:
    """(mean, std) for `quantized_input_stats`, by which uint8 inputs cover all of `data`.

    A uint8 number q means (q - mean) / std. The least and the largest number of the data become 0
    and 255; 0.0 counts as data, and the mean is rounded to a whole number (halves up, as the TFLite
    converter does), because 0.0 has to be one of the 256. So data in [0, 255] gives (0, 1), in
    [0, 1] (0, 255) and in [-1, 1] (128, 127.5); TF1's guides wrote (127.5, 127.5), of which the
    converter makes the same file.

    Args:
        data: an array, a dict of arrays by input name, the path of an `.npz`, a `tf.data.Dataset`
            (of a tuple only the first item is taken, the rest are labels), or a callable without
            arguments that returns such a dataset or another iterable. All of it is read.

    Returns:
        One pair, or for a dict (also as elements of a dataset) a dict of input name -> pair.

    Raises:
        TypeError: data of another kind; a generator object, which could be read only once.
        ValueError: no numbers, NaN or infinite ones, all the same, or several inputs without names.
    """
    ends: dict[str | None, tuple[float, float]] = {}
    anything = ExpectedInputs(_OWNER, "data", shapes={"data": ()}, dtypes={})
    for element in elements(data, anything):
        for name, values in _by_name(element).items():
            low, high = _low_and_high(name, values)
            known = ends.get(name, (low, high))
            ends[name] = (min(low, known[0]), max(high, known[1]))
    if not ends:
        raise value_error(_OWNER, "data", "no rows", "data with at least one row")
    stats = {name: stats_between(name, *pair) for name, pair in ends.items()}
    if set(stats) == {None}:
        return stats[None]
    if None in stats:
        raise value_error(_OWNER, "data", "some without", "data that always names its inputs")
    return {str(name): pair for name, pair in stats.items()}


def _by_name(element: Any) -> Mapping[str | None, Any]:
    if isinstance(element, Mapping):
        return element
    several = isinstance(element, list | tuple) and any(np.ndim(part) for part in element)
    if several and any(hasattr(part, "__array__") for part in element):
        if len(element) > 1:
            rule = "a dict of input name -> array where there are several inputs"
            raise value_error(_OWNER, "data", f"{len(element)} arrays", rule)
        element = element[0]
    return {None: element}


def _low_and_high(name: str | None, values: Any) -> tuple[float, float]:
    array = np.asarray(values)
    where = "" if name is None else f" for the input {name!r}"
    if array.dtype.kind not in "biuf":
        received = f"{type(values).__name__} of dtype {array.dtype}"
        raise value_error(_OWNER, "data", received, f"numbers{where} ({DATA_RULE})")
    if not array.size:
        raise value_error(_OWNER, "data", f"shape {array.shape}", f"at least one number{where}")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int(array.size - np.isfinite(array).sum())
        raise value_error(_OWNER, "data", f"{count} NaN or infinite", f"finite{where}")
    return low, high


def stats_between(name: str | None, low: float, high: float) -> tuple[float, float]:
    """(mean, std) of data between `low` and `high`; `name` is the input's, for the error.

    Raises:
        ValueError: both are the same.
    """
    if low == high:
        where = "" if name is None else f" for the input {name!r}"
        raise value_error(_OWNER, "data", f"{low!r} everywhere", f"more than one number{where}")
    return stats_of_range(min(low, 0.0), max(high, 0.0))
