"""What a fit notes for its pictures, and the pictures: the data in them, and that they fit."""

import dataclasses
import importlib.resources
import json
import subprocess
import sys

import jsonschema
import matplotlib.figure
import nbclient
import nbformat
import numpy as np
import pytest
from helpers.nets import small_net

import keras_compress as kc
from keras_compress.export.record import record
from keras_compress.fit.plot_data import BINS, histogram, spread
from keras_compress.reports.export import ExportReport, LayerAgreement
from keras_compress.reports.fit import EpochReport, LayerReport, Report
from keras_compress.reports.plots import shortened

HALF = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=8, frequency=1)


@pytest.fixture(scope="module")
def fit(keras, digits, tmp_path_factory):
    """A fit of three epochs: the report, what Keras noted, and the kernels before and after."""
    x, y, x_test, y_test = digits
    model = small_net(keras, jit_compile=False)
    kernels = {name: model.get_layer(name).get_weights()[0] for name in ("conv1", "dense1")}
    compress = kc.Compress(
        pruning=kc.Pruning(HALF, layers=["dense1"]),
        quantization=kc.Quantization(delay=6),
        export=kc.Export(tmp_path_factory.mktemp("pictures") / "net.tflite"),
    )
    history = model.fit(
        x[:160], y[:160], validation_data=(x_test[:32], y_test[:32]), epochs=3, verbose=0,
        callbacks=[compress],
    )  # fmt: skip
    after = {name: model.get_layer(name).get_weights()[0] for name in kernels}
    return compress.report, history.history, kernels, after


# --- what is noted


def test_the_epochs_are_those_of_the_history(fit):
    report, history, *_ = fit
    assert [epoch.epoch for epoch in report.history] == [0, 1, 2]
    assert [epoch.step for epoch in report.history] == [5, 10, 15]
    assert {"loss", "val_accuracy", "sparsity", "quantized"} <= set(history)
    noted = {name: [epoch.logs[name] for epoch in report.history] for name in history}
    assert noted == {name: pytest.approx(values) for name, values in history.items()}


def test_weights_are_counted_before_and_after(fit):
    report, _, before, after = fit
    layers = {layer.path: layer for layer in report.layers}
    assert set(layers) == {"conv1", "dense1", "probabilities"}
    for name, kernel in before.items():
        found = layers[name].histogram
        edges = np.linspace(-found.limit, found.limit, BINS + 1)
        # A weight on an edge may fall on either side of it.
        for counts, weights in ((found.before, kernel), (found.after, after[name])):
            expected = np.histogram(weights, edges)[0]
            assert sum(counts) == weights.size
            assert np.abs(np.subtract(counts, expected)).sum() <= 4
        assert found.limit < 4 * max(np.abs(kernel).max(), np.abs(after[name]).max())
    zeros = np.count_nonzero(after["dense1"] == 0)
    assert zeros == after["dense1"].size / 2
    assert layers["dense1"].histogram.after[BINS // 2] >= zeros


def test_bins_are_as_wide_as_the_weights_have_come_to_need():
    before = np.array([-1.0, -0.5, 0.0, 0.26, 1.0])
    for factor, limit in ((0.1, 1), (1, 1), (1.9, 2), (4, 4), (7, 8), (100, 8)):
        found = histogram(*spread(before), before * factor)
        assert found.limit == limit
        edges = np.linspace(-limit, limit, BINS + 1)
        assert found.before == tuple(np.histogram(before, edges)[0])
        after = np.clip(before * factor, -limit, limit)
        assert found.after == tuple(np.histogram(after, edges)[0])


def test_kernels_of_zeros_and_of_nothing_finite_are_counted_too():
    found = histogram(*spread(np.zeros(5)), np.ones(5))
    assert (found.limit, sum(found.before), found.after[-1]) == (1, 5, 5)
    found = histogram(*spread(np.array([1.0, np.nan])), np.array([np.nan, 1.0]))
    assert sum(found.after) == 1


def test_a_model_that_gets_its_shapes_in_fit_is_noted_too(keras, digits):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax", name="digit")]
    model = keras.Sequential(layers)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    compress = kc.Compress(quantization=kc.Quantization())
    for epochs in (2, 1):  # a second fit notes its own epochs
        model.fit(digits[0][:64], digits[1][:64], verbose=0, epochs=epochs, callbacks=[compress])
        report = compress.report
        assert [epoch.epoch for epoch in report.history] == list(range(epochs))
        assert sum(report.layers[0].histogram.before) == 640
    assert report.history[0].step == 6


def test_wrapped_models_are_noted_too(digits):
    import tf_keras

    layers = [tf_keras.layers.Input((8, 8, 1)), tf_keras.layers.Flatten()]
    model = tf_keras.Sequential([*layers, tf_keras.layers.Dense(10, name="digit")])
    model = kc.wrap(model, pruning=kc.Pruning(HALF), quantization=kc.Quantization(delay=2))
    model.compile("sgd", "mse")
    model.fit(digits[0][:64], digits[1][:64], epochs=4, verbose=0)
    report = kc.compression_of(model).report
    assert [epoch.step for epoch in report.history] == [2, 4, 6, 8]
    assert report.layers[0].histogram.after[BINS // 2] >= 320


def test_what_is_noted_is_in_the_record_and_in_its_schema(keras, fit):
    text = (importlib.resources.files("keras_compress") / "report.schema.json").read_text()
    schema = json.loads(text)
    report = fit[0]
    written = json.loads(json.dumps(record(report, keras), allow_nan=False))
    jsonschema.Draft202012Validator(schema).validate(written)
    assert written["report"]["history"][2]["logs"] == pytest.approx(report.history[2].logs)
    (dense,) = (each for each in written["report"]["layers"] if each["path"] == "dense1")
    assert sum(dense["histogram"]["after"]) == 72 * 32


# --- pictures


def synthetic(count, name="backbone/stage_{0}/expanded_depthwise_convolution_{0}"):
    """The report on a net with so many layers."""
    generator = np.random.default_rng(0)
    layers, compared = [], []
    for number in range(count):
        weights = generator.normal(0, 0.1, 50 + number)
        counts = histogram(*spread(weights), weights * 1.7)
        path = name.format(number)
        layers.append(LayerReport(path, "kernel", (50,), 0.5, 8, (0.1,), counts))
        compared.append(LayerAgreement(path, "output", 2.0, 0.5))
    epochs = [
        EpochReport(n, 10 * (n + 1), {"loss": 1 / (n + 1), "val_loss": 1.0, "sparsity": n / 10})
        for n in range(5)
    ]
    export = ExportReport("net.tflite", "int8", layers=compared)
    return Report(50, "on", 21, 0.5, layers, {}, {}, export=export, history=epochs)


def all_axes(figure):
    return [axes for part in figure.subfigs for axes in part.axes]


def test_the_picture_shows_the_numbers(fit):
    report = fit[0]
    figure = report.plot()
    by_label = {axes.get_ylabel(): axes for axes in all_axes(figure)}
    for name in ("loss", "accuracy"):
        lines = {line.get_label(): line for line in by_label[name].lines}
        for label, key in (("training", name), ("validation", f"val_{name}")):
            assert list(lines[label].get_xdata()) == [5, 10, 15]
            assert list(lines[label].get_ydata()) == [e.logs[key] for e in report.history]
        assert list(lines["quantized from 7"].get_xdata()) == [7, 7]
    (line,) = (line for line in by_label["sparsity (%)"].lines if "kernels" in line.get_label())
    assert list(line.get_ydata()) == [100 * epoch.logs["sparsity"] for epoch in report.history]
    by_label = {axes.get_xlabel(): axes for axes in all_axes(figure)}
    bars = [bar.get_width() for bar in by_label["zeros (%)"].patches]
    assert bars == [100 * layer.sparsity for layer in report.layers]
    bars = [bar.get_width() for bar in by_label["file against network (steps)"].patches]
    compared = report.export.layers
    assert bars == [layer.largest_steps for layer in compared] + [
        layer.mean_steps for layer in compared
    ]
    titles = [axes.get_title() for axes in all_axes(figure)]
    assert "dense1\n50% zeros" in titles


def test_only_what_there_is_is_drawn(fit):
    report = dataclasses.replace(fit[0], export=None)
    labels = [axes.get_xlabel() for axes in all_axes(report.plot())]
    assert "file against network (steps)" not in labels
    report = Report.of_plain_model()
    report.history = [EpochReport(0, None, {"loss": 1.0}), EpochReport(1, None, {"loss": 0.5})]
    (axes,) = all_axes(report.plot())
    assert axes.get_xlabel() == "epoch"
    assert list(axes.lines[0].get_xdata()) == [1, 2]
    with pytest.raises(ValueError, match=r"^Report.plot: the report must be of a fit"):
        Report.of_plain_model().plot()


def test_a_switch_of_an_earlier_fit_is_not_drawn():
    report = synthetic(1)
    labels = {line.get_label() for axes in all_axes(report.plot()) for line in axes.lines}
    assert "quantized from 21" in labels
    later = [dataclasses.replace(epoch, step=epoch.step + 900) for epoch in report.history]
    report.history = later
    labels = {line.get_label() for axes in all_axes(report.plot()) for line in axes.lines}
    assert "quantized from 21" not in labels


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("count", [3, 60, 310])
def test_nothing_overlaps_whatever_the_number_of_layers(count):
    figure = synthetic(count).plot()
    figure.draw_without_rendering()
    drawn = [axes for axes in all_axes(figure) if axes.axison]
    groups = [[axes.title for axes in drawn], [axes.xaxis.label for axes in drawn]]
    groups += [axes.get_yticklabels() for axes in drawn if axes.get_ylabel() == ""]
    for group in groups:
        boxes = [text.get_window_extent() for text in group if text.get_text()]
        for position, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1
            assert not any(box.overlaps(other) for other in boxes[position + 1 :])
    histograms = [axes for axes in drawn if axes.get_title().endswith("zeros")]
    assert len(histograms) == min(count, 12)
    left_out = [axes.get_title(loc="left") for axes in drawn if axes.get_title(loc="left")]
    assert left_out == (["the first 300 of 310"] * 2 if count == 310 else [])


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("count", [3, 41])
def test_no_legend_lies_on_what_is_drawn(count):
    figure = synthetic(count).plot()
    figure.draw_without_rendering()
    (lines,) = (legend for part in figure.subfigs for legend in part.legends)
    (bars,) = (axes.get_legend() for axes in all_axes(figure) if axes.get_legend())
    for legend, entries in (
        (lines, ["training", "validation", "quantized from 21", "all pruned kernels"]),
        (bars, ["largest", "mean"]),
    ):
        assert [text.get_text() for text in legend.get_texts()] == entries
    # What belongs to the axes, the labels too, but for the legend of the bars, which is theirs.
    around = [axes.get_tightbbox() for axes in figure.subfigs[0].axes]
    assert not any(lines.get_window_extent().overlaps(box) for box in around)
    marks = [text.get_window_extent() for text in bars.axes.get_xticklabels() if text.get_text()]
    marks += [each.label2.get_window_extent() for each in bars.axes.xaxis.get_major_ticks()]
    for box in (bars.axes.get_window_extent(), *marks):
        assert not bars.get_window_extent().overlaps(box)


def test_names_are_cut_to_what_tells_them_apart():
    assert shortened(["conv", "block/dense"], 6) == ["conv", "…dense"]
    assert shortened(["a/1/dense", "a/2/dense"], 6) == ["…1/dense", "…2/dense"]
    assert shortened(["a/1/dense", "a/1/dense"], 6) == ["…dense", "…dense"]


def test_every_histogram_is_marked_in_plain_numbers():
    figure = synthetic(3).plot()
    figure.draw_without_rendering()
    histograms = [axes for axes in all_axes(figure) if axes.get_title().endswith("zeros")]
    for axes in histograms:
        low, high = axes.get_ylim()
        marks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        assert [text.get_text() for at, text in marks if low <= at <= high] == ["1", "10"]
        assert not any(text.get_text() for text in axes.get_yticklabels(minor=True))


def test_the_kernels_can_be_chosen():
    report = synthetic(20, name="conv{}")
    titles = [axes.get_title() for axes in all_axes(report.plot(kernels=["conv3", "conv0"]))]
    assert [title for title in titles if "conv" in title] == [
        "conv0\n50% zeros", "conv3\n50% zeros"
    ]  # fmt: skip
    for wrong in (["conv3", "conv99"], "conv3"):
        with pytest.raises(ValueError, match=r"^Report.plot: `kernels` must be a list out of \['c"):
            report.plot(kernels=wrong)


def test_a_png_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.png"
    synthetic(3).plot(path)
    written = path.read_bytes()
    assert written.startswith(b"\x89PNG\r\n\x1a\n")
    assert written.endswith(b"IEND\xaeB`\x82")
    with pytest.raises(FileNotFoundError):
        synthetic(3).plot(tmp_path / "none" / "report.png")
    assert [each.name for each in tmp_path.iterdir()] == ["report.png"]


def test_pyplot_is_not_touched():
    program = (
        "import sys\n"
        "from keras_compress.reports.fit import EpochReport, Report\n"
        "report = Report.of_plain_model()\n"
        "report.history = [EpochReport(0, 1, {'loss': 1.0})]\n"
        "assert 'matplotlib' not in sys.modules\n"
        "report.plot()\n"
        "print('matplotlib.pyplot' in sys.modules, 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "keras_compress.reports.notebook_figure", raising=False)
    for path in (None, "report.png"):
        with pytest.raises(ImportError, match=r"pip install 'keras_compress\[plot\]'"):
            synthetic(1).plot(path)


FORMS = {"png": b"\x89PNG\r\n", "pdf": b"%PDF-", "svg": b"<?xml", "jpg": b"\xff\xd8\xff"}


@pytest.mark.parametrize("ending", [*FORMS, "PNG"])
def test_the_ending_says_the_form(tmp_path, ending):
    figure = synthetic(1).plot(tmp_path / f"report.{ending}")
    assert isinstance(figure, matplotlib.figure.Figure)
    (written,) = tmp_path.iterdir()
    assert written.read_bytes().startswith(FORMS[ending.lower()])


@pytest.mark.parametrize(
    ("path", "error"), [("a.bmp", ValueError), ("png", ValueError), (3, TypeError)]
)
def test_another_ending_is_refused_before_anything_is_drawn(monkeypatch, path, error):
    monkeypatch.setattr("keras_compress.reports.plots.new_figure", None)
    message = r"^Report\.plot: `path` must be None or .* '\.png', .* or '\.webp'\. Received: path="
    with pytest.raises(error, match=f"{message}{path!r}$"):
        synthetic(1).plot(path)


@pytest.mark.parametrize("failing", ["os.fsync", "matplotlib.figure.Figure.savefig"])
def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch, failing):
    def fail(*_, **__):
        raise OSError("no space left on device")

    path = tmp_path / "report.png"
    path.write_bytes(b"the old one")
    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="no space left"):
        synthetic(1).plot(path)
    assert [each.name for each in tmp_path.iterdir()] == ["report.png"]
    assert path.read_bytes() == b"the old one"


CELL = """
import sys
from keras_compress.reports.fit import EpochReport, Report
report = Report.of_plain_model()
report.history = [EpochReport(0, 1, {"loss": 1.0})]
report.plot()
"""


@pytest.mark.timeout(300)  # a kernel
def test_a_notebook_shows_the_figure_once():
    cells = [CELL, "print('matplotlib.pyplot' in sys.modules)", "%matplotlib inline\n" + CELL]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbclient.NotebookClient(notebook, timeout=200).execute()
    first, pyplot, after_inline = (cell.outputs for cell in notebook.cells)
    assert pyplot[0].text == "False\n"
    for outputs in (first, after_inline):
        assert ["image/png" in output.data for output in outputs] == [True]
