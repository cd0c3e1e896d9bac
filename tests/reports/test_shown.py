"""The faces of a result: printed, in a terminal, in a notebook, as a page; and read back."""

import contextlib
import html.parser
import importlib.util
import io
import json
import math
import pickle
import shutil
import subprocess
import sys

import nbclient
import nbformat
import pytest
import rich.console

import keras_compress as kc
from keras_compress.reports.comparison import ComparedNetwork, Comparison, LayerSignal
from keras_compress.reports.export import ExportReport, FloatOpReport, LayerAgreement
from keras_compress.reports.fit import EpochReport, LayerReport, Report, WeightHistogram
from keras_compress.reports.inspection import FileReport, OpReport, TensorReport
from keras_compress.reports.shown import Line, Shown, Table
from keras_compress.reports.validation import ValidationReport

NAMES = ("größe <b>", "block_of_a_very_long_name/" * 4 + "conv", "[red]x[/red] :smile:")


@pytest.fixture
def report():
    """A report with a part of every kind, and names that a careless writer would stumble over."""
    report = Report(470, "on", 377, 0.5, [], {"pruning": {"bn": "no kernel"}}, {"delay": 376})
    counts = WeightHistogram(1.0, (1, 2), (3, 0))
    report.layers = [
        LayerReport(name, "kernel", (3, 3, 1, 16), 0.5, 8, (0.0027, 0.00376), counts)
        for name in NAMES
    ]
    export = ExportReport("digits.tflite", "int8", bytes=8648, zipped_bytes=5319, samples=64)
    export.verified_on = "inputs drawn inside the watched ranges"
    export.float_ops = (FloatOpReport("SIN", "größe", "a"),)
    export.largest_steps, export.mean_steps = {"digit": 1.0}, {"digit": math.nan}
    export.argmax_agreement, export.predict_steps = {"digit": 1.0}, {"digit": None}
    export.layers = [LayerAgreement("conv", "output", 1.0, 0.1)]
    export.outputs = {"digit": {"dtype": "int8", "shape": [1, 10], "scale": 0.5, "zero_point": 0}}
    report.export = export
    metrics = {"float": {"loss": 0.4, "accuracy": 0.9}, "tflite": {"loss": math.nan}}
    report.validation = ValidationReport(297, metrics)
    report.history = [EpochReport(0, 235, {"loss": 1.0}), EpochReport(1, 470, {"loss": 0.5})]
    return report


def results(report):
    """One of every kind."""
    network = ComparedNetwork("a", {"accuracy": 0.5}, None, 0.0, 0.0, 9, 8, None)
    signal = LayerSignal(("größe", "x"), "CONV_2D", "t", 40.0, math.inf)
    tensor = TensorReport("a;b;c", "int8", (2,), 8, (0.5,), (0,), None, 2, 0.5, kernel=True)
    yield report
    yield report.export
    yield report.validation
    yield Comparison(3, [network], {"b": [signal]}, ["a note"], 3)
    ops = (OpReport("CONV_2D", ("int8",), ("int8",), "a;b;c"),)
    yield FileReport(ops, (tensor,), (), (), (), (), b"123", {})


# --- printed


def test_a_report_prints_as_wide_as_the_terminal(report, monkeypatch):
    for width in (80, 100, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        tables = [line for line in str(report).splitlines() if line[0] in "┏┃┡│└"]
        assert max(map(len, tables)) <= width
    # Nothing of a name is lost where it is folded.
    monkeypatch.setenv("COLUMNS", "80")
    cells = [line.split("│")[1].strip() for line in str(report).splitlines() if line[0] == "│"]
    assert NAMES[1] in "".join(cells)


@pytest.mark.parametrize("width", [20, 40, 60])
def test_no_number_is_cut_however_narrow_the_terminal(report, monkeypatch, width):
    """Nor a name lost; the lines are longer then."""
    monkeypatch.setenv("COLUMNS", str(width))
    for result in results(report):
        wide = str(result)
        for table in filter(lambda part: isinstance(part, Table), result._parts()):
            for row in table.rows:
                assert all(cell in wide for cell in row[table.left :])
        console = rich.console.Console(file=io.StringIO(), width=width)
        console.print(result)
        assert max(map(len, console.file.getvalue().splitlines())) <= width
        found = "".join(console.file.getvalue().split())
        assert "8,648" in found or not isinstance(result, Report | ExportReport)


def test_a_table_of_trials_keeps_its_width_in_print(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    table = Table(("a_very_long_name_of_a_layer", "b"), [("x" * 50, "1")], unfolded=True)
    assert "x" * 50 in str(table)


def test_markup_in_a_name_is_a_name(report):
    assert "[red]x[/red] :smile:" in str(report)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_what_is_not_utf_8_gets_characters_that_it_has(report, encoding):
    for result in results(report):
        page = io.TextIOWrapper(io.BytesIO(), encoding)
        with contextlib.redirect_stdout(page):
            print(result)
        page.seek(0)
        printed = page.read()
        assert "┃" not in printed
        assert "+--" in printed
    utf = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(utf):
        assert "┃" in str(report)
        assert "größe" in str(report)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_command_line_answers_in_any_encoding(tmp_path, encoding, report):
    record = tmp_path / "größe.tflite.json"
    record.write_text(json.dumps({"format": 1, "versions": {}, "report": report.to_dict()}))
    done = subprocess.run(
        [sys.executable, "-m", "keras_compress", "report", str(record)],
        capture_output=True,
        env={"PYTHONIOENCODING": encoding, "PATH": ""},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "470 updates" in done.stdout.decode(encoding)


def test_merged_tensors_are_named_by_the_first_of_them(report):
    *_, file = results(report)
    assert "│ a (+2) │ kernel │" in str(file)
    assert file.to_dict()["tensors"][0]["name"] == "a;b;c"


def test_reprs_are_short(report):
    found = [repr(result) for result in results(report)]
    assert found[0] == (
        "<Report: 470 updates; quantized from update 377; 50.0% of the pruned weights are zeros>"
    )
    assert found[1] == "<ExportReport: digits.tflite: int8>"
    assert all(len(each) < 120 and "\n" not in each for each in found)


def test_a_result_without_parts_has_a_repr():
    assert repr(ValidationReport()) == "<ValidationReport: >"
    assert str(ValidationReport()) == ""


# --- in a terminal


def test_a_console_draws_in_colour_and_in_its_own_width(report):
    for result in results(report):
        page = io.StringIO()
        console = rich.console.Console(
            file=page, force_terminal=True, width=70, color_system="256", legacy_windows=False
        )
        console.print(result)
        drawn = page.getvalue()
        assert "\x1b[1m" in drawn  # titles are bold
        plain = rich.console.Console(file=io.StringIO(), width=70)
        plain.print(result)
        assert max(map(len, plain.file.getvalue().splitlines())) <= 70


def test_what_went_wrong_is_red(report):
    report.export.error = "the converter crashed"
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, color_system="256")
    console.print(report)
    assert "\x1b[31mdigits.tflite: not written, the converter crashed" in console.file.getvalue()


# --- in a notebook


class Tables(html.parser.HTMLParser):
    """What a browser would make of a piece of HTML, as far as it is tables."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.open, self.images = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        elif tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data


def test_a_notebook_gets_every_table_and_the_picture(report):
    found = Tables(report._repr_html_())
    assert [row[0] for row in found.tables[0]] == ["layer", *NAMES]
    assert found.tables[0][1][4] == "8"
    printed = str(report)
    assert len(found.tables) == printed.count("┏━")
    (image,) = found.images
    assert image.startswith("data:image/png;base64,iVBOR")


def test_without_matplotlib_a_notebook_gets_the_tables(report, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    found = Tables(report._repr_html_())
    assert found.tables
    assert not found.images


@pytest.mark.timeout(300)
def test_in_a_real_kernel_text_is_text_and_a_cell_shows_tables(report, tmp_path):
    (tmp_path / "report.pickle").write_bytes(pickle.dumps(report))
    cells = [
        f"import pickle\nreport = pickle.load(open({str(tmp_path / 'report.pickle')!r}, 'rb'))",
        "text = str(report)\nassert text.count('┏') == 6, text",
        "print(report)",
        "report",
        "report.export",
    ]
    book = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbclient.NotebookClient(book, timeout=120).execute()
    _, quiet, printed, shown, export = (cell.outputs for cell in book.cells)
    assert not quiet  # `str` displays nothing
    (stream,) = printed
    assert "│ digits" not in stream["text"]
    assert "┃ layer" in stream["text"]
    (result,) = shown
    assert result["data"]["text/plain"].startswith("<Report: 470 updates")
    assert len(Tables(result["data"]["text/html"]).tables) == 6
    assert len(Tables(export[0]["data"]["text/html"]).tables) == 4


# --- as a page, and read back


def test_a_report_is_read_back_from_its_dict(report):
    again = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.to_dict() == report.to_dict()
    assert math.isnan(again.export.mean_steps["digit"])
    assert again.export.float_ops == report.export.float_ops
    assert str(again) == str(report)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"phase": None}, ""),
        ({"layers": [{"path": "a"}]}, "layers"),
        ({"novelty": 1}, "novelty"),
        ({"step": "many"}, "step"),
    ],
)
def test_what_is_no_report_is_refused(report, change, said):
    values = report.to_dict() | change
    if change == {"phase": None}:
        del values["phase"]
    with pytest.raises(ValueError, match=r"`values` must be what `to_dict` returns.*" + said):
        Report.from_dict(values)


def test_a_page_has_everything_in_one_file(report, tmp_path):
    report.specs = {"quantization": {"delay": 0.8}, "pruning": None}
    path = tmp_path / "report.html"
    report.to_html(path)
    text = path.read_text(encoding="utf-8")
    found = Tables(text)
    assert len(found.tables) == 6
    assert len(found.images) == 1
    assert "http" not in text.replace("http-equiv", "")
    assert '"delay": 0.8' in text.replace("&#34;", '"')
    assert kc.__version__ in text
    assert "<b>" not in text  # a layer's name
    with pytest.raises(ValueError, match=r"must be the path of a file that ends in '\.html'"):
        report.to_html(tmp_path / "report.htm")


def test_the_command_line_shows_a_record_again(report, tmp_path, capfd):
    from keras_compress.cli import main

    record = tmp_path / "net.tflite.json"
    versions = {"keras_compress": "0.0.9"}
    record.write_text(json.dumps({"format": 1, "versions": versions, "report": report.to_dict()}))
    page = tmp_path / "net.html"
    assert main(["report", str(record), "--html", str(page)]) == 0
    assert capfd.readouterr().out == f"{report}\n"
    assert "0.0.9" in page.read_text()  # of those that made it
    assert main(["report", str(record), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["report"] == report.to_dict()


# What a browser's start-up asks the network for would fail, and be no fault of the page.
BROWSER = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=2000", "--enable-logging=stderr", "--v=0",
)  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser; `.ci/run` installs one")
def test_a_browser_shows_the_page(report, tmp_path):
    report.to_html(tmp_path / "report.html")
    command = ["chromium", *BROWSER, f"--user-data-dir={tmp_path / 'profile'}"]
    address = (tmp_path / "report.html").as_uri()
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [*command, "--dump-dom", f"--screenshot={picture}", "--window-size=1100,2400", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr  # what a page's own errors are logged as
    assert len(Tables(done.stdout.replace("<!DOCTYPE html>", "")).tables) == 6


# --- of one's own


def test_parts_are_enough_for_every_face():
    class Own(Shown):
        def _parts(self):
            yield Line("first", "title")
            yield Table(("a", "b"), [("x", "1")])

    assert str(Own()).startswith("first\n┏")
    assert repr(Own()) == "<Own: first>"
    assert "<strong>first</strong>" in Own()._repr_html_()
