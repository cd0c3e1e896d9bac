"""What the pages of the documentation show, runs; the notebooks too; and they make a site."""

import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from helpers.kinds_page import page as kinds_page
from helpers.pages import DOCS, ROOT, Block, as_keras, blocks, links
from helpers.rooms import FLOORS, modules

import keras_compress as kc
from keras_compress.engines.in_place.table import ACTIVATIONS, TABLE
from keras_compress.reports.export import ExportReport, LayerAgreement
from keras_compress.reports.fit import LayerReport, Report
from keras_compress.reports.validation import ValidationReport

PAGES = sorted(DOCS.rglob("*.md"))
NAMES = {page.relative_to(DOCS).as_posix(): page for page in PAGES}
NOTEBOOKS = sorted((DOCS / "tutorial").glob("*.ipynb"))
SCRIPTS = sorted(name for name, page in NAMES.items() if "```python" in page.read_text())


# --- the pages, as scripts


def all_integer(folder):
    """{name of each file that lies there: whether it is integers throughout}."""
    files = sorted(folder.glob("*.tflite"))
    assert {f"{file.name}.json" for file in files} <= {path.name for path in folder.iterdir()}
    return {file.stem: kc.inspect_tflite(file).all_integer for file in files}


def check_report(names, folder, printed):
    report = names["compress"].report
    assert report.export.written
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert str(report) in printed
    accuracy = re.search(r"^0\.\d+$", printed, flags=re.MULTILINE)
    assert float(accuracy.group()) > 0.8
    assert all_integer(folder) == {"digits": True}


def check_fit(names, folder, printed):
    report = names["compress"].report
    assert report.export.written
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert names["again"].written
    assert str(names["again"]) in printed
    assert all_integer(folder) == {"digits": True, "digits_float_ends": True}
    written = {path.name for path in folder.iterdir()}
    assert written >= {"digits.keras", "digits.npz", "digits.weights.h5"}


def check_delay_and_schedules(names, folder, printed):
    report, steps = names["report"], names["steps"]
    assert f"\n{report.switched_at} " in printed
    assert report.switched_at == 1 + round(0.8 * steps) == 151
    assert report.phase == "frozen"
    found = {layer.path: layer.sparsity for layer in report.layers}
    assert found == pytest.approx({"conv": 0.5, "digit": 0.8}, abs=0.01)
    assert printed.startswith("38 113\n37 0.0 the mask stays\n38 0.0 the mask changes\n")
    assert "\n113 0.5 the mask changes\n188 0.5 the mask stays\n" in printed
    assert "\nthe optimizer's own rate is still 0.001\n" in printed
    assert re.search(r"^\['.*'\] ", printed, flags=re.MULTILINE)  # what the first fit missed
    assert printed.endswith("\nTrue\n")
    assert names["long"].report.missed == []
    assert all_integer(folder) == {"plan": True, "two_fits": True}


def check_leaving_layers_out(names, folder, printed):
    report = names["compress"].report
    assert report.left_out == {"quantization": {"conv": "left out by `layers`"}}
    assert report.export.rounded_anyway == ("conv",)
    assert {layer.path for layer in report.layers} == {"digit"}
    assert report.export.written
    assert str(report.left_out) in printed


def check_export(names, folder, printed):
    report = names["compress"].report
    assert report.export.written
    integers = {"", "_int8", "_int16x8", "_trained"}
    floats = {"_float32", "_float16", "_dynamic", "_saved", "_sparse", "_fixed"}
    files = {f"digits{name}": name in integers for name in integers | floats}
    assert all_integer(folder) == files
    assert (folder / "digits_saved_model").is_dir()


def check_compare(names, folder, printed):
    assert "signal to quantization noise in digits.tflite" in printed
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG")


def check_tf1(names, folder, printed):
    (image,) = kc.load_tflite(folder / "digits_uint8.tflite").inputs
    assert (image.scale, image.zero_point) == (pytest.approx(1 / 255), 0)
    assert "\n(0.0, 255.0)\n(0.0, 1.0)\n" in printed  # of x, and of the range 0..255
    assert "(0.00392156862745098, 0)" in printed
    assert re.search(r"^\('.+'\)?,?", printed, flags=re.MULTILINE)  # names of guessed tensors
    assert all_integer(folder) == {"digits": True, "digits_uint8": True, "digits_guess": True}


def check_detector(names, folder, printed):
    assert str(names["compress"].report.export) in printed
    (image,) = names["file"].inputs
    assert (image.dtype, image.scale, image.zero_point) == ("uint8", 1 / 128, 128)
    assert "Quantization(delay=48000, weight_bits=8, activation_bits=8" in printed
    assert all_integer(folder) == {"digits": False, "heads": True}  # the op computes in float
    answers = names["file"].predict(names["images"], raw=True)
    first = answers["TFLite_Detection_PostProcess:1"][:, 0]
    found = answers["TFLite_Detection_PostProcess:3"] > 0
    digits = names["digits"].target
    assert np.mean(found & (first == digits)) > 0.5


def check_shell(names, folder, printed):
    assert all_integer(folder) == {"digits_half": False, "digits_shell": True}


def check_search(names, folder, printed):
    found = names["search"].trials()
    assert [trial.status for trial in found] == ["COMPLETED"] * 2
    assert all(trial in found for trial in names["front"])
    assert names["search"].trials_table() in printed


def check_resume(names, folder, printed):
    own = re.findall(r"^(?:the machine is gone|\d+ True)$", printed, flags=re.MULTILINE)
    assert own == ["the machine is gone", "188 True", "235 True"]
    assert all_integer(folder) == {"resumed": True, "half_way": True}


def check_tfmot(names, folder, printed):
    report = kc.compression_of(names["wrapped"]).report
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert str(report) in printed


def check_own_loop(names, folder, printed):
    assert str(names["by_hand"].report.export) in printed
    assert names["by_hand"].report.sparsity == pytest.approx(0.5, abs=0.01)
    assert all_integer(folder) == {"digits_loop": True}


def check_microcontrollers(names, folder, printed):
    assert all_integer(folder) == {"digits": True, "digits_micro": True}
    header = (folder / "digits_micro.h").read_text()
    assert "extern const unsigned char digits_micro_tflite[];" in header
    assert "DIGITS_MICRO_TFLITE_INPUT_IMAGE_SCALE" in header
    assert header in printed
    assert (folder / "digits_micro.cc").exists()
    assert names["raw"].dtype == np.uint8


def check_channels(names, folder, printed):
    assert "[8, 8]" in printed
    before, after = names["compress"].report.channels.macs
    assert f"{before} -> {after}" in printed
    assert after < 0.35 * before
    assert "LayerChannels(path='conv1', before=8, after=4)" in printed
    assert all_integer(folder) == {"small": True, "whole": True}
    timed = re.findall(r"^(whole|small).*? [\d.]+ ms$", printed, re.M)
    assert timed == ["whole", "small"]


def check_preview(names, folder, printed):
    plan = names["plan"]
    shown = blocks((DOCS / "how-to" / "preview.md").read_text())[1].source
    size = r"about [\d,]+ bytes"  # of tf_keras' file, whose tensors have other names, a little less
    assert re.sub(size, "", shown) == re.sub(size, "", f"{plan}\n")
    assert f"{plan}\n" in printed
    assert "which ends at update 188" in printed
    assert all_integer(folder) == {"digits": True}


def check_watch(names, folder, printed):
    ((path, size, sparsity),) = names["logged"]
    assert (path, size) == ("digits.tflite", (folder / path).stat().st_size)
    assert sparsity == pytest.approx(0.5, abs=0.01)
    assert list((folder / "logs").rglob("events.out.tfevents.*"))
    assert (folder / "digits.html").read_text().count("<table") >= 5
    assert all_integer(folder) == {"digits": True}


def check_batch_job(names, folder, printed):
    assert names["again"].returncode == 0, names["again"].stderr
    assert "188 updates; quantized from update 151; 50.0%" in names["again"].stdout
    assert all_integer(folder) == {"digits": True}
    assert "quantization watching -> on" in (folder / "train.log").read_text()
    assert "sparsity" in (folder / "epochs.csv").read_text().splitlines()[0]


CHECKS = {
    name: globals()[f"check_{pathlib.Path(name).stem}"]
    for name in SCRIPTS
    if f"check_{pathlib.Path(name).stem}" in globals()
}


def test_every_page_with_a_script_has_a_check():
    assert list(CHECKS) == SCRIPTS


LONG = (
    "how-to/batch_job.md",
    "how-to/compare.md",
    "how-to/delay_and_schedules.md",
    "how-to/detector.md",
    "how-to/export.md",
    "how-to/resume.md",
    "how-to/search.md",
    "how-to/shell.md",
    "how-to/tf1.md",
    "how-to/watch.md",
)
"""Pages that wait for processes or train many times."""


@pytest.mark.slow_after(1)
@pytest.mark.sweep_if(when=lambda keras, name: keras == "tf_keras" or name in LONG)
@pytest.mark.timeout(300)  # each page is a script with a fit in it
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_python_of_a_page_runs(keras, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    found = blocks(NAMES[name].read_text())
    python = [block for block in found if block.language == "python" and block.not_run is None]
    for block in python:
        if block.title is not None:
            (tmp_path / block.title).write_text(as_keras(block.source, keras))
    source = "\n".join(block.source for block in python if block.title is None)
    names = {"__name__": "__main__"}
    exec(compile(as_keras(source, keras), name, "exec"), names)
    assert names.get("keras", keras) is keras
    if keras.__name__ == "keras":
        for block in found:
            if block.language == "sh" and block.not_run is None:
                run_commands(block.source, tmp_path)
        CHECKS[name](names, tmp_path, capsys.readouterr().out)
    elif name != "how-to/shell.md":  # whose commands make its files
        CHECKS[name](names, tmp_path, capsys.readouterr().out)


def run_commands(text, folder):
    """What a block shows of the command line, on the files that the page's Python has left."""
    for command in text.splitlines():
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


def test_few_blocks_are_not_run_and_each_says_why():
    every = [(name, block) for name, page in NAMES.items() for block in blocks(page.read_text())]
    assert {block.language for _, block in every} <= {"python", "sh", "text", "json"}
    fences = sum(len(re.findall(r"^ *```", page.read_text(), re.M)) for page in PAGES)
    assert fences == 2 * len(every)  # none is missed
    spared = [(name, block.not_run) for name, block in every if block.not_run is not None]
    assert len(spared) <= 3
    assert all(len(reason) > 10 for _, reason in spared)


def test_a_block_is_found_with_what_is_said_of_it():
    text = "\n".join(
        [
            '```python title="a.py"',
            "x = 1",
            "```",
            "<!-- not run: it hangs -->",
            "```sh",
            "ls",
            "```",
        ]
    )
    assert blocks(text) == [
        Block("python", "a.py", "x = 1\n", None),
        Block("sh", None, "ls\n", "it hangs"),
    ]


# --- the notebooks


@pytest.mark.slow
@pytest.mark.sweep_if(when=lambda path: path.stem != "lenet")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel(path, tmp_path):
    done = subprocess.run(
        [sys.executable, DOCS / "tutorial" / "execute.py", path.stem, "--to", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = nbformat.read(tmp_path / path.name, as_version=4)
    check_outputs(made)
    check_outputs(nbformat.read(path, as_version=4))  # those that stand in the repository


def check_outputs(notebook):
    """No error and nothing on standard error; tables and pictures."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("┏" in output.get("text", "") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_there_are_the_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["lenet", "microcontroller"]


# --- the site


def test_the_site_is_built_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for name in ("how-to/fit", "tutorial/lenet", "reference/callback", "reference/command_line"):
        assert (tmp_path / "site" / name / "index.html").exists(), name
    text = (tmp_path / "site" / "reference" / "command_line" / "index.html").read_text()
    assert "--representative-dataset" in text
    assert "UNSET" not in text
    text = (tmp_path / "site" / "reference" / "record" / "index.html").read_text()
    assert "What keras_compress writes beside" in text


@pytest.mark.parametrize("package", ["keras_compress", "keras_compress.tuner"])
def test_every_public_name_is_in_the_reference(package):
    documented = {
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: (keras_compress[\w.]*)$", page.read_text(), re.MULTILINE)
    }
    module = importlib.import_module(package)
    for name in set(module.__all__) - {"__version__"}:
        thing = getattr(module, name)
        homes = {thing.__module__, f"{thing.__module__}.{thing.__qualname__}"}
        assert homes & documented, name


def test_links_between_pages_lead_somewhere():
    for page in (*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"):
        for link, target in links(page):
            assert target.exists(), (page, link)


# --- what a page lists is what there is


def test_the_report_that_is_shown_is_one_that_is_printed():
    shown = NAMES["reference/report.md"].read_text().partition("```text\n")[2].partition("\n```")[0]
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
    schedule = kc.PolynomialDecay(0, 0.5, 94, 282, frequency=10).get_config()
    steps = {"schedules": {"conv2d": schedule, "digit": schedule}}
    report = Report(470, "on", 377, 0.5, layers, {}, steps, export=export, validation=validation)
    assert shown.splitlines() == [line.rstrip() for line in str(report).splitlines()]


def test_the_page_lists_exactly_what_can_be_quantized():
    text = NAMES["reference/quantizable.md"].read_text()
    rows = re.findall(r"^\| [a-z, ]+ \| (.*) \|$", text, re.MULTILINE)
    listed = re.findall(r"`(\w+)`", " ".join(rows))
    # What a row is called to tell it from another of the same kind is no news to a user.
    kinds = {name.partition("(")[0] for name in TABLE}
    functions = set(ACTIVATIONS) - {"limited_relu", "limited_leaky_relu", "steep_hard_sigmoid"}
    assert sorted(listed) == sorted([*kinds, *functions])


def test_the_page_of_kinds_is_what_the_tests_run():
    """`PYTHONPATH=tests python -m helpers.kinds_page > docs/reference/kinds.md` writes it."""
    assert NAMES["reference/kinds.md"].read_text() == kinds_page()


def test_what_happens_if_names_tests_that_there_are():
    text = NAMES["explanation/what_happens_if.md"].read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    named = [re.search(r"\| `(tests/[\w/]+\.py)::(test_\w+)` \|$", row) for row in rows]
    headings = [row for row, found in zip(rows, named, strict=True) if found is None]
    assert set(headings) == {"| if ... | then ... | test |"}
    for found in filter(None, named):
        file, test = found.groups()
        source = (ROOT / file).read_text()
        assert f"\ndef {test}(" in source, found[0]
        decorators = source.partition(f"def {test}(")[0].rpartition("\n\n")[2]
        is_swept = "@pytest.mark.sweep\n" in decorators
        assert is_swept == ("(*sweep*)" in found.string), found[0]


def architecture():
    """(floor, room, what is said of it) of every row of the table."""
    text = NAMES["explanation/architecture.md"].read_text()
    rows = re.findall(r"^\| (\d+) \| `(.*?)` \| (.*?) \|$", text, re.M)
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
