"""Which layer can be pruned how far: each alone, in one shot, without training."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_compress._shared.checks import Layers, check_choice, type_error, value_error
from keras_compress.engines.in_place.masks import magnitude_mask
from keras_compress.engines.prunable_kernels import plan_pruning
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.reports.shown import Line, Part, Shown, Table, png_of
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.schedules import ConstantSparsity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWNER = "sensitivity"


@dataclasses.dataclass(frozen=True, repr=False)
class Sensitivity(Shown):
    """What `sensitivity` found.

    Attributes:
        metric: its name.
        direction: "max" or "min": which way it is better.
        baseline: the metric of the untouched model.
        values: layer -> sparsity -> the metric with this layer alone pruned so far.
    """

    metric: str
    direction: str
    baseline: float
    values: dict[str, dict[float, float]]

    def drops(self, layer: str) -> dict[float, float]:
        """Sparsity -> how much worse than the baseline."""
        sign = 1 if self.direction == "max" else -1
        return {at: sign * (self.baseline - value) for at, value in self.values[layer].items()}

    def bounds(self, max_drop: float, low: float = 0.0) -> dict[str, tuple[float, float]]:
        """Layer -> (low, high) for `CompressionHyperModel(final_sparsity=...)`: up to the first
        sparsity at which the layer alone, untrained, costs more than `max_drop`; never past the
        highest that was tried.

        A layer that the first one breaks already may be searched up to half of that. Training wins
        much of a drop back, so be generous.
        """
        found = {}
        for layer in self.values:
            drops = self.drops(layer)
            tried = sorted(drops)
            broken = next((i for i, at in enumerate(tried) if not drops[at] <= max_drop), None)
            high = tried[-1] if broken is None else tried[broken]
            if broken == 0:
                high = tried[0] / 2
            if high > low:
                found[layer] = (low, high)
        return found

    @property
    def tried(self) -> list[float]:
        """The sparsities, from the lowest on."""
        return sorted({at for values in self.values.values() for at in values})

    def worst_first(self) -> list[str]:
        """The layers, by their largest drop; a metric that is no number is worse than any."""

        def largest(layer: str) -> float:
            return max(
                math.inf if math.isnan(drop) else drop for drop in self.drops(layer).values()
            )

        return sorted(self.values, key=largest, reverse=True)

    def _parts(self) -> Iterator[Part]:
        rows = [
            [layer, *(f"{self.values[layer].get(at, math.nan):.4g}" for at in self.tried)]
            for layer in self.worst_first()
        ]
        heads = [f"{100 * at:g} %" for at in self.tried]
        title = f"{self.metric} with one layer pruned, without: {self.baseline:.4g}; worst first"
        yield Line(title, "title")
        yield Table(["layer", *heads], rows)

    def _picture(self) -> bytes | None:
        return png_of(self.plot) if self.values else None

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A heat map of the drops: a row for each layer, the worst first, a column for each
        sparsity.

        Args:
            path: writes it there, whole or not at all, in the form that its ending says: ".png",
                ".pdf", ".svg" or what else matplotlib can write.

        Returns:
            The `matplotlib.figure.Figure`, which a notebook shows as the last value of a cell.

        Raises:
            ImportError: matplotlib is not installed; the extra "plot" brings it.
            ValueError: there are no layers, or the ending of `path` is none of a picture.
        """
        from keras_compress.tuner.plots import plot_sensitivity

        return plot_sensitivity(self, path)


def sensitivity(
    model: KerasModel,
    x: object,
    y: object = None,
    *,
    metric: str = "accuracy",
    direction: str = "max",
    sparsities: Sequence[float] = (0.5, 0.7, 0.9),
    layers: Layers = None,
    batch_size: int | None = None,
) -> Sensitivity:
    """Prune each layer alone to each sparsity, measure, and put its weights back.

    All kernels of a layer are pruned by magnitude, as its first mask in training would be. The
    model is evaluated once for every layer and sparsity, and once as it is.

    Args:
        model: built and compiled, of Keras 3 or tf_keras. It is left as it was.
        x, y, batch_size: what `evaluate` is given; a few hundred rows do.
        metric: a name in what `evaluate` returns; "loss" with `direction="min"` works for any task.
        direction: "max" or "min": which way the metric is better.
        sparsities: to try, each between 0 and 1.
        layers: None for all that can be pruned, or as in `Pruning`: names, or a callable.

    Raises:
        TypeError, ValueError: an argument that cannot be, or a metric that the model has not.
    """
    check_choice(OWNER, "direction", direction, ("max", "min"))
    tried = sorted(set(sparsities))
    if not tried or not all(isinstance(each, float) and 0 < each < 1 for each in tried):
        raise type_error(OWNER, "sparsities", sparsities, "fractions above 0 and below 1")
    adapter = adapter_of(model, OWNER)
    if not model.built or not adapter.is_compiled(model):
        raise ValueError(
            "sensitivity: `model` must be built and compiled. "
            f"Received: model={type(model).__name__}"
        )

    def measured() -> float:
        logs = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
        if metric not in logs:
            raise value_error(OWNER, "metric", metric, f"one of {', '.join(sorted(logs))}")
        return float(logs[metric])

    spec = Pruning(ConstantSparsity(target_sparsity=tried[0], begin_step=0), layers=layers)
    kernels: dict[str, list[tf.Variable]] = {}
    for path, _, _, variable, _ in plan_pruning(adapter, model, spec).kernels:
        kernels.setdefault(path, []).append(adapter.tf_variable(variable))
    baseline = measured()
    values: dict[str, dict[float, float]] = {}
    for path, variables in kernels.items():
        kept = [variable.numpy() for variable in variables]
        try:
            for sparsity in tried:
                for variable, weights in zip(variables, kept, strict=True):
                    mask = magnitude_mask(tf.constant(weights), tf.constant(sparsity, tf.float32))
                    variable.assign(np.where(mask.numpy(), weights, np.zeros([], weights.dtype)))
                values.setdefault(path, {})[sparsity] = measured()
        finally:
            for variable, weights in zip(variables, kept, strict=True):
                variable.assign(weights)
    return Sensitivity(metric, direction, baseline, values)
