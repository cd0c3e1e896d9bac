"""How far a file's answers are from the network it was made of, in steps of its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class OutputAgreement:
    """One output compared over all rows.

    A step is the scale of the output's tensor, the smallest difference the file can express: two
    networks that agree exactly are 0 steps apart, one rounding the other way is 1.

    Attributes:
        largest_steps: largest difference of any element.
        mean_steps: mean difference over all elements.
        argmax_agreement: fraction in [0, 1] of the positions whose largest class (last axis) is the
            same; None for outputs without a class axis (rank below 2, or a last axis of 1).
    """

    largest_steps: float
    mean_steps: float
    argmax_agreement: float | None


def agreement(
    reference: Mapping[str, np.ndarray],
    answer: Mapping[str, np.ndarray],
    scales: Mapping[str, float],
) -> dict[str, OutputAgreement]:
    """Compares answers output by output, both dequantized; `reference` gives the order.

    NaN in either gives NaN steps, which no limit is above of or below.

    Raises:
        ValueError: names or shapes differ, nothing to compare, or a scale that is not above 0.
    """
    for name, given in (("answer", answer), ("scales", scales)):
        if set(given) != set(reference):
            raise ValueError(
                f"agreement: `{name}` must have the outputs of `reference`, {sorted(reference)}. "
                f"Received: {name}={sorted(given)}"
            )
    return {
        name: _compare(name, np.asarray(values), np.asarray(answer[name]), scales[name])
        for name, values in reference.items()
    }


def _compare(name: str, reference: np.ndarray, answer: np.ndarray, scale: float) -> OutputAgreement:
    if reference.shape != answer.shape or not reference.size:
        raise ValueError(
            f"agreement: `answer[{name!r}]` must have the shape of `reference[{name!r}]`, "
            f"{reference.shape}, and not be empty. Received: answer[{name!r}]={answer.shape}"
        )
    if not scale > 0:
        raise ValueError(
            f"agreement: `scales[{name!r}]` must be above 0. Received: scales[{name!r}]={scale!r}"
        )
    steps = np.abs(answer.astype(np.float64) - reference.astype(np.float64)) / scale
    same: float | None = None
    if reference.ndim >= 2 and reference.shape[-1] > 1:
        same = float(np.mean(reference.argmax(axis=-1) == answer.argmax(axis=-1)))
    return OutputAgreement(float(steps.max()), float(steps.mean()), same)
