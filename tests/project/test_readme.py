"""What the README shows, runs, and what it lists is what there is."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from helpers.kinds_page import page
from helpers.rooms import FLOORS, modules

import keras_compress as kc
from keras_compress.engines.in_place.table import ACTIVATIONS, TABLE
from keras_compress.reports.export import ExportReport, LayerAgreement
from keras_compress.reports.fit import LayerReport, Report
from keras_compress.reports.validation import ValidationReport

README = pathlib.Path(__file__).parents[2] / "README.md"


def section(title):
    """The text below a heading, up to the next one."""
    text = README.read_text()
    assert text.count(f"\n## {title}\n") == 1
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.sweep_if(when=lambda keras: keras == "tf_keras")
@pytest.mark.timeout(600)  # the whole README as one script
def test_the_python_of_the_readme_runs(keras, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 18
    source = "\n".join(blocks)
    if keras.__name__ == "tf_keras":
        source = source.replace("import keras\n", "import tf_keras as keras\n")
    keras.utils.set_random_seed(0)
    names = {}
    exec(source, names)
    assert names["keras"] is keras
    report = names["compress"].report
    assert report.export.written
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert names["again"].written
    assert kc.compression_of(names["wrapped"]).report.sparsity == pytest.approx(0.5, abs=0.01)
    found = names["search"].trials()
    assert [trial.status for trial in found] == ["COMPLETED"] * 2
    assert all(trial in found for trial in names["front"])
    printed = capsys.readouterr().out
    assert str(report) in printed
    assert names["search"].trials_table() in printed
    accuracy = re.search(r"^0\.\d+$", printed, flags=re.MULTILINE)
    assert float(accuracy.group()) > 0.8
    written = {path.name for path in tmp_path.iterdir()}
    integers = {
        "",
        "_float_ends",
        "_int8",
        "_int16x8",
        "_trained",
        "_uint8",
        "_guess",
        "_micro",
        "_loop",
    }
    floats = {"_float32", "_float16", "_dynamic", "_saved", "_sparse", "_fixed"}
    files = {f"digits{name}.tflite": name in integers for name in integers | floats}
    assert written >= {*files, "digits.keras", "digits.npz", "digits.weights.h5", "digits.png"}
    assert written >= {"digits_micro.h", "digits_micro.cc", "digits_saved_model"}
    assert written >= {f"{file}.json" for file in files}
    for file, integer in files.items():
        assert kc.inspect_tflite(file).all_integer is integer, file
    if keras.__name__ == "keras":
        run_commands(section("From a trained model to a file"), tmp_path)


def run_commands(text, folder):
    """What a section shows of the command line, on the files that its Python has left."""
    (commands,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    for command in commands.splitlines():
        name, *arguments = shlex.split(command)
        assert name == "keras-compress"
        done = subprocess.run(
            [sys.executable, "-m", "keras_compress", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout, command
    assert kc.inspect_tflite(folder / "digits_shell.tflite").all_integer


def test_the_report_in_the_readme_is_one_that_is_printed():
    shown = section("What you get").partition("```text\n")[2].partition("\n```")[0]
    # The numbers are those that the first example gave with Keras 3 and seed 0.
    export = ExportReport("digits.tflite", "int8", bytes=8648, zipped_bytes=5319, samples=64)
    export.float_bytes, export.float_zipped_bytes = 25364, 14243
    export.verified_on = "inputs drawn inside the watched ranges"
    ends = {"dtype": "int8", "shape": [1, 10], "scale": 1 / 256, "zero_point": -128}
    export.outputs = {"digit": ends}
    export.inputs = {
        "image": {"dtype": "uint8", "shape": [1, 8, 8, 1], "scale": 1 / 255, "zero_point": 0}
    }
    export.largest_steps, export.mean_steps = {"digit": 0.0}, {"digit": 0.0}
    export.argmax_agreement = {"digit": 1.0}
    export.predict_steps = {"digit": 0.0}
    export.layers = [
        LayerAgreement("conv2d", "output", 1.0, 0.000868),
        LayerAgreement("digit", "before", 0.0, 0.0),
        LayerAgreement("digit", "output", 0.0, 0.0),
    ]
    export.layer_samples = 8
    layers = [
        LayerReport("conv2d", "kernel", (3, 3, 1, 16), 0.5, 8, (0.0027, 0.00376)),
        LayerReport("digit", "kernel", (576, 10), 0.5, 8, (0.00358,)),
    ]
    rounded = {"accuracy": 0.8822, "loss": 0.4329}
    metrics = {"float": {"accuracy": 0.8788, "loss": 0.4078}}
    metrics |= {"fake-quantized": rounded, "tflite": rounded}
    validation = ValidationReport(297, metrics)
    report = Report(470, "on", 377, 0.5, layers, {}, {}, export=export, validation=validation)
    assert shown.splitlines() == [line.rstrip() for line in str(report).splitlines()]


def test_the_readme_lists_exactly_what_can_be_quantized():
    rows = re.findall(r"^\| [a-z, ]+ \| (.*) \|$", section("What can be quantized"), re.MULTILINE)
    listed = re.findall(r"`(\w+)`", " ".join(rows))
    # What a row is called to tell it from another of the same kind is no news to a user.
    kinds = {name.partition("(")[0] for name in TABLE}
    functions = set(ACTIVATIONS) - {"limited_relu", "limited_leaky_relu", "steep_hard_sigmoid"}
    assert sorted(listed) == sorted([*kinds, *functions])


def test_the_page_of_kinds_is_what_the_tests_run():
    """`PYTHONPATH=tests python -m helpers.kinds_page > docs/kinds.md` writes it."""
    assert (README.parent / "docs" / "kinds.md").read_text() == page()


def test_what_happens_if_names_tests_that_there_are():
    text = (README.parent / "docs" / "what_happens_if.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    named = [re.search(r"\| `(tests/[\w/]+\.py)::(test_\w+)` \|$", row) for row in rows]
    headings = [row for row, found in zip(rows, named, strict=True) if found is None]
    assert set(headings) == {"| if ... | then ... | test |"}
    for found in filter(None, named):
        file, test = found.groups()
        source = (README.parent / file).read_text()
        assert f"\ndef {test}(" in source, found[0]
        decorators = source.partition(f"def {test}(")[0].rpartition("\n\n")[2]
        is_swept = "@pytest.mark.sweep\n" in decorators
        assert is_swept == ("(*sweep*)" in found.string), found[0]


def architecture():
    """(floor, room, what is said of it) of every row of the table."""
    rows = re.findall(r"^\| (\d+) \| `(.*?)` \| (.*?) \|$", section("How it is built"), re.M)
    return [(int(floor), room.removesuffix(".py"), text) for floor, room, text in rows]


def test_the_architecture_table_has_every_room_on_its_floor():
    described = {room.strip("/").partition("/")[0]: floor for floor, room, _ in architecture()}
    assert described == FLOORS


def test_the_architecture_table_names_every_module_in_its_room():
    described = []
    for _, room, text in architecture():
        if not room.endswith("/"):
            described.append(room)
        described += [f"{room}{name}" for name in re.findall(r"`(\w+)\.py`", text)]
    built = [path for path in modules().values() if path.name != "__init__.py"]
    root = pathlib.Path(kc.__file__).parent
    names = [path.relative_to(root).with_suffix("").as_posix() for path in built]
    assert sorted(described) == sorted(names)
