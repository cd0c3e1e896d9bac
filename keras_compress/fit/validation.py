"""What the float network, the fake-quantized one and the file are worth on `fit`'s validation data.

A stripped copy of the model evaluates all three, with its own loss, metrics and `test_step`: in
turn its `call` answers as itself, as the model and as the file. So the model's own metrics, phase
and functions are not touched.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.engine import engine_of
from keras_compress.engines.strip import strip
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.asked.fits import ValidationData
from keras_compress.frameworks.protocols import KerasModel, Method
from keras_compress.frameworks.wrap_method import wrap_method
from keras_compress.reports.validation import ValidationReport
from keras_compress.tflite import load_tflite

logger = logging.getLogger("keras_compress")

THREADS = min(os.cpu_count() or 1, 4)
"""For LiteRT, which answers the same whatever their number."""

Answer = Callable[[object], object]
"""What `call` gets as inputs -> what it returns."""


class Validation:
    """The evaluation at the end of one fit, on all rows of its validation data.

    Every network reads the data anew. Nothing is raised: what cannot be evaluated gets a reason.

    Args:
        adapter: of the model's Keras.
        model: answers as it ships.
        data: what `fit` had.
        rounds: whether the model's quantization is on.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: KerasModel,
        data: ValidationData,
        rounds: bool,
    ):
        self._adapter = adapter
        self._data = data
        self._obstacle: str | None = None
        self._plain: KerasModel
        """The stripped copy, where there is no obstacle."""
        try:
            if hasattr(data.x, "__next__"):
                self._obstacle = "the validation data can be read only once"
            else:
                self._plain = strip(model)
                if not adapter.is_compiled(self._plain):
                    self._obstacle = "the stripped model could not be compiled like this one"
                # The file's numbers come from Python, which XLA cannot call.
                self._plain.jit_compile = False
        except Exception as error:  # must not cost the training
            self._obstacle = _in_short(error)
        self._networks = ValidationReport()
        self._add(self._networks, "float", lambda: None)
        if rounds:
            engine = engine_of(model)
            with contextlib.nullcontext() if engine is None else engine.holding_numbers():
                self._add(self._networks, "fake-quantized", lambda: functools.partial(_ask, model))

    def report(self, path: str | None) -> ValidationReport:
        """The metrics of the networks and, unless `path` is None, of the file that stands there."""
        report = copy.deepcopy(self._networks)
        if path is not None:
            self._add(report, "tflite", lambda: _file_at(path, self._adapter, self._plain))
        return report

    def _add(
        self, report: ValidationReport, network: str, make: Callable[[], Answer | None]
    ) -> None:
        if self._obstacle is not None:
            report.reasons[network] = self._obstacle
            return
        try:
            report.metrics[network], report.rows = self._evaluate(make())
        except Exception as error:  # must not cost the training
            report.reasons[network] = _in_short(error)
            logger.warning("No metrics of the %s network: %s", network, error)

    def _evaluate(self, answer: Answer | None) -> tuple[dict[str, float], int]:
        """The metrics of whoever answers (None: the stripped copy itself), and how many rows there
        were.
        """
        plain, data, tree = self._plain, self._data, self._adapter.tree
        rows = 0

        def count(batch: np.ndarray) -> None:
            nonlocal rows
            rows += int(batch)

        def counting(original: Method) -> Method:
            @functools.wraps(original)
            def call(inputs: object, *args: object, **kwargs: object) -> object:
                tf.numpy_function(count, [tf.shape(tree.flatten(inputs)[0])[0]], [])
                return original(inputs, *args, **kwargs) if answer is None else answer(inputs)

            return call

        undo = wrap_method(plain, "call", counting)
        plain.test_function = None  # what was traced answers as somebody else
        try:
            logs = plain.evaluate(
                data.x,
                data.y,
                sample_weight=data.sample_weight,
                batch_size=data.batch_size,
                steps=data.steps,
                verbose=0,
                return_dict=True,
            )
        finally:
            undo()
        return {name: _number(value) for name, value in logs.items()}, rows


def _ask(model: KerasModel, inputs: object) -> object:
    return model(inputs, training=False)


def _file_at(path: str, adapter: Adapter, plain: KerasModel) -> Answer:
    """What answers as a file does, for a model with the same inputs and outputs."""
    file = load_tflite(path, num_threads=THREADS)
    names, _ = adapter.flat_names(plain)
    _, structure = adapter.structures(plain)
    lock = threading.Lock()  # replicas ask from threads of their own

    def compute(*columns: np.ndarray) -> list[np.ndarray]:
        given = {
            info.name: column.reshape(len(column), *info.shape[1:])
            for info, column in zip(file.inputs, columns, strict=True)
        }
        with lock:
            return list(file.answers(given).values())

    dtypes = [tf.float32 if info.scale else tf.as_dtype(info.dtype) for info in file.outputs]

    def answer(inputs: object) -> object:
        if isinstance(inputs, dict):  # by name, perhaps with more than the model takes
            flat = [inputs[name] for name in names]
        else:
            flat = adapter.tree.flatten(inputs)
        outputs = tf.numpy_function(compute, flat, dtypes)
        if tf.is_tensor(outputs):  # eagerly, one comes without its list
            outputs = [outputs]
        for output, info in zip(outputs, file.outputs, strict=True):
            output.set_shape((None, *info.shape[1:]))
        return adapter.tree.pack_sequence_as(structure, outputs)

    return answer


def _number(value: object) -> Any:
    """A metric as Python has it: a number, or a list of them where it has one for each class."""
    return np.asarray(value).tolist()


def _in_short(error: Exception) -> str:
    """One line of what may be many, and coloured."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
    return " ".join(text.split())[:300]
