"""What the README shows, runs; its commands are those that CI and nox call."""

import re

import nbclient
import nbformat
import pytest
from helpers.pages import ROOT, as_keras, blocks

import keras_compress as kc

README = ROOT / "README.md"


def commands():
    """The lines of the block under "Two commands", without comments."""
    section = README.read_text().partition("\n## Two commands\n")[2].partition("\n## ")[0]
    (block,) = [block for block in blocks(section) if block.language == "sh"]
    return [line for line in block.source.splitlines() if line and not line.startswith("#")]


def the_example():
    (example,) = [block for block in blocks(README.read_text()) if block.language == "python"]
    assert example.not_run is None
    return example


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_python_of_the_readme_runs_in_a_notebook(tmp_path):
    show = "compress.report"
    cells = [nbformat.v4.new_code_cell(source) for source in (the_example().source, show)]
    book = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(book, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(each["text"] for each in cells[0].outputs if each.get("name") == "stdout")
    assert "┃ layer" in printed  # `print(report)` has its tables
    (shown,) = cells[1].outputs
    assert shown["data"]["text/html"].count("<table") == printed.count("┏━")
    assert kc.inspect_tflite(tmp_path / "digits.tflite").all_integer


@pytest.mark.sweep  # the notebook's is the suite's
@pytest.mark.timeout(300)
def test_the_python_of_the_readme_runs(keras, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = the_example()
    keras.utils.set_random_seed(0)
    names = {}
    exec(as_keras(example.source, keras), names)
    assert names["keras"] is keras
    report = names["compress"].report
    assert report.export.written
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    printed = capsys.readouterr().out
    assert str(report) in printed
    accuracy = re.search(r"^0\.\d+$", printed, flags=re.MULTILINE)
    assert float(accuracy.group()) > 0.8
    assert kc.inspect_tflite(tmp_path / "digits.tflite").all_integer
    assert (tmp_path / "digits.tflite.json").exists()


def test_the_report_page_explains_the_readme_example():
    first = blocks((ROOT / "docs" / "reference" / "report.md").read_text())[0]
    assert first.source in README.read_text()


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200


def test_the_picture_of_the_readme_is_there():
    picture = re.search(r"!\[.*\]\((.*)\)", README.read_text())[1]
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("file", [".ci/run", "noxfile.py", "CONTRIBUTING.md"])
def test_the_test_command_is_the_same_everywhere(file):
    test = re.search(r"python (-m pytest.*)$", commands()[1])[1]
    text = re.sub(r"""["'], *["']""", " ", (ROOT / file).read_text())
    assert test == "-m pytest -n auto --dist loadfile"
    assert test in text
