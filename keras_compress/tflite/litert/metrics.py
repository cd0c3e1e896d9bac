"""How good answers are, by NumPy alone or by Keras' metric objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from keras_compress._shared.by_name import by_name
from keras_compress._shared.checks import listing, type_error, value_error

Metric = str | Callable[[np.ndarray, np.ndarray], float] | Any
Metrics = Metric | Sequence[Metric] | Mapping[str, Metric | Sequence[Metric]]

_OWNER = "TFLiteModel.evaluate"
_RULE = "'accuracy', 'mse', a callable (y_true, y_pred) -> number or a Keras metric object"


def scores(
    outputs: Sequence[str],
    metrics: Metrics,
    y: Any,
    answer: Callable[[], Mapping[str, np.ndarray]],
) -> dict[str, float]:
    """What `TFLiteModel.evaluate` returns.

    `answer` gives output name -> all rows; it is called when all else is known to fit.
    """
    wanted = _by_output(outputs, metrics)
    labels = _labels(outputs, wanted, y)
    names = {
        output: {_name(metric, output, len(outputs) > 1): metric for metric in chosen}
        for output, chosen in wanted.items()
    }
    for output, chosen in wanted.items():
        if len(names[output]) < len(chosen):
            raise value_error(_OWNER, "metrics", metrics, "metrics of different names")
    answers = answer()
    found = {}
    for output, chosen_by_name in names.items():
        for name, metric in chosen_by_name.items():
            found[name] = _score(name, metric, labels[output], answers[output])
    return found


def _by_output(outputs: Sequence[str], metrics: Metrics) -> dict[str, list[Metric]]:
    if not isinstance(metrics, Mapping):
        return dict.fromkeys(outputs, _checked(metrics))
    _check_names(outputs, metrics, "metrics")
    return {output: _checked(metrics[output]) for output in outputs if output in metrics}


def _check_names(outputs: Sequence[str], given: Mapping[str, Any], name: str) -> None:
    unknown = [output for output in given if output not in outputs]
    if unknown or not given:
        rule = f"by name of the outputs {list(outputs)}"
        raise value_error(_OWNER, name, list(given), rule)


def _checked(metrics: Any) -> list[Metric]:
    several = isinstance(metrics, list | tuple)
    for metric in metrics if several else [metrics]:
        if isinstance(metric, type):
            raise type_error(_OWNER, "metrics", metric, _RULE, hint="an object of that class")
        if isinstance(metric, str) and metric not in _NAMED:
            hint = f"of names there are {listing(_NAMED)}"
            raise value_error(_OWNER, "metrics", metric, _RULE, hint=hint)
        if not (isinstance(metric, str) or callable(metric) or _is_keras(metric)):
            raise type_error(_OWNER, "metrics", metric, _RULE)
    if several and not metrics:
        raise value_error(_OWNER, "metrics", metrics, "at least one metric")
    return list(metrics) if several else [metrics]


def _labels(outputs: Sequence[str], wanted: Mapping[str, Any], y: Any) -> dict[str, np.ndarray]:
    spare = [output for output in outputs if output not in wanted]
    given = by_name(_OWNER, "y", y, outputs, what="outputs", optional=spare)
    return {output: np.asarray(given[output]) for output in wanted}


def _is_keras(metric: Any) -> TypeGuard[Any]:
    return all(hasattr(metric, verb) for verb in ("reset_state", "update_state", "result"))


def _name(metric: Metric, output: str, several: bool) -> str:
    if isinstance(metric, str):
        name = metric
    elif _is_keras(metric):
        name = metric.name
    else:
        name = getattr(metric, "__name__", type(metric).__name__)
    return f"{output}_{name}" if several else name


def _score(name: str, metric: Metric, y: np.ndarray, answers: np.ndarray) -> float:
    if y.ndim == 0 or len(y) != len(answers):
        rule = f"as many rows as the answers, {len(answers)}"
        raise value_error(_OWNER, "y", np.shape(y), rule)
    if not len(y):
        raise value_error(_OWNER, "y", np.shape(y), "at least one row")
    if isinstance(metric, str):
        return _NAMED[metric](y, answers)
    if _is_keras(metric):
        metric.reset_state()
        metric.update_state(y, answers)
        value = metric.result()
    else:
        value = metric(y, answers)
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biuf":
        shape = f"{type(value).__name__} of shape {number.shape}"
        raise type_error(_OWNER, "metrics", shape, f"such that {name!r} gives one number")
    return float(number.reshape(()))


def accuracy(y: np.ndarray, answers: np.ndarray) -> float:
    """See `TFLiteModel.evaluate`."""
    if y.dtype.kind not in "biuf":
        raise value_error(_OWNER, "y", y.dtype, "numbers")
    if answers.ndim < 2 or answers.shape[-1] == 1:
        flat = _shaped(y, answers)
        if not np.isin(flat, (0, 1)).all():
            raise value_error(_OWNER, "y", _example(flat), "0 or 1 for an output of one number")
        return float(np.mean((answers > 0.5) == (flat > 0.5)))
    classes = answers.shape[-1]
    if y.shape == answers.shape:
        if not np.allclose(y.sum(axis=-1), 1, atol=1e-3):
            rule = "one-hot, or integers (for several classes at once give a callable)"
            raise value_error(_OWNER, "y", f"rows that sum to {_example(y.sum(axis=-1))}", rule)
        labels = y.argmax(axis=-1)
    else:
        labels = _shaped(y, answers[..., 0])
        if not np.isin(labels, np.arange(classes)).all():
            rule = f"integers in [0, {classes}), the output's classes"
            raise value_error(_OWNER, "y", _example(labels), rule)
    return float(np.mean(answers.argmax(axis=-1) == labels))


def mean_squared_error(y: np.ndarray, answers: np.ndarray) -> float:
    """The mean over all numbers, in float64."""
    return float(np.mean((_shaped(y, answers).astype(np.float64) - answers) ** 2))


def _shaped(y: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """`y` in the shape of `answers`: an axis of 1 at the end may be missing or too many."""
    if answers.shape in (y.shape, (*y.shape, 1)) or y.shape == (*answers.shape, 1):
        return y.reshape(answers.shape)
    raise value_error(_OWNER, "y", y.shape, f"labels of shape {answers.shape}, as the answers")


def _example(values: np.ndarray) -> str:
    """The two ends of what was received: enough to see what it is."""
    return f"{values.min()}..{values.max()}"


_NAMED = {
    "accuracy": accuracy,
    "acc": accuracy,
    "mse": mean_squared_error,
    "mean_squared_error": mean_squared_error,
}
