"""From a TensorFlow function to the bytes of a `.tflite` file, by way of the worker process."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress._shared.checks import check_choice, check_positive, value_error
from keras_compress.specs.export import END_TYPES
from keras_compress.tflite.conversion.errors import ConversionError, remedy_for_crash, translate
from keras_compress.tflite.conversion.graph_defs import release
from keras_compress.tflite.conversion.process import (
    Session,
    WorkerCrashError,
    WorkerTimeoutError,
    nothing,
)
from keras_compress.tflite.probe.probing import trust

if TYPE_CHECKING:
    import tensorflow as tf

MODES = tuple(END_TYPES)

Progress = Callable[[str, int | None, int | None], None]
"""Told what is being done, and of what can be counted how much of how much."""


def silently(what: str, count: int | None, total: int | None) -> None:
    """A `Progress` that nobody sees."""


@dataclasses.dataclass(frozen=True)
class Conversion:
    """How a function becomes a file.

    Args:
        mode: one of `MODES`.
        quantized: the function carries fake-quant ops whose ranges become the file's; mode "int8".
        asymmetric: so does it, and rounds kernels over ranges whose middle is not 0: the file
            computes in uint8, as TF1's did, and every input of real numbers has its range.
        input_type, output_type: of the integer modes: one of `END_TYPES[mode]`; None is the first.
        input_ranges: input name -> (minimum, maximum) of the real numbers that its integers stand
            for, in mode "int8" without `quantized`, where others are calibrated, or `asymmetric`.
        default_range: (minimum, maximum) for every tensor whose range nobody knows, in mode "int8".
        sparse: store only what is not zero.
        per_channel_dense: one scale for each unit of a dense layer whose weights are rounded here.
        allow_custom_ops: leave ops that TFLite does not know in the file, by their names.
        timeout: in seconds, for all that the child does.

    Raises:
        ValueError: arguments that cannot be, or do not go together.
    """

    mode: str
    _: dataclasses.KW_ONLY
    quantized: bool = False
    asymmetric: bool = False
    input_type: str | None = None
    output_type: str | None = None
    input_ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    default_range: tuple[float, float] | None = None
    sparse: bool = False
    per_channel_dense: bool = True
    allow_custom_ops: bool = False
    timeout: float = 600.0

    def __post_init__(self) -> None:
        owner = "convert"
        check_choice(owner, "mode", self.mode, MODES)
        check_positive(owner, "timeout", self.timeout, what="a number of seconds")
        if self.quantized and self.mode != "int8":
            raise value_error(owner, "quantized", True, f"False in mode {self.mode!r}")
        if self.asymmetric and not self.quantized:
            raise value_error(owner, "asymmetric", True, "False but of a quantized function")
        for name in ("input_type", "output_type"):
            value = getattr(self, name)
            if value is not None:
                check_choice(owner, name, value, END_TYPES[self.mode])
        if self.default_range is not None and self.mode != "int8":
            raise value_error(owner, "default_range", self.default_range, "None but in mode 'int8'")
        if self.input_ranges and (self.mode != "int8" or (self.quantized > self.asymmetric)):
            rule = "empty but in mode 'int8' of a function that is not quantized"
            raise value_error(owner, "input_ranges", self.input_ranges, rule)

    @property
    def calibrates(self) -> bool:
        """Whether the ranges come from representative data."""
        return self.mode == "int16x8" or (self.mode == "int8" and not self.quantized)


def convert(
    function: tf.types.experimental.ConcreteFunction,
    how: Conversion,
    *,
    representative: Iterable[Mapping[str, np.ndarray]] | None = None,
    progress: Progress = silently,
    meanwhile: Callable[[], None] = nothing,
) -> bytes:
    """Converts a ConcreteFunction in a child process.

    The function's inputs are TensorSpecs that bear the model's input names and a fixed batch; as
    positional arguments or in one dict they keep their order (keyword arguments are sorted by
    TensorFlow). It returns a dict of output name -> tensor. The file has exactly these names, in
    that order, on its tensors and in its signature `serving_default`.

    Args:
        function: captured variables become constants; nothing in it is changed.
        representative: to calibrate on; dicts of input name -> one batch. Without it, where it
            could be used, every range is the `default_range`.
        progress: told how many batches have been calibrated on.
        meanwhile: done while the child works; it converts nothing itself.

    Raises:
        ConversionError: the converter failed, crashed or took longer than the time-out.
        ValueError: arguments that do not go together; an input without name or fixed shape.
    """
    if how.calibrates and representative is None and how.default_range is None:
        rule = f"given in mode {how.mode!r} of a function that is not quantized"
        raise value_error("convert", "representative", None, rule)
    if representative is not None and not how.calibrates:
        rule = f"None in mode {how.mode!r}{' of a quantized function' * how.quantized}"
        raise value_error("convert", "representative", representative, rule)
    data = _run(function, how, "model.tflite", representative, progress, meanwhile)
    if not how.sparse:  # of such a file it has to be tried whether LiteRT runs it
        trust(data)
    return data


def measure(function: tf.types.experimental.ConcreteFunction, how: Conversion) -> tuple[int, int]:
    """How large the file of a function would be: (bytes, zipped bytes). It is made in the child
    process and stays there. Arguments and errors as of `convert`.
    """
    size, zipped = json.loads(_run(function, how, "sizes.json"))
    return size, zipped


def _run(
    function: tf.types.experimental.ConcreteFunction,
    how: Conversion,
    result: str,
    representative: Iterable[Mapping[str, np.ndarray]] | None = None,
    progress: Progress = silently,
    meanwhile: Callable[[], None] = nothing,
) -> bytes:
    """The bytes of the file `result` that the child makes."""
    inputs, outputs = _signature_ends(function)
    types = [how.input_type, how.output_type]
    input_type, output_type = (given or END_TYPES[how.mode][0] for given in types)
    job: dict[str, Any] = {
        "inputs": inputs,
        "outputs": outputs,
        "mode": how.mode,
        "quantized": how.quantized,
        "asymmetric": how.asymmetric,
        "input_type": input_type,
        "output_type": output_type,
        "input_ranges": [how.input_ranges.get(end["name"]) for end in inputs],
        "default_range": how.default_range,
        "sparse": how.sparse,
        "per_channel_dense": how.per_channel_dense,
        "allow_custom_ops": how.allow_custom_ops,
        "sizes_only": result == "sizes.json",
        "timeout": how.timeout,
        "samples": 0,
    }
    with Session() as session:
        try:
            job["captures"] = _write_function(session.folder, function)
            if representative is not None:
                names = [end["name"] for end in inputs]
                job["samples"] = _write_samples(session.folder, representative, names)
            (session.folder / "job.json").write_text(json.dumps(job))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise  # of whoever reads the user's data
            raise ConversionError(
                f"the temporary folder {session.folder} is full ({error.strerror})",
                "Make room there, or set TMPDIR to another folder",
            ) from error

        def told(count: int) -> None:
            progress("calibrating", count, job["samples"])

        try:
            session.run(how.timeout, told, meanwhile)
        except WorkerTimeoutError as error:
            raise ConversionError(
                str(error), "Give it more with `timeout`, or export a smaller model", error.chatter
            ) from None
        except WorkerCrashError as error:
            remedy = remedy_for_crash(str(error), how.quantized, error.chatter)
            raise ConversionError(str(error), remedy, error.chatter) from None
        failure = session.folder / "error.json"
        if failure.exists():
            report = json.loads(failure.read_text())
            raise translate(report["kind"], report["message"], how.mode)
        return (session.folder / result).read_bytes()


def _signature_ends(
    function: tf.types.experimental.ConcreteFunction,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Name, tensor, shape and dtype of each input, name and tensor of each output, in the model's
    order.

    Raises:
        ValueError: an input without name or with a free dimension, or no dict of outputs.
    """
    arguments = list(_in_order(function.structured_input_signature, flat=True))
    # What is captured comes behind the arguments.
    tensors = {
        spec.name: tensor.name for spec, tensor in zip(arguments, function.inputs, strict=False)
    }
    if None in tensors or len(tensors) != len(arguments):
        names = [spec.name for spec in arguments]
        raise value_error("convert", "function", names, "a function whose inputs have names")
    for spec in arguments:
        if not spec.shape.is_fully_defined():
            rule = "a function of inputs with fixed shapes, the batch included"
            raise value_error("convert", "function", f"{spec.name} {spec.shape}", rule)
    if not isinstance(function.structured_outputs, Mapping) or not function.structured_outputs:
        rule = "a function that returns a dict of output name -> tensor"
        raise value_error("convert", "function", type(function.structured_outputs).__name__, rule)
    # TensorFlow flattens a dict by its sorted keys; the dict itself has the model's order.
    flat = dict(zip(sorted(function.structured_outputs), function.outputs, strict=True))
    return (
        [
            {
                "name": spec.name,
                "tensor": tensors[spec.name],
                "shape": spec.shape.as_list(),
                "dtype": spec.dtype.name,
            }
            for spec in _in_order(function.structured_input_signature, flat=False)
        ],
        [{"name": name, "tensor": flat[name].name} for name in function.structured_outputs],
    )


def _write_function(
    folder: Path, function: tf.types.experimental.ConcreteFunction
) -> list[dict[str, Any]]:
    """Write the graph without its weights, and the weights one by one: so the parent never holds a
    second copy of them all. Returns what is captured, in the order of the files.
    """
    graph = function.graph.as_graph_def()
    release(graph)  # the child has one device only, and variables in the place of some nodes
    (folder / "graph.pb").write_bytes(graph.SerializeToString())
    variables = {id(variable.handle): variable for variable in function.graph.variables}
    captures = []
    for position, (outer, inner) in enumerate(function.graph.captures):
        variable = variables.get(id(outer))
        if variable is None and outer.dtype.base_dtype.name in ("resource", "variant", "string"):
            raise ConversionError(
                f"{inner.op.name!r} holds a table or strings, which no TFLite file can",
                "Compute that part outside the model",
            )
        value = outer if variable is None else variable.read_value()
        np.save(folder / f"capture_{position}.npy", np.asarray(value))  # where it is, no copy
        captures.append(
            {
                "node": inner.op.name,
                "dtype": value.dtype.base_dtype.name,
                "variable": variable is not None,
            }
        )
    return captures


def _in_order(structure: object, *, flat: bool) -> Iterator[tf.TensorSpec]:
    """The specs in a nested signature: as TensorFlow flattens it, or in the dicts' own order."""
    if isinstance(structure, Mapping):
        for key in sorted(structure) if flat else structure:
            yield from _in_order(structure[key], flat=flat)
    elif isinstance(structure, list | tuple):
        for item in structure:
            yield from _in_order(item, flat=flat)
    else:
        yield structure


def _write_samples(
    folder: Path, representative: Iterable[Mapping[str, np.ndarray]], names: list[str]
) -> int:
    count = 0
    for sample in representative:
        arrays = {f"input_{i}": np.asarray(sample[name]) for i, name in enumerate(names)}
        np.savez(folder / f"sample_{count}.npz", **arrays)  # type: ignore[arg-type]  # `savez` has other keywords
        count += 1
    if not count:
        raise value_error("convert", "representative", count, "at least one batch")
    return count
