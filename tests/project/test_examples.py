"""The examples, run as a user runs them."""

import csv
import importlib
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import keras_compress as kc

pytestmark = pytest.mark.timeout(600)  # whole scripts in processes of their own

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES, BENCHMARKS = ROOT / "examples", ROOT / "benchmarks"


def both(suite):
    """Each Keras: `suite` is that of the suite, and the sweep has the other."""
    sweep = pytest.mark.sweep_if(when=lambda which: which != suite)
    parametrized = pytest.mark.parametrize("which", ["3", "2"])
    return lambda test: sweep(parametrized(test))


def run(example, which, folder, *arguments):
    """(what it printed, rows of its last table: name -> the other columns)."""
    printed, _ = outputs(
        EXAMPLES / example, folder, "--keras", which, "--folder", folder, *arguments
    )
    return printed, last_rows(printed)


def outputs(script, folder, *arguments):
    """What a script printed, and what it logged."""
    child = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "KERAS_HOME": str(folder)},  # no MNIST there
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout, child.stderr


def last_rows(printed):
    """The rows of the last table in it: name -> the other columns."""
    last = printed[printed.rindex("┏") :]
    rows = [re.split(r" *│ *", line)[1:-1] for line in last.splitlines() if line[:1] == "│"]
    return {name: cells for name, *cells in rows}


def sizes(cells):
    """The first cells of a row, as numbers of bytes."""
    return [int(cell.replace(",", "")) for cell in cells]


@pytest.mark.sweep  # the suite has the README and a notebook of it
@both(suite="2")
def test_lenet_prints_its_table(which, tmp_path):
    printed, rows = run("lenet.py", which, tmp_path, "--epochs", "2")
    assert "LeNet on digits" in printed
    assert list(rows) == ["float", "fake-quantized", "TFLite int8", "post-training int8"]
    assert "quantized: 1" in printed  # the progress bar shows the switch
    assert "from here on the network rounds to integers" in printed
    float_file, int8_file = tmp_path / "lenet_float.tflite", tmp_path / "lenet.tflite"
    assert sizes(rows["float"][:1]) == [float_file.stat().st_size]
    assert sizes(rows["TFLite int8"][:1]) == [int8_file.stat().st_size]
    assert float_file.stat().st_size >= 3.5 * int8_file.stat().st_size


@pytest.mark.sweep
@both(suite="3")
def test_wrap_compresses_in_a_bare_fit(which, tmp_path):
    printed, rows = run("wrap.py", which, tmp_path, "--epochs", "10")
    assert "67.0% of the pruned weights are zeros" in printed
    assert "from here on the network rounds to integers" in printed
    assert list(rows) == ["stripped, float", "fake-quantized", "TFLite int8"]
    accuracies = [float(cells[0]) for cells in rows.values()]
    assert min(accuracies) > 50
    assert max(accuracies) - min(accuracies) < 5
    file = tmp_path / "wrapped.tflite"
    contents = kc.inspect_tflite(file)
    assert contents.all_integer
    assert sizes(rows["TFLite int8"][1:]) == [file.stat().st_size, contents.zipped_bytes]

    keras = __import__("keras" if which == "3" else "tf_keras")
    # Compiled, Keras 3 warns of an optimizer that has not trained yet.
    plain = keras.models.load_model(tmp_path / "stripped.keras", compile=False)
    kinds = [type(layer).__name__ for layer in plain.layers]
    assert kinds[:4] == ["Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D"]
    kernel = plain.get_layer("digit").get_weights()[0]
    assert np.mean(kernel == 0) == pytest.approx(0.67, abs=0.01)


@pytest.mark.sweep
@both(suite="2")
def test_finetune_prunes_what_was_frozen(which, tmp_path):
    printed, rows = run("finetune.py", which, tmp_path, "--quick")
    # Of the second fit alone: 96 images in batches of 16, twice.
    assert "12 updates; quantized from update 11; 50.0% of the pruned weights are zeros" in printed
    assert "from here on the network rounds to integers" in printed
    assert list(rows) == [
        "float, after the first fit",
        "float, half of it zeros",
        "fake-quantized",
        "TFLite int8",
    ]
    file = tmp_path / "textures.tflite"
    contents = kc.inspect_tflite(file)
    assert contents.all_integer
    assert sizes(rows["TFLite int8"][1:]) == [file.stat().st_size, contents.zipped_bytes]
    (image,) = kc.load_tflite(file).inputs
    assert image.shape == (1, 96, 96, 3)
    assert np.dtype(image.dtype) == np.uint8
    assert image.scale == pytest.approx(2 / 255, rel=1e-3)  # [-1, 1], what a camera's bytes mean


@pytest.mark.sweep
@both(suite="3")
def test_sparsity_search_finds_a_file(which, tmp_path):
    printed, rows = run("sparsity_search.py", which, tmp_path, "--quick")
    assert "accuracy with one layer pruned" in printed
    assert "Trial 2 Complete" in printed  # KerasTuner's own progress
    with open(tmp_path / "sparsity_search.csv", newline="") as file:
        trials = {row["trial"]: row for row in csv.DictReader(file)}
    assert [row["status"] for row in trials.values()] == ["COMPLETED"] * 2
    winner = re.search(r"the winner is trial (\d+): (.*)", printed)
    assert trials[winner[1]]["feasible"] == "True"
    file = pathlib.Path(winner[2])
    contents = kc.inspect_tflite(file)
    assert contents.all_integer
    assert list(rows) == ["float", "the winner, int8"]
    assert sizes(rows["the winner, int8"][:2]) == [file.stat().st_size, contents.zipped_bytes]
    assert float(trials[winner[1]]["tflite_zipped_bytes"]) == contents.zipped_bytes
    front = re.findall(r"^  trial (\d+): .* bytes zipped$", printed, re.MULTILINE)
    assert sorted(front) == [name for name, row in trials.items() if row["pareto"] == "True"]
    for picture in ("sensitivity.png", "sparsity_search.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG"), picture


@pytest.mark.sweep
def test_sparsity_search_without_a_winner_says_so(tmp_path):
    command = [sys.executable, EXAMPLES / "sparsity_search.py", "--folder", tmp_path, "--quick"]
    # No file is 100 points better than the float network.
    child = subprocess.run(
        [*command, "--max-drop", "-1"], capture_output=True, text=True, check=False
    )
    assert child.returncode == 1, child.stderr
    assert "SparsitySearch: no trial keeps to accuracy at most -1 worse" in child.stderr
    with open(tmp_path / "sparsity_search.csv", newline="") as file:
        assert [row["feasible"] for row in csv.DictReader(file)] == ["False"] * 2
    assert (tmp_path / "sparsity_search.png").exists()


@pytest.mark.sweep
@both(suite="3")
def test_the_detector_prints_its_table(which, tmp_path):
    printed, rows = run("ssd_mobilenet_v2.py", which, tmp_path, "--quick")
    assert "pruned and quantized: epoch 1 of 1" in printed
    assert "50.0% of the weights are zeros" in printed
    files = {
        "float, before": "before",
        "float": "float",
        "float16": "float16",
        "dynamic": "dynamic",
        "post-training int8": "post_training",
        "int8": "int8",
        "half pruned, int8": "pruned_int8",
    }
    assert list(rows) == list(files)
    for row, name in files.items():
        path = tmp_path / f"ssd_{name}.tflite"
        contents = kc.inspect_tflite(path)
        assert sizes(rows[row][2:4]) == [path.stat().st_size, contents.zipped_bytes], row
        assert contents.ops[-1].name == "TFLite_Detection_PostProcess"
    (image,) = kc.load_tflite(tmp_path / "ssd_pruned_int8.tflite").inputs
    assert (image.dtype, image.scale, image.zero_point) == ("uint8", 1 / 128, 128)
    heads = kc.load_tflite(tmp_path / "ssd_heads.tflite")
    assert [each.name for each in heads.outputs] == ["boxes", "scores"]
    assert kc.inspect_tflite(tmp_path / "ssd_heads.tflite").all_integer
    assert (tmp_path / "ssd.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.sweep
def test_the_cost_of_a_search_is_measured(tmp_path):
    printed, _ = outputs(BENCHMARKS / "search_cost.py", tmp_path, "--quick")
    assert "LeNet on digits, keras" in printed
    shared, full = (
        re.search(rf"│ {name} +│ +([0-9.]+) │", printed)
        for name in ("one float training", "each trains in full")
    )
    ratio = re.search(r"ratio of seconds ([0-9.]+)", printed)
    assert float(ratio[1]) == pytest.approx(float(shared[1]) / float(full[1]), abs=0.02)
    rows = last_rows(printed)
    assert list(rows) == ["1", "3"]
    assert all(float(cells[0]) > 100 for cells in rows.values())


@pytest.mark.sweep
def test_modes_are_measured_against_tf_lite(tmp_path):
    printed, _ = outputs(BENCHMARKS / "post_training.py", tmp_path, "--quick")
    rows = re.findall(r"│ (\w+) +│ (keras_compress|tf.lite by hand) +│ (.*) │", printed)
    found = {(mode, name): cells.split("│") for mode, name, cells in rows}
    assert len(found) == 10
    for mode in ("float32", "float16", "dynamic", "int8", "int16x8"):
        ours, theirs = found[mode, "keras_compress"], found[mode, "tf.lite by hand"]
        assert float(ours[0]) == pytest.approx(float(theirs[0]), abs=1)  # accuracy in per cent
        assert int(ours[2].replace(",", "")) <= int(theirs[2].replace(",", ""))  # bytes


@pytest.mark.sweep
@pytest.mark.parametrize("which", ["3", "2"])
def test_accuracy_is_measured_beside_tfmots(which, tmp_path):
    printed, _ = outputs(BENCHMARKS / "accuracy.py", tmp_path, "--quick", "--keras", which)
    rows = [re.split(r" *│ *", line)[1:-1] for line in printed.splitlines() if line[:1] == "│"]
    assert [row[:3] for row in rows] == [
        ["LeNet", "[0, 1]", "0"],
        ["", "", "5"],
        ["LeNet", "[0, 255]", "0"],
        ["", "", "5"],
    ]
    for (plain, after, *nothing), (trained_on, _, ours, one_fit, theirs, *ahead) in zip(
        *([row[3:] for row in rows[first::2]] for first in (0, 1)), strict=True
    ):
        assert float(plain) > 70  # of a hundred, after 200 steps
        assert float(after) == pytest.approx(float(plain), abs=3)
        assert nothing == ["-"] * 6
        assert float(ours) == pytest.approx(float(trained_on), abs=5)
        assert float(one_fit) == pytest.approx(float(trained_on), abs=5)
        assert float(ahead[0]) == pytest.approx(float(ours) - float(trained_on), abs=0.02)
        if which == "3":
            assert (theirs, *ahead[1:]) == ("-", "-", "-")
        else:
            assert float(ahead[1]) == pytest.approx(float(ours) - float(theirs), abs=0.02)
            assert float(ahead[2]) == pytest.approx(float(one_fit) - float(theirs), abs=0.02)
    assert ("below tfmot" in printed) == (which == "2")


@pytest.fixture
def told(monkeypatch):
    """What `benchmarks/accuracy.py` says of ours and tfmot's accuracies, three seeds each."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    accuracy = importlib.import_module("accuracy")

    def say(top, steps, ours, theirs):
        chosen = types.SimpleNamespace(nets=["LeNet"], ranges=[top], steps=[steps])
        scores = accuracy.Scores(chosen)
        for own, other in zip(ours, theirs, strict=True):
            rows = [(top, accuracy.OURS, steps, own, 0), (top, accuracy.TFMOT, steps, other, 0)]
            scores.add("LeNet", rows)
        return "\n".join(accuracy.verdicts(scores, accuracy.OURS))

    yield say
    for name in ("accuracy", "measuring", "nets_of_digits"):
        del sys.modules[name]


def test_an_accuracy_below_tfmots_is_called_so(told):
    # Differences -1, -1 and +1: mean -0.33, standard error 2 / 3.
    assert "one standard error: met in 1 of 1" in told(1, 50, [96, 96, 98], [97, 97, 97])
    # -1, -1 and -0.4: mean -0.8, standard error 0.2.
    below = told(1, 50, [96, 96, 96.6], [97, 97, 97])
    assert "one standard error: MISSED in 1 of 1: LeNet [0, 1] 50 steps -0.80 ± 0.20" in below
    assert "3 points" not in below  # that is said of 50 steps with [0, 255] alone


def test_being_ahead_of_tfmot_by_too_little_is_called_so(told):
    assert "[0, 255]: met in 1 of 1: LeNet [0, 255] 50 steps +3.00 ± 0.58" in told(
        255, 50, [92, 93, 94], [90, 90, 90]
    )
    assert "[0, 255]: MISSED in 1 of 1: LeNet [0, 255] 50 steps +2.00 ± 0.58" in told(
        255, 50, [91, 92, 93], [90, 90, 90]
    )
    assert "3 points" not in told(255, 200, [91, 92, 93], [90, 90, 90])


# --- what lives long


@pytest.mark.sweep
@pytest.mark.parametrize("which", ["3", "2"])
def test_channels_are_measured(which, tmp_path):
    printed, _ = outputs(BENCHMARKS / "channels.py", tmp_path, "--quick", "--keras", which)
    assert re.search(r"LeNet *│ *in the( fit)? *│ *[\d,]+ *│ *0\.\d\d", printed)


@pytest.mark.sweep
def test_a_killed_training_survives(tmp_path):
    printed, _ = outputs(BENCHMARKS / "survival.py", tmp_path, "--quick")
    assert re.search(r"in all *│ *1 of 1 ", printed)


@pytest.mark.sweep
@pytest.mark.parametrize("which", ["3", "2"])
def test_what_a_long_life_costs_is_measured(which, tmp_path):
    printed, _ = outputs(BENCHMARKS / "soak.py", tmp_path, "--quick", "--keras", which)
    second, last, ratio = (
        float(number)
        for number in re.search(
            r"second quarter (\d+) MB,\s+last quarter (\d+) MB: ([\d.]+) of it", printed
        ).groups()
    )
    assert ratio == pytest.approx(last / second, abs=0.01)


@pytest.mark.sweep
@pytest.mark.parametrize("which", ["3", "2"])
def test_the_cost_of_a_step_is_measured(which, tmp_path):
    printed, _ = outputs(BENCHMARKS / "step_time.py", tmp_path, "--quick", "--keras", which)
    for row in ("off", "on", "pruned, mask every 100", "pruned, mask every step"):
        assert f"LeNet b32: {row} / plain" in printed
    # Off, nothing but the counter is added to a step.
    off, on = (
        int(re.search(rf"LeNet b32: {row} / plain: (\d+) more ops", printed)[1])
        for row in ("off", "on")
    )
    assert off <= 5 < on


@pytest.mark.sweep
@pytest.mark.parametrize("which", ["3", "2"])
def test_the_cost_of_the_edges_is_measured(which, tmp_path):
    printed, _ = outputs(BENCHMARKS / "edges.py", tmp_path, "--quick", "--keras", which)
    rows = last_rows(printed)
    phases = ("plain", "off", "watching", "on", "frozen")
    assert list(rows) == [f"LeNet b32: {phase}" for phase in phases]
    # Validation is not traced where only watching begins.
    assert [int(cells[7]) for cells in rows.values()] == [1, 1, 0, 1, 1]


@pytest.mark.sweep
def test_without_a_gpu_its_benchmark_refuses(tmp_path):
    command = [sys.executable, BENCHMARKS / "gpu.py"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "sees no GPU here; on a CUDA machine `pip install 'tensorflow[and-cuda]'`" in done.stderr
    assert list(tmp_path.iterdir()) == []
