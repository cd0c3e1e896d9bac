"""What a fit is going to do, known before its first step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from keras_compress._shared.plain import plain
from keras_compress.reports.channels import LayerChannels, channels_table, dropped_share
from keras_compress.reports.shown import Line, Part, Shown, Table, left_out_lines

LISTED_LAYERS = 60
"""How many layers are printed; `to_dict` has all of them."""


@dataclasses.dataclass(frozen=True)
class PlannedLayer:
    """One kernel, or a layer without one that is rounded.

    Attributes:
        path: the layer, `"backbone/conv1"` inside a nested model.
        kernel: its name in the layer; None of a layer without one.
        shape: as Keras has it; None likewise.
        sparsity: the fraction of zeros that its masks will have, in [0, 1]; None if it is not
            pruned.
        bits: of the integers that stand for its weights; None where they stay in float.
        rounded_by: what rounds the layer; None where nothing does.
    """

    path: str
    kernel: str | None
    shape: tuple[int, ...] | None
    sparsity: float | None
    bits: int | None
    rounded_by: str | None


@dataclasses.dataclass(frozen=True)
class PlannedFile:
    """One file.

    Attributes:
        path: where it will stand.
        mode: "int8", "int16x8", "dynamic", "float16" or "float32".
        bytes: that the same network came to before it was trained; None where that was not tried.
    """

    path: str
    mode: str
    bytes: int | None


@dataclasses.dataclass(frozen=True, repr=False)
class Preview(Shown):
    """The plan for one fit. Steps count updates over the whole compressed training, from 1.

    Attributes:
        step: updates done before it.
        updates: that it has; None where nobody knows.
        first_epoch, last_epoch: in which it has them, counted from 1.
        pruned_from, pruned_by: the updates of the first masks and of the final ones; None without
            pruning.
        watched_from: the first update that only moves the ranges; None where there is none.
        quantized_from: the first update that is rounded; None without quantization.
        frozen_from: the first update that leaves ranges and batch-norm statistics as they are; None
            where there is none.
        layers: every kernel and every layer that something happens to.
        left_out: per spec, path -> reason.
        files: that will be written at its end.
        problems: what would be refused or go wrong; empty for a plan that will do.
        channels: of pruned channels, how many of each layer's will be left; empty where single
            weights are pruned.
        learning_rate_factors: (update, multiple of the learning rate from it on until the next), in
            order; empty where the rate stays as it is.
        restarts: the updates before which the optimizer begins anew, in order.
    """

    step: int
    updates: int | None
    first_epoch: int
    last_epoch: int
    pruned_from: int | None
    pruned_by: int | None
    watched_from: int | None
    quantized_from: int | None
    frozen_from: int | None
    layers: list[PlannedLayer]
    left_out: dict[str, dict[str, str]]
    files: list[PlannedFile]
    problems: list[str] = dataclasses.field(default_factory=list)
    channels: list[LayerChannels] = dataclasses.field(default_factory=list)
    learning_rate_factors: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    restarts: list[int] = dataclasses.field(default_factory=list)

    @property
    def sparsity(self) -> float:
        """The fraction of zeros over all pruned kernels together, in [0, 1]; of channels, the
        fraction that is dropped.
        """
        if self.channels:
            return dropped_share(self.channels)
        pruned = [each for each in self.layers if each.sparsity is not None]
        sizes = [math.prod(each.shape or ()) for each in pruned]
        zeros = sum(size * (each.sparsity or 0) for each, size in zip(pruned, sizes, strict=True))
        return zeros / sum(sizes) if sizes else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, ready for JSON."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return values

    def in_a_line(self) -> str:
        """What happens when, in a sentence."""
        parts = []
        if self.pruned_from is not None and self.pruned_by is not None:
            parts.append(self._pruning(self.pruned_from, self.pruned_by))
        if self.quantized_from is not None:
            parts.append(self._rounding(self.quantized_from))
        for file in self.files:
            size = "" if file.bytes is None else f", about {file.bytes:,} bytes"
            parts.append(f"writes {file.path} ({file.mode}{size})")
        left = self.left_out.get("quantization", {})
        if left:
            parts.append(f"leaves {_counted(len(left), 'layer')} in float")
        return f"Compress: {'; '.join(parts) or 'nothing to do'}."

    @property
    def _end(self) -> int | None:
        """The last update of this fit."""
        return None if self.updates is None else self.step + self.updates

    def _pruning(self, begin: int, end: int) -> str:
        kernels = _counted(sum(each.sparsity is not None for each in self.layers), "kernel")
        if self.channels:
            kernels = f"the channels of {_counted(len(self.channels), 'layer')}"
        if end <= self.step:
            return f"keeps {kernels} pruned to {self.sparsity:.0%}"
        if begin <= self.step:
            when = f"until update {end:,}{self._of_all(end)}"
            return f"goes on pruning {kernels} to {self.sparsity:.0%} {when}"
        when = f"in updates {begin:,} to {end:,}" if begin < end else f"at update {end:,}"
        return f"prunes {kernels} to {self.sparsity:.0%} {when}{self._of_all(begin, end)}"

    def _rounding(self, begin: int) -> str:
        if begin <= self.step:
            return "rounds to integers"
        if self._end is not None and begin == self._end + 1:
            return f"rounds to integers after its last update, {self._end:,}"
        return f"rounds to integers from update {begin:,}{self._of_all(begin)}"

    def _of_all(self, *updates: int) -> str:
        """` of 470 (epochs 2 to 6)`."""
        if self._end is None or not self.updates:
            return ""
        if updates[-1] > self._end:
            return f" (this fit ends at {self._end:,})"
        total = f" of {self._end:,}"
        if self.first_epoch == self.last_epoch:
            return total
        per_epoch = self.updates / (self.last_epoch - self.first_epoch + 1)
        first, last = (
            self.first_epoch - 1 + math.ceil((at - self.step) / per_epoch)
            for at in (updates[0], updates[-1])
        )
        return (
            f"{total} (epoch {first})" if first == last else f"{total} (epochs {first} to {last})"
        )

    def _parts(self) -> Iterator[Part]:
        yield Line(self.in_a_line(), "title")
        if self.watched_from is not None and self.quantized_from is not None:
            yield Line(f"ranges are watched from update {self.watched_from:,} on")
        if self.frozen_from is not None:
            yield Line(f"ranges and batch norm stand still from update {self.frozen_from:,} on")
        for update, factor in self.learning_rate_factors:
            yield Line(f"from update {update:,} on updates are made with {factor:g} of the rate")
        for update in self.restarts:
            yield Line(f"before update {update:,} the optimizer begins anew")
        if self.layers:
            columns = ("layer", "kernel", "shape", "zeros at the end", "bits", "rounded by")
            yield Table(columns, [_cells(each) for each in self.layers[:LISTED_LAYERS]], left=2)
        if len(self.layers) > LISTED_LAYERS:
            yield Line(f"and {len(self.layers) - LISTED_LAYERS} more layers, which `.layers` lists")
        if self.channels:
            yield channels_table(self.channels[:LISTED_LAYERS])
        yield from left_out_lines(self.left_out)
        for problem in self.problems:
            yield Line(f"problem: {problem}", "error")


def _cells(layer: PlannedLayer) -> tuple[str, ...]:
    kernel = layer.kernel is not None
    return (
        layer.path,
        layer.kernel or "-",
        "-" if layer.shape is None else "x".join(map(str, layer.shape)),
        "-" if layer.sparsity is None else f"{layer.sparsity:.1%}",
        str(layer.bits) if layer.bits is not None else "float" if kernel else "-",
        layer.rounded_by or "-",
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
