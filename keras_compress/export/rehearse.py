"""The rehearsal: what would fail at the end of a training, found before its first step.

The untrained network is converted once as it will be at the end, its float ops are looked at, and
LiteRT loads and runs the file. Nothing stays behind but the worker, which the export at the end
uses again: no number of the model is another, no file is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_compress._shared.checks import joined
from keras_compress.engines.quantizers import Quantizers
from keras_compress.engines.state import Phase, State
from keras_compress.export import writing
from keras_compress.export.detections import check_heads, detecting
from keras_compress.export.float_ops import named, refuse, rounded_anyway
from keras_compress.export.input_ranges import input_ranges
from keras_compress.export.model_source import ModelSource
from keras_compress.export.rows import drawn, specs_of
from keras_compress.export.same_structure import structure_of
from keras_compress.export.verify import loaded
from keras_compress.frameworks.adapter import Adapter
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.protocols import KerasModel
from keras_compress.reports.export import FloatOpReport
from keras_compress.specs.export import INTEGER_MODES, Export
from keras_compress.tflite import Conversion, ConversionError, convert, inspect_tflite

if TYPE_CHECKING:
    from tensorflow.types.experimental import ConcreteFunction

STAND_IN = 0.01
"""For weights that are zero before they are trained."""

NOTHING_TRAINED = (
    "Nothing is trained yet: this was the rehearsal, which `rehearse=False` leaves out"
)

_passed: dict[bytes, int | None] = {}
"""What has been rehearsed in this process without an error, as `structure_of` describes it -> the
bytes of its file.
"""


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What became of one.

    Attributes:
        error: why there would be no file; None if there would be one.
        float_ops: what in it would compute in float.
        rounded_anyway: the layers that stay in float in the training and not in the file.
        known: whether it was left out, because a network of this structure has passed before; the
            fields above are empty then.
        bytes: of the file; None of a sparse one, which depends on the zeros to come.
    """

    error: ConversionError | None = None
    float_ops: tuple[FloatOpReport, ...] = ()
    rounded_anyway: tuple[str, ...] = ()
    known: bool = False
    bytes: int | None = None


def rehearse(model: KerasModel, export: Export) -> Rehearsal:
    """Convert a model as it will be at the end of the fit that begins, and run the file once.

    Raises:
        ConversionError: there would be no file; with what would give one.
    """
    with _as_at_the_end(model, export) as source:
        found = _tried(source, export, use_known=True)
        quantizers = _of_units(source)
        if found.error is not None and quantizers is not None:
            # Inside of a unit ranges belong to tensors that are one and the same, as a pooled one
            # and its source; to no file are they as far apart as these stand-ins.
            with _stand_ins(quantizers, apart=0.0):
                alike = _tried(source, export)
            found = alike if alike.error is None else found
        if found.error is not None:
            ways = _ways_out(source, export)
            raise _with_ways(found.error, ways) from None
        return found


def look_ahead(model: KerasModel, export: Export) -> tuple[Rehearsal, list[str]]:
    """What the file of a network would be whose layers stay in float though nobody said so, and
    what can be done, as far as it ends with a file.
    """
    with _as_at_the_end(model, export) as source:
        allowed = dataclasses.replace(export, allow_float_ops=True)
        found = _tried(source, allowed)
        ways = []
        if found.error is None:
            left_out = (
                set() if source.engine is None else set(source.engine.left_out["quantization"])
            )
            if _tried(source, export, by_choice=left_out).error is None:
                ways.append(LEAVE_OUT)
            ways.append(ALLOW)
        return found, ways + _others(source, export)


LEAVE_OUT = "leave them out by `Quantization(layers=...)`"
ALLOW = "say `Export(allow_float_ops=True)`"
AFTERWARDS = (
    "give no `quantization`, and `Export(representative_dataset=...{more})`, which quantizes after "
    "the training"
)
WITH_FLOATS = ", allow_float_ops=True"
IN_FLOAT = "say `Export(mode='float32')`"
WAYS = [LEAVE_OUT, ALLOW, AFTERWARDS.format(more="")]
"""What can be done about layers that stay in float, where nobody has looked which of them do."""


@contextlib.contextmanager
def _as_at_the_end(model: KerasModel, export: Export) -> Iterator[ModelSource]:
    """The model with its quantization on, over stand-ins where no range is set; afterwards it is as
    it was, and whoever draws random numbers draws what would have come.
    """
    adapter = adapter_of(model, "Compress")
    with contextlib.ExitStack() as stack:
        stack.enter_context(adapter.seeds_kept())
        stack.enter_context(_without_zeros(adapter, model))
        source = ModelSource(model, export.input_shape)
        if source.attached is not None and source.attached.shrinks:
            stack.enter_context(source.attached.pruned_to_the_end())
        engine = source.engine
        if engine is not None and engine.quantizers is not None:
            if not engine.phase.rounds:
                stack.enter_context(engine.tracing_in(Phase.ON))
            if engine.has_unseen_ranges:
                stack.enter_context(_stand_ins(engine.quantizers))
        yield source


@contextlib.contextmanager
def _without_zeros(adapter: Adapter, model: KerasModel) -> Iterator[None]:
    """While inside, weights that are nothing but zeros, as new biases are, have other values: the
    converter leaves such an addition out, and what it makes of a trained one nobody would have
    seen.
    """
    before: list[tuple[tf.Variable, np.ndarray]] = []
    try:
        for weight in model.weights:
            variable = adapter.tf_variable(weight)
            value = variable.numpy()
            if variable.dtype.is_floating and value.size and not value.any():
                before.append((variable, value))
                variable.assign(np.full_like(value, STAND_IN))
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _of_units(source: ModelSource) -> Quantizers | None:
    """The quantizers of a network with units and no range that training has set."""
    engine = source.engine
    if engine is None or engine.quantizers is None or not engine.has_unseen_ranges:
        return None
    return engine.quantizers if engine.quantizers.planned_by_ops else None


@contextlib.contextmanager
def _stand_ins(quantizers: Quantizers, apart: float = 1.0) -> Iterator[None]:
    """While inside, no two ranges are equal (`apart` 0: all are) but those of twins, of which the
    converter makes one op: from one scale to another it makes an op, which trained ranges need, and
    those of a new network, all the same, do not.
    """
    before = State()
    quantizers.write_to(before)
    twins, order = quantizers.twins(), {key: i for i, key in enumerate(before.ranges)}
    numbers = {key: order[twins.get(key, key)] for key in before.ranges}
    ranges = {
        key: np.array([-4 - 0.618 * i % 1 * apart, 5 + 0.414 * i % 1 * apart], np.float32)
        for key, i in numbers.items()
    }
    try:
        quantizers.read_from(dataclasses.replace(before, ranges=ranges))
        yield
    finally:
        quantizers.read_from(before)


def _tried(
    source: ModelSource,
    export: Export,
    *,
    quantized: bool | None = None,
    by_choice: set[str] | None = None,
    use_known: bool = False,
) -> Rehearsal:
    """One rehearsal.

    Args:
        quantized: whether its ranges are the network's own, as far as it has any; None: as at the
            end.
        by_choice: the layers that `layers` leaves out; None: those that it does.
        use_known: leave it out where a network of this structure has passed.
    """
    if quantized is None:
        quantized = export.mode == "int8" and source.rounds
    engine = source.engine if quantized else None
    left_out = set() if engine is None else set(engine.left_out["quantization"])
    if by_choice is None:
        by_choice = set() if engine is None else engine.float_by_choice()
    ranges = input_ranges(source.specs(export.batch_size), export)
    given = source.rounding_inputs(ranges) if quantized and ranges else contextlib.nullcontext()
    try:
        with given:
            function = source.function(export.batch_size, quantized=quantized)
            check_heads(export, function)
            how = writing.conversion(export, function, quantized, ranges)
            chosen = engine and [path in by_choice for path in engine.paths()]
            key = structure_of(function, how, _more(export, chosen))
            if use_known and key in _passed:
                return Rehearsal(known=True, bytes=_passed[key])
            data = convert(function, how, representative=_one_batch(export, function, how))
            if export.sparse:
                writing.check_sparse(data, export)
            contents = inspect_tflite(data)
            if how.default_range is not None:
                list(writing.guessed(function, how, contents, not how.calibrates))
    except ConversionError as error:
        return Rehearsal(error)
    size = len(detecting(export, function, data))
    found = Rehearsal(bytes=None if export.sparse else size)
    layers = source.layers_of(contents.outputs, quantized)
    try:
        if export.mode in INTEGER_MODES:
            found = dataclasses.replace(
                found,
                float_ops=tuple(named(contents.float_ops, layers)),
                rounded_anyway=tuple(rounded_anyway(contents, layers, left_out)),
            )
            if not export.allow_float_ops:
                refuse(contents.float_ops, layers, by_choice, engine is not None)
        if not writing.unknown_ops(data, export):
            loaded(detecting(export, function, data), contents, layers, run=True)
    except ConversionError as error:
        return dataclasses.replace(found, error=error)
    _passed[key] = found.bytes
    return found


def _more(export: Export, chosen: object) -> tuple[object, ...]:
    """What of an export decides how a rehearsal ends, besides how its network becomes a file."""
    return (export.allow_float_ops, export.c_array, chosen, export.postprocess)


def _one_batch(
    export: Export, function: ConcreteFunction, how: Conversion
) -> Iterator[dict[str, np.ndarray]] | None:
    """Data to calibrate on, as little of it as there can be."""
    if not how.calibrates:
        return None
    rows = writing.calibration_rows(export, function, how)
    if rows is None and how.default_range is None:  # of a way out, whose data nobody has yet
        specs = specs_of(function)
        rows = drawn(specs, [None] * len(specs), 1)
    return None if rows is None else itertools.islice(rows, 1)


# --- what can be done


def _ways_out(source: ModelSource, export: Export) -> list[str]:
    """What gives a file where this export of the network does not."""
    others = _others(source, export)
    if export.mode not in INTEGER_MODES or export.allow_float_ops:
        return others
    allowed = dataclasses.replace(export, allow_float_ops=True)
    return others if _tried(source, allowed).error else [ALLOW, *others]


def _others(source: ModelSource, export: Export) -> list[str]:
    """What gives a file without quantization in the training; float numbers only if nothing else
    does.
    """
    if export.mode == "int8" and source.rounds:
        for more, allow in (("", False), (WITH_FLOATS, True)):
            if more and export.allow_float_ops:
                break  # it was allowed already
            given = dataclasses.replace(
                export,
                allow_float_ops=allow or export.allow_float_ops,
                quantized_input_stats=None,
                default_ranges_stats=None,
            )
            if _tried(source, given, quantized=False).error is None:
                return [AFTERWARDS.format(more=more)]
    if export.mode == "float32":
        return []
    floats = Export(export.path, mode="float32", batch_size=export.batch_size)
    found = _tried(source, dataclasses.replace(floats, timeout=export.timeout), quantized=False)
    return [] if found.error else [IN_FLOAT]


def in_words(ways: list[str]) -> str:
    """`a; b; or c`."""
    return joined(ways, "; ", "; or ")


def _with_ways(error: ConversionError, ways: list[str]) -> ConversionError:
    """The error of a rehearsal, with what was found to end with a file."""
    remedy = f"{error.remedy.rstrip('.')}. "
    if ways:
        remedy = f"What ends with a file: {in_words(ways)}. "
    return ConversionError(error.reason, f"{remedy}{NOTHING_TRAINED}", error.chatter)
