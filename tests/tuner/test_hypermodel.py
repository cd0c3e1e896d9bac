"""`CompressionHyperModel` in KerasTuner's own tuners, for both Keras where they differ."""

import dataclasses
import gc
import importlib
import importlib.util
import json
import re
import weakref
import zipfile
from pathlib import Path

import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from helpers.digit_search import BATCH, ROWS, builder, run_by_litert
from helpers.nets import small_net
from tensorflow.python.framework import ops
from tensorflow.python.framework.func_graph import FuncGraph

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.state import State
from keras_compress.frameworks.choose import adapter_of
from keras_compress.frameworks.graph_memory import forget_graphs
from keras_compress.tuner import CompressionHyperModel, SparsitySearch, baseline

pytestmark = [
    pytest.mark.timeout(300),  # whole searches, one of them in a fixture
    pytest.mark.by_turns(suite="keras3"),
]

BEST_FILE = keras_tuner.Objective("tflite_accuracy", "max")


def package(name):
    return importlib.import_module({"keras3": "keras"}.get(name, name))


@pytest.fixture(scope="module")
def keras3():
    """For what is the same with both."""
    return package("keras3")


# Rounded from the first step on: of the phases only one has to be traced.
SHORT = {"final_sparsity": [0.5], "delay": 0.0}


def metrics_of(trial):
    return {name: m.get_last_value() for name, m in trial.metrics.metrics.items()}


# --- what a trial reports


TRIALS = 5


@dataclasses.dataclass
class Searched:
    """A search that is through, and what was seen in it."""

    tuner: object
    hypermodel: object
    fits: list  # the epochs of every fit of a model that `build` has made
    models: list  # weak references to these models
    graphs: list  # how many of TensorFlow's graphs there were at each `build`
    begun: list  # updates of the optimizer when the user's callback saw a training begin
    logs: Path  # where the summaries write


@pytest.fixture(scope="module")
def searched(keras, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")

    class Noting(keras.callbacks.Callback):  # copied for every trial, so it notes in a file
        def on_train_begin(self, logs=None):
            with open(folder / "begun", "a") as file:
                file.write(f"{int(np.asarray(self.model.optimizer.iterations))} ")

    fits, models, graphs = [], [], []
    build = builder(keras, fits)

    def noted(hp):
        graphs.append(sum(isinstance(each, FuncGraph) for each in gc.get_objects()))
        model = build(hp)
        models.append(weakref.ref(model))
        return model

    hypermodel = CompressionHyperModel(noted, float_epochs=4, latency=True, weight_bits=[8, 4])
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, TRIALS, seed=3, directory=str(folder))
    summaries = kc.CompressionSummaries(folder / "logs")
    tuner.search(**data, epochs=2, callbacks=[Noting(), summaries])
    begun = list(map(int, (folder / "begun").read_text().split()))
    return Searched(tuner, hypermodel, fits, models[:], graphs[:], begun, folder / "logs")


def test_the_score_is_that_of_the_file_in_an_independent_run(searched, data):
    tuner = searched.tuner
    x, y = data["validation_data"]
    trials = list(tuner.oracle.trials.values())
    assert [trial.status for trial in trials] == ["COMPLETED"] * TRIALS
    for trial in trials:
        path = Path(tuner.get_trial_dir(trial.trial_id)) / "model.tflite"
        found = metrics_of(trial)
        answers = run_by_litert(path, x)
        assert found["tflite_accuracy"] == pytest.approx(np.mean(answers.argmax(-1) == y))
        assert trial.score == found["tflite_accuracy"]
        assert found["tflite_bytes"] == path.stat().st_size
        with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED, True, 9) as made:
            made.write(path, "model.tflite")
        sizes = made.infolist()[0]
        assert found["tflite_zipped_bytes"] == pytest.approx(sizes.compress_size, abs=200)
        assert found["tflite_latency_ms"] > 0
        assert kc.inspect_tflite(path).all_integer


def test_the_trials_share_one_float_training(searched):
    tuner = searched.tuner
    assert searched.fits == [2] * TRIALS  # the float training is that of a copy
    assert len(list((Path(tuner.project_dir) / "float").glob("*.npz"))) == 1
    floats = {metrics_of(trial)["float_accuracy"] for trial in tuner.oracle.trials.values()}
    assert len(floats) == 1
    assert floats.pop() > 0.3  # ten classes


def key(keras, build, epochs=3, arguments=(), **drawn):
    model = build(keras.layers)
    model.compile("adam", "mse")
    return baseline._key(adapter_of(model, "test"), model, epochs, (arguments, drawn))


def test_what_two_models_must_share_to_share_a_float_training(keras):
    def net(layers, units=3, activation="relu", name=None):
        return keras.Sequential(
            [layers.Input((2,)), layers.Dense(units, activation=activation, name=name)]
        )

    x = np.arange(4.0)
    own = key(keras, net, arguments=({"x": x},), depth=2)
    assert own == key(keras, net, arguments=({"x": x.copy()},), depth=2)  # other automatic names
    others = [
        key(keras, lambda layers: net(layers, units=4), arguments=({"x": x},), depth=2),
        key(keras, net, arguments=({"x": x + 1},), depth=2),
        key(keras, net, arguments=({"x": x, "batch_size": 2},), depth=2),
        key(keras, net, arguments=({"x": x},), depth=3),
        key(keras, net, 4, arguments=({"x": x},), depth=2),
        key(keras, net, 0, arguments=({"x": x},), depth=2),
    ]
    assert len({own, *others}) == 7
    # A layer may be called as something else in the config is.
    one, other = (
        key(keras, lambda layers, a=a: net(layers, activation=a, name=a)) for a in ("relu", "tanh")
    )
    assert one != other


def test_every_trial_begins_with_a_new_optimizer(searched):
    """And callbacks of the user see the trials, not the float training."""
    assert searched.begun == [0] * TRIALS


def test_every_trial_has_summaries_of_its_own(searched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trials = searched.tuner.oracle.trials
    assert {path.name for path in searched.logs.iterdir()} == set(trials)
    for name, trial in trials.items():
        events = EventAccumulator(str(searched.logs / name / "execution0" / "compression"))
        events.Reload()
        last = tf.make_ndarray(events.Tensors("sparsity")[-1].tensor_proto)
        assert float(last) == pytest.approx(metrics_of(trial)["sparsity"], abs=1e-6)


def test_the_models_of_finished_trials_are_let_go(searched):
    """Graphs, masks and ranges hang on the model, so memory stays flat if it goes."""
    assert len(searched.models) == TRIALS + 1  # the first was to learn the space
    gc.collect()
    assert sum(reference() is not None for reference in searched.models[:-1]) == 0
    # From the second trial on a trial leaves no graph behind that the one before it had not.
    assert searched.graphs[2:] == [searched.graphs[2]] * (TRIALS - 1)


def test_a_trial_has_the_sparsity_and_the_bits_that_were_drawn(searched):
    tuner, hypermodel = searched.tuner, searched.hypermodel
    bits = set()
    for trial in tuner.oracle.trials.values():
        wanted = trial.hyperparameters.values
        model = hypermodel.load(tuner, trial)
        kernels = [weights for weights in kc.strip(model).get_weights() if weights.ndim > 1]
        assert len(kernels) == 3
        for weights in kernels:
            assert np.mean(weights == 0) == pytest.approx(wanted["final_sparsity"], abs=0.02)
        zeros = sum(np.sum(weights == 0) for weights in kernels)
        size = sum(weights.size for weights in kernels)
        assert metrics_of(trial)["sparsity"] == pytest.approx(zeros / size)
        bits.add(engine_of(model).quantization.weight_bits)
        assert engine_of(model).quantization.weight_bits == wanted["weight_bits"]
    assert bits == {4, 8}


def test_a_loaded_trial_answers_as_it_was_scored(searched, data):
    tuner, hypermodel = searched.tuner, searched.hypermodel
    (trial,) = tuner.oracle.get_best_trials(1)
    model = hypermodel.load(tuner, trial)
    x, y = data["validation_data"]
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    found = metrics_of(trial)
    assert logs["accuracy"] == pytest.approx(found["val_accuracy"])
    assert logs["loss"] == pytest.approx(found["val_loss"], rel=1e-5)


# --- the other tuners


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("keras", "kind"),
    [("keras3", "BayesianOptimization"), ("tf_keras", "GridSearch")],
    indirect=["keras"],
)
def test_the_other_tuners_run_unchanged(keras, data, kind, tmp_path):
    hypermodel = CompressionHyperModel(builder(keras), final_sparsity=[0.3, 0.6], delay=0.0)
    tuner = getattr(keras_tuner, kind)(
        hypermodel, BEST_FILE, max_trials=2, seed=1, directory=str(tmp_path)
    )
    tuner.search(**data, epochs=1)
    trials = list(tuner.oracle.trials.values())
    assert [trial.status for trial in trials] == ["COMPLETED"] * 2
    assert sorted(t.hyperparameters.get("final_sparsity") for t in trials) == [0.3, 0.6]
    for trial in trials:
        assert "float_accuracy" not in metrics_of(trial)  # there was no float training
        assert metrics_of(trial)["sparsity"] == pytest.approx(
            trial.hyperparameters.get("final_sparsity"), abs=0.02
        )


def kerastuners_hyperband(keras, folder):
    hypermodel = CompressionHyperModel(builder(keras), float_epochs=1, delay=0.0)
    tuner = keras_tuner.Hyperband(hypermodel, BEST_FILE, 2, 2, seed=1, directory=str(folder))
    return tuner, tuner.search, 3, 2


def ours(keras, folder):
    search = SparsitySearch(
        builder(keras),
        max_accuracy_drop=0.5,
        tuner="hyperband",
        max_epochs=3,
        float_epochs=1,
        delay=0.0,
        seed=1,
        directory=str(folder),
    )
    return search.tuner, search.search, 4, 3


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("keras", "make"),
    [("keras3", ours), ("tf_keras", kerastuners_hyperband)],
    indirect=["keras"],
)
def test_hyperbands_later_rounds_go_on_from_the_earlier(keras, make, data, tmp_path):
    tuner, search, trials, epochs = make(keras, tmp_path)
    tuner.oracle.max_trials = trials  # the first bracket: a round, and the best of it once more

    class Noting(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            number = len(list(tmp_path.glob("*.npz")))
            np.savez(tmp_path / f"{number}.npz", *self.model.get_weights())

    search(**data, callbacks=[Noting()])
    trials = tuner.oracle.trials
    assert {trial.status for trial in trials.values()} == {"COMPLETED"}
    (trial,) = [t for t in trials.values() if t.hyperparameters.values["tuner/round"] > 0]
    values = trial.hyperparameters.values
    assert (values["tuner/initial_epoch"], values["tuner/epochs"]) == (1, epochs)
    best, *_ = sorted(
        (t for t in trials.values() if t is not trial),
        key=lambda t: t.score,
        reverse=tuner.oracle.objective.direction == "max",
    )
    assert values["tuner/trial_id"] == best.trial_id
    before, after = (Path(tuner.get_trial_dir(each.trial_id)) for each in (best, trial))
    parent, own = (State.load(folder / "state.npz") for folder in (before, after))
    steps = -(-ROWS // BATCH)
    assert (parent.step, own.step) == (steps, epochs * steps)
    begun = np.load(tmp_path / f"{tuner.oracle.start_order.index(trial.trial_id)}.npz")
    left = np.load(before / "weights.npz")
    assert len(begun.files) == len(left.files)
    for name in begun.files:
        np.testing.assert_array_equal(begun[name], left[name])
    assert parent.masks
    for key, mask in parent.masks.items():
        np.testing.assert_array_equal(own.masks[key], mask)
    assert parent.observed < own.observed  # the ranges went on too
    assert metrics_of(trial)["sparsity"] == best.metrics.get_last_value("sparsity")


# --- the integer file is the judge


@pytest.mark.slow
def test_what_is_better_in_integers_wins(keras3, tmp_path):
    """One net is perfect in float, and loses its only useful number beside a huge one in int8; the
    other is wrong on every tenth row, in integers too.
    """
    x = np.random.default_rng(0).uniform(-1, 1, (400, 2)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")

    def build(hp):
        fragile = hp.Choice("net", ["fragile", "robust"]) == "fragile"
        layers = keras3.layers
        model = keras3.Sequential(
            [
                layers.Input((2,), name="point"),
                layers.Dense(2, name="hidden"),
                layers.Dense(2, name="side"),
            ]
        )
        hidden = np.array([[1.0, 0.0], [0.0, 200.0 if fragile else 1.0]], "float32")
        shift = 0.0 if fragile else 0.2
        side = np.array([[-1.0, 1.0], [0.0, 0.0]], "float32")
        model.set_weights([hidden, np.array([shift, 0], "float32"), side, np.zeros(2, "float32")])
        loss = keras3.losses.SparseCategoricalCrossentropy(from_logits=True)
        # They have layers and compile in common; that `build` drew "net" tells them apart.
        model.compile(keras3.optimizers.SGD(0.0), loss, metrics=["accuracy"], jit_compile=False)
        return model

    hypermodel = CompressionHyperModel(build, float_epochs=1, final_sparsity=None, delay=0.5)
    tuner = keras_tuner.GridSearch(hypermodel, BEST_FILE, directory=str(tmp_path))
    tuner.search(x, y, epochs=2, validation_data=(x, y), verbose=0)
    found = {t.hyperparameters.get("net"): metrics_of(t) for t in tuner.oracle.trials.values()}
    assert found["fragile"]["float_accuracy"] == 1.0
    assert found["robust"]["float_accuracy"] == pytest.approx(0.9, abs=0.04)
    assert found["fragile"]["tflite_accuracy"] < 0.82
    assert found["robust"]["tflite_accuracy"] == pytest.approx(0.9, abs=0.04)
    (best,) = tuner.get_best_hyperparameters(1)
    assert best.get("net") == "robust"


@pytest.mark.parametrize("keras", ["tf_keras"], indirect=True)
def test_a_trained_model_is_fine_tuned(keras, data, tmp_path):
    trained = small_net(keras, jit_compile=False)
    x, y = data["validation_data"]
    trained.fit(data["x"], data["y"], epochs=2, verbose=0)
    before = trained.get_weights()
    hypermodel = CompressionHyperModel(trained, **SHORT)
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, 1, directory=str(tmp_path))
    tuner.search(**data, epochs=1)
    for one, other in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    (trial,) = tuner.oracle.trials.values()
    logs = trained.evaluate(x, y, verbose=0, return_dict=True)
    assert metrics_of(trial)["float_accuracy"] == pytest.approx(logs["accuracy"])
    assert metrics_of(trial)["float_loss"] == pytest.approx(logs["loss"], rel=1e-5)


@pytest.mark.slow
def test_any_task_and_several_outputs(keras, tmp_path):
    """A regression and a classification at once; every metric of both is one of a trial's."""

    def build(hp):
        keras.utils.set_random_seed(0)
        layers = keras.layers
        point = layers.Input((4,), name="point")
        hidden = layers.Dense(8, activation="relu", name="hidden")(point)
        outputs = {
            "height": layers.Dense(1, name="height")(hidden),
            "kind": layers.Dense(3, activation="softmax", name="kind")(hidden),
        }
        model = keras.Model(point, outputs)
        model.compile(
            keras.optimizers.Adam(0.01),
            {"height": "mse", "kind": "sparse_categorical_crossentropy"},
            metrics={"height": ["mae"], "kind": ["accuracy"]},
            jit_compile=False,
        )
        return model

    x = np.random.default_rng(0).uniform(-1, 1, (96, 4)).astype("float32")
    y = {"height": 3 * x.sum(-1, keepdims=True), "kind": x[:, :3].argmax(-1)}
    hypermodel = CompressionHyperModel(build, float_epochs=8, **SHORT)
    objective = keras_tuner.Objective("tflite_height_mae", "min")
    tuner = keras_tuner.RandomSearch(hypermodel, objective, 1, directory=str(tmp_path))
    tuner.search(x, y, epochs=4, batch_size=16, validation_data=(x, y), verbose=0)
    (trial,) = tuner.oracle.trials.values()
    found = metrics_of(trial)
    answers = kc.load_tflite(Path(tuner.get_trial_dir(trial.trial_id)) / "model.tflite").predict(x)
    mae = np.mean(np.abs(answers["height"] - y["height"]))
    assert trial.score == found["tflite_height_mae"] == pytest.approx(mae, rel=1e-5)
    accuracy = np.mean(answers["kind"].argmax(-1) == y["kind"])
    assert found["tflite_kind_accuracy"] == pytest.approx(accuracy)
    logs = hypermodel.load(tuner, trial).evaluate(x, y, verbose=0, return_dict=True)
    for name in ("loss", "height_mae", "kind_accuracy"):
        assert found[f"val_{name}"] == pytest.approx(logs[name], rel=1e-5)
        assert found[f"float_{name}"] != found[f"val_{name}"]


@pytest.mark.sweep
def test_several_objectives_are_summed_as_kerastuner_does(keras3, data, tmp_path):
    """And every execution of a trial keeps its own file."""
    objectives = [BEST_FILE, keras_tuner.Objective("tflite_zipped_bytes", "min")]
    hypermodel = CompressionHyperModel(builder(keras3), **SHORT)
    tuner = keras_tuner.RandomSearch(
        hypermodel, objectives, 1, executions_per_trial=2, directory=str(tmp_path)
    )
    tuner.search(**data, epochs=1)
    (trial,) = tuner.oracle.trials.values()
    found = metrics_of(trial)
    assert trial.score == found["tflite_zipped_bytes"] - found["tflite_accuracy"]
    folder = Path(tuner.get_trial_dir("0"))
    assert (folder / "model.tflite").exists()
    assert (folder / "execution_1" / "model.tflite").exists()


# --- what TensorFlow would keep


def test_the_gradients_of_graphs_that_live_on_stay():
    @tf.custom_gradient
    def tripled(x):
        return 1 * x, lambda upstream: 3 * upstream

    def traced():
        """A graph with a custom gradient that has not been asked for yet."""
        return tf.function(tripled).get_concrete_function(tf.TensorSpec((), tf.float32))

    names = set(ops.gradient_registry.list())
    kept = traced()
    gone = weakref.ref(traced().graph)
    assert len(set(ops.gradient_registry.list()) - names) == 2
    forget_graphs()
    assert gone() is None
    assert len(set(ops.gradient_registry.list()) - names) == 1
    x = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = kept(x)
    assert float(tape.gradient(y, x)) == 3.0


# --- what fails


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(keras3, data, tmp_path):
    def specs(hp):
        layer = hp.Choice("layer", ["dense1", "nowhere"])
        half = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1)
        return kc.Pruning(None, layers={layer: half}), kc.Quantization()

    hypermodel = CompressionHyperModel(builder(keras3), specs=specs)
    tuner = keras_tuner.GridSearch(hypermodel, BEST_FILE, directory=str(tmp_path))
    tuner.search(**data, epochs=1)
    done, failed = tuner.oracle.trials.values()
    assert (failed.status, done.status) == ("FAILED", "COMPLETED")
    assert "'nowhere'" in failed.message
    state = json.loads((Path(tuner.get_trial_dir(failed.trial_id)) / "trial.json").read_text())
    assert state["message"] == failed.message
    assert (Path(tuner.get_trial_dir(done.trial_id)) / "model.tflite").exists()


def test_a_search_in_which_no_trial_succeeds_raises(keras3, data, tmp_path, monkeypatch):
    def failing(*_):
        raise RuntimeError("no converter today")

    monkeypatch.setattr("keras_compress.export.writing.write_file", failing)
    hypermodel = CompressionHyperModel(builder(keras3), **SHORT)
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, 1, directory=str(tmp_path))
    reason = "No file: RuntimeError: no converter today"
    with pytest.raises(RuntimeError, match=f"none of 1 trials succeeded.*{reason}"):
        tuner.search(**data, epochs=1)
    (trial,) = tuner.oracle.trials.values()
    assert trial.status == "FAILED"
    assert reason in trial.message


@pytest.mark.slow
def test_trials_of_one_structure_share_a_rehearsal(keras, data, tmp_path, monkeypatch):
    """Whose failure fails the trial before it is trained."""
    from keras_compress.export import rehearse

    monkeypatch.setattr(rehearse, "_passed", {})
    convert, tried = rehearse.convert, []

    def counting(*arguments, **named):
        tried.append(arguments)
        if len(tried) == 1:
            raise kc.ConversionError("no converter today", "Try again")
        return convert(*arguments, **named)

    monkeypatch.setattr(rehearse, "convert", counting)
    monkeypatch.setattr(rehearse, "_ways_out", lambda *_: [])
    fits = []
    hypermodel = CompressionHyperModel(
        builder(keras, fits), **{**SHORT, "final_sparsity": [0.25, 0.5, 0.75]}
    )
    tuner = keras_tuner.GridSearch(hypermodel, BEST_FILE, directory=str(tmp_path))
    tuner.search(**data, epochs=1)
    failed, *done = tuner.oracle.trials.values()
    assert (failed.status, {trial.status for trial in done}) == ("FAILED", {"COMPLETED"})
    assert "No file: The TFLite conversion failed: no converter today. Try again" in failed.message
    assert (len(fits), len(tried)) == (3, 2)  # what failed is not taken for known


@pytest.mark.parametrize("keras", ["tf_keras"], indirect=True)
def test_a_model_that_is_too_large_fails_its_trial(keras, data, tmp_path):
    hypermodel = CompressionHyperModel(builder(keras), **SHORT)
    tuner = keras_tuner.RandomSearch(
        hypermodel, BEST_FILE, 1, max_model_size=100, directory=str(tmp_path)
    )
    with pytest.raises(RuntimeError, match=r"none of 1 trials succeeded.*Oversized model: [0-9]+"):
        tuner.search(**data, epochs=1)


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ("tflite_f1", {}, "`objective` must be a metric that trials report: tflite_loss"),
        ("float_accuracy", {}, "`objective` must be a metric that trials report"),
        ("tflite_accuracy", {"validation_data": None}, "`validation_data` must be given"),
    ],
)
def test_what_would_fail_in_every_trial_ends_the_search(
    keras3, data, tmp_path, objective, changes, message
):
    fits = []
    hypermodel = CompressionHyperModel(builder(keras3, fits), **SHORT)
    objective = keras_tuner.Objective(objective, "max")
    tuner = keras_tuner.RandomSearch(hypermodel, objective, 1, directory=str(tmp_path))
    with pytest.raises(keras_tuner.errors.FatalError, match=re.escape(message)):
        tuner.search(**{**data, **changes}, epochs=1)
    assert fits == []


def test_callbacks_of_the_other_keras_are_refused(data, tmp_path):
    hypermodel = CompressionHyperModel(builder(package("tf_keras")), **SHORT)
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, 1, directory=str(tmp_path))
    stopping = package("keras3").callbacks.EarlyStopping()
    with pytest.raises(keras_tuner.errors.FatalError, match=r"Received: keras.EarlyStopping"):
        tuner.search(**data, epochs=1, callbacks=[stopping])


def test_fit_is_for_tuners_only(keras):
    hypermodel = CompressionHyperModel(builder(keras))
    hp = keras_tuner.HyperParameters()
    with pytest.raises(keras_tuner.errors.FatalError, match="called by a tuner's `search`"):
        hypermodel.fit(hp, hypermodel.build(hp), np.zeros((1, 8, 8, 1)))


def test_a_space_with_nothing_to_tune_is_refused(keras, tmp_path):
    hypermodel = CompressionHyperModel(builder(keras), final_sparsity=0.5)
    with pytest.raises(ValueError, match="the space must have something to tune"):
        keras_tuner.RandomSearch(hypermodel, BEST_FILE, 1, directory=str(tmp_path))


@pytest.mark.parametrize("lacks", ["compiled", "built"])
def test_build_returns_a_model_that_can_be_trained(keras, lacks):
    def build(hp):
        if lacks == "compiled":
            return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    with pytest.raises(ValueError, match=f"must return, or be, a built .* that is not {lacks}"):
        CompressionHyperModel(build).build(keras_tuner.HyperParameters())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"float_epochs": -1}, ValueError, "`float_epochs` must be"),
        ({"latency": 1}, TypeError, "`latency` must be"),
        ({"export": {"path": "a.tflite"}}, ValueError, "`export` must be without a path"),
        ({"export": {"batch_size": 0}}, ValueError, "Export: `batch_size`"),
        ({"final_sparsities": (0.1, 0.5)}, TypeError, "`final_sparsities` must be one of"),
        ({"specs": 3}, TypeError, "`specs` must be a function"),
        ({"specs": print, "delay": 0.5}, ValueError, "`specs` must be None when a space is given"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        CompressionHyperModel(lambda hp: None, **arguments)


def test_a_trained_model_is_not_trained_again(keras):
    with pytest.raises(ValueError, match="`float_epochs` must be 0 for a model that is trained"):
        CompressionHyperModel(small_net(keras), float_epochs=2)


def test_without_tensorboard_nothing_begins(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else real(name)
    )
    with pytest.raises(ImportError, match=r"needs `tensorboard`.*keras_compress\[tuner\]"):
        CompressionHyperModel(lambda hp: None)
