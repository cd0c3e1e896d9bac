"""What other callbacks keep as the best of a fit: ours goes with it; and when it is forgotten."""

from __future__ import annotations

from typing import Any

from keras_compress.engines.engine import Engine
from keras_compress.engines.snapshot import restore_arrays, take
from keras_compress.engines.state import State
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasCallbackList


class BestWeights:
    """Of one fit: masks and ranges beside the weights that an EarlyStopping keeps."""

    def __init__(self, adapter: Adapter, callbacks: KerasCallbackList):
        self._adapter = adapter
        self._callbacks = callbacks
        self._kept: dict[int, tuple[int, State]] = {}
        """id of an EarlyStopping -> (its best epoch, what belongs to the weights of then)."""

    def forget(self) -> list[str]:
        """Let whoever has a best so far look for a new one; the classes of those who had."""
        callbacks = self._callbacks.callbacks
        return [type(each).__name__ for each in callbacks if self._adapter.reset_best(each)]

    def keep(self, engine: Engine, epoch: int) -> None:
        """After everybody's `on_epoch_end`: keep what belongs to weights that were just kept."""
        for callback in self._restoring():
            if callback.best_epoch == epoch:
                self._kept[id(callback)] = (epoch, take(engine))

    def put_back(self, engine: Engine) -> int:
        """After everybody's `on_train_end`, which has put the weights back; the update that they
        are of.
        """
        step = engine.step
        for callback in self._restoring():
            epoch, state = self._kept.get(id(callback), (None, None))
            if state is not None and callback.best_epoch == epoch:
                restore_arrays(engine, state)
                step = state.step
        return step

    def _restoring(self) -> list[Any]:
        """Every EarlyStopping that has weights to put back."""
        found: list[Any] = [
            each
            for each in self._callbacks.callbacks
            if self._adapter.isinstance(each, "EarlyStopping")
        ]
        return [
            each for each in found if each.restore_best_weights and each.best_weights is not None
        ]
