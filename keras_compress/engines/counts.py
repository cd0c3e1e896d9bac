"""Two counts of the same updates, the optimizer's and ours: where they part, somebody has trained
past us.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from keras_compress.frameworks.protocols import Method
from keras_compress.frameworks.wrap_method import wrap_method

if TYPE_CHECKING:
    from keras_compress.engines.engine import Engine

logger = logging.getLogger("keras_compress")


class Counts:
    """Of one engine's model."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._noted: tuple[object, int, int] | None = None
        """An optimizer, our count and its own, when they last belonged together."""

    def patch(self) -> Iterator[Callable[[], None]]:
        """Note the counts whenever the optimizer is another, or counts otherwise; yields what
        undoes each patch.
        """
        for name in ("compile", "load_weights"):
            yield wrap_method(self._engine.model, name, self._noting)

    def _noting(self, original: Method) -> Method:
        @functools.wraps(original)
        def change(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.note()
            return result

        return change

    def note(self) -> None:
        """From here on both go together."""
        engine = self._engine
        iterations = engine.adapter.iterations(engine.model)
        if iterations is not None:
            self._noted = (engine.model.optimizer, engine.step, iterations)

    def warn(self) -> None:
        """Say, once, that the optimizer has updated the weights where nobody counted."""
        engine = self._engine
        iterations = engine.adapter.iterations(engine.model)
        if iterations is None or self._noted is None:
            return
        optimizer, step, noted = self._noted
        missed = (iterations - noted) - (engine.step - step)
        if missed <= 0 or engine.model.optimizer is not optimizer:
            return
        self.note()
        # Keras 3 counts a step without a batch, in which a dataset of unknown length ends.
        if not engine.adapter.in_fit(engine.model):
            logger.warning(
                "The optimizer has made %d updates that compression did not see: in a loop of your "
                "own, call `compress.begin(model, steps=...)` before it and make each update "
                "inside `with compress.step():`.",
                missed,
            )
