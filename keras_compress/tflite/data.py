"""Whatever a user gives as representative or verification data, as batches by input name."""

from __future__ import annotations

import dataclasses
import os
import types
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_compress._shared.by_name import by_name, filled_up, rows_of
from keras_compress._shared.checks import DATA_RULE, check_int, type_error, value_error


@dataclasses.dataclass(frozen=True)
class ExpectedInputs:
    """What the model expects, and whom to name in an error.

    Attributes:
        owner, name: what to call the argument in errors.
        shapes: without batch; None where any size will do.
        dtypes: "float32" where not named.
    """

    owner: str
    name: str
    shapes: Mapping[str, tuple[int | None, ...]]
    dtypes: Mapping[str, str]

    def error(self, value: Any, rule: str) -> ValueError:
        return value_error(self.owner, self.name, value, rule)

    def rows(self, given: Any) -> dict[str, np.ndarray]:
        """One element of the data (batch or sample) as checked arrays with rows in front."""
        expected = list(self.shapes)
        rank = len(self.shapes[expected[0]]) + 1
        arrays = by_name(self.owner, self.name, given, expected, rank=rank)
        checked = {name: self._array(name, values) for name, values in arrays.items()}
        rows_of(self.owner, self.name, checked)
        return checked

    def _array(self, name: str, values: Any) -> np.ndarray:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            rule = f"numbers for the input {name!r}"
            raise self.error(f"{type(values).__name__} of dtype {array.dtype}", rule)
        dtype = np.dtype(self.dtypes.get(name, "float32"))
        if dtype.kind in "iu" and array.dtype.kind == "f":
            raise self.error(str(array.dtype), f"integers for the input {name!r} ({dtype})")
        shape = tuple(self.shapes[name])
        if array.ndim == len(shape):
            array = array[None]
        if array.ndim != len(shape) + 1 or any(
            size not in (None, given) for size, given in zip(shape, array.shape[1:], strict=True)
        ):
            rule = f"data of shape {('rows', *shape)} for the input {name!r}"
            raise self.error(np.shape(values), rule)
        array = array.astype(dtype, copy=False)
        if dtype.kind == "f" and not np.isfinite(array).all():
            count = int(array.size - np.isfinite(array).sum())
            raise self.error(f"{count} NaN or infinite", f"finite for the input {name!r}")
        return array


def batches(
    data: Any,
    shapes: Mapping[str, tuple[int | None, ...]],
    *,
    dtypes: Mapping[str, str] | None = None,
    batch_size: int = 1,
    samples: int | None = None,
    owner: str = "Export",
    name: str = "representative_dataset",
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the data in dicts of input name -> array of exactly `batch_size` rows.

    A float input gets float32, whatever number it was. Elements of datasets and callables may be
    single samples or batches of any size. When the rows do not fill the last batch, the last row
    is repeated.

    Args:
        data: an array (one input), a list (in the order of `shapes`) or a dict of arrays, the path
            of an `.npz` with the inputs' names (one array of any name for one input; what has
            other names are labels), a
            `tf.data.Dataset` (of a tuple only the first item is taken, the rest are labels), or a
            callable without arguments that returns such a dataset or another iterable of arrays,
            lists or dicts.
        shapes: the model's inputs, without batch; None where any size will do.
        dtypes: "float32" where not named.
        samples: at most so many rows; None for all.
        owner, name: what to call the argument in errors.

    Raises:
        TypeError: data of another kind; a generator object, which could be read only once.
        ValueError: names, shapes or dtypes that do not fit, NaN or infinite numbers, or no rows.
    """
    check_int(owner, "batch_size", batch_size, minimum=1)
    if samples is not None:
        check_int(owner, "samples", samples, minimum=1)
    inputs = ExpectedInputs(owner, name, shapes, dtypes or {})
    return _in_batches(inputs, elements(data, inputs), batch_size, samples)


def elements(data: Any, inputs: ExpectedInputs) -> Iterable[Any]:
    """What the data consists of, labels dropped: batches, samples, or all of it at once."""
    if isinstance(data, types.GeneratorType):
        hint = "a generator can be read only once: give the function that makes it"
        raise type_error(inputs.owner, inputs.name, "a generator", DATA_RULE, hint=hint)
    if isinstance(data, str | os.PathLike):
        return [_from_file(data, inputs)]
    if _is_dataset(data):
        return _without_labels(data)
    if isinstance(data, Mapping | list | tuple | np.ndarray) or hasattr(data, "__array__"):
        return [_rank_checked(data, inputs)]
    if callable(data):
        return _called(data, inputs)
    raise type_error(inputs.owner, inputs.name, type(data).__name__, DATA_RULE)


def _is_dataset(data: Any) -> bool:
    return hasattr(data, "as_numpy_iterator")


def _without_labels(dataset: Any) -> Iterator[Any]:
    for element in dataset.as_numpy_iterator():
        yield element[0] if isinstance(element, tuple) else element


def _called(function: Callable[[], Any], inputs: ExpectedInputs) -> Iterable[Any]:
    elements = function()
    if _is_dataset(elements):
        return _without_labels(elements)
    if not isinstance(elements, Iterable):
        rule = "a callable that returns an iterable of batches or samples"
        raise type_error(inputs.owner, inputs.name, type(elements).__name__, rule)
    return elements


def _from_file(path: str | os.PathLike[str], inputs: ExpectedInputs) -> Any:
    path = os.fspath(path)
    if not path.endswith(".npz"):
        raise inputs.error(path, "the path of an .npz file")
    if not os.path.isfile(path):
        raise inputs.error(path, "the path of a file that exists")
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise inputs.error(path, f"the path of an .npz file of arrays ({error})") from error
    if len(inputs.shapes) == 1 and len(arrays) == 1:
        return next(iter(arrays.values()))
    if set(inputs.shapes) < set(arrays):
        return {name: arrays[name] for name in inputs.shapes}  # the rest are labels
    return arrays


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, by name.

    Raises:
        ValueError: it is damaged, something else, or holds objects.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        # What NumPy says of these is about its own arguments.
        raise ValueError("it is damaged, something else, or holds Python objects") from error


def _rank_checked(data: Any, inputs: ExpectedInputs) -> Any:
    """A plain list of numbers for a single input is data too, not a list of arrays."""
    if isinstance(data, list | tuple) and len(inputs.shapes) == 1:
        (shape,) = inputs.shapes.values()
        first = np.ndim(data[0]) if len(data) else 0
        if (first == len(shape) and first > 0) or not len(data):
            return np.asarray(data)
    return data


def _in_batches(
    inputs: ExpectedInputs, given: Iterable[Any], batch_size: int, samples: int | None
) -> Iterator[dict[str, np.ndarray]]:
    rest: dict[str, np.ndarray] = {}
    left = samples
    seen = 0
    for element in given:
        rows = {name: array[:left] for name, array in inputs.rows(element).items()}
        count = len(next(iter(rows.values())))
        seen += count
        if rest:
            rows = {name: np.concatenate([rest[name], array]) for name, array in rows.items()}
        total = len(next(iter(rows.values())))
        whole = total - total % batch_size
        for start in range(0, whole, batch_size):
            yield {name: array[start : start + batch_size] for name, array in rows.items()}
        rest = {name: array[whole:] for name, array in rows.items()}
        if left is not None:
            left -= count
            if left <= 0:
                break
    if not seen:
        raise inputs.error("no rows", "data with at least one row")
    if len(next(iter(rest.values()))):
        yield {name: filled_up(array, batch_size) for name, array in rest.items()}
