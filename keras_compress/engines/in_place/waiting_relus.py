"""The ReLUs that, in a call of the model, wait for the max pooling behind them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class WaitingRelus(threading.local):
    """Which they are, by the paths of what ends in them; of each thread for itself, as the replicas
    of a strategy are traced in several.
    """

    def __init__(self) -> None:
        self._calls: list[list[str]] = []

    @property
    def can_wait(self) -> bool:
        """Whether the model is being called. Who calls a layer by itself gets its ReLU."""
        return bool(self._calls)

    def add(self, path: str) -> None:
        self._calls[-1].append(path)

    def take(self, path: str) -> bool:
        """Whether it has waited; it does no longer."""
        if not self._calls or path not in self._calls[-1]:
            return False
        self._calls[-1].remove(path)
        return True

    @contextlib.contextmanager
    def call_of_model(self) -> Iterator[None]:
        """While inside, ReLUs may wait.

        Raises:
            RuntimeError: one has waited in vain, so that somebody has seen numbers without it.
        """
        self._calls.append([])
        try:
            yield
        except BaseException:
            self._calls.pop()
            raise
        left = self._calls.pop()
        if left:
            raise RuntimeError(
                "Quantization: a layer whose ReLU is done behind its max pooling must be called by "
                "the graph of its model alone; inside of a call of the model something else has "
                f"called it, without the pooling. Received: a call of {left[0]!r}. What can be "
                "done: give whoever calls it a layer of its own, or leave it out by "
                "`Quantization(layers=...)`"
            )
