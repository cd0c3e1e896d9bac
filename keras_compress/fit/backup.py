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
from collections.abc import Callable, Sequence
from typing import Any, Self

from keras_compress.engines.engine import Engine
from keras_compress.engines.snapshot import digest_of, restore, take
from keras_compress.engines.state import State
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.protocols import KerasCallbackList, KerasModel, Method
from keras_compress.frameworks.wrap_method import wrap_method

logger = logging.getLogger("keras_compress")

_ATTRIBUTE = "_keras_compress_accompanied"


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

    def of_model(self, iterations: int, weights: str) -> State | None:
        """The state of a model with this optimizer count and these weights; None where there is
        none.
        """
        of = (iterations, weights)
        return next((each for each in self.states() if (each.iterations, each.weights) == of), None)

    def of_backup(self, iterations: int, weights: str) -> State:
        """The state that belongs to a backup of this count.

        Raises:
            ValueError: there is none.
        """
        states = self.states()
        same = [each for each in states if each.iterations == iterations]
        if not same:
            raise ValueError(
                "Compress: the backup that was restored must have a state of ours beside it, or "
                f"its masks and ranges are lost. There are states of iterations {counts(states)} "
                f"in {self.current!r} and {self.previous!r}; remove the backup to begin anew. "
                f"Received: a backup of iteration {iterations}"
            )
        # One that was written before an end that was never backed up counts the same.
        return next((each for each in same if each.weights == weights), same[0])

    def go_on_from(self, state: State) -> None:
        """Keep the one that was taken: the other, if later, belongs to a backup that was never
        written, and must not push this one out when the next is.
        """
        newest = self.states()[0]
        if (newest.iterations, newest.weights) != (state.iterations, state.weights):
            state.save(self.current)  # not moved: another worker may be about to read it

    def states(self) -> list[State]:
        """Those that there are, the newest first."""
        found = []
        for path in (self.current, self.previous):
            with contextlib.suppress(FileNotFoundError):
                found.append(State.load(path))
        return found


def counts(states: Sequence[State]) -> list[int | None]:
    """The optimizer's counts at the moment of saving."""
    return [each.iterations for each in states]


class Accompanied:
    """The `BackupAndRestore` of one fit, whose backups have a state of ours beside them.

    What it does when the training ends, it does only when `end` is called: to remove the backup,
    which is all that is left of a process that is killed while it exports.

    Attributes:
        restored: whether this fit goes on from a backup.
    """

    def __init__(
        self,
        adapter: Adapter,
        engine: Engine | None,
        callback: Any,
        callbacks: KerasCallbackList,
        restored: bool,
    ):
        self._adapter = adapter
        self._engine = engine
        self._files = StateFiles(callback.backup_dir)
        self._callback = callback
        self._callbacks = callbacks
        self.restored = restored
        self._end: Callable[[], object] | None = None
        self._undo = [
            wrap_method(callback, adapter.backup_method, self._with_state),
            wrap_method(callback, "on_train_end", self._put_off),
        ]
        vars(callback)[_ATTRIBUTE] = self

    @classmethod
    def begin(
        cls,
        adapter: Adapter,
        model: KerasModel,
        engine: Engine | None,
        callbacks: KerasCallbackList,
        say: Callable[..., None],
    ) -> Self | None:
        """Write our state with every backup of this fit, and go on from the one just restored, if
        one was. None without a `BackupAndRestore`. `say` logs a message with its arguments.

        Raises:
            ValueError: a backup was restored, and no state matches it.
        """
        found: list[Any] = [
            c for c in callbacks.callbacks if adapter.isinstance(c, "BackupAndRestore")
        ]
        if not found:
            return None
        callback = found[0]
        if _ATTRIBUTE in vars(callback):
            vars(callback)[_ATTRIBUTE].let_go()  # a fit that failed left this behind
        files, iterations = StateFiles(callback.backup_dir), adapter.iterations(model)
        restored = adapter.has_backup(callback)
        state = None
        if engine is not None and restored and iterations is not None:
            state = files.of_backup(iterations, digest_of(adapter, model))
        elif engine is not None and iterations and not engine.step:
            state = _of_loaded(files, adapter, model, iterations, say)
        if engine is not None and state is not None:
            restore(engine, state, "Compress")
            if engine.is_chief:
                files.go_on_from(state)
        return cls(adapter, engine, callback, callbacks, restored)

    @property
    def _is_called(self) -> bool:
        """Whether it is the list of this fit that calls, and not that of one after it failed."""
        return self._adapter.callback_list(self._callback) is self._callbacks

    def _with_state(self, original: Method) -> Method:
        def back_up(*args: object, **kwargs: object) -> object:
            engine = self._engine
            if engine is None or not self._is_called:
                return original(*args, **kwargs)
            # First: a backup without its state could not be resumed.
            if not self._write_state(f"at update {engine.step}, the one before stays"):
                return None
            with engine.readers.get_all():
                return original(*args, **kwargs)

        return back_up

    def _put_off(self, original: Method) -> Method:
        def on_train_end(*args: object, **kwargs: object) -> None:
            if self._is_called:
                self._end = lambda: original(*args, **kwargs)
            else:
                self.let_go()
                original(*args, **kwargs)

        return on_train_end

    def let_go(self) -> None:
        """Leave the callback as it was."""
        vars(self._callback).pop(_ATTRIBUTE, None)
        while self._undo:
            self._undo.pop()()

    def back_up_end(self, epochs: int, steps: int | None) -> None:
        """Write a backup of a training that is through, after so many epochs of so many steps."""
        if not self._write_state("of the end"):
            return
        try:
            self._adapter.back_up_end(self._callback, epochs, steps)
        except Exception as error:  # Keras has an error of its own for each way to write
            logger.warning("No backup of the end (%s: %s).", type(error).__name__, error)

    def _write_state(self, which: str) -> bool:
        """Write the state that belongs to a backup; whether the backup itself may follow."""
        engine = self._engine
        if engine is None or not engine.is_chief:
            return True
        state = take(engine)
        state.weights = digest_of(engine.adapter, engine.model)
        try:
            self._files.write(state)
        except OSError as error:
            logger.warning("No backup %s: its state cannot be written (%s).", which, error)
            return not engine.works_alone  # or the others would wait for this one
        return True

    def end(self, keep: bool) -> None:
        """Do what the callback does at the end of a training, but for removing what it has written
        if that is to be kept.
        """
        if self._end is None:
            return
        deletes = self._callback.delete_checkpoint
        self._callback.delete_checkpoint = deletes and not keep
        try:
            self._end()
        finally:
            self._callback.delete_checkpoint = deletes
            self._adapter.forget_restored_epoch(self._callback.model)


def _of_loaded(
    files: StateFiles,
    adapter: Adapter,
    model: KerasModel,
    iterations: int,
    say: Callable[..., None],
) -> State | None:
    """The state of a model that was loaded from elsewhere, by the count of its optimizer and by its
    weights; None where there is none.
    """
    state = files.of_model(iterations, digest_of(adapter, model))
    if state is not None:
        message = "The model goes on by the state of update %d, which is that of its weights."
        say(message, state.step)
    elif others := files.states():
        logger.warning(
            "Compression begins anew: of the states beside the backup, of iterations %s, none is "
            "that of this model, whose optimizer has made %d updates.",
            counts(others),
            iterations,
        )
    return state
