"""What TensorFlow says of traces that are ours."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable

_KERAS_FUNCTIONS = ("TensorFlowTrainer.", "Model.make_")
"""In the names of the functions that both Keras make of a model's steps."""


class _Quiet:
    """That somebody has asked for it, for as long as he lives."""


_asked: weakref.WeakSet[_Quiet] = weakref.WeakSet()
_lock = threading.Lock()


def _of_somebody_else(record: logging.LogRecord) -> bool:
    if not _asked:
        return True  # whoever asked has failed and is gone
    message = record.getMessage()
    ours = "triggered tf.function retracing" in message
    return not (ours and any(name in message for name in _KERAS_FUNCTIONS))


def keep_quiet_about_them() -> Callable[[], None]:
    """From now on TensorFlow does not warn that Keras' functions are traced again: each phase of a
    fit is traced once, and each network that it has made is evaluated for a few batches, which
    looks to TensorFlow like a user's mistake. What is returned takes it back, called or, by a fit
    that has failed, forgotten; of several fits at the same time, the last one does.
    """
    logger, mine = logging.getLogger("tensorflow"), _Quiet()
    with _lock:
        _asked.add(mine)
        logger.addFilter(_of_somebody_else)

    def hear_again() -> None:
        with _lock:
            _asked.discard(mine)
            if not _asked:
                logger.removeFilter(_of_somebody_else)

    return hear_again
