"""KerasTuner: search how far a model can be compressed, judged by the integer file of each trial.

Needs the extra `tuner`: `pip install 'keras_compress[tuner]'`.
"""

from keras_compress.tuner.hypermodel import CompressionHyperModel
from keras_compress.tuner.kernel_sensitivity import Sensitivity, sensitivity
from keras_compress.tuner.search import SparsitySearch
from keras_compress.tuner.space import Space
from keras_compress.tuner.trials import TrialResult

__all__ = [
    "CompressionHyperModel",
    "Sensitivity",
    "Space",
    "SparsitySearch",
    "TrialResult",
    "sensitivity",
]
