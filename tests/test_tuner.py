"""`CompressionHyperModel` in KerasTuner's own tuners, for both Keras."""

import gc
import importlib.util
import json
import re
import weakref
import zipfile
from pathlib import Path

import keras_tuner
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import small_net

import keras_compress as kc
from keras_compress.engines.base import engine_of
from keras_compress.frameworks.choose import adapter_of
from keras_compress.state import State
from keras_compress.tuner import CompressionHyperModel, baseline

ROWS, BATCH, VALIDATION = 160, 32, 90
BEST_FILE = keras_tuner.Objective("tflite_accuracy", "max")


@pytest.fixture(scope="module")
def data(digits):
    """What `search` is given besides epochs."""
    x, y, x_test, y_test = digits
    return {
        "x": x[:ROWS],
        "y": y[:ROWS],
        "batch_size": BATCH,
        "validation_data": (x_test[:VALIDATION], y_test[:VALIDATION]),
        "verbose": 0,
    }


def builder(keras, fits=None):
    """A `build` for digits. `fits` collects the epochs of each `fit` of a model it made."""

    def build(hp):
        optimizer = keras.optimizers.Adam(0.01)
        model = small_net(keras, optimizer=optimizer, jit_compile=False)
        if fits is not None:
            original = model.fit

            def fit(*args, **kwargs):
                fits.append(kwargs["epochs"])
                return original(*args, **kwargs)

            vars(model)["fit"] = fit
        return model

    return build


def metrics_of(trial):
    return {name: m.get_last_value() for name, m in trial.metrics.metrics.items()}


def run_by_litert(path, x):
    """The file's answers, quantized by hand from what the interpreter says of its ends."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (begin,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = begin["quantization"]
    answers = []
    for row in x:
        numbers = np.clip(np.floor(row / np.float32(scale) + np.float32(0.5)) + zero, -128, 127)
        interpreter.set_tensor(begin["index"], numbers[None].astype(np.int8))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(end["index"])[0])
    return np.array(answers)


# --- what a trial reports


@pytest.fixture(scope="module")
def searched(keras, data, tmp_path_factory):
    """A finished random search, and the epochs of every fit that it took."""
    fits = []
    hypermodel = CompressionHyperModel(
        builder(keras, fits), float_epochs=4, latency=True, weight_bits=[8, 4]
    )
    folder = tmp_path_factory.mktemp("searched")
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, 3, seed=3, directory=str(folder))
    tuner.search(**data, epochs=2)
    return tuner, hypermodel, fits


def test_the_score_is_that_of_the_file_in_an_independent_run(searched, data):
    tuner, _, _ = searched
    x, y = data["validation_data"]
    trials = list(tuner.oracle.trials.values())
    assert [trial.status for trial in trials] == ["COMPLETED"] * 3
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
    tuner, _, fits = searched
    assert fits == [2, 2, 2]  # the float training is that of a copy
    assert len(list((Path(tuner.project_dir) / "float").glob("*.npz"))) == 1
    floats = {metrics_of(trial)["float_accuracy"] for trial in tuner.oracle.trials.values()}
    assert len(floats) == 1
    assert floats.pop() > 0.3  # ten classes


def key(keras, build, epochs=3, arguments=(), **drawn):
    model = build(keras.layers)
    model.compile("adam", "mse")
    return baseline._key(adapter_of(model), model, epochs, (arguments, drawn))


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


def test_every_trial_begins_with_a_new_optimizer(keras, data, tmp_path):
    class Counting(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            with open(tmp_path / "iterations", "a") as file:
                file.write(f"{int(np.asarray(self.model.optimizer.iterations))} ")

    hypermodel = CompressionHyperModel(builder(keras), float_epochs=1, final_sparsity=[0.3, 0.5])
    tuner = keras_tuner.GridSearch(hypermodel, BEST_FILE, directory=str(tmp_path))
    tuner.search(**data, epochs=1, callbacks=[Counting()])
    assert (tmp_path / "iterations").read_text() == "0 0 "


def test_a_trial_has_the_sparsity_and_the_bits_that_were_drawn(searched):
    tuner, hypermodel, _ = searched
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
    tuner, hypermodel, _ = searched
    (trial,) = tuner.oracle.get_best_trials(1)
    model = hypermodel.load(tuner, trial)
    x, y = data["validation_data"]
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    found = metrics_of(trial)
    assert logs["accuracy"] == pytest.approx(found["val_accuracy"])
    assert logs["loss"] == pytest.approx(found["val_loss"], rel=1e-5)


# --- the other tuners


@pytest.mark.parametrize("kind", ["BayesianOptimization", "GridSearch"])
def test_the_other_tuners_run_unchanged(keras, data, kind, tmp_path):
    hypermodel = CompressionHyperModel(builder(keras), final_sparsity=[0.3, 0.6])
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


def test_hyperbands_later_rounds_go_on_from_the_earlier(keras, data, tmp_path):
    hypermodel = CompressionHyperModel(builder(keras), float_epochs=1)
    tuner = keras_tuner.Hyperband(
        hypermodel, BEST_FILE, max_epochs=2, factor=2, seed=1, directory=str(tmp_path)
    )

    class Noting(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            number = len(list(tmp_path.glob("*.npz")))
            np.savez(tmp_path / f"{number}.npz", *self.model.get_weights())

    tuner.search(**data, callbacks=[Noting()])
    trials = tuner.oracle.trials
    assert {trial.status for trial in trials.values()} == {"COMPLETED"}
    promoted = [t for t in trials.values() if t.hyperparameters.values["tuner/round"] > 0]
    assert promoted
    steps = -(-ROWS // BATCH)
    for trial in promoted:
        values = trial.hyperparameters.values
        assert (values["tuner/initial_epoch"], values["tuner/epochs"]) == (1, 2)
        parent, own = (
            State.load(Path(tuner.get_trial_dir(name)) / "state.npz")
            for name in (values["tuner/trial_id"], trial.trial_id)
        )
        assert (parent.step, own.step) == (steps, 2 * steps)
        begun = np.load(tmp_path / f"{tuner.oracle.start_order.index(trial.trial_id)}.npz")
        left = np.load(Path(tuner.get_trial_dir(values["tuner/trial_id"])) / "weights.npz")
        assert len(begun.files) == len(left.files)
        for name in begun.files:
            np.testing.assert_array_equal(begun[name], left[name])
        assert parent.masks
        for key, mask in parent.masks.items():
            np.testing.assert_array_equal(own.masks[key], mask)
        assert parent.observed < own.observed  # the ranges went on too
        before = trials[values["tuner/trial_id"]].metrics
        assert metrics_of(trial)["sparsity"] == before.get_last_value("sparsity")


# --- the integer file is the judge


def test_what_is_better_in_integers_wins(keras, tmp_path):
    """One net is perfect in float, and loses its only useful number beside a huge one in int8; the
    other is wrong on every tenth row, in integers too.
    """
    x = np.random.default_rng(0).uniform(-1, 1, (400, 2)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")

    def build(hp):
        fragile = hp.Choice("net", ["fragile", "robust"]) == "fragile"
        layers = keras.layers
        model = keras.Sequential(
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
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # They have layers and compile in common; that `build` drew "net" tells them apart.
        model.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"], jit_compile=False)
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


def test_a_trained_model_is_fine_tuned(keras, data, tmp_path):
    trained = small_net(keras, jit_compile=False)
    x, y = data["validation_data"]
    trained.fit(data["x"], data["y"], epochs=2, verbose=0)
    before = trained.get_weights()
    hypermodel = CompressionHyperModel(trained, final_sparsity=[0.5])
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, 1, directory=str(tmp_path))
    tuner.search(**data, epochs=1)
    for one, other in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    (trial,) = tuner.oracle.trials.values()
    logs = trained.evaluate(x, y, verbose=0, return_dict=True)
    assert metrics_of(trial)["float_accuracy"] == pytest.approx(logs["accuracy"])
    assert metrics_of(trial)["float_loss"] == pytest.approx(logs["loss"], rel=1e-5)


def test_several_objectives_are_summed_as_kerastuner_does(keras, data, tmp_path):
    objectives = [BEST_FILE, keras_tuner.Objective("tflite_zipped_bytes", "min")]
    hypermodel = CompressionHyperModel(builder(keras), final_sparsity=[0.5])
    tuner = keras_tuner.RandomSearch(hypermodel, objectives, 1, directory=str(tmp_path))
    tuner.search(**data, epochs=1)
    (trial,) = tuner.oracle.trials.values()
    found = metrics_of(trial)
    assert trial.score == found["tflite_zipped_bytes"] - found["tflite_accuracy"]


def test_every_execution_keeps_its_own_file(keras, data, tmp_path):
    hypermodel = CompressionHyperModel(builder(keras), final_sparsity=[0.5])
    tuner = keras_tuner.RandomSearch(
        hypermodel, BEST_FILE, 1, executions_per_trial=2, directory=str(tmp_path)
    )
    tuner.search(**data, epochs=1)
    folder = Path(tuner.get_trial_dir("0"))
    assert (folder / "model.tflite").exists()
    assert (folder / "execution_1" / "model.tflite").exists()


def test_the_models_of_finished_trials_are_let_go(keras, data, tmp_path):
    """Graphs, masks and ranges hang on the model, so memory stays flat if it goes."""
    made = []

    def build(hp):
        model = builder(keras)(hp)
        made.append(weakref.ref(model))
        return model

    hypermodel = CompressionHyperModel(build, float_epochs=1)
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, 5, seed=1, directory=str(tmp_path))
    tuner.search(**data, epochs=1)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 5
    gc.collect()
    assert len(made) >= 6  # one to learn the space, one for each trial
    assert sum(reference() is not None for reference in made[:-1]) == 0


# --- what fails


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(keras, data, tmp_path):
    def specs(hp):
        layer = hp.Choice("layer", ["dense1", "nowhere"])
        half = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1)
        return kc.Pruning(None, layers={layer: half}), kc.Quantization(delay=0.5)

    hypermodel = CompressionHyperModel(builder(keras), specs=specs)
    tuner = keras_tuner.GridSearch(hypermodel, BEST_FILE, directory=str(tmp_path))
    tuner.search(**data, epochs=1)
    done, failed = tuner.oracle.trials.values()
    assert (failed.status, done.status) == ("FAILED", "COMPLETED")
    assert "'nowhere'" in failed.message
    state = json.loads((Path(tuner.get_trial_dir(failed.trial_id)) / "trial.json").read_text())
    assert state["message"] == failed.message
    assert (Path(tuner.get_trial_dir(done.trial_id)) / "model.tflite").exists()


def test_a_file_that_cannot_be_made_fails_the_trial_with_the_reason(
    keras, data, tmp_path, monkeypatch
):
    def failing(*_):
        raise RuntimeError("no converter today")

    monkeypatch.setattr("keras_compress.exporting.write_file", failing)
    hypermodel = CompressionHyperModel(builder(keras), final_sparsity=[0.5])
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, 1, directory=str(tmp_path))
    tuner.search(**data, epochs=1)
    (trial,) = tuner.oracle.trials.values()
    assert trial.status == "FAILED"
    assert "No file: RuntimeError: no converter today" in trial.message


def test_a_model_that_is_too_large_fails_its_trial(keras, data, tmp_path):
    hypermodel = CompressionHyperModel(builder(keras), final_sparsity=[0.5])
    tuner = keras_tuner.RandomSearch(
        hypermodel, BEST_FILE, 1, max_model_size=100, directory=str(tmp_path)
    )
    tuner.search(**data, epochs=1)
    (trial,) = tuner.oracle.trials.values()
    assert trial.status == "FAILED"
    assert "Oversized model" in trial.message


@pytest.mark.parametrize(
    ("objective", "changes", "message"),
    [
        ("tflite_f1", {}, "`objective` must be a metric that trials report: tflite_loss"),
        ("float_accuracy", {}, "`objective` must be a metric that trials report"),
        ("tflite_accuracy", {"validation_data": None}, "`validation_data` must be given"),
    ],
)
def test_what_would_fail_in_every_trial_ends_the_search(
    keras, data, tmp_path, objective, changes, message
):
    fits = []
    hypermodel = CompressionHyperModel(builder(keras, fits), final_sparsity=[0.5])
    objective = keras_tuner.Objective(objective, "max")
    tuner = keras_tuner.RandomSearch(hypermodel, objective, 1, directory=str(tmp_path))
    with pytest.raises(keras_tuner.errors.FatalError, match=re.escape(message)):
        tuner.search(**{**data, **changes}, epochs=1)
    assert fits == []


def test_callbacks_of_the_other_keras_are_refused(data, tmp_path):
    import keras
    import tf_keras

    hypermodel = CompressionHyperModel(builder(tf_keras), final_sparsity=[0.5])
    tuner = keras_tuner.RandomSearch(hypermodel, BEST_FILE, 1, directory=str(tmp_path))
    stopping = keras.callbacks.EarlyStopping()
    with pytest.raises(keras_tuner.errors.FatalError, match="Received: keras.EarlyStopping"):
        tuner.search(**data, epochs=1, callbacks=[stopping])


def test_callbacks_of_the_user_take_part(keras, data, tmp_path):
    class Writing(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            with open(tmp_path / "seen", "a") as file:
                file.write("x")

    hypermodel = CompressionHyperModel(builder(keras), final_sparsity=[0.4, 0.5], float_epochs=1)
    tuner = keras_tuner.GridSearch(hypermodel, BEST_FILE, directory=str(tmp_path))
    tuner.search(**data, epochs=1, callbacks=[Writing()])
    assert (tmp_path / "seen").read_text() == "xx"  # of the trials, not of the float training


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
