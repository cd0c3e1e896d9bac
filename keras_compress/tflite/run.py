"""A `.tflite` file as something to call, run by LiteRT; TensorFlow is not needed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_compress.tflite.flatbuffer import end_names, read_bytes, unpack


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or output of a file.

    Attributes:
        name: the model's own name.
        dtype: "int8", "uint8", "int16", "float32" and the like.
        shape: with the file's batch as first dimension.
        scale: real value of one integer step; None where the values are no quantized numbers.
        zero_point: the integer that means 0.0; None likewise.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None


class TFLiteModel:
    """A TFLite file loaded into LiteRT by `load_tflite`; for one thread at a time.

    `keep_all` keeps every inner tensor for `tensor`; LiteRT then runs its own kernels, not those of
    the XNNPACK delegate, which has no tensors between the ops that it takes together.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        num_threads: int = 1,
        keep_all: bool = False,
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        data = read_bytes(source, "load_tflite")
        names = end_names(unpack(data, "load_tflite"))
        options: dict[str, Any] = {}
        if keep_all:
            options["experimental_preserve_all_tensors"] = True
            options["experimental_op_resolver_type"] = (
                OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            )
        self._interpreter = Interpreter(model_content=data, num_threads=num_threads, **options)
        self._interpreter.allocate_tensors()
        details = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        self.inputs, self.outputs = (
            tuple(map(_info, ends, end)) for ends, end in zip(details, names, strict=True)
        )
        self._input_indices, self._output_indices = (
            [end["index"] for end in ends] for ends in details
        )

    @property
    def batch_size(self) -> int:
        """Rows that the file takes at once."""
        return self.inputs[0].shape[0]

    def predict(self, x: Any, raw: bool = False) -> np.ndarray | dict[str, np.ndarray]:
        """Answers for any number of rows: an array for one output, a dict by name for several.

        The rows go through in chunks of the file's batch; the last chunk is filled up and the
        surplus dropped.

        Args:
            x: an array (one input), a list in the order of `inputs` or a dict by name, with rows
                along the first axis. Real values: they are quantized here, rounding as the
                fake-quantized network does, and clipped to the range of the input.
            raw: give and take the file's own numbers instead: nothing is scaled in or out.

        Raises:
            ValueError: names, shapes, row counts or dtypes that do not fit, or NaN.
        """
        given = self._by_name(x)
        columns = [_column(info, given[info.name], raw) for info in self.inputs]
        rows = len(columns[0])
        if any(len(column) != rows for column in columns):
            lengths = {
                info.name: len(column) for info, column in zip(self.inputs, columns, strict=True)
            }
            raise ValueError(
                "TFLiteModel: `x` must have the same number of rows in every input. "
                f"Received: rows={lengths}"
            )
        chunks: list[list[np.ndarray]] = [
            self._invoke([column[start : start + self.batch_size] for column in columns])
            for start in range(0, rows, self.batch_size)
        ]
        answers = {}
        for position, info in enumerate(self.outputs):
            parts = [chunk[position] for chunk in chunks]
            values = np.concatenate(parts) if parts else np.empty((0, *info.shape[1:]), info.dtype)
            answers[info.name] = values[:rows] if raw else _dequantize(info, values[:rows])
        return answers if len(answers) > 1 else answers[self.outputs[0].name]

    def tensor(self, index: int) -> np.ndarray:
        """The file's own numbers of a tensor, by its place in the main graph, after the last chunk
        of the last `predict`. An inner one is kept only with `keep_all`.
        """
        return np.array(self._interpreter.get_tensor(index))

    def _by_name(self, x: Any) -> Mapping[str, Any]:
        expected = [info.name for info in self.inputs]
        if isinstance(x, Mapping):
            if set(x) != set(expected):
                raise ValueError(
                    f"TFLiteModel: `x` must have the inputs {expected}. "
                    f"Received: x={sorted(map(str, x))}"
                )
            return x
        if isinstance(x, list | tuple) and len(expected) > 1:
            if len(x) != len(expected):
                raise ValueError(
                    f"TFLiteModel: `x` must have one array for each of the inputs {expected}. "
                    f"Received: x=a {type(x).__name__} of {len(x)}"
                )
            return dict(zip(expected, x, strict=True))
        if len(expected) > 1:
            raise ValueError(
                f"TFLiteModel: `x` must be a list or a dict of arrays for the inputs {expected}. "
                f"Received: x={type(x).__name__}"
            )
        if (
            isinstance(x, list | tuple)
            and len(x) == 1
            and np.ndim(x[0]) == len(self.inputs[0].shape)
        ):
            x = x[0]  # a list of one array
        return {expected[0]: x}

    def _invoke(self, columns: Sequence[np.ndarray]) -> list[np.ndarray]:
        for index, column in zip(self._input_indices, columns, strict=True):
            missing = self.batch_size - len(column)
            if missing:
                column = np.concatenate([column, np.repeat(column[-1:], missing, axis=0)])
            self._interpreter.set_tensor(index, column)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._output_indices]


def load_tflite(source: str | os.PathLike[str] | bytes, num_threads: int = 1) -> TFLiteModel:
    """Loads a `.tflite` file, given as path or as bytes, into LiteRT.

    `num_threads` is pinned, because LiteRT's own choice depends on the machine.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TFLite file, or one whose ops LiteRT does not know.
    """
    return TFLiteModel(source, num_threads)


def _info(detail: Mapping[str, Any], name: str) -> TensorInfo:
    scale, zero_point = detail["quantization"]
    return TensorInfo(
        name=name,
        dtype=np.dtype(detail["dtype"]).name,
        shape=tuple(int(size) for size in detail["shape"]),
        scale=float(scale) if scale else None,
        zero_point=int(zero_point) if scale else None,
    )


def _column(info: TensorInfo, values: Any, raw: bool) -> np.ndarray:
    values = np.asarray(values)
    if values.shape[1:] != info.shape[1:] or values.ndim != len(info.shape):
        raise ValueError(
            f"TFLiteModel: input {info.name!r} must have the shape "
            f"{('rows', *info.shape[1:])}. Received: {info.name}={values.shape}"
        )
    dtype = np.dtype(info.dtype)
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"TFLiteModel: input {info.name!r} must be numbers. "
            f"Received: {info.name}={values.dtype}"
        )
    if dtype.kind in "iu" and (raw or info.scale is None):
        fits = values.dtype.kind in "biu" and (
            not values.size or np.all(values.astype(dtype) == values)
        )
        if not fits:
            raise ValueError(
                f"TFLiteModel: input {info.name!r} must be integers that {info.dtype} holds. "
                f"Received: {info.name}={values.dtype}"
            )
        return np.ascontiguousarray(values, dtype)
    if np.isnan(values).any():
        raise ValueError(
            f"TFLiteModel: input {info.name!r} must be free of NaN. "
            f"Received: {info.name}={int(np.isnan(values).sum())} NaN"
        )
    if info.scale is None or info.zero_point is None:
        return np.ascontiguousarray(values, dtype)
    limits = np.iinfo(dtype)
    # Halves go up, as in TensorFlow's fake-quant op, not to the even neighbour.
    steps = np.floor(values.astype(np.float32) / np.float32(info.scale) + np.float32(0.5))
    return np.asarray(np.clip(steps + info.zero_point, limits.min, limits.max), dtype)


def _dequantize(info: TensorInfo, values: np.ndarray) -> np.ndarray:
    if info.scale is None or info.zero_point is None:
        return values
    return (values.astype(np.float32) - np.float32(info.zero_point)) * np.float32(info.scale)
