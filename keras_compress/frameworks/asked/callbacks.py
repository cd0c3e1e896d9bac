"""What is asked about callbacks, and about the list that calls them."""

from __future__ import annotations

import abc

from keras_compress.frameworks.asked.fits import callers
from keras_compress.frameworks.asked.one_keras import OneKeras
from keras_compress.frameworks.protocols import KerasCallback, KerasCallbackList, KerasModel


class Callbacks(OneKeras):
    """One Keras, asked about callbacks."""

    backup_method: str
    """The method of `BackupAndRestore` that writes a backup (private in both Keras; no public hook
    tells of it).
    """

    def isinstance(self, callback: object, name: str) -> bool:
        """Whether a callback is (derived from) this Keras' callback of that name."""
        return isinstance(callback, getattr(self.keras.callbacks, name))

    def swaps_weights(self, callback: object) -> bool:
        """Whether a callback validates the model with other weights than it trains."""
        kind = getattr(self.keras.callbacks, "SwapEMAWeights", None)
        return kind is not None and isinstance(callback, kind)

    def callback_list(self, callback: object) -> KerasCallbackList | None:
        """The `CallbackList` that is calling `callback`, found on the stack.

        No public road leads from a callback to the list that it stands in, and whoever must act
        before or after all others needs it.
        """
        for frame in callers():
            caller = frame.f_locals.get("self")
            if isinstance(caller, self.keras.callbacks.CallbackList) and any(
                member is callback for member in caller.callbacks
            ):
                found: KerasCallbackList = caller
                return found
        return None

    def append_callback(self, callback_list: KerasCallbackList, callback: KerasCallback) -> None:
        """Put a callback that has batch hooks behind those of a ready list."""
        callback_list.callbacks.append(callback)

    @abc.abstractmethod
    def show_as_they_are(self, callback_list: KerasCallbackList, names: tuple[str, ...]) -> None:
        """Keep the progress bar from averaging these logs over the steps of an epoch."""

    @abc.abstractmethod
    def has_backup(self, callback: object) -> bool:
        """Whether a `BackupAndRestore` found a backup when its training began, and has restored it;
        asked before it writes one of its own.
        """

    @abc.abstractmethod
    def forget_restored_epoch(self, model: KerasModel) -> None:
        """Let the next `fit` begin at its first epoch, whatever a backup said to the one before."""

    @abc.abstractmethod
    def back_up_end(self, callback: object, epochs: int, steps: int | None) -> None:
        """Let a `BackupAndRestore` write a backup from which a training of so many epochs of so
        many steps has nothing left to train.
        """

    @abc.abstractmethod
    def reset_best(self, callback: object) -> bool:
        """Forget the best value that an EarlyStopping, ModelCheckpoint or ReduceLROnPlateau has
        seen; False for any other callback.
        """
