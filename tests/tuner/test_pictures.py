"""The pictures of a search and of a scan: the data in them, and that they fit."""

import itertools
import math
import pathlib

import matplotlib.figure
import numpy as np
import pytest

from keras_compress.reports.plots import new_figure
from keras_compress.tuner import Sensitivity
from keras_compress.tuner.plots import plot_search
from keras_compress.tuner.point_labels import label_points
from keras_compress.tuner.question import Question
from keras_compress.tuner.trials import Trial

PATH = pathlib.Path()
FORMS = {"png": b"\x89PNG\r\n", "pdf": b"%PDF-", "svg": b"<?xml"}


def asking(**limit):
    given = {"max_accuracy_drop": None, "max_bytes": None, "direction": "max", **limit}
    return Question(metric="accuracy", max_epochs=None, **given)


def judged(question, *points):
    """The trials of these bytes and metrics; None for one that has failed."""
    trials = []
    for number, point in enumerate(points):
        name = f"{number:02}"
        if point is None:
            trials.append(Trial(name, "FAILED", {}, {}, False, "no converter today", PATH))
            continue
        size, value = point
        metrics = {"tflite_zipped_bytes": size, "tflite_accuracy": value, "float_accuracy": 0.9}
        feasible = question.excess(metrics, 0.9) <= 0
        trials.append(Trial(name, "COMPLETED", {}, metrics, feasible, None, PATH))
    return trials


POINTS = [
    (8000.0, 0.90),  # on the front
    (7000.0, 0.88),  # the smallest that loses at most 0.05: on the front, and the winner
    (7500.0, 0.86),  # larger and worse than the second
    (4000.0, 0.60),  # small, but breaks the limit: on the front of all, not on that inside
    None,
]
DROP = asking(max_accuracy_drop=0.05)


def scattered(axes):
    """The points of every legend entry."""
    return {each.get_label(): each.get_offsets().tolist() for each in axes.collections}


def entries(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


# --- a search


def test_a_search_shows_its_trials_the_winner_and_the_front_inside_the_limit():
    figure = plot_search(judged(DROP, *POINTS), DROP)
    assert isinstance(figure, matplotlib.figure.Figure)
    (axes,) = figure.axes
    winner = "winner: trial 01 (7,000 bytes, accuracy 0.88)"
    front = "front of those that keep to it"
    assert scattered(axes) == {
        "keeps to the limit (3)": [list(point) for point in POINTS[:3]],
        "breaks the limit (1)": [[4000, 0.6]],
        winner: [[7000, 0.88]],
    }
    lines = {line.get_label(): line for line in axes.lines}
    assert lines[front].get_xydata().tolist() == [[7000, 0.88], [8000, 0.9]]
    assert lines["float model (0.9)"].get_ydata() == [0.9, 0.9]
    assert lines["limit"].get_ydata() == pytest.approx([0.85, 0.85])
    assert set(entries(figure)) == {*scattered(axes), *lines}
    assert {text.get_text(): text.xy for text in axes.texts} == {
        f"{number:02}": point for number, point in enumerate(POINTS[:4])
    }
    assert axes.get_title() == f"limit: {DROP.limit}\nnot drawn: 1 failed"


def test_bytes_are_bytes_everywhere():
    asked = asking(max_bytes=7600)
    figure = plot_search(judged(asked, *POINTS), asked)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_xlabel() == "zipped file (bytes)"
    assert "7,000" in [text.get_text() for text in axes.get_xticklabels()]
    (limit,) = (line for line in axes.lines if line.get_label() == "limit")
    assert limit.get_xdata() == [7600, 7600]
    assert axes.get_title().startswith("limit: at most 7,600 zipped bytes\n")
    assert "winner: trial 01 (7,000 bytes, accuracy 0.88)" in entries(figure)  # now the best
    (front,) = (line for line in axes.lines if line.get_label().startswith("front"))
    assert front.get_xydata().tolist() == [[4000, 0.6], [7000, 0.88]]


def test_a_search_in_which_none_keeps_to_the_limit_has_no_winner_and_no_front():
    asked = asking(max_bytes=100)
    figure = plot_search(judged(asked, *POINTS), asked)
    assert entries(figure) == ["breaks the limit (4)", "limit", "float model (0.9)"]
    assert "no trial keeps to it" in figure.axes[0].get_title()


def test_a_search_that_minimizes_has_its_limit_above():
    asked = asking(max_accuracy_drop=0.05, direction="min")
    figure = plot_search(judged(asked, (10, 0.94), (9, 0.96)), asked)
    (limit,) = (line for line in figure.axes[0].lines if line.get_label() == "limit")
    assert limit.get_ydata() == pytest.approx([0.95, 0.95])
    assert "winner: trial 00 (10 bytes, accuracy 0.94)" in entries(figure)


def test_a_search_without_a_completed_trial_has_no_picture(tmp_path):
    message = r"^SparsitySearch\.plot: the search must have a completed trial\. Received: "
    for points, received in (((), "no trials"), ((None, None, (9, math.nan)), "2 failed, 1 not")):
        with pytest.raises(ValueError, match=message + received):
            plot_search(judged(DROP, *points), DROP, tmp_path / "front.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [5, 50, 150])
def test_the_ids_lie_on_no_other_and_on_no_point(count):
    generator = np.random.default_rng(0)
    small = generator.beta(2, 2, count)
    values = 0.9 - 0.3 * small**4 + generator.normal(0, 0.01, count)
    points = zip((14000 - 9000 * small).round(), values.round(2), strict=True)
    figure = plot_search(judged(DROP, *points), DROP)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert len(axes.texts) == count
    frame = axes.get_window_extent()
    # Of an annotation with its line it would be the box around both.
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in axes.texts]
    at = axes.transData.transform([text.xy for text in axes.texts])
    for position, box in enumerate(boxes):
        assert frame.fully_contains(*box.min)
        assert frame.fully_contains(*box.max)
        assert not any(box.overlaps(other) for other in boxes[position + 1 :])
        assert not any(box.contains(*point) for point in at)


def test_an_id_stays_inside_and_tells_by_a_line_whose_it_is_where_it_is_far():
    figure = new_figure((4, 3))
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    at = [(1.0, 1.0), *[(0.5, 0.5)] * 40]
    label_points(figure, axes, at, [str(number) for number in range(41)], [4.0] * 41)
    figure.draw_without_rendering()
    corner, *others = axes.texts
    box = matplotlib.text.Text.get_window_extent(corner)
    assert axes.get_window_extent().fully_contains(*box.max)
    assert [corner.arrow_patch, others[0].arrow_patch] == [None, None]
    assert others[-1].arrow_patch is not None


def test_the_legend_is_beside_the_data():
    figure = plot_search(judged(DROP, *POINTS), DROP)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(figure.axes[0].get_tightbbox())


# --- a scan


FOUND = Sensitivity(
    "accuracy",
    "max",
    0.9,
    {
        "robust": {0.5: 0.91, 0.9: 0.88},
        "middle": {0.5: 0.9, 0.9: 0.3},
        "brittle": {0.5: 0.4, 0.9: 0.1},
    },
)


def heat_map(figure):
    """The axes of the cells, and those of the colour bar."""
    bar, cells = figure.axes
    return cells, bar


def names(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def test_a_scan_is_a_heat_map_with_the_worst_layer_on_top():
    figure = FOUND.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    axes, bar = heat_map(figure)
    assert names(axes) == ["brittle", "middle", "robust"]
    assert list(axes.get_yticks()) == [0, 1, 2]
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.get_xticklabels()] == ["50 %", "90 %"]
    (mesh,) = axes.collections
    drops = [[0.5, 0.8], [0.0, 0.6], [-0.01, 0.02]]
    np.testing.assert_allclose(mesh.get_array(), drops, atol=1e-12)
    assert mesh.get_clim() == pytest.approx((-0.8, 0.8))  # no change is the middle: white
    assert bar.get_title() == "drop in accuracy"
    assert bar.get_xlim() == pytest.approx((-0.01, 0.8))
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {
        (0, 0): "0.500", (1, 0): "0.800", (0, 1): "0.000", (1, 1): "0.600", (0, 2): "-0.010",
        (1, 2): "0.020",
    }  # fmt: skip
    assert "untouched, accuracy is 0.9\nworst first" in figure.get_suptitle()


def test_a_scan_of_a_loss_shows_its_rise_and_what_is_no_number():
    values = {"a": {0.5: 1.0, 0.9: 2.0}, "b": {0.5: 1.5, 0.9: math.nan}}
    figure = Sensitivity("loss", "min", 1.0, values).plot()
    axes, bar = heat_map(figure)
    assert names(axes) == ["b", "a"]
    assert bar.get_title() == "rise in loss"
    (mesh,) = axes.collections
    np.testing.assert_array_equal(mesh.get_array().mask, [[False, True], [False, False]])
    assert [text.get_text() for text in axes.texts] == ["0.50", "nan", "0.00", "1.00"]
    assert figure.get_suptitle().endswith("worst first; gray: no finite number")


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("count", [5, 80, 150, 310])
def test_every_layer_of_a_scan_can_be_read(count):
    name = "backbone/stage_{0}/expanded_depthwise_convolution_{0}"
    values = {name.format(number): {0.5: 0.9, 0.9: number / 1000} for number in range(count)}
    figure = Sensitivity("accuracy", "max", 0.9, values).plot()
    figure.draw_without_rendering()
    axes, _ = heat_map(figure)
    drawn = min(count, 300)
    assert names(axes) == [name.format(number) for number in range(drawn)]
    assert ("the worst 300 of 310" in figure.get_suptitle()) == (count == 310)
    for group in (axes.get_yticklabels(), axes.texts[1::2]):  # the names, the last column
        assert len(group) == drawn
        boxes = [text.get_window_extent() for text in group]
        for box, below in itertools.pairwise(boxes):
            assert box.y0 > below.y1 - 0.5  # pixels
            assert box.height * 72 / figure.dpi > 6  # points
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    cell = axes.get_window_extent().width / 2
    assert all(text.get_window_extent().width < cell for text in axes.texts)


def test_numbers_are_left_out_where_cells_are_too_narrow():
    values = {at / 100: 0.5 for at in range(1, 61)}
    axes, _ = heat_map(Sensitivity("accuracy", "max", 0.9, {"a": values}).plot())
    assert not axes.texts
    assert axes.collections[0].get_array().shape == (1, 60)


def test_a_scan_without_layers_has_no_picture():
    with pytest.raises(ValueError, match=r"^Sensitivity\.plot: there must be layers to draw\. Rec"):
        Sensitivity("accuracy", "max", 0.9, {}).plot()


# --- files


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize("of", ["search", "scan"])
def test_the_ending_says_the_form(tmp_path, of, ending):
    path = tmp_path / f"picture.{ending}"
    if of == "scan":
        FOUND.plot(path)
    else:
        plot_search(judged(DROP, *POINTS), DROP, path)
    assert path.read_bytes().startswith(FORMS[ending])
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_another_ending_is_refused_before_anything_is_drawn(monkeypatch):
    monkeypatch.setattr("keras_compress.tuner.plots.new_figure", None)
    rule = (
        r"plot: `path` must be None or the path of a file that ends in .*Received: path='a\.bmp'$"
    )
    with pytest.raises(ValueError, match=rf"^Sensitivity\.{rule}"):
        FOUND.plot("a.bmp")
    with pytest.raises(ValueError, match=rf"^SparsitySearch\.{rule}"):
        plot_search(judged(DROP, *POINTS), DROP, "a.bmp")


def test_a_failing_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    for write in (FOUND.plot, lambda path: plot_search(judged(DROP, *POINTS), DROP, path)):
        with pytest.raises(OSError, match="no space left"):
            write(tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
