"""`keras-compress convert`, which understands tflite_convert's old words too."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import rich_click as click

from keras_compress._shared.plain import plain
from keras_compress.cli.frame import FILE, Answer, Command
from keras_compress.specs.export import END_TYPES, Export, InputStats

# tflite_convert's words for types, and what they are in a file.
_OLD_TYPES = {
    "float": "float32",
    "quantized_uint8": "uint8",
    "quantized_int8": "int8",
    "quantized_int16": "int16",
}
_MODE_OF_TYPE = {"float32": "float32", "uint8": "int8", "int8": "int8", "int16": "int16x8"}


OLD_WORDS = "Graphs, and tflite_convert's own words"


def _option_by_input(*names: str, text: str) -> Callable[[Any], Any]:
    """An option that is given once for all inputs, or once for each, which it names."""
    return click.option(*names, multiple=True, metavar="[NAME=]NUMBER", help=text)


def _old_option(name: str, **given: Any) -> Callable[[Any], Any]:
    """One of tflite_convert's words, which stand in the help by themselves."""
    return click.option(name, panel=OLD_WORDS, **given)


@click.command(
    cls=Command,
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
@click.option("--inference-input-type", metavar="TYPE", help="uint8, int8, int16 or float32.")
@click.option("--inference-output-type", metavar="TYPE", help="Likewise, of the outputs.")
@_option_by_input(
    "--mean", "--mean-values", text="Real 0.0 in steps of a uint8 input; `auto`: from the data."
)
@_option_by_input("--std", "--std-dev-values", text="Steps of a uint8 input in real 1.0.")
@click.option("--default-ranges-min", type=float, help="Of tensors whose range nobody knows.")
@click.option("--default-ranges-max", type=float, help="Likewise; accuracy is a guess then.")
@click.option(
    "--state",
    type=FILE,
    metavar="X.npz",
    help="`save_state`'s: a quantized model's ranges.",
)
@click.option("--batch-size", type=int, default=1, show_default=True, help="Rows of the file.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds.")
@click.option("--allow-float-ops", is_flag=True, help="Write an integer file that has some.")
@click.option("--allow-custom-ops", is_flag=True, help="Keep ops that TFLite does not know.")
@click.option("--c-array", is_flag=True, help="Write OUT as C source too, for microcontrollers.")
@click.option("--sparse", is_flag=True, help="Store only what is not zero.")
@_old_option("--input-arrays", metavar="A,B", help="Of a graph: the names of its inputs.")
@_old_option("--input-shapes", metavar="1,28,28,1:1,3", help="Likewise, their shapes.")
@_old_option("--output-arrays", metavar="A,B", help="Likewise, the names of its outputs.")
@_old_option("--inference-type", metavar="TYPE", help="tflite_convert's word for mode and types.")
@_old_option("--output-file", metavar="OUT", help="tflite_convert's word for OUT.")
@_old_option("--keras-model-file", metavar="MODEL", help="And for MODEL.")
@_old_option("--saved-model-dir", metavar="MODEL", help="And for MODEL.")
@_old_option("--graph-def-file", metavar="MODEL", help="And for MODEL.")
def convert(paths: tuple[str, ...], **given: Any) -> Answer:
    """Convert MODEL to the TFLite file OUT.

    MODEL is a .keras or .h5 file of either Keras, a SavedModel folder or TF1's frozen graph (.pb).
    OUT is compared with it, and gets a record beside it, OUT.json.
    """
    model, out, old = _model_and_out(paths, given)
    mode, input_type, output_type = _types(given, old)
    names = _split(given["input_arrays"])
    options = {
        name: given[name]
        for name in (
            "representative_dataset", "verify_data", "batch_size", "timeout", "allow_float_ops",
            "allow_custom_ops", "c_array", "sparse",
        )
    }  # fmt: skip
    low, high = given["default_ranges_min"], given["default_ranges_max"]
    if (low is None) != (high is None):
        raise click.UsageError("--default-ranges-min and --default-ranges-max go together.")
    export = Export(
        out,
        mode=mode,
        inference_input_type=input_type,
        inference_output_type=output_type,
        quantized_input_stats=_stats(given["mean"], given["std"], names),
        default_ranges_stats=None if low is None else (low, high),
        **options,
    )
    if not os.path.exists(model):  # before TensorFlow is loaded
        raise FileNotFoundError(f"MODEL must be a file or folder that exists. Received: {model}")
    click.echo(f"{model} -> {out}, {mode} ...", err=True)
    from keras_compress.export.to_tflite import export_tflite

    report = export_tflite(
        model,
        export,
        state=given["state"],
        inputs=_inputs(model, names, given),
        outputs=_split(given["output_arrays"]),
    )
    values: dict[str, Any] = plain(dataclasses.asdict(report))
    return Answer(values, report)


def _model_and_out(paths: Sequence[str], given: Mapping[str, Any]) -> tuple[str, str, bool]:
    """MODEL and OUT, wherever they stand, and whether MODEL stands in tflite_convert's place."""
    named = [given[kind] for kind in ("keras_model_file", "saved_model_dir", "graph_def_file")]
    named = [name for name in named if name is not None]
    ends = [given["output_file"]] if given["output_file"] is not None else []
    rest = list(paths)
    models = named or [rest.pop(0) for _ in rest[:1]]
    outs = ends or [rest.pop(0) for _ in rest[:1]]
    if len(models) != 1 or len(outs) != 1 or rest:
        received = " ".join([*paths, *named, *ends]) or "nothing"
        raise click.UsageError(f"One MODEL and one OUT are needed. Received: {received}.")
    return models[0], outs[0], bool(named)


def _types(given: Mapping[str, Any], old: bool) -> tuple[str, str | None, str | None]:
    """The mode and the types of inputs and outputs; tflite_convert's command makes float files."""
    mode = given["mode"]
    kind = _type(given["inference_type"])
    ends = [_type(given["inference_input_type"]), _type(given["inference_output_type"])]
    if kind is not None:
        if kind not in _MODE_OF_TYPE:
            raise click.UsageError(f"--inference-type is unknown: {given['inference_type']}.")
        if mode not in (None, _MODE_OF_TYPE[kind]):
            raise click.UsageError(f"--mode {mode} and --inference-type {kind} contradict.")
        mode = _MODE_OF_TYPE[kind]
        if kind == "uint8":
            ends = [end or kind for end in ends]
    return mode or ("float32" if old else "int8"), ends[0], ends[1]


def _type(name: str | None) -> str | None:
    return None if name is None else _OLD_TYPES.get(name.lower(), name.lower())


def _split(names: str | None) -> list[str] | None:
    return None if names is None else names.split(",")


def _inputs(
    model: str, names: list[str] | None, given: Mapping[str, Any]
) -> list[str] | dict[str, list[int]] | None:
    """What `export_tflite` takes. A file of Keras' names its inputs by itself: there the names may
    only say in which order the statistics stand.
    """
    shapes = given["input_shapes"]
    if shapes is None:
        is_graph = os.path.isdir(model) or model.endswith(".pb")
        return names if is_graph or not given["mean"] else None
    if names is None or shapes.count(":") != len(names) - 1:
        raise click.UsageError("--input-shapes are one for each of --input-arrays, split by ':'.")
    try:
        sizes = [[int(size) for size in shape.split(",")] for shape in shapes.split(":")]
    except ValueError:
        raise click.UsageError(f"--input-shapes are integers. Received: {shapes}.") from None
    return dict(zip(names, sizes, strict=True))


def _stats(means: Sequence[str], stds: Sequence[str], names: Sequence[str] | None) -> InputStats:
    """`Export.quantized_input_stats`."""
    if list(means) == ["auto"] and not stds:
        return "auto"
    mean, std = _numbers("--mean", means, names), _numbers("--std", stds, names)
    if set(mean) != set(std):
        raise click.UsageError("--mean and --std go together, for the same inputs.")
    pairs = {name: (mean[name], std[name]) for name in mean}
    if not pairs:
        return None
    return cast(InputStats, pairs.get(None, pairs))  # there is None or there are names


def _numbers(
    option: str, values: Sequence[str], names: Sequence[str] | None
) -> dict[str | None, float]:
    """Input name -> number; the name is None of the only number, which is for all inputs."""
    parts = [part for value in values for part in value.split(",")]
    found: dict[str | None, float] = {}
    for position, part in enumerate(parts):
        name, _, number = part.rpartition("=")
        own = name or (names[position] if names and len(names) == len(parts) > 1 else None)
        try:
            found[own] = float(number)
        except ValueError:
            raise click.UsageError(f"{option} must be a number. Received: {part}.") from None
    if len(found) != len(parts) or (None in found and len(found) > 1):
        raise click.UsageError(
            f"{option} must be one number, or NAME=NUMBER for each input. "
            f"Received: {' '.join(values)}."
        )
    return found
