"""Inputs of integers of which a network makes floats: rounded where it makes them.

So the file takes them as quantized, and needs neither integers nor a cast.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_compress.engines.in_place.fake_quant import ActivationQuantizer
from keras_compress.engines.in_place.forms.call import with_data
from keras_compress.engines.quantizers import Mode


class CastInputs:
    """Puts rounded floats in the place of integers, for the operations that would make them.

    The function of a file is given floats, as is a network whose numbers are compared with those of
    a file. Keras makes integers of them on the way, of which nothing is used then. A user's own
    floats it cuts to integers, as it does without quantization.
    """

    def __init__(self, mode: Mode, quantizers: Mapping[str, ActivationQuantizer]):
        self._mode = mode
        self._quantizers = quantizers
        self._floats: dict[str, tf.Tensor] = {}
        """Key of an input -> the floats that the call under way is given for it."""

    def give(self, key: str, floats: tf.Tensor) -> None:
        self._floats[key] = tf.cast(floats, tf.float32)

    def forget(self) -> None:
        self._floats.clear()

    def rounded(
        self, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with rounded floats in the place of its integers; while nothing
        is rounded, as they are, and the range sees them.
        """

        def floats(own: tf.Tensor) -> tf.Tensor:
            given = self._floats.get(key, own)
            if not given.dtype.is_floating:  # Keras 3 may have cast them on the way into `call`
                given = tf.cast(given, tf.float32)
            rounded = self._quantizers[key](given)
            return rounded if self._mode.phase.rounds else own

        return with_data(args, kwargs, floats)
