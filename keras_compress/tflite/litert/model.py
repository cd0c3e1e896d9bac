"""A `.tflite` file as something to call, run by LiteRT; TensorFlow is not needed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_compress._shared.by_name import by_name, filled_up, rows_of
from keras_compress._shared.checks import check_int
from keras_compress.tflite.file.flatbuffer import (
    described,
    end_names,
    read_bytes,
    refusing_damage,
    unpack,
)
from keras_compress.tflite.litert.metrics import Metrics, scores
from keras_compress.tflite.probe.probing import check_harmless

_OWNER = "TFLiteModel"


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

    def __str__(self) -> str:
        text = f"{self.name} {self.dtype}{list(self.shape)}"
        if self.scale is None:
            return text
        return f"{text} (scale {self.scale:.4g}, zero point {self.zero_point})"


class TFLiteModel:
    """A TFLite file in LiteRT, as `load_tflite` gives it; for one thread at a time.

    Without `probe`, a file is not tried in a process of its own first.
    `keep_all` keeps every inner tensor for `tensor`; LiteRT then runs its own kernels, not those of
    the XNNPACK delegate, which has no tensors between the ops that it takes together.

    Attributes:
        inputs, outputs: a `TensorInfo` each, in the file's order.
        num_threads: that LiteRT computes with.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        num_threads: int = 1,
        keep_all: bool = False,
        probe: bool = False,
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        check_int("load_tflite", "num_threads", num_threads, minimum=1)
        data = read_bytes(source, "load_tflite")
        if probe:
            check_harmless(source, data, "load", "load_tflite")
        model = unpack(data, "load_tflite")
        options: dict[str, Any] = {}
        if keep_all:
            options["experimental_preserve_all_tensors"] = True
            options["experimental_op_resolver_type"] = (
                OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            )
        try:
            self._interpreter = Interpreter(model_content=data, num_threads=num_threads, **options)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "load_tflite: `source` must be a TFLite file that LiteRT can run. "
                f"Received: source={described(source)} ({' '.join(str(error).split())})"
            ) from error
        details = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        with refusing_damage(data, "load_tflite"):
            self.inputs, self.outputs = (
                tuple(map(_info, ends, end))
                for ends, end in zip(details, end_names(model), strict=True)
            )
            if not self.outputs:
                raise ValueError("no outputs")
        self._input_indices, self._output_indices = (
            [end["index"] for end in ends] for ends in details
        )
        self.num_threads = num_threads
        self._source = described(source)

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, ends)) for ends in (self.inputs, self.outputs))
        return f"<TFLiteModel {self._source}: {inputs} -> {outputs}>"

    @property
    def rows(self) -> int | None:
        """Rows that the file takes at once; None where its inputs have no common first axis, as a
        size or an index beside an image, so that it knows no rows.
        """
        sizes = {info.shape[0] if info.shape else None for info in self.inputs}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def batch_size(self) -> int:
        """Rows that the file takes at once.

        Raises:
            ValueError: it knows no rows.
        """
        rows = self.rows
        if rows is None:
            shapes = {info.name: info.shape for info in self.inputs}
            raise ValueError(
                "TFLiteModel: the inputs must have the same number of rows along the first axis. "
                f"Received: shapes={shapes}"
            )
        return rows

    def predict(self, x: Any, raw: bool = False) -> np.ndarray | dict[str, np.ndarray]:
        """Answers for any number of rows: an array for one output, a dict by name for several.

        The rows go through in chunks of the file's batch; the last chunk is filled up and the
        surplus dropped. A file whose inputs have no common first axis knows no rows: it takes
        exactly their shapes, and gives what it computes of them.

        Args:
            x: an array (one input), a list in the order of `inputs` or a dict by name, with rows
                along the first axis. Real values: they are quantized here, rounding as the
                fake-quantized network does, and clipped to the range of the input.
            raw: give and take the file's own numbers instead: nothing is scaled in or out.

        Raises:
            ValueError: names, shapes, row counts or dtypes that do not fit, or NaN.
        """
        answers = self.answers(x, raw)
        return answers if len(answers) > 1 else answers[self.outputs[0].name]

    def answers(self, x: Any, raw: bool = False) -> dict[str, np.ndarray]:
        """What `predict` gives, as a dict by name for one output too."""
        names = [info.name for info in self.inputs]
        batch_size = self.rows
        if batch_size is None:
            whole = by_name(_OWNER, "x", x, names)
            self._set([_whole(info, whole[info.name], raw) for info in self.inputs])
            self._run()
            return {
                info.name: values if raw else _dequantize(info, values)
                for info, values in zip(self.outputs, self._results(), strict=True)
            }
        given = by_name(_OWNER, "x", x, names, rank=len(self.inputs[0].shape))
        columns = {info.name: _column(info, given[info.name], raw) for info in self.inputs}
        rows = rows_of(_OWNER, "x", columns)
        chunks: list[list[np.ndarray]] = [
            self._invoke(
                [column[start : start + batch_size] for column in columns.values()], batch_size
            )
            for start in range(0, rows, batch_size)
        ]
        answers = {}
        for position, info in enumerate(self.outputs):
            parts = [chunk[position] for chunk in chunks]
            values = np.concatenate(parts) if parts else np.empty((0, *info.shape[1:]), info.dtype)
            answers[info.name] = values[:rows] if raw else _dequantize(info, values[:rows])
        return answers

    def evaluate(self, x: Any, y: Any, metrics: Metrics = "accuracy") -> dict[str, float]:
        """Scores `predict(x)` against `y`; TensorFlow is not needed, unless a metric is Keras'.

        Args:
            x: as for `predict`.
            y: as many rows of labels; with several outputs a dict of output name -> labels, or a
                list in the order of `outputs`.
            metrics: one or a list of these, or for several outputs a dict of output name -> one or
                a list (otherwise each output gets them all):
                "accuracy": fraction of rows, or of positions, whose largest class is the label's.
                Labels are integers or one-hot. For outputs of one number per row, labels are 0 or
                1 and the number a probability, above 0.5 for 1 (for logits, give a callable).
                "mse": mean of the squared differences.
                A callable `(y_true, y_pred) -> number` of NumPy arrays.
                A Keras metric object, of Keras 3 or tf_keras; it is reset first.

        Returns:
            The metrics by name, a callable's being its `__name__`; with several outputs
            `"{output}_{metric}"`.

        Raises:
            TypeError, ValueError: metrics or labels that do not fit, before the file is run where
                that can be known; and what `predict` raises.
        """
        return scores([info.name for info in self.outputs], metrics, y, lambda: self.answers(x))

    @property
    def counts(self) -> bool:
        """Whether an input is of integers that stand for themselves, as sizes and indices do."""
        return any(info.scale is None and "int" in info.dtype for info in self.inputs)

    def run_on_zeros(self, counts: int = 0) -> None:
        """Computes once, for the time it takes; every input is all zeros.

        Args:
            counts: what integers that stand for themselves are in their place.

        Raises:
            ValueError: LiteRT fails.
        """
        self._set(
            [
                np.full(
                    info.shape, counts * (info.scale is None and "int" in info.dtype), info.dtype
                )
                for info in self.inputs
            ]
        )
        self._run()

    def tensor(self, index: int) -> np.ndarray:
        """The file's own numbers of a tensor, by its place in the main graph, after the last chunk
        of the last `predict`. An inner one is kept only with `keep_all`.
        """
        return np.array(self._interpreter.get_tensor(index))

    def _invoke(self, columns: Sequence[np.ndarray], batch_size: int) -> list[np.ndarray]:
        self._set([filled_up(column, batch_size) for column in columns])
        self._run()
        answers = self._results()
        for info, values in zip(self.outputs, answers, strict=True):
            if values.shape[:1] != (batch_size,):
                raise ValueError(
                    f"TFLiteModel: output {info.name!r} must have one row for each of the file's "
                    f"{batch_size}. Received: {info.name}={values.shape}"
                )
        return answers

    def _set(self, values: Sequence[np.ndarray]) -> None:
        for index, each in zip(self._input_indices, values, strict=True):
            self._interpreter.set_tensor(index, each)

    def _results(self) -> list[np.ndarray]:
        return [self._interpreter.get_tensor(index) for index in self._output_indices]

    def _run(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ValueError(
                f"TFLiteModel: LiteRT must be able to run {self._source}. "
                f"Received: {' '.join(str(error).split())}"
            ) from error


def load_tflite(
    source: str | os.PathLike[str] | bytes, num_threads: int = 1, *, probe: bool = True
) -> TFLiteModel:
    """Loads a `.tflite` file, given as path or as bytes, into LiteRT.

    Args:
        num_threads: is not left to LiteRT, whose own choice depends on the machine.
        probe: run it once on zeros in a process of its own first, which a damaged file can make
            crash or run out of time or memory in this one's place. A file that takes sizes or
            indices may fail on them. Files exported by this package with their record beside them
            are loaded straight away.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TFLite file, a damaged one, or one that LiteRT cannot run.
    """
    return TFLiteModel(source, num_threads, probe=probe)


def _info(detail: Mapping[str, Any], name: str) -> TensorInfo:
    scale, zero_point = detail["quantization"]
    return TensorInfo(
        name=name,
        dtype=np.dtype(detail["dtype"]).name,
        shape=tuple(int(size) for size in detail["shape"]),
        scale=float(scale) if scale else None,
        zero_point=int(zero_point) if scale else None,
    )


def _whole(info: TensorInfo, values: Any, raw: bool) -> np.ndarray:
    """An input of exactly the file's shape."""
    values = np.asarray(values)
    if values.shape != info.shape:
        raise ValueError(
            f"TFLiteModel: input {info.name!r} must have the shape {info.shape}, since the inputs "
            f"have no common first axis. Received: {info.name}={values.shape}"
        )
    # As one row of it, which is checked and quantized as any other.
    row = dataclasses.replace(info, shape=(1, *info.shape))
    return np.asarray(_column(row, values[None], raw)[0])


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
    return real_numbers(values, info.scale, info.zero_point)


def real_numbers(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """What integers stand for, in float32."""
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
