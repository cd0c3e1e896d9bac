"""What a row of the channel table says of a kind of layer or operation."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from keras_compress.engines.in_place.graph import Node


class How(enum.Enum):
    """How the channels of what goes in become those of what comes out."""

    KEEPS = "each stays what it is, whatever is computed of it alone"
    MERGES = "those of one place in each input become one"
    JOINS = "the inputs' own stand one behind the other, or are laid over one another"
    LAYS_OUT = "they are laid out anew: where each went is found by moving numbers"
    ENDS = "they end in a kernel, which makes new ones"
    STOPS = "nobody knows"


class Side(enum.Enum):
    """Which channels stand along an axis of a weight."""

    IN = "those of the input"
    SPREAD = "those of the input, each as often as the depth multiplier says"
    OUT = "those that the layer makes"


@dataclasses.dataclass(frozen=True)
class Weight:
    """What hangs on channels: a weight of a layer, and which channels stand along its axes."""

    name: str
    axes: tuple[tuple[int, Side], ...]
    masked: bool = True
    """Whether that of a dropped channel is held at zero; otherwise it goes with the channel."""
    learned: bool = True
    """Whether it is trained, so that it has a part in the channel's score."""


@dataclasses.dataclass(frozen=True)
class Passing:
    """What is known of how channels pass a layer or an operation."""

    how: How
    weights: tuple[Weight, ...] = ()
    size: str | None = None
    """The key of its config that holds the number of channels it makes."""
    spreads: bool = False
    """What comes out are the channels of the input, times the depth multiplier."""
    activated: bool = False
    """It may hold an activation function, which must be one of each number by itself."""
    config: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
    """(config, places that are left along the last axis) -> what changes in it."""
    refuses: Callable[[Any], str | None] = lambda operation: None
    """The reason why this one stops its channels all the same, or None."""
    refuses_call: Callable[[Node], str | None] = lambda node: None
    """The reason why one of its calls does."""
