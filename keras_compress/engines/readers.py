"""Who reads the weights of a compressed model between two updates.

An update moves dropped weights too, and the next masks are made of what it made of them, as tfmot
makes them. So whoever reads in between gets them masked, and the training does not see that
somebody has read.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_compress.frameworks.protocols import Method
from keras_compress.frameworks.wrap_method import wrap_method

if TYPE_CHECKING:
    from keras_compress.engines.engine import Engine

METHODS = (
    "evaluate", "export", "get_weights", "predict", "predict_on_batch", "save", "save_weights",
    "test_on_batch",
)  # fmt: skip
"""Those of a model that read its weights, for somebody other than the next update."""


class Readers:
    """The reading methods of one engine's model."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._get_all = False

    def patch(self) -> Iterator[Callable[[], None]]:
        """Give every reading method masked weights; yields what undoes each."""
        model = self._engine.model
        for name in METHODS:
            if hasattr(model, name):
                yield wrap_method(model, name, self._masking)

    def _masking(self, original: Method) -> Method:
        @functools.wraps(original)
        def read(*args: Any, **kwargs: Any) -> Any:
            with self.masked():
                return original(*args, **kwargs)

        return read

    @contextlib.contextmanager
    def masked(self) -> Iterator[None]:
        """While inside, the masks hold."""
        engine = self._engine
        engine.counts.warn()
        if engine.pruner is None or self._get_all:
            yield
            return
        before = self.mask()
        try:
            yield
        finally:
            self.put_back(before)

    def mask(self) -> list[tf.Tensor]:
        """Let the masks hold; what `put_back` undoes it with."""
        pruner = self._engine.pruner
        if pruner is None:
            return []
        before = [tf.identity(target.kernel) for target in pruner.targets]
        pruner.apply()
        return before

    def put_back(self, before: list[tf.Tensor]) -> None:
        """Give the kernels what `mask` took from them: the dropped ones alone, as whatever else has
        changed meanwhile is somebody's wish.
        """
        pruner = self._engine.pruner
        for target, weights in zip(() if pruner is None else pruner.targets, before, strict=True):
            kept = tf.cast(target.mask, tf.bool)
            now = tf.convert_to_tensor(target.kernel)
            target.kernel.assign(tf.where(kept, now, weights))

    @contextlib.contextmanager
    def get_all(self) -> Iterator[None]:
        """While inside, who reads the weights gets all that the next update will start from."""
        before, self._get_all = self._get_all, True
        try:
            yield
        finally:
            self._get_all = before
