"""What TensorFlow says of traces that are ours."""

from __future__ import annotations

import logging
from collections.abc import Callable

_KERAS_FUNCTIONS = ("TensorFlowTrainer.", "Model.make_")
"""In the names of the functions that both Keras make of a model's steps."""


def _of_somebody_else(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    ours = "triggered tf.function retracing" in message
    return not (ours and any(name in message for name in _KERAS_FUNCTIONS))


def keep_quiet_about_them() -> Callable[[], None]:
    """From now on TensorFlow does not warn that Keras' functions are traced again: each phase of a
    fit is traced once, and each network that it has made is evaluated for a few batches, which
    looks to TensorFlow like a user's mistake. What is returned takes it back; once is enough.
    """
    logger = logging.getLogger("tensorflow")
    logger.addFilter(_of_somebody_else)  # no second time, should a fit have failed
    return lambda: logger.removeFilter(_of_somebody_else)
