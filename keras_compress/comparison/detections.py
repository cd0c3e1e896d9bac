"""Detectors' files side by side: which of their answers can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from keras_compress.specs.detection import OUTPUTS
from keras_compress.tflite import TFLiteModel


def detects(outputs: Iterable[str]) -> bool:
    """Whether outputs of these names are those of TFLite_Detection_PostProcess."""
    return set(outputs) == set(OUTPUTS)


def counted(file: TFLiteModel, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A detector's answers with zeros behind the detections that count, where the op writes none
    and anything may stand.
    """
    answer = file.answers(columns)
    *several, number = OUTPUTS
    for name in several:
        places = np.arange(answer[name].shape[1]) < answer[number].reshape(-1, 1)
        # Boxes have one axis more.
        places = places.reshape(*places.shape, *(1,) * (answer[name].ndim - 2))
        answer[name] = np.where(places, answer[name], 0)
    return answer
