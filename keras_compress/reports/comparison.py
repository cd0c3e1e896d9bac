"""What `compare` found: data, text and plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from keras_compress._shared.plain import plain
from keras_compress.reports.shown import Line, Part, Shown, Table

LISTED_LAYERS = 10
"""How many layers of a file are printed; `to_dict` has all of them."""


@dataclasses.dataclass(frozen=True)
class ComparedNetwork:
    """One network on all rows of the data.

    Attributes:
        metrics: name -> value, as `TFLiteModel.evaluate` has them; empty without labels.
        agreement: share in [0, 1] of the decisions (the largest class) that are the first
            network's, of the output with the fewest; None without classes.
        largest_difference: from the first network, of any number of any output.
        mean_difference: over all numbers of all outputs.
        bytes, zipped_bytes: of the file, zipped as the only entry at level 9; of a float Keras
            model as a float file. None of a fake-quantized one, which is no file.
        latency_ms: median time that LiteRT takes for the rows of one batch of the file, mostly one;
            None likewise.
        given_bytes: of the file that was given, be it of Keras, a frozen graph or TFLite; None of a
            model in memory and of a folder.
        seconds: for all rows of the data `Comparison.rounds` times, as the network computes itself:
            a TFLite file by LiteRT in its own batch, a model or graph by TensorFlow in batches of
            32, or of as many rows as its graph takes; None without rounds.
    """

    name: str
    metrics: dict[str, float]
    agreement: float | None
    largest_difference: float
    mean_difference: float
    bytes: int | None
    zipped_bytes: int | None
    latency_ms: float | None
    given_bytes: int | None = None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class LayerSignal:
    """The numbers that one op of a quantized file computes, against those of the float file.

    With `r` the float file's numbers and `q` the quantized one's, over all samples, the ratio is
    10 log10(sum r^2 / sum (r - q)^2): 6 dB are one bit, 20 dB one decimal place. It is infinite
    where there is no difference, and NaN where one of the files computes NaN.

    Attributes:
        layers: the paths of the layers that the op computes, several where they were fused.
        op: its name in the TFLite schema.
        tensor: its output's name in the quantized file.
        sqnr_db: the ratio, to which the layers before contribute what they have spoiled.
        own_db: the ratio where both compute on the same inputs, those that the quantized file gave
            the layer: what it spoils by itself.
    """

    layers: tuple[str, ...]
    op: str
    tensor: str
    sqnr_db: float
    own_db: float


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What `compare` found; `print` shows it in tables.

    Attributes:
        rows: of the data.
        networks: in the order given, the first is the reference.
        layers: name of a network that is a file -> its layers against those of the reference, the
            one that spoils most by itself first.
        notes: what could not be compared, and why.
        layer_rows: on how many rows of the data layers are compared.
        rounds: how often all rows went through each network for its `seconds`, in turns.
    """

    rows: int
    networks: list[ComparedNetwork]
    layers: dict[str, list[LayerSignal]]
    notes: list[str]
    layer_rows: int
    rounds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain values, ready for JSON: what is not finite is None."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        return values

    def _parts(self) -> Iterator[Part]:
        metrics = list(self.networks[0].metrics)
        heads = ("network", *metrics, "agreement", "largest", "mean", "bytes", "zipped", "ms")
        first = self.networks[0].name
        yield Line(f"{self.rows} rows; agreement and differences are from {first}:", "title")
        yield Table(heads, [_cells(network) for network in self.networks])
        if self.rounds:
            yield Line(
                f"{self.rounds} times all rows, files by LiteRT, models and graphs by TensorFlow:"
            )
            heads = ("network", "bytes as given", *metrics, "seconds")
            yield Table(heads, [_timed_cells(network) for network in self.networks])
        differ = {each.name: each.largest_difference != 0 for each in self.networks}
        for name, layers in self.layers.items():
            if not layers:
                continue
            # Only the first rows go through layer by layer: the answers to others may differ.
            if not differ.get(name, True) and all(each.sqnr_db == math.inf for each in layers):
                yield Line(
                    f"{name} is equal to {first}: all {len(layers)} layers compute the same "
                    "numbers, and so are its answers"
                )
                continue
            listed, count = layers[:LISTED_LAYERS], len(layers)
            some = f"the worst {len(listed)} of {count}" if len(listed) < count else "worst first"
            yield Line(
                f"signal to quantization noise in {name}, {self.layer_rows} rows, in dB, of each "
                f"layer by itself and\nwith what comes before it, {some}:"
            )
            rows = [
                (" + ".join(each.layers), each.op, _decibels(each.own_db), _decibels(each.sqnr_db))
                for each in listed
            ]
            yield Table(("layer", "op", "by itself", "in all"), rows, left=2)
        for network in self.networks[1:]:
            if not differ[network.name] and not self.layers.get(network.name):
                yield Line(
                    f"{network.name} is equal to {first}: all its answers are the same numbers"
                )
        for note in self.notes:
            yield Line(note, "warning")


def _decibels(ratio: float) -> str:
    """Where there is no noise nobody reads an infinite ratio as good news."""
    return "equal" if ratio == math.inf else f"{ratio:.1f}"


def _timed_cells(network: ComparedNetwork) -> tuple[str, ...]:
    return (
        network.name,
        "-" if network.given_bytes is None else f"{network.given_bytes:,}",
        *(f"{value:.4f}" for value in network.metrics.values()),
        "-" if network.seconds is None else f"{network.seconds:.3f}",
    )


def _cells(network: ComparedNetwork) -> tuple[str, ...]:
    sizes = (network.bytes, network.zipped_bytes)
    return (
        network.name,
        *(f"{value:.4f}" for value in network.metrics.values()),
        "-" if network.agreement is None else f"{network.agreement:.1%}",
        f"{network.largest_difference:.3g}",
        f"{network.mean_difference:.3g}",
        *("-" if size is None else f"{size:,}" for size in sizes),
        "-" if network.latency_ms is None else f"{network.latency_ms:.3f}",
    )
