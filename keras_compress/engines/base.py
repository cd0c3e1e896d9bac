"""What every engine can do to a model: the verbs of one compressed life."""

from __future__ import annotations

import abc
from typing import Any

from keras_compress.specs import Pruning, Quantization
from keras_compress.state import Phase, State

_ATTRIBUTE = "_keras_compress_engine"


class Engine(abc.ABC):
    """Owns every change made to one model. Attached once, it stays until `detach`, over any number
    of fits.
    """

    model: Any
    pruning: Pruning | None
    quantization: Quantization | None
    """The specs as they were given, fractions and all."""
    owner: Any = None
    """The `Compress` in charge."""

    @abc.abstractmethod
    def attach(self) -> None:
        """Change the model in place; everything that can be refused is refused before the first
        change.
        """

    @abc.abstractmethod
    def detach(self) -> None:
        """Undo every change but those to the weights."""

    @abc.abstractmethod
    def set_phase(self, phase: Phase) -> None:
        """Enter a phase; the next step of every kind traces anew if that changes anything."""

    @abc.abstractmethod
    def state(self) -> State:
        """Everything but the weights, as it is now."""

    @abc.abstractmethod
    def load_state(self, state: State) -> None:
        """Go on from `state`; ValueError naming the difference if it belongs to another model."""

    @abc.abstractmethod
    def named(self, spec: Any) -> Any:
        """A spec with the names of what a callable `layers` chooses in this model."""

    @abc.abstractmethod
    def inference_function(
        self, batch_size: int, *, quantized: bool = True, for_file: bool = True
    ) -> Any:
        """The network as it answers now, as a ConcreteFunction of its flat inputs that can leave
        the process and returns name -> tensor.
        """


def engine_of(model: Any) -> Engine | None:
    """The engine attached to a model, or None."""
    return vars(model).get(_ATTRIBUTE)


def remember(model: Any, engine: Engine | None) -> None:
    """Note which engine is attached; past `__setattr__`, whose trackers would save and copy it."""
    if engine is None:
        vars(model).pop(_ATTRIBUTE, None)
    else:
        vars(model)[_ATTRIBUTE] = engine
