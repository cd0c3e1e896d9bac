"""The commands but for `convert`: a few lines each over a function of the package."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import rich_click as click

from keras_compress import __version__
from keras_compress import ranges as notations
from keras_compress._shared.plain import plain
from keras_compress.cli.convert_command import convert
from keras_compress.cli.frame import FILE, Answer, Group
from keras_compress.reports.shown import Table

COUNT, AT_LEAST_1 = click.IntRange(min=0), click.IntRange(min=1)


@click.group(
    cls=Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "max_content_width": 100,
    },
)
@click.version_option(__version__, "-V", "--version")
def commands() -> None:
    """Make, question and compare TFLite files.

    In the names of options hyphens and underscores are the same.
    """


commands.add_command(convert)


@commands.command(
    examples="""
    keras-compress report net.tflite.json
    keras-compress report net.tflite.json --html net.html
    """,
    words={"path": "--html"},
)
@click.argument("record", type=FILE)
@click.option("--html", type=FILE, metavar="OUT.html", help="Write it there as one page too.")
def report(record: str, html: str | None) -> Answer:
    """Show again what a fit or a conversion reported.

    RECORD is the JSON beside a file of this package.
    """
    from keras_compress.reports.fit import Report

    try:
        with open(record, encoding="utf-8") as file:
            values = json.load(file)
        found, versions = Report.from_dict(values["report"]), dict(values["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "RECORD must be the .tflite.json that stands beside a file of this package "
            f"({type(error).__name__}: {error}). Received: {record}"
        ) from None
    if html is not None:
        found.to_html(html, versions=versions)
        click.echo(f"wrote {html}", err=True)
    return Answer(values, found)


OF_A_FILE = {"source": "FILE", "probe": "--no-probe"}
"""What the package calls the file of a command, and what is done with it first."""

probe_option = click.option(
    "--probe/--no-probe",
    default=True,
    help="Try FILE in a process of its own first, or trust it.",
)


@commands.command(
    examples="""
    keras-compress inspect net.tflite
    keras-compress inspect net.tflite --json | jq .float_ops
    """,
    words=OF_A_FILE,
)
@click.argument("file", type=FILE)
@probe_option
def inspect(file: str, probe: bool) -> Answer:
    """Show ops, tensors, sizes and zeros of FILE."""
    from keras_compress.tflite import inspect_tflite

    report = inspect_tflite(file, probe=probe)
    return Answer(report.to_dict(), report)


@commands.command(
    examples="""
    keras-compress compare float.tflite int8.tflite --data test.npz --labels y
    keras-compress compare net.keras net.tflite --data images.npz
    keras-compress compare frozen.pb net.keras net.tflite --data test.npz --labels y
    """,
    words={"networks": "A B ..."},
)
@click.argument("networks", nargs=-1, required=True, metavar="A B ...", type=click.Path())
@click.option(
    "--data", type=FILE, required=True, metavar="X.npz", help="Inputs, by name or a single one."
)
@click.option(
    "--labels", multiple=True, metavar="[OUTPUT=]KEY", help="Which array in it are the labels."
)
@click.option(
    "--metric", multiple=True, help="accuracy or mse.", default=["accuracy"], show_default=True
)
@click.option(
    "--layer-rows", type=COUNT, default=64, show_default=True, help="For the layers; 0: none."
)
@click.option("--threads", type=AT_LEAST_1, default=1, show_default=True, help="Of LiteRT.")
@click.option("--runs", type=COUNT, default=50, show_default=True, help="For the latency; 0: none.")
@click.option(
    "--rounds",
    type=COUNT,
    help="How often all rows go through each network for the time; 0: none. "
    "Default: 10, or what a minute has room for.",
)
def compare(
    networks: tuple[str, ...],
    data: str,
    labels: tuple[str, ...],
    metric: tuple[str, ...],
    layer_rows: int,
    threads: int,
    runs: int,
    rounds: int | None,
) -> Answer:
    """Compare networks with the first one.

    Metrics, differences, sizes, latency, and layer by layer what a file spoils. Networks are
    .tflite files, or models as `convert` takes them.
    """
    from keras_compress.comparison.compare import compare

    x, y = _arrays(data, labels)
    found = compare(
        *networks,
        data=x,
        labels=y,
        metric=list(metric),
        layer_rows=layer_rows,
        num_threads=threads,
        runs=runs,
        rounds=rounds,
    )
    return Answer(found.to_dict(), found)


def _arrays(path: str, labels: Sequence[str]) -> tuple[Any, Any]:
    """The inputs and the labels out of a `.npz` file."""
    from keras_compress.tflite.data import read_npz

    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise click.UsageError(
            f"--data must be a .npz file of arrays ({error}). Received: {path}."
        ) from None
    pairs = [label.rpartition("=")[::2] for label in labels]
    missing = [key for _, key in pairs if key not in arrays]
    if missing:
        raise click.UsageError(f"--labels {missing[0]} is not in {path}, which has {[*arrays]}.")
    found = {output: arrays[key] for output, key in pairs}
    for key in {key for _, key in pairs}:
        del arrays[key]
    x = next(iter(arrays.values())) if len(arrays) == 1 else arrays
    return x, found.get("", found or None)


@commands.command(
    examples="keras-compress benchmark net.tflite --threads 4 --runs 200", words=OF_A_FILE
)
@click.argument("file", type=FILE)
@click.option("--threads", type=AT_LEAST_1, default=1, show_default=True, help="Of LiteRT.")
@click.option("--runs", type=AT_LEAST_1, default=50, show_default=True, help="That are measured.")
@probe_option
def benchmark(file: str, threads: int, runs: int, probe: bool) -> Answer:
    """Measure how long LiteRT takes for one batch of FILE."""
    from keras_compress.tflite import load_tflite, zipped_size
    from keras_compress.tflite.file.flatbuffer import read_bytes
    from keras_compress.tflite.litert.latency import measure_latency

    model = load_tflite(file, threads, probe=probe)
    found = measure_latency(model, runs)
    data = read_bytes(file, "benchmark")
    sizes = {"bytes": len(data), "zipped_bytes": zipped_size(data)}
    values = {"file": file, "rows": model.rows, **dataclasses.asdict(found), **sizes}
    columns = ("file", "rows", "threads", "runs", "median ms", "least ms", "95 % ms", "bytes")
    times = [f"{ms:.3f}" for ms in (found.median_ms, found.min_ms, found.p95_ms)]
    rows = "-" if model.rows is None else str(model.rows)  # inputs may have no axis in common
    counts = (rows, str(threads), str(runs))
    return Answer(plain(values), Table(columns, [(file, *counts, *times, f"{len(data):,}")]))


@commands.command(
    examples="""
    keras-compress ranges --mean 127.5 --std 127.5
    keras-compress ranges --min -1 --max 1 --dtype int8
    keras-compress ranges --scale 0.00392157 --zero-point -128 --dtype int8
    """
)
@click.option("--mean", type=float, help="TF1's: the real number is (q - mean) / std, q in uint8.")
@click.option("--std", type=float)
@click.option("--scale", type=float, help="TFLite's: it is scale * (q - zero_point).")
@click.option("--zero-point", type=int)
@click.option("--min", "minimum", type=float, help="The real numbers at the ends of the integers.")
@click.option("--max", "maximum", type=float)
@click.option("--dtype", type=click.Choice(["uint8", "int8"]), default="uint8", show_default=True)
def ranges(dtype: str, **given: Any) -> Answer:
    """Show a quantization in its three notations.

    Give one pair of options. What is shown is what a file has: 0.0 is one of its integers, so that
    a mean is whole and a range may move by half a step.
    """
    pairs = [("mean", "std"), ("scale", "zero_point"), ("minimum", "maximum")]
    chosen = [pair for pair in pairs if any(given[name] is not None for name in pair)]
    if len(chosen) != 1 or any(given[name] is None for name in chosen[0]):
        raise click.UsageError(
            "Give --mean and --std, --scale and --zero-point or --min and --max."
        )
    first, second = (given[name] for name in chosen[0])
    if chosen[0] == pairs[0]:
        scale, zero_point = notations.quantization_of_stats(first, second, dtype)
    elif chosen[0] == pairs[1]:
        scale, zero_point = first, second
    elif first < second and not first <= 0 <= second:
        raise click.UsageError(
            f"--min and --max must have 0 between them. Received: --min {first:g} --max {second:g}."
        )
    else:
        scale, zero_point = notations.quantization_of_range(first, second, dtype)
    low, high = notations.range_of_quantization(scale, zero_point, dtype)
    mean, std = notations.stats_of_quantization(scale, zero_point, dtype)
    values = {
        "dtype": dtype,
        "mean": mean,
        "std": std,
        "scale": scale,
        "zero_point": zero_point,
        "min": low,
        "max": high,
    }
    rows = [
        ("mean, std (of uint8)", f"{mean:.9g}", f"{std:.9g}"),
        (f"scale, zero point ({dtype})", f"{scale:.9g}", str(zero_point)),
        ("min, max", f"{low:.9g}", f"{high:.9g}"),
    ]
    return Answer(plain(values), Table(("notation", "", ""), rows))
