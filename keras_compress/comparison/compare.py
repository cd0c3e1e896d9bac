"""Networks side by side on the same data: what they are worth, how far apart they are, what they
cost; and layer by layer what a file makes of the float network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress._shared import checks
from keras_compress._shared.by_name import by_name, filled_up, rows_of
from keras_compress.comparison.signals import layer_signals
from keras_compress.reports.comparison import ComparedNetwork, Comparison, LayerSignal
from keras_compress.tflite import TFLiteModel, agreement, load_tflite, zipped_size
from keras_compress.tflite.file.flatbuffer import read_bytes
from keras_compress.tflite.litert.latency import latency_ms
from keras_compress.tflite.litert.metrics import Metrics, scores

if TYPE_CHECKING:
    from tensorflow.types.experimental import ConcreteFunction

OWNER = "compare"
_BATCH = 32  # rows that a Keras network gets at once
_SOURCES = (".keras", ".h5", ".hdf5", ".pb")

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Network:
    """One that answers.

    Attributes:
        name: as the tables call it.
        inputs: their names, in order.
        answer: input name -> all rows to output name -> all rows.
        file: by which it is measured; None of a fake-quantized network.
    """

    name: str
    inputs: tuple[str, ...]
    answer: Callable[[Columns], Columns]
    file: bytes | None


def compare(
    *networks: Any,
    data: Any,
    labels: Any = None,
    metric: Metrics = "accuracy",
    names: Sequence[str] | None = None,
    layer_rows: int = 64,
    num_threads: int = 1,
    runs: int = 50,
) -> Comparison:
    """Puts networks side by side on the same data; the first one is the reference.

    Files are run by LiteRT and need neither TensorFlow nor Keras. A Keras model whose quantization
    is on counts as two networks, the float one and the fake-quantized one.

    Args:
        networks: two or more `.tflite` files, by path or as bytes, models of either Keras, or
            files of models as `export_tflite` takes them; or one model whose quantization is on.
        data: inputs as real values: an array, a list in the order of the inputs or a dict by name,
            with rows along the first axis.
        labels: what the answers should be, as `TFLiteModel.evaluate` takes them.
        metric: one or several, likewise.
        names: of the networks, one for each, as the tables call them.
        layer_rows: on how many rows files are compared layer by layer with the reference, which has
            to be a float file or a model; 0 for none. Files that this does not fit get a note.
        num_threads: of LiteRT.
        runs: how often LiteRT runs for the latency; 0 for none.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: a network that is neither a file nor a model.
        ValueError: fewer than two networks, data or labels that do not fit, networks with different
            outputs.
        ConversionError: no float file could be made of a Keras model.
    """
    layer_rows = checks.check_int(OWNER, "layer_rows", layer_rows, minimum=0)
    runs = checks.check_int(OWNER, "runs", runs, minimum=0)
    if names is not None and len(names) != len(networks):
        raise checks.value_error(OWNER, "names", list(names), f"{len(networks)} names")
    with contextlib.ExitStack() as reading:
        names = names or _names(networks)
        found = list(_opened(networks, names, num_threads, reading))
        if len(found) < 2:
            rule = "two or more, or one Keras model whose quantization is on"
            raise checks.value_error(OWNER, "networks", [each.name for each in found], rule)
        columns = _columns(data, found[0].inputs)
        answers: list[Columns] = []
        for network in found:
            own = network.answer(_renamed(network.name, "inputs", network.inputs, columns))
            outputs = tuple(answers[0]) if answers else tuple(own)
            answers.append(_renamed(network.name, "outputs", outputs, own))
    compared = [
        _compared(network, answers[0], own, _evaluated(metric, labels, own), num_threads, runs)
        for network, own in zip(found, answers, strict=True)
    ]
    sample = {name: values[:layer_rows] for name, values in columns.items()}
    rows = len(columns[found[0].inputs[0]])
    return Comparison(rows, compared, *_layers(found, sample), min(layer_rows, rows))


def _evaluated(metric: Metrics, labels: Any, answer: Columns) -> dict[str, float]:
    return {} if labels is None else scores(list(answer), metric, labels, lambda: answer)


def _names(networks: Sequence[Any]) -> list[str]:
    """Those of files and models, with a number where one occurs twice."""
    names = [
        os.path.basename(network)
        if isinstance(network, str | os.PathLike)
        else str(getattr(network, "name", "bytes"))
        for network in networks
    ]
    before = [names[:position].count(name) for position, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, before, strict=True)]


def _opened(
    networks: Sequence[Any],
    names: Sequence[str],
    num_threads: int,
    reading: contextlib.ExitStack,
) -> Iterator[_Network]:
    """The networks, whose weights are masked until `reading` ends."""
    files = {
        position: load_tflite(network, num_threads)
        for position, network in enumerate(networks)
        if _is_tflite(network)
    }
    # Float files of models take as many rows, so that they can be compared layer by layer.
    batch_size = next((file.batch_size for file in files.values()), 1)
    for position, (name, network) in enumerate(zip(names, networks, strict=True)):
        if position in files:
            file = files[position]
            inputs = tuple(info.name for info in file.inputs)
            yield _Network(name, inputs, file.answers, read_bytes(network, OWNER))
        else:
            yield from _of_source(network, name, batch_size, reading)


def _is_tflite(network: Any) -> bool:
    if isinstance(network, str | os.PathLike):
        return not (os.path.isdir(network) or os.fspath(network).endswith(_SOURCES))
    return isinstance(network, bytes | bytearray | memoryview)


def _of_source(
    network: Any, name: str, batch_size: int, reading: contextlib.ExitStack
) -> Iterator[_Network]:
    """The float network of a model, and the fake-quantized one if its quantization is on."""
    from keras_compress.export.model_files import source_of_file
    from keras_compress.export.model_source import ModelSource
    from keras_compress.tflite import Conversion, convert

    is_path = isinstance(network, str | os.PathLike)
    source = source_of_file(network) if is_path else ModelSource(network, owner=OWNER)
    reading.enter_context(source.masked())

    def answering(label: str, function: ConcreteFunction, file: bytes | None) -> _Network:
        inputs = tuple(spec.name for spec in function.structured_input_signature[0])
        return _Network(label, inputs, functools.partial(_function_answer, function), file)

    file = convert(source.function(batch_size, quantized=False), Conversion("float32"))
    label = f"{name} (float)" if source.rounds else name
    yield answering(label, source.function(_BATCH, quantized=False), file)
    if source.rounds:
        rounding = source.function(_BATCH, quantized=True, for_file=False)
        yield answering(f"{name} (fake-quantized)", rounding, None)


def _function_answer(function: ConcreteFunction, columns: Columns) -> Columns:
    import tensorflow as tf

    specs = function.structured_input_signature[0]
    rows = len(columns[specs[0].name])
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, rows, _BATCH):
        given = (filled_up(columns[spec.name][start : start + _BATCH], _BATCH) for spec in specs)
        batch = [tf.constant(values, spec.dtype) for values, spec in zip(given, specs, strict=True)]
        for name, values in function(*batch).items():
            parts.setdefault(name, []).append(values.numpy())
    return {name: np.concatenate(values)[:rows] for name, values in parts.items()}


def _columns(data: Any, inputs: Sequence[str]) -> Columns:
    """The data by name of the input, as arrays.

    Raises:
        ValueError: other inputs, different numbers of rows, or none.
    """
    given = by_name(OWNER, "data", data, inputs)
    columns = {name: np.asarray(values) for name, values in given.items()}
    if not rows_of(OWNER, "data", columns):
        raise checks.value_error(OWNER, "data", 0, "arrays with at least one row")
    return columns


def _renamed(network: str, what: str, names: Sequence[str], columns: Columns) -> Columns:
    """`columns` under these names: the same ones, or others in the same order.

    Raises:
        ValueError: there are more or fewer of them.
    """
    if len(names) != len(columns):
        raise ValueError(
            f"{OWNER}: `networks` must have the same {what}, {list(columns)}. "
            f"Received: {network!r} with {list(names)}"
        )
    if set(names) == set(columns):
        return {name: columns[name] for name in names}
    return dict(zip(names, columns.values(), strict=True))


def _compared(
    network: _Network,
    expected: Columns,
    answer: Columns,
    metrics: dict[str, float],
    num_threads: int,
    runs: int,
) -> ComparedNetwork:
    for name, values in expected.items():
        if values.shape != answer[name].shape:
            raise ValueError(
                f"{OWNER}: `networks` must have outputs of the same shape, {name!r} "
                f"{values.shape[1:]}. Received: {network.name!r} with {answer[name].shape[1:]}"
            )
    outputs = agreement(expected, answer, dict.fromkeys(expected, 1.0))
    shares = [each.argmax_agreement for each in outputs.values()]
    sizes = [values.size for values in expected.values()]
    file = network.file
    return ComparedNetwork(
        name=network.name,
        metrics=metrics,
        agreement=min((share for share in shares if share is not None), default=None),
        largest_difference=max(each.largest_steps for each in outputs.values()),
        mean_difference=float(np.average([o.mean_steps for o in outputs.values()], weights=sizes)),
        bytes=None if file is None else len(file),
        zipped_bytes=None if file is None else zipped_size(file),
        latency_ms=latency_ms(TFLiteModel(file, num_threads), runs) if file and runs else None,
    )


def _layers(
    networks: Sequence[_Network], columns: Columns
) -> tuple[dict[str, list[LayerSignal]], list[str]]:
    """Every file but the first against the first, and why one is not."""
    layers: dict[str, list[LayerSignal]] = {}
    notes: list[str] = []
    reference = networks[0]
    if reference.file is None or not len(next(iter(columns.values()))):
        return layers, notes
    for network in networks[1:]:
        if network.file is None:
            continue
        try:
            layers[network.name], alone = layer_signals(reference.file, network.file, columns)
        except ValueError as error:
            notes.append(f"{network.name} is not compared layer by layer: {error}")
            continue
        if alone:
            some = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
            notes.append(f"without a counterpart in {reference.name}: {some} of {network.name}")
    return layers, notes
