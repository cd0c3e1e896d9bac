"""What `inspect_tflite` found in a file: data, text and plain values."""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import math
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_compress._shared.plain import plain
from keras_compress.reports.shown import Line, Part, Shown, Table

TENSORS_SHOWN = 60
"""How many rows the printed table of tensors has at most."""
CONVERTING = ("QUANTIZE", "DEQUANTIZE")
"""The ops that only lead from integers to floats or back."""
# What only moves or picks numbers.
MOVING = {
    "EXPAND_DIMS", "MAX_POOL_2D", "PAD", "PADV2", "REDUCE_MAX", "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OpReport:
    """One op: its name in the TFLite schema and the dtypes it takes and gives.

    `output` names its (first) output tensor; in files of this package it begins with the path of
    the layer it came from, those of fused ops joined with ";".
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output: str


@dataclasses.dataclass(frozen=True)
class FloatOp:
    """An op that computes in float: its name and its (first) output tensor's.

    `beside` names the output tensors of the other float ops that share a float tensor with it: for
    a QUANTIZE or DEQUANTIZE those on whose account it is there.
    """

    op: str
    tensor: str
    beside: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def converts(self) -> bool:
        """Whether it only leads from integers to floats or back."""
        return self.op in CONVERTING

    @property
    def moves(self) -> bool:
        """Whether it only moves or picks numbers, which the converter does on either side of a
        QUANTIZE.
        """
        return self.op in MOVING


@dataclasses.dataclass(frozen=True)
class TensorReport:
    """One tensor.

    Attributes:
        bits: of one element; 4 for int4.
        scales, zero_points: one for the tensor or one per channel; empty when not quantized.
        axis: the channel axis of `scales` when there are several, else None.
        bytes: what it takes in the file, with the indices of a sparse one; 0 for a tensor that is
            computed.
        zeros: fraction in [0, 1] of a constant's elements that mean 0.0; None when computed, and
            for strings and the like.
        kernel: whether it holds the weights of an op, also by way of a DEQUANTIZE.
        sparse: whether only some of its elements are stored.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bits: int
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None
    bytes: int
    zeros: float | None
    kernel: bool = False
    sparse: bool = False

    @property
    def constant(self) -> bool:
        """Whether its values stand in the file."""
        return self.bytes > 0


@dataclasses.dataclass(frozen=True, repr=False)
class FileReport(Shown):
    """What `inspect_tflite` found; `print` shows it in tables.

    Attributes:
        ops: in the order of execution.
        tensors: in the file's order.
        float_ops: every op with a float input or output, but for the QUANTIZE and DEQUANTIZE that
            stand directly at a float input or output of the file. In a float file that is every op.
        output_scales: the step between two values of each output, in the order of `outputs`; None
            where it computes in float. A float output that a DEQUANTIZE gives has that one's step.
    """

    ops: tuple[OpReport, ...]
    tensors: tuple[TensorReport, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_scales: tuple[float | None, ...]
    float_ops: tuple[FloatOp, ...]
    _data: bytes = dataclasses.field(repr=False, compare=False)
    _values: dict[str, np.ndarray] = dataclasses.field(repr=False, compare=False)

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return len(self._data)

    @functools.cached_property
    def zipped_bytes(self) -> int:
        """Its size as the only entry of a zip at level 9."""
        return zipped_size(self._data)

    @property
    def all_integer(self) -> bool:
        """Whether no op computes in float."""
        return not self.float_ops

    @functools.cached_property
    def op_counts(self) -> dict[str, int]:
        """How often each op occurs, most frequent first."""
        return dict(collections.Counter(op.name for op in self.ops).most_common())

    @functools.cached_property
    def kernels(self) -> tuple[TensorReport, ...]:
        """The tensors that hold the weights of ops."""
        return tuple(tensor for tensor in self.tensors if tensor.kernel)

    @functools.cached_property
    def sparsity(self) -> float | None:
        """The fraction of zeros over all kernels together, in [0, 1]; None without kernels."""
        counted = [(k.zeros, math.prod(k.shape)) for k in self.kernels if k.zeros is not None]
        total = sum(size for _, size in counted)
        return sum(zeros * size for zeros, size in counted) / total if total else None

    def tensor(self, name: str) -> TensorReport:
        """The tensor of that name; KeyError if there is none."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(f"no tensor {name!r}; there are {[t.name for t in self.tensors]}")

    def kernel(self, name: str) -> np.ndarray:
        """The stored numbers of a constant tensor, int4 unpacked to int8, a sparse one dense.

        Raises:
            KeyError: there is no constant of that name.
        """
        if name not in self._values:
            raise KeyError(f"no constant {name!r}; there are {sorted(self._values)}")
        return self._values[name]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON: what is not finite is None."""
        fields = ("inputs", "outputs", "output_scales", "op_counts", "all_integer", "sparsity")
        found = {name: getattr(self, name) for name in ("bytes", "zipped_bytes", *fields)}
        for name in ("float_ops", "ops", "tensors"):
            found[name] = [dataclasses.asdict(each) for each in getattr(self, name)]
        values: dict[str, Any] = plain(found)
        return values

    def _parts(self) -> Iterator[Part]:
        yield Line(self._title(), "title")
        yield self._op_table()
        yield self._tensor_table()
        left = len(self.tensors) - TENSORS_SHOWN
        if left > 0:
            yield Line(f"and {left} smaller tensors, which `.tensors` lists too")
        if len(self.float_ops) < len(self.ops) and self.float_ops:  # else it is the title's "all"
            rows = [(op.op, _short(op.tensor)) for op in self.float_ops]
            yield Table(("float op", "output"), rows, left=2)

    def _title(self) -> str:
        parts = [f"{self.bytes:,} bytes, {self.zipped_bytes:,} zipped"]
        if self.all_integer:
            parts.append("all ops in integers")
        else:
            parts.append(f"{len(self.float_ops)} of {len(self.ops)} ops in float")
        if self.sparsity is not None:
            parts.append(f"{self.sparsity:.1%} of the kernels' weights are zeros")
        return "; ".join(parts)

    def _op_table(self) -> Table:
        kinds = collections.Counter((op.name, op.inputs, op.outputs) for op in self.ops)
        rows = [
            (name, " ".join(taken), " ".join(given), str(count))
            for (name, taken, given), count in kinds.most_common()
        ]
        return Table(("op", "takes", "gives", "times"), rows, left=3)

    def _tensor_table(self) -> Table:
        ends = {*self.inputs, *self.outputs}
        # The largest, and the inputs and outputs, in the order of the file.
        largest = sorted(self.tensors, key=lambda t: (t.name not in ends, -t.bytes))
        shown = {id(tensor) for tensor in largest[:TENSORS_SHOWN]}
        columns = ("tensor", "", "type", "shape", "scale", "zero point", "zeros", "bytes")
        rows = [self._cells(tensor) for tensor in self.tensors if id(tensor) in shown]
        return Table(columns, rows, left=3)

    def _cells(self, tensor: TensorReport) -> tuple[str, ...]:
        uses = {"in": self.inputs, "out": self.outputs}
        use = [word for word, names in uses.items() if tensor.name in names]
        return (
            _short(tensor.name),
            " ".join(use) or ("kernel" if tensor.kernel else ""),
            f"{tensor.dtype} sparse" if tensor.sparse else tensor.dtype,
            "x".join(map(str, tensor.shape)),
            _span(tensor.scales, "{:.3g}"),
            _span(tensor.zero_points, "{}"),
            "" if tensor.zeros is None else f"{tensor.zeros:.1%}",
            f"{tensor.bytes:,}" if tensor.constant else "",
        )


def zipped_size(data: bytes) -> int:
    """Bytes of a zip (deflate, level 9) that holds this one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(zipfile.ZipInfo("model.tflite"), data, zipfile.ZIP_DEFLATED, 9)
    return buffer.getbuffer().nbytes


def _short(name: str) -> str:
    """A tensor's name; of one that the converter has merged of several the first, and how many more
    there were.
    """
    first, *more = name.split(";")
    return f"{first} (+{len(more)})" if more else first


def _span(values: tuple[float, ...], form: str) -> str:
    """One number, or the least and the largest of several."""
    ends = dict.fromkeys(form.format(each(values)) for each in (min, max)) if values else {}
    return "..".join(ends)
