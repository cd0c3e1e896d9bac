"""`keras-compress convert`, which understands the commands of tflite_convert and toco too."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import rich_click as click

from keras_compress._shared.files import write_atomically
from keras_compress._shared.plain import plain
from keras_compress.cli.convert_values import (
    default_range,
    is_graph,
    mode_and_types,
    shapes,
    split,
    stats,
)
from keras_compress.cli.frame import FILE, Answer, Command
from keras_compress.cli.old_options import (
    NOTED,
    OPTION,
    OPTIONS,
    said_of,
    spellings,
    with_values,
)
from keras_compress.specs.export import END_TYPES, INTEGER_MODES, Export

OLD_WORDS = "Graphs, and tflite_convert's own words"
_MODELS = [option.parameter for option in OPTIONS if option.means == "MODEL"]
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _option(name: str, *more: str, **given: Any) -> Callable[[Any], Any]:
    """An option with the spellings that it has in the old commands."""
    return click.option(name, *more, *spellings(name), name.strip("-").replace("-", "_"), **given)


def _option_by_input(name: str, text: str) -> Callable[[Any], Any]:
    """An option that is given once for all inputs, or once for each, which it names."""
    return _option(name, multiple=True, metavar="[NAME=]NUMBER", help=text)


def _old_option(name: str, **given: Any) -> Callable[[Any], Any]:
    """One of tflite_convert's words, which stand in the help by themselves."""
    return _option(name, panel=OLD_WORDS, **given)


def _without_effect(function: Decorated) -> Decorated:
    """The options that the table has a line for; the help leaves them to the page of the table."""
    for option in reversed(OPTIONS):
        if option.becomes != OPTION:
            name = option.name.replace("_", "-")
            function = click.option(name, option.parameter, hidden=True)(function)
    return function


@click.command(
    cls=Command,
    reading=with_values,
    examples="""
    keras-compress convert net.keras net.tflite --representative-dataset images.npz
    keras-compress convert net.keras net.tflite --mode float16
    keras-compress convert net.h5 net.tflite --state net.npz --inference-input-type uint8
    keras-compress convert net.keras net.tflite --representative-dataset images.npz \\
        --inference-input-type uint8 --mean 127.5 --std 127.5
    keras-compress convert --graph_def_file=net.pb --output_file=net.tflite \\
        --input_arrays=image --input_shapes=1,28,28,1 --output_arrays=softmax \\
        --inference_type=QUANTIZED_UINT8 --mean_values=0 --std_dev_values=255 \\
        --default_ranges_min=0 --default_ranges_max=6
    """,
    words={
        "path": "OUT",
        "source": "MODEL",
        "quantization": "--state",
        "quantized_input_stats": "--mean and --std",
        "default_ranges_stats": "--default-ranges-min and --default-ranges-max",
        "inputs={}": "--input-shapes",
        "inputs": "--input-arrays",
        "outputs": "--output-arrays",
        "input_shape": "--input-shapes",
        "signature": "--saved-model-signature-key",
        "tags": "--saved-model-tag-set",
    },
)
@click.option_panel("Options")
@click.option_panel(OLD_WORDS)
@click.argument("paths", nargs=-1, metavar="MODEL OUT", type=click.Path())
@click.option("--mode", type=click.Choice(list(END_TYPES)), help="Default: int8.")
@click.option(
    "--representative-dataset", type=FILE, metavar="X.npz", help="To calibrate ranges with."
)
@click.option(
    "--verify-data",
    type=FILE,
    metavar="X.npz",
    help="To compare the file with the model on.",
)
@_option("--inference-input-type", metavar="TYPE", help="uint8, int8, int16 or float32.")
@_option("--inference-output-type", metavar="TYPE", help="Likewise, of the outputs.")
@_option_by_input("--mean", "Real 0.0 in steps of a uint8 input; `auto`: from the data.")
@_option_by_input("--std", "Steps of a uint8 input in real 1.0.")
@click.option("--default-ranges-min", type=float, help="Of tensors whose range nobody knows.")
@click.option("--default-ranges-max", type=float, help="Likewise; accuracy is a guess then.")
@click.option(
    "--state",
    type=FILE,
    metavar="X.npz",
    help="`save_state`'s: a quantized model's ranges.",
)
@click.option("--batch-size", type=int, help="Rows of the file; default: 1.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds.")
@click.option("--allow-float-ops", is_flag=True, help="Write an integer file that has some.")
@click.option("--allow-custom-ops", is_flag=True, help="Keep ops that TFLite does not know.")
@click.option("--c-array", is_flag=True, help="Write OUT as C source too, for microcontrollers.")
@click.option(
    "--per-channel-dense/--no-per-channel-dense",
    default=True,
    help="One scale for each unit of a Dense layer, or one for all.",
)
@click.option("--sparse", is_flag=True, help="Store only what is not zero.")
@_old_option("--input-arrays", metavar="A,B", help="Of a graph: the names of its inputs.")
@_old_option("--input-shapes", metavar="1,28,28,1:1,3", help="Likewise, their shapes.")
@_old_option("--output-arrays", metavar="A,B", help="Likewise, the names of its outputs.")
@_old_option("--inference-type", metavar="TYPE", help="tflite_convert's word for mode and types.")
@_old_option("--saved-model-tag-set", metavar="A,B", help="Of a SavedModel: which of its graphs.")
@_old_option("--saved-model-signature-key", metavar="KEY", help="Likewise, which signature.")
@_old_option("--post-training-quantize", is_flag=True, help="Their word for mode dynamic.")
@_old_option("--quantize-weights", is_flag=True, help="Likewise.")
@_old_option("--quantize-to-float16", is_flag=True, help="Their word for mode float16.")
@_old_option("--output-file", metavar="OUT", help="tflite_convert's word for OUT.")
@_old_option("--keras-model-file", metavar="MODEL", help="And for MODEL.")
@_old_option("--saved-model-dir", metavar="MODEL", help="And for MODEL.")
@_old_option("--savedmodel-directory", metavar="MODEL", help="And for MODEL.")
@_old_option("--graph-def-file", metavar="MODEL", help="And for MODEL.")
@_old_option("--input-file", metavar="MODEL", help="toco's word for MODEL.")
@_without_effect
def convert(paths: tuple[str, ...], **given: Any) -> Answer:
    """Convert MODEL to the TFLite file OUT.

    MODEL is a .keras or .h5 file of either Keras, a SavedModel folder or TF1's frozen graph (.pb).
    OUT is compared with it, and gets a record beside it, OUT.json.

    Commands of tflite_convert and toco are taken as they are; what becomes of each of their options
    stands in the documentation, under "tflite_convert".
    """
    model, out, old = _model_and_out(paths, given)
    mode, input_type, output_type = mode_and_types(given, old, _tell)
    floats = mode not in INTEGER_MODES
    for option, value in said_of(given):
        if option.becomes_of(value, floats) != NOTED:
            raise click.UsageError(option.line(value))
        _tell(option.line(value, floats))
    names = split(given["input_arrays"])
    statistics = stats(given["mean"], given["std"], names), default_range(given)
    if given["mode"] is None and floats and any(statistics):
        _tell("statistics and default ranges are of no effect in a float file.")
        statistics = None, None
    tags = split(given["saved_model_tag_set"])
    sizes = shapes(given, names, _tell)
    options = _options(given, sizes)
    inputs: list[str] | dict[str, list[int]] | None = names if sizes is None else sizes
    if not is_graph(model):
        if given["output_arrays"] is not None:
            raise click.UsageError(
                "--output-arrays are of a graph: a file of Keras' names its outputs by itself. "
                "Leave it out; for other outputs save a model that has them. "
                f"Received: {given['output_arrays']}."
            )
        # A file of Keras' names its inputs by itself: there the names may only say in which order
        # statistics and shapes stand.
        if sizes is not None:
            options["input_shape"] = {name: tuple(shape[1:]) for name, shape in sizes.items()}
        if names and sizes is None and not given["mean"]:
            _tell("--input_arrays is of no effect: a file of Keras' names its inputs by itself.")
        inputs = None
    with _at(out, given) as path:
        export = Export(
            path,
            mode=mode,
            inference_input_type=input_type,
            inference_output_type=output_type,
            quantized_input_stats=statistics[0],
            default_ranges_stats=statistics[1],
            **options,
        )
        if not os.path.exists(model):  # before TensorFlow is loaded
            raise FileNotFoundError(
                f"MODEL must be a file or folder that exists. Received: {model}"
            )
        click.echo(f"{model} -> {out}, {mode} ...", err=True)
        from keras_compress.export.to_tflite import export_tflite

        report = export_tflite(
            model,
            export,
            state=given["state"],
            inputs=inputs,
            outputs=split(given["output_arrays"]),
            tags=tags and [tag for tag in tags if tag],  # an empty set is one too
            signature=given["saved_model_signature_key"],
        )
    report.path = out
    values: dict[str, Any] = plain(dataclasses.asdict(report))
    return Answer(values, report)


def _options(given: Mapping[str, Any], sizes: Mapping[str, list[int]] | None) -> dict[str, Any]:
    """The fields of `Export` that are options by the same name, and the rows of the file."""
    names = (
        "representative_dataset", "verify_data", "timeout", "allow_float_ops", "allow_custom_ops",
        "c_array", "sparse", "per_channel_dense",
    )  # fmt: skip
    rows = 1 if given["batch_size"] is None else given["batch_size"]
    if sizes:
        rows = next(iter(sizes.values()))[0]
    return {**{name: given[name] for name in names}, "batch_size": rows}


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _model_and_out(paths: Sequence[str], given: Mapping[str, Any]) -> tuple[str, str, bool]:
    """MODEL and OUT, wherever they stand, and whether this is an old command."""
    named = [given[kind] for kind in _MODELS if given[kind] is not None]
    ends = [given["output_file"]] if given["output_file"] is not None else []
    rest = list(paths)
    models = named or [rest.pop(0) for _ in rest[:1]]
    outs = ends or [rest.pop(0) for _ in rest[:1]]
    if len(models) != 1 or len(outs) != 1 or rest:
        received = " ".join([*paths, *named, *ends]) or "nothing"
        raise click.UsageError(
            "One MODEL and one OUT are needed, or --graph_def_file, --saved_model_dir or "
            f"--keras_model_file, and --output_file. Received: {received}."
        )
    return models[0], outs[0], bool(named)


@contextlib.contextmanager
def _at(out: str, given: Mapping[str, Any]) -> Iterator[str]:
    """Where to write so that the file comes to lie at OUT: there, but for an old command that names
    it otherwise, which its folder bears first.
    """
    if given["output_file"] is None or out.endswith(".tflite"):
        yield out
        return
    if given["c_array"]:
        raise click.UsageError(f"--c-array needs an --output-file that ends in .tflite, not {out}.")
    if os.path.isdir(out) or not os.path.isdir(os.path.dirname(os.path.abspath(out))):
        raise click.UsageError(f"--output-file must be a file in a folder that exists, not {out}.")
    _tell(
        f"{out} will be a flatbuffer, as every .tflite file, whatever its name"
        + (": C source is written by --c-array." if out.endswith((".cc", ".c", ".h")) else ".")
    )
    folder = os.path.dirname(os.path.abspath(out))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".keras-compress-") as room:
        path = os.path.join(room, "file.tflite")
        with _called(path, out):
            yield path
        with open(path, "rb") as file:
            data = file.read()
        record = ""
        if os.path.exists(f"{path}.json"):  # else the report says why
            with open(f"{path}.json", encoding="utf-8") as file:
                record = file.read()
    write_atomically(out, data)
    if record:
        named = record.replace(json.dumps(path), json.dumps(out))
        write_atomically(f"{out}.json", named.encode())


@contextlib.contextmanager
def _called(path: str, out: str) -> Iterator[None]:
    """While inside, what is logged of the file at `path` is said of `out`."""

    def renamed(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace(path, out), ()
        return True

    logger = logging.getLogger("keras_compress")
    logger.addFilter(renamed)
    try:
        yield
    finally:
        logger.removeFilter(renamed)
