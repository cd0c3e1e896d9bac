"""Resuming with `BackupAndRestore`: our state is written beside each of its backups, and the one
that matches is read.

A process can be killed between the two writes, so the state before is kept: whichever has the
optimizer's own count of the restored backup belongs to it. The files outlive the fit and the
backup, because a run killed while it exports has no backup any more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from keras_compress.engines.engine import Engine
from keras_compress.engines.snapshot import restore, take
from keras_compress.engines.state import State
from keras_compress.frameworks.adapter import Adapter, wrap_method
from keras_compress.frameworks.protocols import KerasCallbackList, KerasModel, Method

_ATTRIBUTE = "_keras_compress_let_go"


class Backups:
    """The state files of one `BackupAndRestore`, beside its folder: what it removes must not take
    them along.
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

    def matching(self, iterations: int) -> State:
        """The state that was written with the backup of this optimizer count.

        Raises:
            ValueError: there is none.
        """
        found = []
        for path in (self.current, self.previous):
            with contextlib.suppress(FileNotFoundError):
                state = State.load(path)
                if state.iterations == iterations:
                    # The other one, if later, belongs to a backup that was never written; it must
                    # not push this one out when the next is.
                    os.replace(path, self.current)
                    return state
                found.append(state.iterations)
        raise ValueError(
            "Compress: the backup that was restored must have a state of ours beside it, or its "
            f"masks and ranges are lost. There are states of iterations {found} in "
            f"{self.current!r} and {self.previous!r}; remove the backup to begin anew. "
            f"Received: a backup of iteration {iterations}"
        )


def accompany(
    adapter: Adapter,
    model: KerasModel,
    engine: Engine,
    callbacks: KerasCallbackList,
    iterations_before: int | None,
) -> Callable[[], None] | None:
    """Write our state with every backup of this fit, and go on from the one just restored, if one
    was.

    `iterations_before`: the optimizer's count before any `on_train_begin`; a restored backup has
    changed it. Returns what ends that; None without a `BackupAndRestore`.

    Raises:
        ValueError: a backup was restored, and no state matches it.
    """
    backups: list[Any] = [
        c for c in callbacks.callbacks if adapter.isinstance(c, "BackupAndRestore")
    ]
    if not backups:
        return None
    backup = backups[0]
    if _ATTRIBUTE in vars(backup):
        vars(backup)[_ATTRIBUTE]()  # a fit that failed left this behind
    files = Backups(backup.backup_dir)
    iterations = adapter.iterations(model)
    if iterations is not None and iterations != iterations_before:
        restore(engine, files.matching(iterations), "Compress")

    def make(original: Method) -> Method:
        def back_up(*args: object, **kwargs: object) -> object:
            files.write(take(engine))  # first: a backup without its state could not be resumed
            return original(*args, **kwargs)

        return back_up

    undo = wrap_method(backup, adapter.backup_method, make)

    def let_go() -> None:
        vars(backup).pop(_ATTRIBUTE, None)
        undo()

    vars(backup)[_ATTRIBUTE] = let_go
    return let_go
