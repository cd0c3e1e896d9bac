"""What is asked about what seeds and random numbers are drawn from."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from tensorflow.python.eager import context as tf_context

from keras_compress.frameworks.asked.one_keras import OneKeras

_SEEDS = threading.RLock()
"""Held by whoever has put the process' seeds aside."""


class Seeds(OneKeras):
    """One Keras, asked about seeds."""

    @contextlib.contextmanager
    def seeds_kept(self) -> Iterator[None]:
        """While inside, whoever draws a seed or a random number leaves no trace: afterwards comes
        what would have come. One thread at a time: two that overlap would put back each other's
        stand-ins. What another thread draws meanwhile is drawn once more.
        """
        with _SEEDS, self._seeds_kept():
            yield

    @contextlib.contextmanager
    def _seeds_kept(self) -> Iterator[None]:
        generators = list(self.seed_generators())
        states = [generator.getstate() for generator in generators]
        numbers = np.random.get_state()
        # Private, and there only once `tf.random.set_seed` was called: eager ops without a seed get
        # theirs here.
        # Each seed has a kernel with a state of its own, so the same ones must not be given out
        # twice: others are, while inside.
        eager = tf_context.context()
        seeds, others = vars(eager).get("_rng"), random.Random("seeds_kept")
        if seeds is not None:
            eager._rng = others
        try:
            yield
        finally:
            if vars(eager).get("_rng") is others:
                eager._rng = seeds
            np.random.set_state(numbers)
            for generator, state in zip(generators, states, strict=True):
                generator.setstate(state)

    def seed_generators(self) -> Iterator[Any]:
        """What seeds are drawn from: each has `getstate` and `setstate`."""
        yield random
