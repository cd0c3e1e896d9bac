"""A callback that a `fit` of either Keras takes."""

from __future__ import annotations

import keras


class BothKeras(keras.callbacks.Callback):  # type: ignore[misc]  # untyped
    """A callback of Keras 3 that tf_keras takes too."""

    # Private to tf_keras, which asks for these before it calls a batch hook, and hands tensors to
    # callbacks that say they take them.
    _supports_tf_logs = True
    _chief_worker_only = None

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False
