"""How long a file takes for one batch."""

from __future__ import annotations

import statistics
import time

import numpy as np

from keras_compress.tflite.run import TFLiteModel


def latency_ms(file: TFLiteModel, runs: int = 50) -> float:
    """The median time of LiteRT for one batch of the file, in milliseconds.

    The inputs are zeros: how long an op takes does not depend on its numbers. A tenth as many runs
    go before, which allocate and warm up.
    """
    batch = {info.name: np.zeros(info.shape, info.dtype) for info in file.inputs}
    seconds = []
    for number in range(runs + runs // 10):
        begin = time.perf_counter()
        file.predict(batch, raw=True)
        if number >= runs // 10:
            seconds.append(time.perf_counter() - begin)
    return 1000.0 * statistics.median(seconds)
