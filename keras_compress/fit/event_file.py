"""An event file of TensorBoard's, which can be written without it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

logger = logging.getLogger("keras_compress")

_Metadata = tf.compat.v1.SummaryMetadata
_SCALAR = _Metadata(
    plugin_data=_Metadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)
_TEXT = _Metadata(
    plugin_data=_Metadata.PluginData(plugin_name="text"), data_class="DATA_CLASS_TENSOR"
)


class EventFile:
    """A new one in a folder. All is on disk when a method returns, as nobody knows what comes.

    By `tf.summary.write`, because `tf.summary.scalar` and `text` need the package `tensorboard`.
    """

    def __init__(self, folder: str):
        self._writer = tf.summary.create_file_writer(folder)

    @contextlib.contextmanager
    def _recording(self) -> Iterator[None]:
        # A TensorBoard callback says for all that is written in a fit which steps to record.
        with self._writer.as_default(), tf.summary.record_if(True):
            yield
        self._writer.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write a number for each tag."""
        with self._recording():
            for tag, value in values.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), step, _SCALAR)

    def text(self, tag: str, text: str, step: int) -> None:
        """Write a text, in Markdown."""
        with self._recording():
            tf.summary.write(tag, tf.constant(text), step, _TEXT)

    def hyperparameters(self, values: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Write plain values for the HParams tab; where that cannot be done, `config` as a text
        "specs" in JSON.
        """
        try:
            from tensorboard.plugins.hparams import api

            with self._recording():
                api.hparams(dict(values))
        except Exception as error:  # of a package that nobody has to have: no fit ends by it
            logger.debug("The specs are written as a text: %s", error)
            self.text("specs", f"```\n{json.dumps(config, indent=2)}\n```", 0)

    def close(self) -> None:
        """Nothing can be written any more."""
        self._writer.close()
