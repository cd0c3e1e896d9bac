"""`SparsitySearch`: hard limits, the front, and what is left when it is through."""

import csv
import json
import math
import re
import shutil

import keras_tuner
import numpy as np
import pytest
from helpers.digit_search import builder, run_by_litert

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.tuner import SparsitySearch, question
from keras_compress.tuner.trials import Trial, Trials, dominates

pytestmark = pytest.mark.timeout(300)  # whole searches, one of them in a fixture

TRIALS = 4
HYPERBAND = {"tuner": "hyperband", "max_trials": None, "max_epochs": 3}


@pytest.fixture(scope="module")
def keras():
    """What a search adds to its trials, which `test_hypermodel.py` sees with both, is the same."""
    import keras

    return keras


def make(keras, folder, **arguments):
    given = {
        "max_accuracy_drop": 0.1,
        "float_epochs": 4,
        "tuner": "random",
        "final_sparsity": (0.2, 0.98),
        "max_trials": TRIALS,
        "seed": 2,
        "directory": str(folder),
    }
    return SparsitySearch(builder(keras), **{**given, **arguments})


@pytest.fixture(scope="module")
def found(keras, data, tmp_path_factory):
    search = make(keras, tmp_path_factory.mktemp("search"))
    search.search(**data, epochs=2)
    return search


# --- what wins


def test_the_smallest_that_keeps_to_the_limit_wins(found):
    trials = found.trials()
    assert [trial.status for trial in trials] == ["COMPLETED"] * TRIALS
    allowed = []
    for trial in trials:
        drop = trial.metrics["float_accuracy"] - trial.metrics["tflite_accuracy"]
        assert trial.feasible == (drop <= 0.1 + 1e-6)
        if trial.feasible:
            allowed.append(trial)
    assert 0 < len(allowed) < TRIALS  # or the limit says nothing
    smallest = min(allowed, key=lambda trial: trial.metrics["tflite_zipped_bytes"])
    assert found.best_trial() == smallest
    best = min(trials, key=lambda trial: trial.metrics["tflite_zipped_bytes"])
    assert not best.feasible  # smaller still, and it does not win
    # KerasTuner itself is told so.
    (told,) = found.tuner.oracle.get_best_trials(1)
    assert told.trial_id == smallest.id


@pytest.mark.parametrize("limit", [True, False], ids=["some-pass", "none-passes"])
def test_the_best_below_a_size_wins(found, keras, limit, tmp_path):
    """The same trials, judged by the other question."""
    sizes = sorted(trial.metrics["tflite_zipped_bytes"] for trial in found.trials())
    arguments = {"max_accuracy_drop": None, "max_bytes": int(sizes[1]) if limit else 10}
    # Where they stand it is refused: their scores are an answer to the first.
    with pytest.raises(ValueError, match=r"`max_accuracy_drop` must be 0\.1, as in the search"):
        make(keras, found.tuner.directory, **arguments)
    shutil.copytree(found.tuner.project_dir, tmp_path / found.tuner.project_name)
    (tmp_path / found.tuner.project_name / question.QUESTION_FILE).unlink()
    other = make(keras, tmp_path, **arguments)
    if not limit:
        with pytest.raises(RuntimeError, match=r"no trial keeps to at most 10 .* nearest is trial"):
            other.best_trial()
        return
    passing = [t for t in other.trials() if t.metrics["tflite_zipped_bytes"] <= sizes[1]]
    assert [t.id for t in passing] == [t.id for t in other.trials() if t.feasible]
    assert len(passing) == 2
    assert other.best_trial().metrics["tflite_accuracy"] == max(
        trial.metrics["tflite_accuracy"] for trial in passing
    )


def test_the_score_puts_what_breaks_the_limit_last(keras, tmp_path):
    by_drop = make(keras, tmp_path, project_name="drop")
    by_size = make(keras, tmp_path, project_name="size", max_accuracy_drop=None, max_bytes=5000)

    def metrics(accuracy, zipped):
        return {
            "float_accuracy": 0.95,
            "tflite_accuracy": accuracy,
            "tflite_zipped_bytes": float(zipped),
        }

    better_first = [(0.9, 4000), (0.86, 4001), (1.0, 10**9), (0.84, 10), (0.5, 10)]
    scores = [by_drop.score(metrics(*each)) for each in better_first]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)
    better_first = [(0.9, 5000), (0.8, 10), (0.1, 1), (1.0, 5001), (1.0, 9000)]
    scores = [by_size.score(metrics(*each)) for each in better_first]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


def keeps_to_the_limit(search, metrics):
    return search.question.excess(metrics, search.reference(metrics)) <= 0


def test_a_metric_that_is_no_number_keeps_to_no_limit(keras, tmp_path):
    search = make(keras, tmp_path)
    metrics = {"float_accuracy": 0.9, "tflite_accuracy": math.nan, "tflite_zipped_bytes": 10.0}
    assert not keeps_to_the_limit(search, metrics)
    assert math.isnan(search.score(metrics))  # which fails the trial


def test_the_float_model_is_the_best_of_them(keras, tmp_path):
    """A net that is no better in float than in integers has no drop, and would win by its size."""
    search = make(keras, tmp_path)
    for number, (accuracy, zipped) in enumerate([(0.9, 5000.0), (0.3, 100.0)]):
        metrics = {
            "float_accuracy": accuracy,
            "tflite_accuracy": accuracy,
            "tflite_zipped_bytes": zipped,
        }
        state = {
            "trial_id": str(number),
            "status": "COMPLETED",
            "hyperparameters": {"values": {}},
            "metrics": {
                "metrics": {n: {"observations": [{"value": [v]}]} for n, v in metrics.items()}
            },
        }
        folder = tmp_path / "sparsity_search" / f"trial_{number}"
        folder.mkdir()
        (folder / "trial.json").write_text(json.dumps(state))
    assert [trial.feasible for trial in search.trials()] == [True, False]
    assert search.best_trial().id == "0"
    assert not keeps_to_the_limit(search, {"float_accuracy": 0.5, "tflite_accuracy": 0.5})


def test_a_metric_that_is_better_when_smaller(keras, tmp_path):
    search = make(keras, tmp_path, metric="loss", direction="min", max_accuracy_drop=0.2)
    assert keeps_to_the_limit(search, {"float_loss": 0.5, "tflite_loss": 0.7})
    assert not keeps_to_the_limit(search, {"float_loss": 0.5, "tflite_loss": 0.71})


# --- the front


def test_dominance_is_true_dominance():
    assert dominates((1, 1), (2, 2))
    assert dominates((1, 2), (2, 2))
    assert not dominates((2, 2), (2, 2))
    assert not dominates((1, 3), (2, 2))


def test_the_front_is_what_nobody_beats_in_both(found):
    points = {
        trial.id: (trial.metrics["tflite_zipped_bytes"], -trial.metrics["tflite_accuracy"])
        for trial in found.trials()
    }
    front = found.pareto()
    for name, (size, badness) in points.items():
        beaten = any(
            s <= size and b <= badness and (s, b) != (size, badness) for s, b in points.values()
        )
        assert (name in [trial.id for trial in front]) is not beaten
    sizes = [trial.metrics["tflite_zipped_bytes"] for trial in front]
    assert sizes == sorted(sizes)
    accuracies = [trial.metrics["tflite_accuracy"] for trial in front]
    assert accuracies == sorted(accuracies)


# --- what is left


def test_the_winner_can_be_had_as_model_and_as_file(found, data):
    best = found.best_trial()
    model, path = found.best_model(), found.best_export()
    x, y = data["validation_data"]
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert logs["accuracy"] == pytest.approx(best.metrics["val_accuracy"])
    answers = run_by_litert(path, x)
    assert np.mean(answers.argmax(-1) == y) == pytest.approx(best.metrics["tflite_accuracy"])
    assert engine_of(model).phase.rounds
    assert engine_of(kc.strip(model)) is None


def test_the_table_and_its_csv(found, tmp_path):
    text = found.trials_table(tmp_path / "trials.csv")
    assert "limit: accuracy at most 0.1 worse than the float model's" in text
    assert text.count("breaks the limit") + text.count("feasible") == TRIALS
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == TRIALS
    for row, trial in zip(rows, found.trials(), strict=True):
        assert row["trial"] == trial.id
        assert float(row["final_sparsity"]) == trial.values["final_sparsity"]
        assert float(row["tflite_accuracy"]) == trial.metrics["tflite_accuracy"]
        assert row["feasible"] == str(trial.feasible)


def test_a_table_of_many_layers_keeps_every_word(tmp_path):
    values = {f"final_sparsity/a_layer_of_a_long_name_{i}": 0.5 + i / 10 for i in range(5)}
    metrics = {"tflite_accuracy": 0.91, "tflite_zipped_bytes": 5123.0, "sparsity": 0.7}
    trial = Trial("07", "COMPLETED", values, metrics, True, None, tmp_path)
    asked = question.Question(
        metric="accuracy", direction="max", max_accuracy_drop=0.1, max_bytes=None, max_epochs=None
    )
    text = str(Trials([trial], asked))
    for word in ("07", "feasible, pareto", *values, "0.9", "0.91", "5,123", "0.7"):
        assert f" {word} " in text


def test_the_plot_is_of_the_trials(found, tmp_path):
    figure = found.plot(tmp_path / "front.png")
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {trial.id for trial in found.trials()}
    (legend,) = figure.legends
    entries = [text.get_text() for text in legend.get_texts()]
    assert any(entry.startswith(f"winner: trial {found.best_trial().id} (") for entry in entries)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_finished_search_goes_on_where_it_was(found, keras, data):
    before = {trial.id: trial for trial in found.trials()}
    files = {
        name: (trial.folder / "model.tflite").stat().st_mtime_ns for name, trial in before.items()
    }
    longer = make(keras, found.tuner.directory, max_trials=TRIALS + 1)
    longer.search(**data, epochs=2)
    after = {trial.id: trial for trial in longer.trials()}
    assert len(after) == TRIALS + 1
    for name, trial in before.items():
        assert after[name] == trial
        assert (trial.folder / "model.tflite").stat().st_mtime_ns == files[name]
        state = json.loads((trial.folder / "trial.json").read_text())
        assert len(state["metrics"]["metrics"]["search_score"]["observations"]) == 1


# --- what fails


@pytest.mark.slow
def test_a_search_in_which_nothing_succeeds_raises(keras, data, tmp_path, monkeypatch):
    def failing(*_):
        raise RuntimeError("no converter today")

    monkeypatch.setattr("keras_compress.export.writing.write_file", failing)
    search = make(keras, tmp_path, max_trials=2, float_epochs=1, delay=0.0)
    with pytest.raises(RuntimeError, match=r"none of 2 trials succeeded.*no converter today"):
        search.search(**data, epochs=1)
    with pytest.raises(RuntimeError, match=r"no trial keeps to .*none ran"):
        search.best_trial()
    assert search.pareto() == []
    assert search.trials_table().count("failed") == 2


def test_a_metric_that_the_model_has_not_ends_the_search(keras, data, tmp_path):
    search = make(keras, tmp_path, metric="f1")
    message = "`metric` must be one that the model was compiled with: loss, accuracy"
    with pytest.raises(keras_tuner.errors.FatalError, match=re.escape(message)):
        search.search(**data, epochs=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_bytes": 5000}, ValueError, "exactly one of `max_accuracy_drop`, `max_bytes`"),
        ({"max_accuracy_drop": None}, ValueError, "exactly one of"),
        (
            {"max_macs": 5},
            ValueError,
            "Received: max_accuracy_drop=0.1, max_bytes=None, max_macs=5",
        ),
        ({"max_accuracy_drop": None, "max_macs": 0}, ValueError, "`max_macs` must be an int >= 1"),
        ({"max_accuracy_drop": None, "max_latency_ms": 0}, TypeError, "`max_latency_ms` must be a"),
        ({"max_accuracy_drop": "1%"}, TypeError, "`max_accuracy_drop` must be a number"),
        ({"float_epochs": 0}, ValueError, "`float_epochs` must be at least 1"),
        ({"tuner": "hyper"}, ValueError, "`tuner` must be"),
        ({"tuner": "hyperband"}, ValueError, "`max_trials` must be None for the tuner 'hyperband'"),
        ({**HYPERBAND, "max_epochs": None}, ValueError, "`max_epochs` must be given for the tuner"),
        ({**HYPERBAND, "max_epochs": 2}, ValueError, "`max_epochs` must be an int >= 3"),
        ({"max_epochs": 9}, ValueError, "`max_epochs` must be None for the tuner 'random'"),
        ({"direction": "up"}, ValueError, "`direction` must be"),
        ({"max_trials": 0}, ValueError, "`max_trials` must be"),
        ({"final_sparsity": (0.9, 0.2)}, ValueError, "low < high"),
        ({"final_sparsity": 0.5}, ValueError, "the space must have something to tune"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(keras, tmp_path, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(keras, tmp_path, **arguments)


def test_hyperband_has_its_epochs_from_the_beginning(keras, data, tmp_path):
    search = make(keras, tmp_path, **HYPERBAND)
    with pytest.raises(ValueError, match=r"`epochs` must be left out .* Received: epochs=5"):
        search.search(**data, epochs=5)
    # KerasTuner would go on with those that it was begun with.
    with pytest.raises(ValueError, match="`max_epochs` must be 3, as in the search that stands in"):
        make(keras, tmp_path, **{**HYPERBAND, "max_epochs": 9})
    with pytest.raises(ValueError, match="`max_epochs` must be 3, as in the search that stands in"):
        make(keras, tmp_path)


@pytest.mark.slow
def test_overwrite_begins_anew(keras, data, tmp_path):
    search = make(keras, tmp_path, max_trials=1)
    search.search(**data, epochs=1)
    assert len(search.trials()) == 1
    again = make(keras, tmp_path, max_trials=1, max_accuracy_drop=0.5, overwrite=True)
    assert again.trials() == []
    again.search(**data, epochs=1)
    assert len(again.trials()) == 1
    make(keras, tmp_path, max_trials=1, max_accuracy_drop=0.5)  # it is this question's now


def test_the_search_and_its_trials_have_a_face(found):
    trials = found.trials()
    best = found.best_trial()
    assert str(found) == (
        f"{found.trials_table()}\nthe winner is trial {best.id}: {found.best_export()}"
    )
    assert str(trials) == found.trials_table()
    assert found._repr_html_().count("<tr>") == 1 + len(trials)
    assert repr(best).startswith(f"<Trial: {best.id}, feasible: ")
    assert repr(trials).startswith("<Trials: limit: ")


def test_a_folder_that_cannot_be_written_to_is_refused(keras, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ValueError, match="`directory` must be a folder that can be written to"):
        make(keras, tmp_path / "taken")


@pytest.mark.sweep
def test_channels_are_searched_and_the_file_falls_with_them(keras, data, tmp_path):
    more = {"structure": "channels", "final_sparsity": [0.25, 0.75], "max_trials": 2}
    search = make(keras, tmp_path, max_accuracy_drop=0.9, tuner="grid", **more)
    search.search(**data, epochs=2)
    trials = {trial.metrics["sparsity"]: trial.metrics for trial in search.trials()}
    few, many = (trials[share] for share in sorted(trials))
    assert sorted(trials) == pytest.approx([0.25, 0.75])
    assert many["tflite_bytes"] < 0.7 * few["tflite_bytes"]
    model = search.best_model()
    assert kc.strip(model).get_layer("conv1").filters == 2  # of 8


@pytest.mark.sweep
def test_a_search_keeps_to_a_number_of_multiplications(keras, data, tmp_path):
    whole = kc.macs(builder(keras)(None))
    more = {"structure": "channels", "final_sparsity": [0.25, 0.75], "max_trials": 2}
    limit = {"max_accuracy_drop": None, "max_macs": whole // 2}
    search = make(keras, tmp_path, tuner="grid", **more, **limit)
    search.search(**data, epochs=2)
    counted = {trial.metrics["sparsity"]: trial.metrics["macs"] for trial in search.trials()}
    few, many = (counted[share] for share in sorted(counted))
    assert many <= whole // 2 < few < whole
    best = search.best_trial()
    assert best.metrics["macs"] == many == kc.macs(kc.strip(search.best_model()))
    assert [trial.feasible for trial in search.trials()].count(True) == 1


def test_limits_of_what_a_trial_costs_are_kept():
    asked = question.Question(
        metric="accuracy", direction="max", max_accuracy_drop=None, max_bytes=None,
        max_epochs=None, max_macs=1000,
    )  # fmt: skip
    metrics = {"macs": 1100.0, "tflite_zipped_bytes": 5.0, "tflite_accuracy": 0.9}
    assert asked.excess(metrics, None) == pytest.approx(0.1)
    assert asked.score(metrics, None) > 1 > asked.score({**metrics, "macs": 900.0}, None)
    assert asked.limit == "at most 1,000 multiply-accumulates"
    assert asked.rank(metrics) == (-0.9, 5.0)
