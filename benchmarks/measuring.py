"""What the benchmarks share: which Keras, and how sure a mean or a median is."""

import dataclasses
import importlib

import numpy as np


def keras_of(number):
    """Keras 3 for 3, tf_keras for 2."""
    return importlib.import_module({3: "keras", 2: "tf_keras"}[number])


def jit_of(number, asked):
    """The `jit_compile` of one Keras: what was asked for (0, 1), or as it chooses itself (None)."""
    # tf_keras knows no "auto", and what it does unasked is to use none.
    return {3: "auto", 2: None}[number] if asked is None else bool(asked)


def mean(values, form=".2f"):
    """A mean with its standard error, if there are several values."""
    values = np.asarray(values)
    text = format(values.mean(), form)
    if len(values) > 1:
        text += f" ± {standard_error(values):{form.lstrip('+')}}"
    return text


def standard_error(values):
    """Of the mean; 0 of a single value, which tells nothing of it."""
    values = np.asarray(values)
    return values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0


@dataclasses.dataclass
class Interval:
    """A median with the ends of its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        values = np.asarray(values)
        draws = np.random.default_rng(0).choice(values, (2000, len(values)))
        low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
        return cls(float(np.median(values)), float(low), float(high))

    def __str__(self):
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"
