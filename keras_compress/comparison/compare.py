"""Networks side by side on the same data: what they are worth, how far apart they are, what they
cost; and layer by layer what a file makes of the float network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress._shared import checks
from keras_compress._shared.by_name import by_name, filled_up, rows_of
from keras_compress.comparison.detections import counted, detects
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
_ROUNDS, _LONGEST = 10, 60.0  # what rounds there are and how many seconds they take, unasked
_SOURCES = (".keras", ".h5", ".hdf5", ".pb", ".pbtxt")

Columns = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Network:
    """One that answers.

    Attributes:
        name: as the tables call it.
        inputs: their names, in order.
        outputs: likewise.
        answer: input name -> all rows to output name -> all rows.
        file: by which it is measured; None of a fake-quantized network.
        given_bytes: of the file that was given, if it was one.
        heads_only: its graph makes detections of its outputs.
        exactly: while inside, it computes as a file does, on a GPU too.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    answer: Callable[[Columns], Columns]
    file: bytes | None
    given_bytes: int | None
    heads_only: bool = False
    exactly: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def compared_answer(self, columns: Columns) -> Columns:
        """Its answer, to be compared and not timed."""
        with self.exactly():
            return self.answer(columns)


def compare(
    *networks: Any,
    data: Any,
    labels: Any = None,
    metric: Metrics = "accuracy",
    names: Sequence[str] | None = None,
    layer_rows: int = 64,
    num_threads: int = 1,
    runs: int = 50,
    rounds: int | None = None,
) -> Comparison:
    """Puts networks side by side on the same data; the first one is the reference.

    Files are run by LiteRT and need neither TensorFlow nor Keras. A Keras model whose quantization
    is on counts as two networks, the float one and the fake-quantized one.

    Args:
        networks: two or more `.tflite` files, by path or as bytes, models of either Keras, or
            files of models as `export_tflite` takes them, TF1's frozen graphs too; or one model
            whose quantization is on.
        data: inputs as real values: an array, a list in the order of the inputs or a dict by name,
            with rows along the first axis.
        labels: what the answers should be, as `TFLiteModel.evaluate` takes them.
        metric: one or several, likewise.
        names: of the networks, one for each, as the tables call them.
        layer_rows: on how many rows files are compared layer by layer with the reference, which has
            to be a float file or a model; 0 for none. Files that this does not fit get a note.
        num_threads: of LiteRT.
        runs: how often LiteRT runs for the latency; 0 for none.
        rounds: how often all rows go through each network, in turns, for the time that they take;
            0 for none. None: ten, or as many as a minute has room for, but one.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: a network that is neither a file nor a model.
        ValueError: fewer than two networks, data or labels that do not fit, networks with different
            outputs; the graph of a detector, which TensorFlow runs up to its heads, beside a file
            with its detections.
        ConversionError: no float file could be made of a Keras model.
    """
    layer_rows = checks.check_int(OWNER, "layer_rows", layer_rows, minimum=0)
    runs = checks.check_int(OWNER, "runs", runs, minimum=0)
    if rounds is not None:
        rounds = checks.check_int(OWNER, "rounds", rounds, minimum=0)
    if names is not None and len(names) != len(networks):
        raise checks.value_error(OWNER, "names", list(names), f"{len(networks)} names")
    with contextlib.ExitStack() as reading:
        names = names or _names(networks)
        found = list(_opened(networks, names, num_threads, reading))
        if len(found) < 2:
            rule = "two or more, or one Keras model whose quantization is on"
            raise checks.value_error(OWNER, "networks", [each.name for each in found], rule)
        _check_detections(found)
        for what in ("inputs", "outputs"):
            ends = [getattr(network, what) for network in found]
            _check_alike(found, what, ends, [len(each) for each in ends])
        columns = _columns(data, found[0].inputs)
        given = [_renamed(network.inputs, columns) for network in found]
        answers = [
            _renamed(found[0].outputs, network.compared_answer(own))
            for network, own in zip(found, given, strict=True)
        ]
        for name in found[0].outputs:
            shapes = [own[name].shape[1:] for own in answers]
            _check_alike(found, f"shape of the output {name!r}", shapes, shapes)
        seconds, rounds = _timed(found, given, rounds)
    compared = [
        dataclasses.replace(
            _compared(network, answers[0], own, _evaluated(metric, labels, own), num_threads, runs),
            seconds=taken,
        )
        for network, own, taken in zip(found, answers, seconds, strict=True)
    ]
    sample = {name: values[:layer_rows] for name, values in columns.items()}
    rows = len(columns[found[0].inputs[0]])
    return Comparison(rows, compared, *_layers(found, sample), min(layer_rows, rows), rounds)


def _timed(
    networks: Sequence[_Network], given: Sequence[Columns], rounds: int | None
) -> tuple[list[float | None], int]:
    """How long each network takes for its rows, so often, and how often; in turns, so that whatever
    else the machine does meets all of them.
    """
    seconds, done = [0.0] * len(networks), 0
    wanted = _ROUNDS if rounds is None else rounds
    while done < wanted:
        if rounds is None and done and sum(seconds) * (done + 1) / done > _LONGEST:
            break
        for position, (network, own) in enumerate(zip(networks, given, strict=True)):
            begin = time.perf_counter()
            network.answer(own)
            seconds[position] += time.perf_counter() - begin
        done += 1
    return [each if done else None for each in seconds], done


def _check_alike(
    networks: Sequence[_Network], what: str, found: Sequence[Any], keys: Sequence[Any]
) -> None:
    """Refuse networks that differ, naming the one that does: that with the fewest others like it.

    Raises:
        ValueError: with what was found in each of them.
    """
    groups: dict[Any, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    if len(groups) < 2:
        return
    largest = max(map(len, groups.values()))
    common = [group for group in groups.values() if len(group) == largest]

    def told(positions: Sequence[int]) -> str:
        return ", ".join(f"{networks[i].name!r} with {_listed(found[i])}" for i in positions)

    if len(common) == 1:
        usual = f", {_listed(found[common[0][0]])}"
        odd = [i for group in groups.values() if group is not common[0] for i in group]
    else:  # as of two networks: nobody knows which is meant
        usual, odd = "", list(range(len(networks)))
    raise ValueError(
        f"{OWNER}: `networks` must have the same {what}{usual}. Received: {told(sorted(odd))}"
    )


def _check_detections(networks: Sequence[_Network]) -> None:
    """Refuse the graph of a detector beside files with its detections, which TensorFlow has no op
    for.

    Raises:
        ValueError: with what to compare in their place.
    """
    detecting = [network.name for network in networks if detects(network.outputs)]
    up_to_heads = [network for network in networks if network.heads_only]
    if detecting and up_to_heads:
        heads = list(up_to_heads[0].outputs)
        raise ValueError(
            f"{OWNER}: `networks` must be files of its heads beside the graph of a detector, which "
            f"TensorFlow runs up to them: write one by `export_tflite(graph, export, "
            f"outputs={heads})`. Received: {', '.join(map(repr, detecting))} with detections, "
            f"{up_to_heads[0].name!r} without"
        )


def _listed(ends: Sequence[Any]) -> str:
    """Names, or a shape."""
    return str(list(ends) if ends and isinstance(ends[0], str) else tuple(ends))


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
            inputs, outputs = (
                tuple(info.name for info in ends) for ends in (file.inputs, file.outputs)
            )
            data = read_bytes(network, OWNER)
            answer = functools.partial(counted, file) if detects(outputs) else file.answers
            yield _Network(name, inputs, outputs, answer, data, len(data))
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
    from keras_compress.frameworks.devices import whole_float32
    from keras_compress.tflite import Conversion, convert

    is_path = isinstance(network, str | os.PathLike)
    source = source_of_file(network) if is_path else ModelSource(network, owner=OWNER)
    reading.enter_context(source.masked())
    size = os.path.getsize(network) if is_path and os.path.isfile(network) else None

    def answering(label: str, function: ConcreteFunction, file: bytes | None) -> _Network:
        inputs = tuple(spec.name for spec in function.structured_input_signature[0])
        answer = functools.partial(_function_answer, function)
        outputs, heads_only = tuple(function.structured_outputs), source.detections is not None
        return _Network(label, inputs, outputs, answer, file, size, heads_only, whole_float32)

    own = source.rows  # of a graph that takes so many and no others
    function = source.function(own or batch_size, quantized=False)
    file = convert(function, Conversion("float32"))
    label = f"{name} (float)" if source.rounds else name
    yield answering(label, source.function(own or _BATCH, quantized=False), file)
    if source.rounds:
        rounding = source.function(own or _BATCH, quantized=True, for_file=False)
        yield answering(f"{name} (fake-quantized)", rounding, None)


def _function_answer(function: ConcreteFunction, columns: Columns) -> Columns:
    import tensorflow as tf

    specs = function.structured_input_signature[0]
    rows, size = len(columns[specs[0].name]), int(specs[0].shape[0])
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, rows, size):
        given = (filled_up(columns[spec.name][start : start + size], size) for spec in specs)
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


def _renamed(names: Sequence[str], columns: Columns) -> Columns:
    """`columns` under these names, which are as many: the same ones, or others in their order."""
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
    outputs = agreement(expected, answer, dict.fromkeys(expected, 1.0))
    # Of detections the largest number is no decision.
    shares = [None if detects(expected) else each.argmax_agreement for each in outputs.values()]
    sizes = [values.size for values in expected.values()]
    file = network.file
    return ComparedNetwork(
        name=network.name,
        metrics=metrics,
        agreement=min((share for share in shares if share is not None), default=None),
        # Python's own `max` forgets a NaN that comes behind.
        largest_difference=float(np.max([each.largest_steps for each in outputs.values()])),
        mean_difference=float(np.average([o.mean_steps for o in outputs.values()], weights=sizes)),
        bytes=None if file is None else len(file),
        zipped_bytes=None if file is None else zipped_size(file),
        latency_ms=latency_ms(TFLiteModel(file, num_threads), runs) if file and runs else None,
        given_bytes=network.given_bytes,
    )


def _layers(
    networks: Sequence[_Network], columns: Columns
) -> tuple[dict[str, list[LayerSignal]], list[str]]:
    """Every file but the first against the first, and why one is not."""
    layers: dict[str, list[LayerSignal]] = {}
    notes: list[str] = []
    reference = networks[0]
    if detects(reference.outputs):
        notes.append(
            "detections are compared place by place: one that has moved differs from its neighbour "
            "there. Compare files of the heads, or measure the precision of both"
        )
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
