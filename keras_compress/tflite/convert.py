"""From a TensorFlow function to the bytes of a `.tflite` file, by way of the worker process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_compress._checks import check_choice, check_positive, value_error
from keras_compress.tflite.process import Session, WorkerCrash, WorkerTimeout

MODES = ("float32", "int8")
CHATTER_LINES = 20
"""How much of what the converter printed is shown when it fails."""
END_TYPES = ("int8", "uint8", "float32")


class ConversionError(RuntimeError):
    """The converter made no file.

    Attributes:
        reason: what went wrong, one line; with the op and the layer where the converter told.
        remedy: what can be done about it.
        chatter: what the converter printed, for a bug report; may be long, may be empty.
    """

    def __init__(self, reason: str, remedy: str, chatter: str = "") -> None:
        super().__init__(f"The TFLite conversion failed: {reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.chatter = chatter
        if self.chatter_tail:
            self.add_note(self.chatter_tail)  # a traceback shows it

    @property
    def chatter_tail(self) -> str:
        """The end of what the converter printed, under a heading; empty if it printed nothing."""
        lines = self.chatter.strip().splitlines()[-CHATTER_LINES:]
        return "\n".join(["The converter printed at the end:", *lines]) if lines else ""


def convert(
    function: Any,
    *,
    mode: str,
    quantized: bool,
    input_type: str = "int8",
    output_type: str = "int8",
    representative: Iterable[Mapping[str, np.ndarray]] | None = None,
    timeout: float = 600.0,
) -> bytes:
    """Converts a ConcreteFunction in a child process.

    The function's inputs are TensorSpecs that bear the model's input names and a fixed batch; as
    positional arguments or in one dict they keep their order (keyword arguments are sorted by
    TensorFlow). It returns a dict of output name -> tensor. The file has exactly these names, in
    that order, on its tensors and in its signature `serving_default`.

    Args:
        function: captured variables become constants; nothing in it is changed.
        mode: "float32", or "int8": then either `quantized` or `representative` says the ranges.
        quantized: the function carries fake-quant ops whose ranges become the file's.
        input_type, output_type: "int8", "uint8" or "float32"; unused in mode "float32".
        representative: for post-training quantization; dicts of input name -> one batch.
        timeout: in seconds, for all that the child does.

    Raises:
        ConversionError: the converter failed, crashed or took longer than `timeout`.
        ValueError: arguments that do not go together; an input without name or fixed shape.
    """
    owner = "convert"
    check_choice(owner, "mode", mode, MODES)
    check_choice(owner, "input_type", input_type, END_TYPES)
    check_choice(owner, "output_type", output_type, END_TYPES)
    check_positive(owner, "timeout", timeout, what="a number of seconds")
    if mode == "float32" and quantized:
        raise value_error(owner, "quantized", quantized, "False in mode 'float32'")
    if (mode == "int8" and not quantized) != (representative is not None):
        rule = "given in mode 'int8' of a function that is not quantized, and only there"
        raise value_error(owner, "representative", representative, rule)
    graph, inputs, outputs = freeze(function)
    job = {
        "inputs": inputs,
        "outputs": outputs,
        "mode": mode,
        "input_type": input_type,
        "output_type": output_type,
        "timeout": timeout,
        "samples": 0,
    }
    with Session() as session:
        (session.folder / "graph.pb").write_bytes(graph)
        del graph  # as large as the model
        if representative is not None:
            names = [end["name"] for end in inputs]
            job["samples"] = _write_samples(session.folder, representative, names)
        (session.folder / "job.json").write_text(json.dumps(job))
        try:
            session.run(timeout)
        except WorkerTimeout as error:
            raise ConversionError(
                str(error), "Give it more with `timeout`, or export a smaller model", error.chatter
            ) from None
        except WorkerCrash as error:
            remedy = remedy_for_crash(str(error), quantized)
            raise ConversionError(str(error), remedy, error.chatter) from None
        failure = session.folder / "error.json"
        if failure.exists():
            report = json.loads(failure.read_text())
            raise translate(report["kind"], report["message"])
        return (session.folder / "model.tflite").read_bytes()


def freeze(function: Any) -> tuple[bytes, list[dict[str, str]], list[dict[str, str]]]:
    """The function as a GraphDef with constants, and name and tensor of each input and output.

    Raises:
        ValueError: an input without name or with a free dimension, or no dict of outputs.
    """
    from tensorflow.python.framework import convert_to_constants

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
    # The two halves of `convert_variables_to_constants_v2`, private, without the third, which makes
    # a function of the graph again: it holds all weights six times over, and for long.
    # Loops stay loops: the converter wants them so.
    variables = convert_to_constants._FunctionConverterDataInEager(
        func=function, lower_control_flow=False, aggressive_inlining=False
    )
    graph_def, _ = convert_to_constants._replace_variables_by_constants(variables)
    del variables
    for node in [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]:
        node.device = ""  # the child has one device only
    return (
        graph_def.SerializeToString(),
        [
            {"name": spec.name, "tensor": tensors[spec.name]}
            for spec in _in_order(function.structured_input_signature, flat=False)
        ],
        [{"name": name, "tensor": flat[name].name} for name in function.structured_outputs],
    )


def _in_order(structure: Any, *, flat: bool) -> Iterator[Any]:
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
        np.savez(folder / f"sample_{count}.npz", **arrays)  # type: ignore[arg-type]
        count += 1
    if not count:
        raise value_error("convert", "representative", count, "at least one batch")
    return count


def remedy_for_crash(reason: str, quantized: bool) -> str:
    """What to do when the worker ended as `reason` says."""
    if "SIGKILL" in reason:
        return "Most likely the memory ran out: close other programs or export a smaller model"
    if "killed by" not in reason:
        return "The installation may be damaged: see `chatter` for what the process printed"
    if quantized:
        return (
            "An op with quantized inputs makes the converter crash: leave layers out with "
            "`layers=` until it passes, and report that layer"
        )
    return (
        "Calibration does so for recurrent layers (LSTM, GRU): export with mode 'float32', or "
        "leave them out of the exported model"
    )


_ERROR = re.compile(r"error: (?:loc\((?P<place>.*?)\): )?(?P<what>.+)")
_QUOTED = re.compile(r'"([^"@]+)[@"]')


def translate(kind: str, message: str) -> ConversionError:
    """The converter's many lines as one reason and one remedy."""
    found = _ERROR.search(message)
    first = next((line.strip() for line in message.splitlines() if line.strip()), kind)
    reason = re.sub(r"\{[^{}]*\}", "{...}", found["what"] if found else first).rstrip(". ")
    # Of the names of a place, the last is the op in the graph, under the path of its layer.
    names = _QUOTED.findall(found["place"] or "") if found else []
    where = f" (at {names[-1]!r})" if names else ""
    reason = reason[:300] + where
    if "neither a custom op nor a flex op" in message:
        remedy = "TFLite has no such op: replace that layer, or compute its part outside the model"
    elif "quant" in message.lower():
        remedy = (
            "Its ranges or channel axes do not fit an integer kernel: leave that layer in float "
            "with `layers=` and `allow_float_ops=True`, and report it"
        )
    else:
        remedy = "Try mode 'float32' to see whether quantization is the reason"
    return ConversionError(reason, remedy, message)
