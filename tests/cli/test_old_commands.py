"""The commands of tflite_convert and toco as they are typed: each option, and whole commands."""

import hashlib
import json
import logging
import os
import re
import shlex
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import tf1_graphs
from helpers.options_page import page

import keras_compress as kc
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
    capfd.readouterr()
    assert main(command.split()) == 0
    assert asked[2].inputs is None
    assert "--input_arrays is of no effect" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--input_shapes=1,none,none,1", "--input-shapes must be integers between commas, as 1,28"),
        ("--input_shapes=1,0", "--input-shapes must be integers >= 1. Received: 1,0."),
        ("--input_shapes=16000,1:", "one for each of --input-arrays, split by ':'"),
        ("--batch_size=0", "--batch-size must be an int >= 1"),
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
        (
            "--inference_type=FLOAT --inference_input_type=QUANTIZED_UINT8",
            "--inference-input-type must be FLOAT in a file of floats (mode float32); integers are "
            "those of --inference_type=QUANTIZED_UINT8 or QUANTIZED_INT8. Received: QUANTIZED_UIN",
        ),
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


def test_what_the_conversion_says_is_in_these_words_too(public, monkeypatch, capfd):
    monkeypatch.chdir(public)
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 4), "image")
        tf.reshape(image, (2, 2, 2), "flat")
        tf.linalg.cholesky(tf.reshape(image, (-1, 2, 2)), name="triangle")
    Path("graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    command = "convert --graph_def_file=graph.pb --output_file=o.tflite"
    assert main(f"{command} --output_arrays=flat".split()) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "give the --batch-size that it was made for, or other shapes with --input-shap" in line
    assert main(f"{command} --output_arrays=flat --batch_size=2".split()) == 0
    capfd.readouterr()
    assert main(f"{command} --output_arrays=triangle --batch_size=2".split()) == 1
    assert "no such op" in capfd.readouterr().err.splitlines()[-1]
    write = f"{command} --output_arrays=flat --batch_size=2 --mode int8 --representative-dataset x"
    assert main(write.split()) == 2
    assert "--representative-dataset must be" in capfd.readouterr().err.splitlines()[-1]
    quantized = "convert quantized.pb o.tflite --mean 128 --std 64 --output-arrays conv --mode int8"
    assert main(quantized.split()) == 2
    assert "--output-arrays must be names of nodes" in capfd.readouterr().err.splitlines()[-1]
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (1, 4), "image")
        kernel = tf.quantization.fake_quant_with_min_max_args(tf.eye(4), -1, 1, narrow_range=True)
        tf.matmul(tf.quantization.fake_quant_with_min_max_args(x, -1, 1), kernel, name="lacking")
    Path("graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    lacking = "convert --graph_def_file=graph.pb --output_file=o.tflite"
    assert main([*lacking.split(), "--inference_type=QUANTIZED_INT8"]) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "(lacking). Set --allow-float-ops to write it" in line.replace(" True", "")
    assert "lacks ranges, give --default-ranges-min and --default-ranges-max as a guess" in line


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


def test_what_is_logged_of_it_names_it(asked, monkeypatch, capfd, caplog):
    """Not the file that it was for a while."""
    import keras_compress.export.to_tflite as module

    def warning(source, export, **others):
        Path(export.path).write_bytes(b"a file")
        logging.getLogger("keras_compress").warning("The file at %s is bad.", export.path)
        return ExportReport(export.path, export.mode, bytes=0)

    monkeypatch.setattr(module, "export_tflite", warning)
    assert main(["convert", "--keras_model_file=net.h5", "--output_file=foo.cc"]) == 0
    assert caplog.messages == ["The file at foo.cc is bad."]


def test_outputs_of_a_file_of_keras_are_its_own(asked, capfd):
    command = "convert --keras_model_file=net.h5 --output_file=o.tflite --output_arrays=a/Softmax"
    assert main(command.split()) == 2
    assert "names its outputs by itself. Leave it out" in capfd.readouterr().err.splitlines()[-1]
    assert not asked


def test_a_graph_may_have_any_name_but_one_of_keras(tmp_path, monkeypatch, capfd):
    """It is refused for its name then, not for what was said of its inputs."""
    monkeypatch.chdir(tmp_path)
    Path("net").touch()
    command = "convert --graph_def_file=net --output_file=o.tflite --input_arrays=a"
    assert main([*command.split(), "--input_shapes=1,4"]) == 2
    assert "MODEL must be a model or the path of a" in capfd.readouterr().err.splitlines()[-1]


def test_a_saved_model_of_tf1_by_the_names_of_its_nodes(tmp_path, monkeypatch, capfd):
    """As TF1's command took them; also, the size that is left open."""
    monkeypatch.chdir(tmp_path)
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (None, None, 4), "input_node")
        answer = tf.nn.relu(tf.reduce_sum(image, 1), "output_node")
        v1.saved_model.simple_save(session, "net", {"image": image}, {"answer": answer})
    command = "convert --saved_model_dir=net --output_file=o.tflite"
    nodes = "--input_arrays=input_node --output_arrays=output_node"
    assert main([*command.split(), *nodes.split()]) == 2
    assert (
        "but the batch must be fixed; give its shape with --input-shapes. "
        in (capfd.readouterr().err.splitlines()[-1])
    )
    assert main([*command.split(), *nodes.split(), "--input_shapes=1,3,4"]) == 0
    file = kc.load_tflite("o.tflite")
    assert [end.name for end in (*file.inputs, *file.outputs)] == ["input_node", "output_node"]
    x = np.arange(-12, 12, dtype="float32").reshape(2, 3, 4)
    assert np.array_equal(file.predict(x), np.maximum(x.sum(axis=1), 0))
    capfd.readouterr()
    assert main([*command.split(), "--input_arrays=other", "--input_shapes=1,3,4"]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "--input-arrays must be names of the signature: ['image'], or of its nodes: ['in" in line


def test_a_graph_that_reads_more_than_the_inputs_given(tmp_path, monkeypatch, capfd):
    """As one frozen with its `keep_prob`; what lies before an input is not read."""
    monkeypatch.chdir(tmp_path)
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (1, 4), "image")
        keep = tf.compat.v1.placeholder(tf.float32, (), "keep_prob")
        tf.nn.relu(tf.identity(image, "inner") * keep, "kept")
        tf.nn.relu(tf.identity(tf.add(image, keep), "sum"), "free")
    Path("net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    command = "convert --graph_def_file=net.pb --output_file=o.tflite --input_arrays"
    assert main([*command.split(), "image", "--output_arrays=kept"]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "--input-arrays must be all that the outputs are computed of, ['image', 'keep_p" in line
    assert "Received: --input-arrays ['image'] (what only a training needs" in line
    assert main([*command.split(), "sum", "--output_arrays=free"]) == 0
    assert [end.name for end in kc.load_tflite("o.tflite").inputs] == ["sum"]
    Path("saved_model.pb").write_bytes(b"a part")
    assert main(["convert", "--graph_def_file=saved_model.pb", "--output_file=o.tflite"]) == 2
    assert "give the folder that it lies in" in capfd.readouterr().err.splitlines()[-1]


def test_the_beginning_of_a_name_is_enough_where_it_is_of_one_option(asked, capfd):
    assert (
        main(["convert", "--graph_def", "net.pb", "--output_file", "o.tflite", "--allow_custom_op"])
        == 0
    )
    assert asked[0].source == "net.pb"
    assert asked[0].export.allow_custom_ops
    assert main(["convert", "net.pb", "o.tflite", "--saved_model", "x"]) == 2  # of three
    assert "No such option" in capfd.readouterr().err
    assert (
        main(["convert", "net.pb", "o.tflite", "--mode", "float32", "--batch", "3"]) == 2
    )  # no old one


# --- as they stand in public, on small graphs of the same kind

DETECTIONS = ",".join(f"'{name}'" for name in tf1_graphs.OUTPUTS)
IMAGE = "--input_shapes=1,16,16,3 --input_arrays=normalized_input_image_tensor"
PUBLIC = {
    "tensorflow/tensorflow#15122": (
        "--input_format=TENSORFLOW_GRAPHDEF --input_file=float.pb --output_format=TFLITE "
        "--output_file=net.lite --inference_type=QUANTIZED_UINT8 "
        "--inference_input_type=QUANTIZED_UINT8 --input_arrays=input --output_arrays=softmax "
        "--input_shapes=1,16,16,3 --mean_values=128 --std_values=128 --default_ranges_min=0 "
        "--default_ranges_max=6",
        "uint8 uint8",
    ),
    "tensorflow/tensorflow#43027": (
        "--enable_v1_converter --graph_def_file=quantized.pb --output_file=net.tflite "
        "--input_format=TENSORFLOW_GRAPHDEF --output_format=TFLITE "
        "--inference_type=QUANTIZED_UINT8 --output_arrays=softmax --input_arrays=input "
        "--mean_values 121 --std_dev_values 64",
        "uint8 uint8",
    ),
    "tensorflow/tensorflow#29758": (
        f"--input_file=float_ssd.pb --output_file=net.tflite {IMAGE} "
        f"--output_arrays={DETECTIONS} --mean_values=128 --std_values=128 "
        "--change_concat_input_ranges=false --allow_custom_ops",
        "float32 float32",
    ),
    "tensorflow/tensorflow#18829": (
        f"--input_file=float_ssd.pb --output_file=net.tflite {IMAGE} "
        f"--output_arrays={DETECTIONS} --inference_type=QUANTIZED_UINT8 --default_ranges_min=0 "
        "--default_ranges_max=255 --mean_values=128 --std_values=128 "
        "--change_concat_input_ranges=false --allow_custom_ops",
        "uint8 float32",
    ),
    "tensorflow/models#6819": (
        "--input_file=ssd.pb --output_file=net.tflite --inference_type=QUANTIZED_UINT8 "
        f"--input_format=TENSORFLOW_GRAPHDEF --output_format=TFLITE {IMAGE} "
        f"--output_arrays={DETECTIONS} --mean_values=128 --std_values=128 "
        "--change_concat_input_ranges=false --allow_custom_ops",
        "uint8 float32",
    ),
    "tensorflow/models#5020": (
        f"--input_file=float_ssd.pb --output_file=net.tflite {IMAGE} "
        f"--output_arrays={DETECTIONS} --inference_type=FLOAT --allow_custom_ops",
        "float32 float32",
    ),
    "tensorflow/tensorflow#35690": (
        "--output_file net.tflite --graph_def_file float_ssd.pb --input_arrays "
        "normalized_input_image_tensor --output_arrays TFLite_Detection_PostProcess "
        "--input_shapes 1,16,16,3 --allow_custom_ops",
        "float32 float32",
    ),
    "tensorflow/tensorflow#30644": (
        "--graph_def_file=float.pb --output_file=net.tflite --input_format=TENSORFLOW_GRAPHDEF "
        "--output_format=TFLITE --input_shape=1,16,16,3 --input_array=input "
        "--output_array=softmax --inference_type=FLOAT --input_data_type=FLOAT",
        "float32 float32",
    ),
    "toco's page of examples, dummy quantization": (
        "--input_file=float.pb --output_file=foo.cc --input_format=TENSORFLOW_GRAPHDEF "
        "--output_format=TFLITE --input_type=QUANTIZED_UINT8 --inference_type=QUANTIZED_UINT8 "
        "--input_shape=1,16,16,3 --input_array=input --output_array=softmax "
        "--default_ranges_min=0 --default_ranges_max=6 --mean_value=127.5 --std_value=127.5 "
        "--dump_graphviz=dots",
        "uint8 uint8",
    ),
    "tflite_convert's page of examples, several inputs": (
        "--graph_def_file=float.pb --output_file=net.tflite "
        "--input_shapes=1,8,8,8:1,8,8,8 --input_arrays=first/Relu6,expand/Relu6 "
        "--output_arrays=concat,softmax",
        "float32 float32 float32 float32",
    ),
    "krasserm/face-recognition#39": (
        "--output_file test.tflite --keras_model_file test.h5",
        "float32 float32",
    ),
    "a script for YOLO": (
        "--input_file=float.pb --input_format=TENSORFLOW_GRAPHDEF --output_format=TFLITE "
        "--output_file=net.tflite --inference_type=FLOAT --input_arrays=input "
        "--output_arrays=softmax --input_shapes=1,16,16,3 --quantize_weights=true",
        "float32 float32",
    ),
    "the same for the Edge TPU": (
        "--output_file=net.tflite --graph_def_file=ssd.pb --inference_type=QUANTIZED_UINT8 "
        f'{IMAGE} --output_arrays="{",".join(tf1_graphs.OUTPUTS)}" --mean_values=128 '
        "--std_dev_values=128 --change_concat_input_ranges=false "
        "--allow_nudging_weights_to_use_fast_gemm_kernel=true --allow_custom_op",
        "uint8 float32",
    ),
    "YOLO v3's SavedModel": (
        "--saved_model_dir=saved/ --output_file net.tflite --saved_model_signature_key='predict'",
        "float32 float32",
    ),
    "the post-training guide of 2018": (
        "--output_file=net.tflite --saved_model_dir=saved --saved_model_tag_set=serve "
        "--saved_model_signature_key=predict --post_training_quantize --v=1",
        "float32 float32",
    ),
}
FAILING = {
    "tensorflow/tensorflow#30606": (  # "array is lacking min/max data"
        "--output_file=net.tflite --graph_def_file=float.pb --inference_type=QUANTIZED_UINT8 "
        "--input_arrays=input --output_arrays=softmax --mean_values=0 --std_dev_values=127",
        "or --default-ranges-min and --default-ranges-max as a guess",
    ),
    "tensorflow/tensorflow#32611": (
        "--graph_def_file=./quantized.pb --output_file=net.tflite --output_format=TFLITE "
        "--input_shape=1,16,16,3 --input_array=input --output_array=softmax "
        "--inference_type=QUANTIZED_UINT8 --inference_input_type=QUANTIZED_UINT8",
        "--mean and --std must be given for the input 'input'",
    ),
    "tensorflow/tensorflow#22506": (
        "--graph_def_file=quantized.pb --input_format=TENSORFLOW_GRAPHDEF --output_format=TFLITE "
        "--output_file=net.tflite --inference_type=QUANTIZED_UINT8 --input_type=FLOAT "
        "--input_arrays=ImageTensor --output_arrays=SemanticPredictions --input_shapes=1,16,16,3",
        "--input-arrays must be names of nodes of the graph, as ['input']",
    ),
    "tensorflow/tensorflow#33867": (
        "--output_file=net.tflite --graph_def_file=float.pb --inference_type=QUANTIZED_UINT8 "
        "--input_shapes=16000,1: --input_arrays=decoded_sample_data,decoded_sample_data:1 "
        "--output_arrays=labels_softmax",
        "--input-shapes must be integers between commas, as 1,28,28,1",
    ),
}


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A folder with models of the kinds that the commands take."""
    import keras

    folder = tmp_path_factory.mktemp("public")
    tf1_graphs.classifier(folder / "float.pb", rounds=False)
    tf1_graphs.classifier(folder / "quantized.pb")
    tf1_graphs.detector(folder / "float_ssd.pb", rounds=False)
    tf1_graphs.detector(folder / "ssd.pb")
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])
    model.save(folder / "test.h5")
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [keras.InputSpec(shape=(None, 4), dtype="float32", name="x")]
    archive.add_endpoint("predict", model.__call__, input_signature=signature)
    archive.add_endpoint("other", model.__call__, input_signature=signature)
    archive.write_out(folder / "saved", verbose=False)
    return folder


MORE = {
    "tensorflow/models#5020", "tensorflow/tensorflow#35690", "tensorflow/tensorflow#30644",
    "a script for YOLO", "the same for the Edge TPU",
}  # fmt: skip
"""What another of them shows as well."""


@pytest.mark.sweep_if(when=lambda thread: thread in MORE)
@pytest.mark.parametrize("thread", PUBLIC)
def test_a_command_that_stands_in_public(public, monkeypatch, capfd, thread):
    command, types = PUBLIC[thread]
    monkeypatch.chdir(public)
    assert main(["convert", *shlex.split(command)]) == 0
    (path,) = re.findall(r"--output_file[= ](\S+)", command)
    file = kc.load_tflite(path)
    assert " ".join(dict.fromkeys(end.dtype for end in file.inputs)) == types.split()[0]
    assert {end.dtype for end in file.outputs} == {types.split()[-1]}
    record = json.loads(Path(f"{path}.json").read_text())["report"]
    assert record["export"]["path"] == record["specs"]["export"]["path"] == path
    assert record["export"]["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    stats = re.search(r"mean_values?[= ](\S+) --std\w+[= ](\S+)", command)
    if file.inputs[0].dtype == "uint8":
        assert file.inputs[0].zero_point == round(float(stats[1]) + 0.01)
        assert file.inputs[0].scale == pytest.approx(1 / float(stats[2]), rel=1e-5)
    elif stats:
        assert "of no effect in a float file" in capfd.readouterr().err
    if "DetectionP" in command:
        assert [end.name for end in file.outputs] == tf1_graphs.OUTPUTS
    if "quantize" in command and "dummy" not in thread and "quantized.pb" not in command:
        assert any(t.dtype == "int8" for t in kc.inspect_tflite(path).tensors)


@pytest.mark.parametrize("thread", FAILING)
def test_a_command_that_failed_in_public_says_why(public, monkeypatch, capfd, thread):
    command, message = FAILING[thread]
    monkeypatch.chdir(public)
    assert main(["convert", *shlex.split(command)]) == 2
    assert message in capfd.readouterr().err.splitlines()[-1]
