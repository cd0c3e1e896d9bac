"""What became of channels that were pruned: how many are left, and what that saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from keras_compress.reports.shown import Line, Part, Table


@dataclasses.dataclass(frozen=True)
class LayerChannels:
    """The channels that one layer makes.

    Attributes:
        path: the layer, `"backbone/conv1"` inside a nested model.
        before: how many the model has.
        after: how many the network has that ships.
    """

    path: str
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class ChannelsReport:
    """The model, and the network without its dropped channels, which ships.

    Attributes:
        layers: those whose channels are pruned.
        parameters: all weights, (before, after).
        macs: multiply-accumulates of one sample, as `kc.macs` counts them, (before, after); None
            where they cannot be counted.
    """

    layers: list[LayerChannels]
    parameters: tuple[int, int]
    macs: tuple[int, int] | None

    def parts(self) -> Iterator[Part]:
        """What is shown of it."""
        counts = [("parameters", self.parameters)]
        if self.macs is not None:
            counts.append(("multiply-accumulates", self.macs))
        for what, (before, after) in counts:
            yield Line(f"{what}: {before:,} before, {after:,} ({after / max(before, 1):.0%}) left")
        yield channels_table(self.layers)


def channels_table(layers: list[LayerChannels]) -> Table:
    rows = [(each.path, str(each.before), str(each.after)) for each in layers]
    return Table(("layer", "channels", "left"), rows, left=1)


def dropped_share(layers: list[LayerChannels]) -> float:
    """Of all channels of these layers, in [0, 1]."""
    before = sum(each.before for each in layers)
    return 1 - sum(each.after for each in layers) / before if before else 0.0
