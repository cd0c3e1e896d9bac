"""The command line, from the shell: what is printed where, and exit codes."""

import json
import os
import resource
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.cli import main


def shell(*arguments, cwd=None):
    """Exit code, standard output and standard error of `keras-compress ARGUMENTS`."""
    done = subprocess.run(
        [sys.executable, "-m", "keras_compress", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    return done.returncode, done.stdout, done.stderr


def one_object(text):
    """The only thing that stands in `text`: a JSON object without NaN."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    (line,) = text.splitlines()
    return json.loads(line, parse_constant=refuse)


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """A folder with a quantized net, its state, a float file, a frozen graph and data."""
    folder = tmp_path_factory.mktemp("shell")
    x, y, x_test, y_test = digits
    model = small_net(keras, jit_compile=False)
    kc.export_tflite(model, kc.Export(folder / "float.tflite", mode="float32"))
    model.fit(
        x[:640], y[:640], verbose=0, callbacks=[kc.Compress(quantization=kc.Quantization(delay=5))]
    )
    kc.strip(model).save(folder / "net.keras")
    kc.save_state(model, folder / "state.npz")
    np.savez(folder / "images.npz", image=x_test[:64])
    np.savez(folder / "test.npz", image=x_test, y=y_test)
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 4), "image")
        kernel = tf.constant(np.linspace(-1, 1, 12).reshape(4, 3), tf.float32)
        tf.nn.relu(tf.matmul(image, kernel), "relu")
    (folder / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return folder


@pytest.fixture(scope="module")
def converted(folder):
    """`net.tflite`, made from the shell, and what that printed."""
    return shell(
        *("convert", "net.keras", "net.tflite", "--state", "state.npz"),
        *("--inference_input_type", "uint8", "--mean", "0", "--std=255", "--json"),
        cwd=folder,
    )


# --- convert


def test_a_quantized_model_is_converted(folder, converted):
    code, out, err = converted
    assert code == 0
    found = one_object(out)
    assert found["error"] is None
    assert found["argmax_agreement"]["probabilities"] > 0.9
    assert err.splitlines()[0] == "net.keras -> net.tflite, int8 ..."
    assert "Traceback" not in err
    assert "cuda" not in err  # nor what else TensorFlow says when it starts
    (image,) = kc.load_tflite(folder / "net.tflite").inputs
    assert (image.dtype, image.zero_point) == ("uint8", 0)
    assert image.scale == pytest.approx(1 / 255)
    assert found["bytes"] == (folder / "net.tflite").stat().st_size
    assert (folder / "net.tflite.json").exists()


def test_tflite_converts_own_words_are_understood(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    command = (
        "convert --graph_def_file=graph.pb --output_file=graph.tflite --input_arrays=image "
        "--input_shapes=1,4 --output_arrays=relu --inference_type=QUANTIZED_UINT8 "
        "--mean_values=127.5 --std_dev_values=127.5 --default_ranges_min=0 "
        "--default_ranges_max=6 --allow_custom_ops"
    )
    assert main(command.split()) == 0
    out, err = capfd.readouterr()
    assert "graph.tflite: int8" in out
    assert "graph.pb -> graph.tflite, int8 ..." in err
    file = kc.load_tflite("graph.tflite")
    assert [info.dtype for info in (*file.inputs, *file.outputs)] == ["uint8", "uint8"]
    assert (file.inputs[0].scale, file.inputs[0].zero_point) == (pytest.approx(1 / 127.5), 128)
    assert file.outputs[0].scale == pytest.approx(6 / 255)


@pytest.mark.parametrize(
    ("statistics", "scale", "zero_point"),
    [
        ("--mean image=128 --std image=64", 1 / 64, 128),
        ("--input-arrays image --mean_values 128 --std_dev_values 64", 1 / 64, 128),
        ("--mean auto", 1 / 255, 0),  # the images are in [0, 1]
    ],
)
def test_statistics_of_inputs(folder, monkeypatch, capfd, statistics, scale, zero_point):
    monkeypatch.chdir(folder)
    command = "convert net.keras statistics.tflite --representative-dataset images.npz"
    assert main([*command.split(), *statistics.split(), "--inference-input-type=UINT8"]) == 0
    (image,) = kc.load_tflite("statistics.tflite").inputs
    assert (image.dtype, image.zero_point) == ("uint8", zero_point)
    assert image.scale == pytest.approx(scale, rel=1e-3)


def test_tflite_convert_makes_float_files_unless_told_otherwise(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    command = "convert --keras_model_file=net.keras --output_file=old.tflite --json"
    assert main(command.split()) == 0
    assert one_object(capfd.readouterr().out)["mode"] == "float32"
    assert not kc.inspect_tflite("old.tflite").all_integer


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("convert net.keras", 2, "and --output_file. Received: net.keras."),
        ("convert a b c", 2, "One MODEL and one OUT are needed"),
        ("convert a b --output-file c", 2, "One MODEL and one OUT are needed"),
        ("convert none.keras out.tflite", 2, "MODEL must be a file or folder that exists"),
        ("convert net.keras out.tf", 2, "OUT must be the path of a file that ends in"),
        ("convert net.keras none/out.tflite", 2, "OUT must be in a folder that exists"),
        ("convert net.keras out.tflite --mode int9", 2, "'int9' is not one of"),
        ("convert net.keras out.tflite --mean 1", 2, "--mean and --std go together"),
        ("convert net.keras out.tflite --mean a=1 --std b=1", 2, "for the same inputs"),
        ("convert net.keras out.tflite --mean x --std 1", 2, "must be a number. Received: x"),
        ("convert net.keras out.tflite --mean 1,2 --std 1,2", 2, "NAME=NUMBER for each input"),
        ("convert net.keras out.tflite --default-ranges-min 0", 2, "go together"),
        ("convert net.keras out.tflite --inference-type STRING", 2, "must be FLOAT, QUANTIZED"),
        ("convert net.keras out.tflite --mode dynamic --inference-type FLOAT", 2, "contradict"),
        ("convert net.pb out.tflite --input-shapes 1,2", 2, "one for each of --input-arrays"),
        (
            "convert net.keras out.tflite --representative-dataset no.npz",
            2,
            "--representative-dataset",
        ),
        ("convert images.npz out.tflite --mode float32", 2, "a model or the path of a .keras"),
        ("convert net.keras out.tflite --mode float32 --timeout 0.01", 1, "took longer than 0.01"),
        ("inspect none.tflite", 2, "No such file or directory: 'none.tflite'"),
        ("inspect images.npz", 2, "FILE must be a TFLite file"),
        ("benchmark float.tflite --runs 0", 2, "'--runs': 0 is not in the range x>=1"),
        ("compare float.tflite --data images.npz", 2, "A B ... must be two or more"),
        ("compare float.tflite float.tflite --data none.npz", 2, "none.npz"),
        ("compare float.tflite float.tflite --data float.tflite", 2, "must be a .npz file"),
        ("compare float.tflite float.tflite --data test.npz --labels z", 2, "--labels z is not in"),
        ("ranges --min -1", 2, "Give --mean and --std, --scale and --zero-point or --min and"),
        ("ranges --mean 0 --std 1 --min 0 --max 1", 2, "Give --mean and --std"),
        ("ranges --min 1 --max 2", 2, "must have 0 between them"),
        ("ranges --min 1 --max 0", 2, "--min must be less than --max"),
        ("benchmark float.tflite --threads 0", 2, "'--threads': 0 is not in the range x>=1"),
        ("report none.tflite.json", 2, "No such file or directory: 'none.tflite.json'"),
        ("report float.tflite", 2, "RECORD must be the .tflite.json that stands beside"),
        ("frobnicate", 2, "No such command 'frobnicate'"),
    ],
)
def test_errors_are_one_line_and_have_a_code(folder, monkeypatch, capfd, command, code, message):
    monkeypatch.chdir(folder)
    (folder / "net.pb").touch()
    assert main(command.split()) == code
    out, err = capfd.readouterr()
    assert out == ""
    *before, line = err.splitlines()
    assert line.startswith("keras-compress: ")
    assert message in line
    assert all(each.endswith(" ...") for each in before)
    assert not os.path.exists("out.tflite")
    if command != "frobnicate":  # which has no options
        assert main([*command.split(), "--json"]) == code
        found = one_object(capfd.readouterr().out)["error"]
        assert message in found["message"]
        assert found["exit_code"] == code


def test_errors_from_the_shell(folder):
    code, out, err = shell("inspect", "images.npz", cwd=folder)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    code, out, err = shell("inspect", "images.npz", "--debug", cwd=folder)
    assert code == 2
    assert "Traceback (most recent call last)" in err
    code, out, err = shell()
    assert (code, out) == (2, "")
    assert err.lstrip().startswith("Usage: keras-compress [OPTIONS] COMMAND")


# --- the others


def test_inspect_compare_and_benchmark(folder, converted, monkeypatch, capfd):
    monkeypatch.chdir(folder)

    def run(command):
        assert main(command.split()) == 0
        return capfd.readouterr().out

    assert run("inspect net.tflite") == f"{kc.inspect_tflite('net.tflite')}\n"
    found = one_object(run("inspect net.tflite --json"))
    assert found == kc.inspect_tflite("net.tflite").to_dict()
    command = "compare float.tflite net.tflite --data test.npz --labels y --runs 3"
    assert "signal to quantization noise in net.tflite, 64 rows" in run(command)
    found = one_object(run(f"{command} --json"))
    with np.load("test.npz") as data:
        accuracy = kc.load_tflite("net.tflite").evaluate(data["image"], data["y"])["accuracy"]
    assert found["networks"][1]["metrics"] == {"accuracy": accuracy}
    assert found["rows"] == 453
    found = one_object(run("compare net.keras net.tflite --data images.npz --runs 0 --json"))
    assert [network["name"] for network in found["networks"]] == ["net.keras", "net.tflite"]
    assert found["networks"][1]["agreement"] > 0.8
    assert len(found["layers"]["net.tflite"]) == 4  # of the float file that was made for it
    found = one_object(run("benchmark net.tflite --threads 2 --runs 7 --json"))
    assert (found["threads"], found["runs"], found["rows"]) == (2, 7, 1)
    assert 0 < found["min_ms"] <= found["median_ms"] <= found["p95_ms"]
    assert found["bytes"] == os.path.getsize("net.tflite")


@pytest.mark.parametrize(
    ("given", "mean", "std", "scale", "zero_point", "low", "high"),
    [
        ("--mean 0 --std 1", 0, 1, 1, 0, 0, 255),
        ("--min 0 --max 255", 0, 1, 1, 0, 0, 255),
        ("--mean 127.5 --std 127.5", 128, 127.5, 1 / 127.5, 128, -128 / 127.5, 127 / 127.5),
        ("--min -1 --max 1", 128, 127.5, 1 / 127.5, 128, -128 / 127.5, 127 / 127.5),
        ("--min 0 --max 1", 0, 255, 1 / 255, 0, 0, 1),
        ("--scale 0.5 --zero-point 10", 10, 2, 0.5, 10, -5, 122.5),
        ("--scale 0.5 --zero_point -118 --dtype int8", 10, 2, 0.5, -118, -5, 122.5),
    ],
)
def test_ranges_in_their_three_notations(capfd, given, mean, std, scale, zero_point, low, high):
    assert main(["ranges", *given.split(), "--json"]) == 0
    found = one_object(capfd.readouterr().out)
    del found["dtype"]
    assert found == pytest.approx(
        {
            "mean": mean, "std": std, "scale": scale, "zero_point": zero_point,
            "min": low, "max": high,
        }
    )  # fmt: skip
    assert main(["ranges", *given.split()]) == 0
    assert f"{scale:.9g}" in capfd.readouterr().out


# --- how it starts


@pytest.mark.parametrize("command", ["--help", "convert --help", "ranges --min 0 --max 1"])
def test_it_starts_within_a_second(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, out, err = shell(*command.split())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (code, err) == (0, "")
    assert out
    # The time of the processor, which does not depend on who else computes.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1


def test_commands_that_need_no_tensorflow_do_not_load_it(folder, converted):
    program = (
        "import sys\n"
        "from keras_compress.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    assert main(command.split()) == 0\n"
        "print({'tensorflow', 'keras', 'tf_keras'} & set(sys.modules))\n"
    )
    commands = [
        "--help",
        "ranges --mean 0 --std 1",
        "inspect net.tflite",
        "benchmark net.tflite --runs 2",
        "compare float.tflite net.tflite --data images.npz --runs 2",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *commands], cwd=folder, capture_output=True, text=True
    )
    assert done.stdout.endswith("\nset()\n")
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", ["convert", "inspect", "compare", "benchmark", "ranges", "report"]
)
def test_help_has_examples(command, capfd):
    assert main([command, "--help"]) == 0
    out = capfd.readouterr().out
    assert f"\nExamples:\n  keras-compress {command} " in out
    assert "--json" in out


def test_a_reader_that_has_enough_is_no_error(folder):
    pipe = f"{sys.executable} -m keras_compress inspect float.tflite | head -n 1"
    done = subprocess.run(["bash", "-c", pipe], cwd=folder, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_the_command_is_installed_by_its_name():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"keras-compress": "keras_compress.cli:main"}
