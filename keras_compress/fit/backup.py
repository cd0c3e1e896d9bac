"""Resuming with `BackupAndRestore`: our state is written beside each of its backups, and the one
that matches is read.

A process can be killed between the two writes, so the state before is kept: whichever has the
optimizer's own count of the restored backup belongs to it. The files outlive the fit and the
backup: a model that is loaded from elsewhere, at the count of one of them, goes on by it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, Self

from keras_compress.engines.engine import Engine
from keras_compress.engines.snapshot import restore, take
from keras_compress.engines.state import State
from keras_compress.frameworks.adapter import Adapter, wrap_method
from keras_compress.frameworks.protocols import KerasCallbackList, KerasModel, Method

logger = logging.getLogger("keras_compress")

_ATTRIBUTE = "_keras_compress_let_go"


class StateFiles:
    """Our states, beside the folder of a `BackupAndRestore`: what it removes must not take them
    along.
    """

    def __init__(self, folder: str):
        stem = os.path.normpath(os.fspath(folder))
        self.current = f"{stem}.compress.npz"
        self.previous = f"{stem}.compress.previous.npz"

    def write(self, state: State) -> None:
        os.makedirs(os.path.dirname(os.path.abspath(self.current)), exist_ok=True)
        if os.path.exists(self.current):
            os.replace(self.current, self.previous)
        state.save(self.current)

    def matching(self, iterations: int) -> State | None:
        """The state that was written with the backup of this optimizer count; None if there is
        none.
        """
        for path, state in self._states():
            if state.iterations == iterations:
                # The other one, if later, belongs to a backup that was never written; it must not
                # push this one out when the next is.
                os.replace(path, self.current)
                return state
        return None

    def of_backup(self, iterations: int) -> State:
        """The state that belongs to a backup of this count.

        Raises:
            ValueError: there is none.
        """
        state = self.matching(iterations)
        if state is None:
            found = [each.iterations for _, each in self._states()]
            raise ValueError(
                "Compress: the backup that was restored must have a state of ours beside it, or "
                f"its masks and ranges are lost. There are states of iterations {found} in "
                f"{self.current!r} and {self.previous!r}; remove the backup to begin anew. "
                f"Received: a backup of iteration {iterations}"
            )
        return state

    def _states(self) -> Iterator[tuple[str, State]]:
        for path in (self.current, self.previous):
            with contextlib.suppress(FileNotFoundError):
                yield path, State.load(path)


class Accompanied:
    """The `BackupAndRestore` of one fit, whose backups have a state of ours beside them.

    What it does when the training ends, it does only when `end` is called: to remove the backup,
    which is all that is left of a process that is killed while it exports.
    """

    def __init__(self, adapter: Adapter, engine: Engine, callback: Any):
        if _ATTRIBUTE in vars(callback):
            vars(callback)[_ATTRIBUTE].let_go()  # a fit that failed left this behind
        self._engine = engine
        self._files = StateFiles(callback.backup_dir)
        self._callback = callback
        self._end: Callable[[], object] | None = None
        self._undo = [
            wrap_method(callback, adapter.backup_method, self._with_state),
            wrap_method(callback, "on_train_end", self._put_off),
        ]
        vars(callback)[_ATTRIBUTE] = self

    @classmethod
    def begin(
        cls, adapter: Adapter, model: KerasModel, engine: Engine, callbacks: KerasCallbackList
    ) -> Self | None:
        """Write our state with every backup of this fit, and go on from the one just restored, if
        one was. None without a `BackupAndRestore`.

        Raises:
            ValueError: a backup was restored, and no state matches it.
        """
        found: list[Any] = [
            c for c in callbacks.callbacks if adapter.isinstance(c, "BackupAndRestore")
        ]
        if not found:
            return None
        callback, files = found[0], StateFiles(found[0].backup_dir)
        iterations = adapter.iterations(model)
        state = None
        if iterations is not None and adapter.has_backup(callback):
            state = files.of_backup(iterations)
        elif iterations and not engine.step:
            state = files.matching(iterations)
        if state is not None:
            restore(engine, state, "Compress")
        return cls(adapter, engine, callback)

    def _with_state(self, original: Method) -> Method:
        def back_up(*args: object, **kwargs: object) -> object:
            engine = self._engine
            if engine.is_chief:
                try:
                    # First: a backup without its state could not be resumed.
                    self._files.write(take(engine))
                except OSError as error:
                    logger.warning(
                        "No backup at update %d, the one before stays: its state cannot be "
                        "written (%s).",
                        engine.step,
                        error,
                    )
                    return None
            with engine.as_they_are():
                return original(*args, **kwargs)

        return back_up

    def _put_off(self, original: Method) -> Method:
        def on_train_end(*args: object, **kwargs: object) -> None:
            self._end = lambda: original(*args, **kwargs)

        return on_train_end

    def let_go(self) -> None:
        """Leave the callback as it was."""
        vars(self._callback).pop(_ATTRIBUTE, None)
        while self._undo:
            self._undo.pop()()

    def end(self) -> None:
        """Do what the callback does at the end of a training."""
        if self._end is not None:
            self._end()
