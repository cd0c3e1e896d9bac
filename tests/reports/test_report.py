"""The report as text, as plain values, and as the JSON beside the file, which has a schema."""

import dataclasses
import importlib.resources
import json
import math

import jsonschema
import numpy as np
import pytest
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.export.record import record
from keras_compress.reports.channels import ChannelsReport
from keras_compress.reports.export import ExportReport, FloatOpReport, LayerAgreement
from keras_compress.reports.fit import EpochReport, LayerReport, Report, WeightHistogram
from keras_compress.reports.validation import ValidationReport

pytestmark = pytest.mark.by_turns(suite="keras3")  # `runs` trains four models for each Keras


@pytest.fixture(scope="session")
def schema():
    text = (importlib.resources.files("keras_compress") / "report.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def strict(text):
    """JSON without the NaN and Infinity that Python would let pass."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


HALF = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=4, frequency=1)


@pytest.fixture(scope="module")
def runs(keras, digits, tmp_path_factory):
    """The reports of real fits, and what was written beside their files."""
    folder = tmp_path_factory.mktemp("reports")
    x, y, x_test, y_test = digits

    def run(name, **specs):
        export = specs.pop("export", {})
        path = folder / f"{name}.tflite"
        compress = kc.Compress(export=kc.Export(path, **export), **specs)
        model = small_net(keras, jit_compile=False)
        arguments = {"batch_size": 32, "verbose": 0, "callbacks": [compress]}
        model.fit(x[:160], y[:160], validation_data=(x_test[:32], y_test[:32]), **arguments)
        beside = folder / f"{name}.tflite.json"
        return compress.report, beside.read_text() if beside.exists() else None

    def chosen(layer):
        return "dense" in layer.name or layer.name == "probabilities"

    quantization = kc.Quantization(delay=2)
    never = {"timeout": 1e-3, "rehearse": False}
    return {
        "in place": run("net", pruning=kc.Pruning(HALF, layers=chosen), quantization=quantization),
        "pruned": run("pruned", pruning=kc.Pruning(HALF), export={"mode": "float32"}),
        "4 bits": run("four", quantization=kc.Quantization(weight_bits=4, layers=chosen)),
        "plain": run("plain", export={"mode": "float32"}),
        "skipped": skipped(keras, digits, folder),
        "failed": run("failed", quantization=quantization, export=never),
    }


def skipped(keras, digits, folder):
    """A fit that ends before its delay, as its plan of several fits allows."""
    compress = kc.Compress(
        quantization=kc.Quantization(delay=99),
        export=kc.Export(folder / "skipped.tflite"),
        partial=True,
    )
    model = small_net(keras, jit_compile=False)
    model.fit(digits[0][:64], digits[1][:64], verbose=0, callbacks=[compress])
    return compress.report, None


WRITTEN = ["in place", "pruned", "4 bits", "plain"]


# --- as JSON


@pytest.mark.parametrize("name", WRITTEN)
def test_the_record_is_valid_and_is_the_report(keras, runs, schema, name):
    report, text = runs[name]
    written = strict(text)
    schema.validate(written)
    assert written["report"] == report.to_dict()
    assert written["versions"]["keras_compress"] == kc.__version__
    assert written["versions"][keras.__name__] == keras.__version__


@pytest.mark.parametrize("name", ["skipped", "failed"])
def test_without_a_file_there_is_no_record_and_the_dict_is_valid(keras, runs, schema, name):
    report, text = runs[name]
    assert text is None
    schema.validate(record(report, keras))
    assert not report.export.written


def test_the_specs_in_it_make_the_same_run_again(runs):
    specs = strict(runs["4 bits"][1])["report"]["specs"]
    # Of a callable `layers`, the names of what it chose.
    again = kc.Quantization.from_config(specs["quantization"])
    assert again == kc.Quantization(weight_bits=4, layers=("dense1", "probabilities"))
    assert specs["pruning"] is None
    specs = strict(runs["in place"][1])["report"]["specs"]
    both = {"dense1": HALF, "probabilities": HALF}
    assert kc.Pruning.from_config(specs["pruning"]) == kc.Pruning(None, layers=both)
    assert kc.Quantization.from_config(specs["quantization"]) == kc.Quantization(delay=2)


def broken(written, *path, value):
    """A deep copy with one value changed, or left out where it is None."""
    copy = json.loads(json.dumps(written))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("versions",), None),
        (("versions", "tensorflow"), None),
        (("report", "phase"), "asleep"),
        (("report", "sparsity"), 50.0),
        (("report", "novelty"), 1),
        (("report", "layers", 0, "scale"), [-0.1]),
        (("report", "layers", 0, "bits"), 1),
        (("report", "export", "sha256"), "?"),
        (("report", "export", "largest_steps", "probabilities"), -1.0),
        (("report", "export", "bytes"), 0),
        (("report", "export", "error"), "written all the same"),
        (("report", "validation", "metrics", "some"), {"loss": 1.0}),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else "",
)
def test_the_schema_refuses_what_is_wrong(runs, schema, path, value):
    written = strict(runs["in place"][1])
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(broken(written, *path, value=value))


def test_what_is_not_finite_is_null(keras, schema):
    export = ExportReport("a.tflite", "int8", bytes=9, zipped_bytes=9, sha256="0" * 64)
    export.verified_on, export.samples = "verify_data", 1
    export.largest_steps, export.mean_steps = {"y": math.nan}, {"y": np.float64(math.inf)}
    export.layers = [LayerAgreement("a", "output", math.nan, 0.0)]
    report = Report.of_plain_model()
    report.export = export
    report.validation = ValidationReport(np.int64(3), {"float": {"loss": math.nan}})
    text = json.dumps(record(report, keras), allow_nan=False)
    schema.validate(strict(text))
    plain = report.to_dict()
    assert plain["export"]["largest_steps"] == {"y": None}
    assert plain["export"]["mean_steps"] == {"y": None}
    assert plain["validation"]["metrics"] == {"float": {"loss": None}}
    assert type(plain["validation"]["rows"]) is int


def test_the_schema_describes_every_field(schema):
    described = schema.schema["$defs"]
    for name, kind in (
        ("report", Report),
        ("layer", LayerReport),
        ("epoch", EpochReport),
        ("histogram", WeightHistogram),
        ("export", ExportReport),
        ("float_op", FloatOpReport),
        ("layer_agreement", LayerAgreement),
        ("validation", ValidationReport),
        ("channels", ChannelsReport),
    ):
        fields = [field.name for field in dataclasses.fields(kind)]
        assert list(described[name]["properties"]) == fields
        assert described[name]["required"] == fields


# --- the numbers


def test_kernels_have_their_scale_and_bits(keras, digits):
    model = small_net(keras, jit_compile=False)
    for bits, limit in ((8, 127), (4, 7)):
        compress = kc.Compress(quantization=kc.Quantization(weight_bits=bits))
        model.fit(digits[0][:32], digits[1][:32], verbose=0, callbacks=[compress])
        rows = {layer.path: layer for layer in compress.report.layers}
        assert {layer.bits for layer in rows.values()} == {bits}
        kernel = np.asarray(model.get_layer("conv1").get_weights()[0])
        channels = np.abs(kernel).max(axis=(0, 1, 2)) / limit
        assert rows["conv1"].scale == pytest.approx((channels.min(), channels.max()))
        dense = np.asarray(model.get_layer("dense1").get_weights()[0])
        assert rows["dense1"].scale == pytest.approx((np.abs(dense).max() / limit,))
        model = small_net(keras, jit_compile=False)


def test_while_nothing_is_rounded_kernels_have_neither(runs):
    report, _ = runs["skipped"]
    assert report.layers
    assert all(layer.bits is None and layer.scale is None for layer in report.layers)


# --- as text


def test_the_text_says_what_the_fields_say(runs):
    report, _ = runs["in place"]
    text = str(report)
    for said in (
        "5 updates; quantized from update 3; 50.0% of the pruned weights are zeros",
        "│ probabilities │ kernel │   32x10 │    50.0% │    8 │",
        f"│ this file       │ {report.export.bytes:>6,} │ {report.export.zipped_bytes:>6,} │",
        f"│ as a float file │ {report.export.float_bytes:,} │",
        "differences from the network in output steps "
        "(64 samples, inputs drawn inside the watched ranges):",
        "layer by layer on equal inputs, 8 samples, in steps, worst first:",
        "metrics on the 32 rows of the validation data:",
        f"│ tflite         │ {report.validation.metrics['tflite']['loss']:.4f} │",
    ):
        assert said in text


def test_the_text_of_a_pruned_model_speaks_of_no_quantization(runs):
    report, _ = runs["pruned"]
    text = str(report)
    assert text.startswith("5 updates; 50.0% of the pruned weights are zeros\n")
    assert "quantized" not in text
    assert "│ conv1         │ kernel │ 3x3x1x8 │    50.0% │ float │     - │" in text
    assert "as a float file" not in text  # it is one
    assert "layer by layer" not in text
    assert "differences from the network as they are (64 samples, " in text


def test_the_text_of_a_failed_export_says_why_and_shows_no_numbers_of_a_file(runs):
    report, _ = runs["failed"]
    text = str(report)
    assert "failed.tflite: not written, ConversionError: The TFLite conversion failed: " in text
    assert "│ fake-quantized │" in text
    assert "tflite │" not in text
    assert "bytes" not in text


def test_the_text_of_a_skipped_export_says_what_was_missed(runs):
    report, _ = runs["skipped"]
    assert "missed: the delay at update 99\n" in str(report)
    assert str(report).endswith(": not written, the fit ended before the delay at update 99")


def test_the_text_of_a_plain_model(runs):
    assert str(runs["plain"][0]).startswith("not compressed\n")


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_every_line_fits_and_no_name_is_cut(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    path = "backbone/" + "a_deeply_nested_block/" * 4 + "depthwise_convolution"
    layers = [
        LayerReport(path, "depthwise_kernel", (3, 3, 1280, 1), 0.123, 8, (1.23456e-5, 2.34567e-4))
    ]
    export = ExportReport("net.tflite", "int8", bytes=1, zipped_bytes=1, samples=1)
    export.verified_on = "verify_data"
    export.largest_steps, export.mean_steps = {path: 123456.0}, {path: 0.1}
    export.layers = [LayerAgreement(path, "output", 1.0, 0.5)] * 9
    names = ["loss", *(f"a_metric_with_a_name_{i}" for i in range(3))]
    metrics = {network: dict.fromkeys(names, 1.0) for network in ("float", "fake-quantized")}
    validation = ValidationReport(10, metrics)
    report = Report(1, "on", 1, 0.1, layers, {}, {}, export=export, validation=validation)
    text = str(report)
    tables = [line for line in text.splitlines() if line[0] in "┏┃┡│└"]
    assert max(map(len, tables)) <= 100
    assert "in steps, the worst 5 of 9:" in text
    first = "".join(line.split("│")[1].strip() for line in text.splitlines() if line[0] == "│")
    assert first.count(path) == 1 + 1 + 5
    assert "│ 1.23e-05..0.000235 │" in text
