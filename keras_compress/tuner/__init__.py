"""KerasTuner: search how far a model can be compressed, judged by the integer file of each trial.

Needs the extra `tuner`: `pip install 'keras_compress[tuner]'`.
"""

from keras_compress._shared.extras import require

# keras_tuner imports tensorboard, and does not ask for it.
require("keras_compress.tuner", "tuner", "tensorboard", "keras_tuner", "filelock")

from keras_compress.tuner.hypermodel import CompressionHyperModel  # noqa: E402
from keras_compress.tuner.kernel_sensitivity import Sensitivity, sensitivity  # noqa: E402
from keras_compress.tuner.search import SparsitySearch  # noqa: E402
from keras_compress.tuner.space import Space  # noqa: E402
from keras_compress.tuner.trials import Trial, Trials  # noqa: E402

__all__ = [
    "CompressionHyperModel",
    "Sensitivity",
    "Space",
    "SparsitySearch",
    "Trial",
    "Trials",
    "sensitivity",
]
