"""A weight that hangs on channels, with its mask."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_compress.engines.masks import Target

NONE = -1
"""In the place of a channel's number: one that is not pruned."""


@dataclasses.dataclass(eq=False)
class HangingWeight(Target):
    """A weight that hangs on channels under pruning."""

    axes: tuple[tuple[int, np.ndarray], ...] = ()
    """(axis, number of the channel at each place of it, or NONE)."""

    @property
    def trainable(self) -> bool:
        return bool(self.layer.trainable)  # a batch norm's statistics move with the layer
