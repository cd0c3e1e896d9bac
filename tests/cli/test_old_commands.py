"""The commands of tflite_convert and toco as they are typed: each option, and whole commands."""

import os
import types
from pathlib import Path

import pytest
from helpers.options_page import page

from keras_compress.cli import main
from keras_compress.cli.convert_command import convert
from keras_compress.cli.old_options import NOTED, OPTION, OPTIONS, REFUSED
from keras_compress.reports.export import ExportReport


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What was asked of `export_tflite`, which makes no file: (source, export, other arguments)."""
    import keras_compress.export.to_tflite as module

    calls = []

    def nothing(source, export, **others):
        calls.append(types.SimpleNamespace(source=source, export=export, **others))
        Path(export.path).write_bytes(b"a file")
        return ExportReport(export.path, export.mode, bytes=0)

    monkeypatch.setattr(module, "export_tflite", nothing)
    monkeypatch.chdir(tmp_path)
    for name in ("net.pb", "net.h5"):
        Path(name).touch()
    Path("net").mkdir()
    return calls


BASE = "convert --graph_def_file=net.pb --output_file=net.tflite --input_arrays=image"
INTEGER = f"{BASE} --inference_type=QUANTIZED_UINT8"
COMMANDS = {
    "MODEL": "convert --output_file=net.tflite",
    "OUT": "convert --graph_def_file=net.pb",
    "--saved-model-tag-set": "convert --saved_model_dir=net --output_file=net.tflite",
    "--saved-model-signature-key": "convert --saved_model_dir=net --output_file=net.tflite",
    "--input-arrays": "convert --graph_def_file=net.pb --output_file=net.tflite",
    "--inference-type": f"{BASE} --mode float32",
    "--mean": f"{INTEGER} --std_dev_values=255",
    "--std": f"{INTEGER} --mean_values=0",
    "--default-ranges-min": f"{INTEGER} --default_ranges_max=7",
    "--default-ranges-max": f"{INTEGER} --default_ranges_min=-1",
}
ARRIVES = {
    "MODEL": lambda call: call.source,
    "OUT": lambda call: call.export.path,
    "--saved-model-tag-set": lambda call: call.tags[0],
    "--saved-model-signature-key": lambda call: call.signature,
    "--input-arrays": lambda call: call.inputs[0],
    "--input-shapes": lambda call: ",".join(map(str, call.inputs["image"])),
    "--output-arrays": lambda call: call.outputs[0],
    "--batch-size": lambda call: str(call.export.batch_size),
    "--inference-type": lambda call: call.export.mode.removesuffix("32").upper(),
    "--inference-input-type": lambda call: call.export.input_type.removesuffix("32").upper(),
    "--inference-output-type": lambda call: call.export.output_type.removesuffix("32").upper(),
    "--mean": lambda call: f"{call.export.quantized_input_stats[0]:g}",
    "--std": lambda call: f"{call.export.quantized_input_stats[1]:g}",
    "--default-ranges-min": lambda call: f"{call.export.default_ranges_stats[0]:g}",
    "--default-ranges-max": lambda call: f"{call.export.default_ranges_stats[1]:g}",
    "--mode dynamic": lambda call: {"dynamic": "true"}.get(call.export.mode),
    "--mode float16": lambda call: {"float16": "true"}.get(call.export.mode),
    "--allow-custom-ops": lambda call: str(call.export.allow_custom_ops).lower(),
}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_each_option_becomes_what_the_table_says(asked, capfd, option):
    value = option.value or ("false" if "true" in option.harmless else "true")
    words = COMMANDS.get(option.means, INTEGER if option.in_floats else BASE).split()
    code = main([*words, f"{option.name}={value}"])
    err = capfd.readouterr().err
    if option.becomes == OPTION:
        assert code == 0
        assert ARRIVES[option.means](asked[0]) == value
        return
    line = option.line(value)
    assert option.means in line
    assert option.name in line
    if option.becomes == NOTED:
        assert code == 0
        assert line in err.splitlines()
        assert len(err.splitlines()) == 2  # and that it begins
    else:
        assert code == 2
        assert line in err
        assert not asked
    for harmless in option.harmless:
        assert main([*words, option.name, harmless.upper()]) == 0
        given = harmless if option.value is None else harmless.upper()
        assert option.line(given) in capfd.readouterr().err.splitlines()
        assert option.anyhow in option.line(given)
        assert asked


def test_the_table_has_every_option_once_and_no_other():
    """Those of 1.13's two commands, from their sources; later ones besides."""
    names = [option.name for option in OPTIONS]
    assert len(set(names)) == len(names)
    known = {option for each in convert.params for option in each.opts}
    assert {name.replace("_", "-") for name in names} <= known
    assert {option.becomes for option in OPTIONS} == {OPTION, NOTED, REFUSED}
    in_1_13 = {option.name for option in OPTIONS if option.commands in ("both", "tflite_convert")}
    assert in_1_13 >= {
        "--output_file", "--graph_def_file", "--saved_model_dir", "--keras_model_file",
        "--output_format", "--inference_type", "--inference_input_type", "--input_arrays",
        "--input_shapes", "--output_arrays", "--saved_model_tag_set",
        "--saved_model_signature_key", "--std_dev_values", "--mean_values",
        "--default_ranges_min", "--default_ranges_max", "--post_training_quantize",
        "--quantize_weights", "--drop_control_dependency", "--reorder_across_fake_quant",
        "--change_concat_input_ranges", "--allow_custom_ops", "--target_ops",
        "--dump_graphviz_dir", "--dump_graphviz_video",
    }  # fmt: skip


def test_the_page_is_the_table():
    path = Path(__file__).parents[2] / "docs/reference/tflite_convert.md"
    assert path.read_text() == page()


@pytest.mark.parametrize("written", ["--x", "--x=true", "--x True", "--x=TRUE", "--x=1"])
@pytest.mark.parametrize("name", ["allow_custom_ops", "allow-custom-ops"])
def test_truth_values_in_all_their_forms(asked, capfd, written, name):
    """Whatever stands behind."""
    truth = written.replace("x", name).split()
    assert main(["convert", *truth, "net.pb", "--mode", "float32", "net.tflite"]) == 0
    assert asked[0].export.allow_custom_ops
    assert asked[0].source == "net.pb"
    assert main(["convert", f"--{name}=false", "net.pb", "net.tflite"]) == 0
    assert not asked[1].export.allow_custom_ops
    assert main(["convert", f"--{name}=perhaps", "net.pb", "net.tflite"]) == 2
    assert main(["convert", "--change-concat-input-ranges=x", "net.pb", "net.tflite"]) == 2


@pytest.mark.parametrize(
    ("words", "mode", "line"),
    [
        ("--drop_fake_quant", "float32", "in a float file nothing is rounded anyhow."),
        ("--mean_values=128 --std_values=127", "float32", "default ranges are of no effect"),
        ("--inference_type=FLOAT --mean_values=0 --std_dev_values=1", "float32", "of no effect"),
        ("--default_ranges_min=0 --default_ranges_max=6", "float32", "of no effect"),
        ("--post_training_quantize --mean_value=0 --std_value=1", "dynamic", "of no effect"),
        ("--post_training_quantize --quantize_to_float16", "float16", ""),
        (
            "--inference_type=QUANTIZED_UINT8 --post_training_quantize",
            "dynamic",
            "--inference_type=QUANTIZED_UINT8 gives way to --post_training_quantize.",
        ),
        ("--input_shapes=none,4", "float32", "a file has a fixed batch, here 1."),
        ("--input_shapes=-1,4 --batch_size=3", "float32", "a file has a fixed batch, here 3."),
    ],
)
def test_what_is_overruled_is_said(asked, capfd, words, mode, line):
    assert main([*BASE.split(), *words.split()]) == 0
    assert asked[0].export.mode == mode
    assert asked[0].export.quantized_input_stats is None
    assert asked[0].export.default_ranges_stats is None
    assert line in capfd.readouterr().err


def test_the_first_number_of_a_shape_is_the_batch(asked, capfd):
    words = "--input_arrays=a,b --input_shapes=4,8:4,2"
    assert main([*BASE.split(), *words.split()]) == 0
    assert asked[0].export.batch_size == 4
    assert asked[0].inputs == {"a": [4, 8], "b": [4, 2]}
    # A file of Keras' has names and a batch of its own making.
    command = "convert --keras_model_file=net.h5 --output_file=o.tflite --input_arrays=image"
    assert main([*command.split(), "--input_shapes=2,8,8,1"]) == 0
    assert (asked[1].inputs, asked[1].export.batch_size) == (None, 2)
    assert asked[1].export.input_shape == {"image": (8, 8, 1)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--input_shapes=1,none,none,1", "--input-shapes must be integers between commas, as 1,28"),
        ("--input_shapes=1,0", "--input-shapes must be integers >= 1. Received: 1,0."),
        ("--input_shapes=16000,1:", "one for each of --input-arrays, split by ':'"),
        ("--input_shapes=2,1 --batch_size=3", "must all begin with the same number"),
        ("--input_arrays=a,b --input_shapes=1,2:3,2", "must all begin with the same number"),
        (
            "--inference_type=QUANTIZED_UINT8 --default_ranges_min=1 --default_ranges_max=6",
            "--default-ranges-min and --default-ranges-max must be (min, max) with min <= 0 <= max",
        ),
        ("--inference_type=QUANTIZED_UINT8 --default_ranges_min=1", "go together"),
        (
            "--inference_type=QUANTIZED_UINT8 --mean_values=300 --std_values=1",
            "--mean and --std must be (mean, std) with a mean in [0, 255]",
        ),
        (
            "--inference_type=QUANTIZED_UINT8 --mean_values=image=1 --std_values=image=0",
            "--mean and --std of 'image' must be (mean, std)",
        ),
        ("--inference_type=FLOAT --inference_input_type=QUANTIZED_UINT8", "--inference-input-type"),
        ("--output_format=GRAPHVIZ_DOT", "--output_format=GRAPHVIZ_DOT: only TFLite files"),
        ("--mode int8 --post_training_quantize", "--mode int8 and --post_training_quantize"),
        ("--output_file=x/foo.cc", "--output-file must be a file in a folder that exists"),
        ("--output_file=foo.cc --c-array", "--c-array needs an --output-file that ends in"),
    ],
)
def test_errors_are_in_the_words_of_the_command(asked, capfd, words, message):
    assert main([*BASE.split(), *words.split()]) == 2
    *_, line = capfd.readouterr().err.splitlines()
    assert message in line
    assert "Export" not in line
    assert "`" not in line.replace("`keras-compress convert --help`", "").replace(
        "`keras-compress inspect`", ""
    )
    assert not asked


def test_a_file_may_have_any_name(asked, capfd):
    command = "convert --keras_model_file=net.h5 --output_file=foo.cc --json"
    assert main(command.split()) == 0
    out, err = capfd.readouterr()
    assert '"path": "foo.cc"' in out
    assert err.startswith(
        "foo.cc will be a flatbuffer, as every .tflite file, whatever its name: C"
    )
    assert Path("foo.cc").read_bytes() == b"a file"
    assert sorted(os.listdir()) == ["foo.cc", "net", "net.h5", "net.pb"]
