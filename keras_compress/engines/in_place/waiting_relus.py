"""The ReLUs that, in a call of the model, wait for the max pooling behind them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf


class WaitingRelus(threading.local):
    """Which they are, by the tensors that wait for them; of each thread for itself, as the replicas
    of a strategy are traced in several.
    """

    def __init__(self) -> None:
        self._calls: list[dict[int, tuple[str, tf.Tensor]]] = []

    @property
    def can_wait(self) -> bool:
        """Whether the model is being called. Who calls a layer by itself gets its ReLU."""
        return bool(self._calls)

    def add(self, path: str, tensor: tf.Tensor) -> None:
        """The ReLU in which the operation at `path` ends waits, for this tensor."""
        self._calls[-1][id(tensor)] = path, tensor

    def take(self, tensors: tuple[object, ...]) -> tf.Tensor | None:
        """What one has waited for of these; it does no longer. None where none has."""
        for tensor in tensors if self._calls else ():
            if id(tensor) in self._calls[-1]:
                return self._calls[-1].pop(id(tensor))[1]
        return None

    @contextlib.contextmanager
    def call_of_model(self) -> Iterator[None]:
        """While inside, ReLUs may wait.

        Raises:
            RuntimeError: one has waited in vain, so that somebody has seen numbers without it.
        """
        self._calls.append({})
        try:
            yield
        except BaseException:
            self._calls.pop()
            raise
        for path, _ in self._calls.pop().values():
            raise RuntimeError(
                "Quantization: a layer whose ReLU is done behind its max pooling must be called by "
                "the graph of its model alone; inside of a call of the model something else has "
                f"called it, without the pooling. Received: a call of {path!r}. What can be "
                "done: give whoever calls it a layer of its own, or make it known to Keras as an "
                "attribute of the layer that calls it"
            )
