"""A finished file, run by LiteRT, against the network it was made of."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress.engines.engine import Engine
from keras_compress.export.float_ops import LayersOf
from keras_compress.export.layer_by_layer import compare_layers
from keras_compress.export.rows import rows_to_compare, specs_of
from keras_compress.frameworks.devices import whole_float32
from keras_compress.reports.export import ExportReport
from keras_compress.specs.export import INTEGER_MODES, Export
from keras_compress.tflite import (
    ConversionError,
    FileReport,
    TensorInfo,
    TFLiteModel,
    agreement,
    computed_tensors,
)

if TYPE_CHECKING:
    from tensorflow.types.experimental import ConcreteFunction

Predict = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray] | None]

logger = logging.getLogger("keras_compress")
WRONG_LAYER = 2.0
"""Steps of a layer, on average and on equal inputs: what is further off is no rounding."""

WRONG_OUTPUT = 1 / 16
"""Of an output's whole range, on average."""

WRONG_PREDICT = 1 / 4
"""Of it, by which `model.predict` at most may be further from the file than its network is."""

LAYER_SAMPLES = 8
"""On how many of the inputs a file is compared with its network layer by layer."""


class Expected:
    """What the network itself gives, on the rows that its file is compared on. As it needs no file,
    it can be had while one is made: whatever is asked for is computed once, by whoever is first.

    Args:
        make: gives the network in inference, a function of flat inputs that returns name ->
            tensor.
        ranges: of the flat inputs, from which inputs are drawn if no data is given.
        predict: the model's own, of name -> rows; None where the file is of another network.
    """

    def __init__(
        self,
        export: Export,
        make: Callable[[], ConcreteFunction],
        ranges: Sequence[tuple[float, float] | None],
        predict: Predict | None,
    ):
        self._export = export
        self._make = make
        self._ranges = ranges
        self._predict = predict

    @functools.cached_property
    def _function(self) -> ConcreteFunction:
        return self._make()

    @functools.cached_property
    def _drawn(self) -> tuple[list[dict[str, np.ndarray]], int, str]:
        return rows_to_compare(self._export, self._function, self._ranges)

    @property
    def rows(self) -> list[dict[str, np.ndarray]]:
        """Whole batches, of which `samples` rows count."""
        return self._drawn[0]

    @property
    def samples(self) -> int:
        return self._drawn[1]

    @property
    def source(self) -> str:
        """Where the rows are from."""
        return self._drawn[2]

    @functools.cached_property
    def answers(self) -> dict[str, np.ndarray]:
        """Output name -> what it gives, for the rows that count."""
        names = [spec.name for spec in specs_of(self._function)]
        with whole_float32():  # as the file computes
            found = [self._function(*(batch[name] for name in names)) for batch in self.rows]
            return {
                name: np.concatenate([outputs[name].numpy() for outputs in found])[: self.samples]
                for name in found[0]
            }

    @functools.cached_property
    def predicted(self) -> dict[str, np.ndarray] | None:
        """The same by the model's own `predict`; None where that is of another form."""
        if self._predict is None:
            return None
        inputs = {name: np.concatenate([each[name] for each in self.rows]) for name in self.rows[0]}
        return self._predict({name: each[: self.samples] for name, each in inputs.items()})

    @property
    def is_predicted(self) -> bool:
        """Whether `predict` is to be compared at all."""
        return self._predict is not None

    def compute(self) -> None:
        """All of it; what fails does so again for whoever asks for it."""
        with contextlib.suppress(Exception):
            _ = self.answers, self.predicted


def verify(
    report: ExportReport,
    export: Export,
    expected: Expected,
    data: bytes,
    contents: FileReport,
    engine: Engine | None,
    layers_of: LayersOf,
) -> None:
    """Fill in what the file takes and gives, and how far it is from its network, output by output
    and layer by layer.

    Args:
        data: the file, `contents` what it consists of.
        engine: that of a file with its ranges; None of any other.
        layers_of: which layers a tensor of the file came from.

    Raises:
        ConversionError: LiteRT cannot run the file.
    """
    file = loaded(data, contents, layers_of)
    report.inputs, report.outputs = described(file.inputs), described(file.outputs)
    report.samples, report.verified_on = expected.samples, expected.source
    _compare_outputs(report, expected, file, contents)
    if engine is not None:
        rows = expected.rows[: -(-LAYER_SAMPLES // export.batch_size)]
        _compare_layers(report, engine, data, rows)
    _warn_of_difference(report, contents)


_FAILING = re.compile(r"Node number (\d+) \((\w+)\) failed")
"""How LiteRT names the op that it cannot run."""


def loaded(
    data: bytes, contents: FileReport, layers_of: LayersOf, run: bool = False
) -> TFLiteModel:
    """The file in LiteRT; `run`: which has computed once with it.

    Raises:
        ConversionError: LiteRT cannot run it; with the layer, where it tells which op is to blame.
    """
    try:
        file = TFLiteModel(data)
        if run:
            file.run_on_zeros()
    except ValueError as error:
        found = _FAILING.search(str(error))
        layers: list[str] = []
        if found and int(found[1]) < len(contents.ops):
            op = contents.ops[int(found[1])]
            layers = layers_of(op.output) if op.name == found[2] else []
        whose = f"{found[2]} of {' and '.join(map(repr, layers))}: " if found and layers else ""
        said = " ".join(str(error.__cause__ or error).split())
        raise ConversionError(
            f"LiteRT cannot run the file: {whose}{said.rstrip('.')}",
            "Use another mode, or replace the layer with that op",
        ) from error
    return file


def described(ends: Sequence[TensorInfo]) -> dict[str, dict[str, Any]]:
    """Inputs or outputs as a report has them."""
    return {
        info.name: {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "scale": info.scale,
            "zero_point": info.zero_point,
        }
        for info in ends
    }


def _compare_outputs(
    report: ExportReport, expected: Expected, file: TFLiteModel, contents: FileReport
) -> None:
    names = [output.name for output in file.outputs]
    steps = dict(zip(names, contents.output_scales, strict=True))
    given = [file.answers(batch) for batch in expected.rows]
    of_file = {
        name: np.concatenate([answers[name] for answers in given])[: report.samples]
        for name in names
    }
    scales = {name: step or 1.0 for name, step in steps.items()}  # a float file is as it is
    of_network = {name: expected.answers[name] for name in names}
    for name, result in agreement(of_network, of_file, scales).items():
        report.largest_steps[name] = result.largest_steps
        report.mean_steps[name] = result.mean_steps
        report.argmax_agreement[name] = result.argmax_agreement
    if expected.is_predicted:
        _compare_predict(report, expected, of_file, scales)


def _compare_predict(
    report: ExportReport,
    expected: Expected,
    of_file: Mapping[str, np.ndarray],
    scales: Mapping[str, float],
) -> None:
    """What the user gets of the model beside what the file gives: the network that was traced may
    be another, as where a `predict_step` of the user's own puts something behind it.
    """
    try:
        answers = expected.predicted
    except Exception as error:  # a diagnosis must not cost the file
        logger.warning("No comparison with `predict`: %s: %s", type(error).__name__, error)
        return
    for name, given in of_file.items():
        answer = None if answers is None else answers[name]
        if answer is None or answer.shape != given.shape or answer.dtype.kind in "OSU":
            report.predict_steps[name] = None
            continue
        found = agreement({name: answer}, {name: given}, {name: scales[name]})[name]
        report.predict_steps[name] = found.largest_steps


def _warn_of_difference(report: ExportReport, contents: FileReport) -> None:
    """Say that an integer file is not the network, where it differs by more than its roundings."""
    if report.mode not in INTEGER_MODES:
        return
    steps_of_range = 2.0**16 if report.mode == "int16x8" else 2.0**8
    # Of a float end that which is dequantized has a scale; what computes in float has none.
    scales = zip(report.outputs, contents.output_scales, strict=True)
    ranges = {name: steps_of_range for name, scale in scales if scale}
    wrong = [
        f"layer {each.path!r} ({each.mean_steps:.0f} steps on average)"
        for each in report.layers
        if not each.mean_steps <= WRONG_LAYER
    ]
    wrong += [
        f"output {name!r} ({report.mean_steps[name]:.0f} steps on average)"
        for name, steps in ranges.items()
        if not report.mean_steps[name] <= WRONG_OUTPUT * steps
    ]
    wrong += [
        f"what `model.predict` gives for {name!r} (by {found:.0f} steps)"
        for name, steps in ranges.items()
        if (found := report.predict_steps.get(name)) is not None
        and not found <= report.largest_steps[name] + WRONG_PREDICT * steps
    ]
    if wrong:
        logger.warning(
            "The file at %s is not the network that was trained: it differs in %s. See the report.",
            report.path,
            ", ".join(wrong),
        )


def _compare_layers(
    report: ExportReport, engine: Engine, data: bytes, rows: list[dict[str, np.ndarray]]
) -> None:
    """Always, not for deep nets alone: it costs a few runs of the network, and tells which layer to
    look at before anybody has to ask.
    """
    try:
        inputs, tensors = computed_tensors(data, rows)
        total = len(next(iter(inputs.values())))
        count = min(total, report.samples)  # the rest fills the last batch

        def counting(values: np.ndarray) -> np.ndarray:
            return values[: len(values) * count // total]

        inputs = {name: counting(values) for name, values in inputs.items()}
        tensors = [dataclasses.replace(t, values=counting(t.values)) for t in tensors]
        found = compare_layers(engine, inputs, tensors)
    except Exception as error:  # a diagnosis must not cost the file
        logger.warning("No comparison layer by layer: %s: %s", type(error).__name__, error)
        return
    if found:
        report.layers = sorted(found, key=lambda each: (-each.largest_steps, -each.mean_steps))
        report.layer_samples = count
