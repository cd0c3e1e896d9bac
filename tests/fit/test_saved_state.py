"""The state: its form, its file, and that a model which loads it is the one that saved it."""

import dataclasses
import errno
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import load_child
from helpers.nets import compile_net
from helpers.replacing import replaced, room_for
from helpers.untouched import untouched

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import restore_arrays, take
from keras_compress.engines.state import Phase, State

pytestmark = [
    pytest.mark.slow_after(1),
    pytest.mark.timeout(300),  # the first test with `saved` waits for every training
    pytest.mark.by_turns(suite="keras3"),  # `saved` is nine trainings for each
]

STEPS, BATCH = 4, 16  # updates of an epoch, and what makes them of the data
SCHEDULE = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=18, frequency=3)
PRUNING = kc.Pruning(SCHEDULE)
# Off in updates 1..6, watching in 7 and 8, on from 9, frozen from 15.
QUANTIZATION = kc.Quantization(delay=8, calibration_steps=2, freeze_step=14)
SOON = kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=3, frequency=1)
PHASES = ("off", "watching", "on", "frozen")


def is_dense(layer):
    return type(layer).__name__ == "Dense"


def no_softmax(operation):
    activation = getattr(operation, "activation", None)
    return getattr(activation, "__name__", "") != "softmax"


SPECS = {
    "pruning": lambda model: {"pruning": kc.Pruning(SOON)},
    "quantization": lambda model: {"quantization": kc.Quantization(weight_bits=4)},
    "fractions": lambda model: {
        "pruning": kc.Pruning(kc.ConstantSparsity(target_sparsity=0.5, begin_step=0.5)),
        "quantization": kc.Quantization(delay=0.5, freeze_step=1.0),
    },
    "callables": lambda model: {
        "pruning": kc.Pruning(SOON, layers=is_dense),
        "quantization": kc.Quantization(layers=no_softmax),
    },
    "automatic names": lambda model: {
        "pruning": kc.Pruning(None, layers={model.layers[-1].name: SOON}),
        "quantization": kc.Quantization(layers=[layer.name for layer in model.layers[1:-1]]),
    },
}
CASES = [*PHASES, *SPECS]


def net(keras):
    return compile_net(keras, load_child.build(keras))


def fit(model, compress, epochs=1, **arguments):
    x, y = load_child.data()
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    callbacks = [compress, *arguments.pop("callbacks", ())]
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **arguments)


def assert_equal_states(one, other, *, except_for=()):
    """Every field, and every array with its type, in any order of the keys."""
    for field in dataclasses.fields(State):
        if field.name in except_for:
            continue
        first, second = getattr(one, field.name), getattr(other, field.name)
        if field.name not in State._ARRAYS:
            assert first == second, field.name
            assert type(first) is type(second), field.name
            continue
        assert set(first) == set(second), field.name
        for key, array in first.items():
            assert array.dtype == second[key].dtype, key
            np.testing.assert_array_equal(array, second[key], err_msg=key)


def with_weights(keras, folder):
    """A plain, compiled model with the weights of a case."""
    model = load_child.build(keras)
    model.load_weights(folder / load_child.WEIGHTS)
    return compile_net(keras, model)


# --- the form and its file

FULL = State(
    step=12,
    phase=Phase.FROZEN,
    observed=5,
    switched_at=9,
    restarted_at=10,
    iterations=11,
    weights="a digest",
    pruning=PRUNING.get_config(),
    quantization=QUANTIZATION.get_config(),
    paths=("conv", "backbone/dense"),
    schedules={"0/Conv2D/kernel/2x2": SCHEDULE.get_config()},
    steps={"delay": 8, "freeze_step": None},
    started=("0/Conv2D/kernel/2x2",),
    kernels=("0/Conv2D/kernel/2x2",),
    masks={"0/Conv2D/kernel/2x2": np.array([[True, False], [False, True]])},
    ranges={"input/0": np.array([-1.5, 2.25], "float32")},
    kernel_ranges={"0/Conv2D/kernel/2x2": np.array(0.75, "float32")},
)


def test_every_field_of_the_example_differs_from_the_default():
    for field in dataclasses.fields(State):
        assert bool(getattr(FULL, field.name)), field.name


@pytest.mark.parametrize("state", [FULL, State()], ids=["full", "empty"])
def test_what_was_saved_loads_equal(state, tmp_path):
    path = tmp_path / "any name"
    state.save(path)
    assert os.listdir(tmp_path) == ["any name"]
    assert_equal_states(State.load(path), state)


def unreadable(path, why):
    return (
        "load_state: `path` must be a file that `save_state` wrote; this one cannot be read "
        f"({why}). Received: path={str(path)!r}"
    )


def write_cut_short(path):
    FULL.save(path)
    path.write_bytes(path.read_bytes()[:-40])


def write_changed(path):
    FULL.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def write_arrays(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)


def write_one_array(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


FOREIGN = {
    "empty": (lambda path: path.touch(), "EOFError: No data left in file"),
    "cut short": (write_cut_short, "BadZipFile: File is not a zip file"),
    "changed": (write_changed, None),
    "text": (lambda path: path.write_text("step: 12"), None),
    "one array": (write_one_array, None),
    "other arrays": (
        lambda path: write_arrays(path, x=np.ones(3)),
        "KeyError: 'meta is not a file in the archive'",
    ),
    "meta of others": (
        lambda path: write_arrays(path, meta=np.array(json.dumps({"author": "me"}))),
        "KeyError: 'format'",
    ),
    "meta that is no JSON": (
        lambda path: write_arrays(path, meta=np.array("me")),
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_that_is_no_state_is_refused(case, tmp_path):
    write, why = FOREIGN[case]
    path = tmp_path / "state.npz"
    write(path)
    with pytest.raises(ValueError, match=r"^load_state: `path` must be a file that") as caught:
        State.load(path)
    if why is None:  # in the words of zipfile, zlib or numpy
        cause = caught.value.__cause__
        why = f"{type(cause).__name__}: {cause}"
    assert str(caught.value) == unreadable(path, why)


def test_no_damage_gets_through(tmp_path):
    path = tmp_path / "state.npz"
    FULL.save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"^load_state: `path` must be a file that"):
            State.load(path)


def test_a_newer_format_is_named_as_such(tmp_path):
    path = tmp_path / "state.npz"
    meta = np.array(json.dumps({"format": 2, "unheard_of": True}))
    write_arrays(path, meta=meta, **{"unheard_of/0": np.ones(3)})
    message = (
        "load_state: `path` must be a state of format 1; a newer keras_compress wrote this one. "
        f"Received: path={str(path)!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        State.load(path)


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        State.load(tmp_path / "state.npz")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_state_that_stood_there_survives_a_failing_save(step, tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    FULL.save(path)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left"):
            State(step=99).save(path)
    assert os.listdir(tmp_path) == ["state.npz"]
    assert_equal_states(State.load(path), FULL)


def test_a_state_replaces_the_one_that_stood_there_and_is_not_written_into_it(tmp_path):
    path = tmp_path / "state.npz"
    with replaced(path):
        FULL.save(path)
    assert_equal_states(State.load(path), FULL)


def test_a_state_survives_a_disk_that_ends_in_the_middle_of_the_next(tmp_path):
    path = tmp_path / "state.npz"
    FULL.save(path)
    with room_for(200), pytest.raises(OSError, match=f"File too large: '{path}'"):
        State(step=99).save(path)
    assert os.listdir(tmp_path) == ["state.npz"]
    assert_equal_states(State.load(path), FULL)


# --- models


@dataclasses.dataclass
class Saved:
    """One trained model, and what it left."""

    folder: Path
    state: State
    answers: dict
    specs: dict
    phase: Phase


@pytest.fixture(scope="module")
def saved(keras, tmp_path_factory):
    """Case -> what a model left in its folder, in every phase and with every kind of spec."""
    root = tmp_path_factory.mktemp("saved")

    def save(case, model, specs):
        folder = root / case
        folder.mkdir()
        model.save_weights(folder / load_child.WEIGHTS)
        kc.save_state(model, folder / load_child.STATE)
        engine = engine_of(model)
        # Whoever loads the weights and saves the state again has to come to the same digest.
        digest = State.load(folder / load_child.STATE).weights
        state = dataclasses.replace(take(engine), weights=digest)
        return Saved(folder, state, load_child.answers(model), specs, engine.phase)

    cases = {}
    model = net(keras)
    specs = {"pruning": PRUNING, "quantization": QUANTIZATION}
    for epoch, phase in enumerate(PHASES):
        fit(model, kc.Compress(**specs, partial=True, verbose=0), epoch + 1, initial_epoch=epoch)
        cases[phase] = save(phase, model, specs)
    for case, make in SPECS.items():
        model = net(keras)
        specs = make(model)
        fit(model, kc.Compress(**specs, verbose=0))
        cases[case] = save(case, model, specs)
    return cases


def test_the_cases_are_what_they_are_called(saved):
    assert [str(saved[phase].phase) for phase in PHASES] == list(PHASES)
    assert [saved[phase].state.step for phase in PHASES] == [4, 8, 12, 16]
    assert saved["pruning"].phase is Phase.OFF
    assert saved["fractions"].phase is Phase.FROZEN
    for case in ("quantization", "callables", "automatic names"):
        assert saved[case].phase is Phase.ON
    for case in CASES:
        assert bool(saved[case].state.masks) == ("pruning" in saved[case].specs)
        assert bool(saved[case].state.kernel_ranges) == (saved[case].phase is Phase.FROZEN)


def test_the_file_holds_what_the_engine_carries(saved):
    for case in CASES:
        assert_equal_states(State.load(saved[case].folder / load_child.STATE), saved[case].state)


def assert_same_answers(answers, expected):
    for name in ("evaluated", "predicted"):
        np.testing.assert_array_equal(answers[name], expected[name], err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_loads_the_state_is_the_one_that_saved_it(keras, saved, case, tmp_path):
    wanted = saved[case]
    model = with_weights(keras, wanted.folder)
    x, _ = load_child.data()
    plain = model.predict(x, verbose=0)
    kc.load_state(model, wanted.folder / load_child.STATE)
    assert_same_answers(load_child.answers(model), wanted.answers)
    # Had the state done nothing, it would show wherever the network is quantized.
    assert np.array_equal(plain, wanted.answers["predicted"]) != wanted.phase.rounds
    kc.save_state(model, tmp_path / "again.npz")
    again = State.load(tmp_path / "again.npz")
    assert_equal_states(
        again, wanted.state, except_for={"iterations", "paths", "pruning", "quantization"}
    )


@pytest.mark.parametrize("case", ["pruning", "on", "frozen"])
def test_a_model_may_be_compiled_after_the_state_is_loaded(keras, saved, case):
    wanted = saved[case]
    model = load_child.build(keras)
    model.load_weights(wanted.folder / load_child.WEIGHTS)
    kc.load_state(model, wanted.folder / load_child.STATE)
    x, _ = load_child.data()
    np.testing.assert_array_equal(model.predict(x, verbose=0), wanted.answers["predicted"])
    compile_net(keras, model)
    assert_same_answers(load_child.answers(model), wanted.answers)
    assert take(engine_of(model)).iterations == 0


@pytest.fixture(scope="module")
def loaded_elsewhere(keras, saved, request):
    """A process of its own has loaded every case."""
    root = saved["off"].folder.parent
    kind = "keras3" if keras.__name__ == "keras" else "tf_keras"
    done = subprocess.run(
        [sys.executable, "-m", load_child.__name__, kind, str(root)],
        cwd=Path(load_child.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.sweep  # a process of its own; those of `test_resume.py` load states too
@pytest.mark.parametrize("case", CASES)
def test_another_process_gives_the_same_number(saved, loaded_elsewhere, case):
    wanted = saved[case]
    with np.load(wanted.folder / load_child.ANSWERS) as answers:
        assert_same_answers(answers, wanted.answers)
        assert not any(name in wanted.state.paths for name in answers["layers"][1:6])
    again = State.load(wanted.folder / load_child.AGAIN)
    assert_equal_states(
        again, wanted.state, except_for={"iterations", "paths", "pruning", "quantization"}
    )
    assert len(again.paths) == len(wanted.state.paths)


@pytest.mark.parametrize("phase", PHASES)
def test_a_fit_goes_on_as_the_uninterrupted_one(keras, went_through, phase):
    folder, end = went_through
    model = keras.models.load_model(folder / f"{phase}.keras")
    kc.load_state(model, folder / f"{phase}.npz")
    first = 1 + PHASES.index(phase)
    fit(model, kc.Compress(pruning=PRUNING, quantization=QUANTIZATION), 5, initial_epoch=first)
    assert_equal_states(take(engine_of(model)), take(engine_of(end)), except_for={"paths"})
    for mine, theirs in zip(model.get_weights(), end.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def went_through(keras, tmp_path_factory):
    """What was saved at the end of each of four epochs, and the model after five."""
    folder = tmp_path_factory.mktemp("went_through")
    model = net(keras)

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch < len(PHASES):
                name = str(engine_of(self.model).phase)
                self.model.save(folder / f"{name}.keras")
                kc.save_state(self.model, folder / f"{name}.npz")

    compress = kc.Compress(pruning=PRUNING, quantization=QUANTIZATION)
    fit(model, compress, 5, callbacks=[Save()])
    assert sorted(path.stem for path in folder.glob("*.npz")) == sorted(PHASES)
    return folder, model


@pytest.mark.parametrize("case", ["callables", "automatic names", "fractions"])
def test_the_specs_that_made_a_state_continue_it(keras, saved, case):
    wanted = saved[case]
    model = with_weights(keras, wanted.folder)
    kc.load_state(model, wanted.folder / load_child.STATE)
    specs = SPECS[case](model)
    fit(model, kc.Compress(**specs, verbose=0))
    assert engine_of(model).step == wanted.state.step + STEPS
    other = kc.Compress(quantization=kc.Quantization(layers=is_dense))
    with pytest.raises(ValueError, match=r"^Compress: `pruning` must equal that of the Compress "):
        fit(model, other)


def test_earlier_weights_and_ranges_in_a_frozen_model_answer_as_they_did(keras, saved):
    """As an EarlyStopping puts them back, with no trace anew."""
    frozen, earlier = saved["frozen"], saved["on"]
    model = with_weights(keras, frozen.folder)
    kc.load_state(model, frozen.folder / load_child.STATE)
    assert_same_answers(load_child.answers(model), frozen.answers)
    model.set_weights(with_weights(keras, earlier.folder).get_weights())
    restore_arrays(engine_of(model), earlier.state)
    assert_same_answers(load_child.answers(model), earlier.answers)
    assert engine_of(model).phase is Phase.FROZEN


# --- what is refused


def refused(model, path, message, kind=ValueError):
    """Loading fails with the message, and the model is as it was."""
    x, _ = load_child.data()
    before = model.predict(x, verbose=0)
    with untouched(model), pytest.raises(kind, match=f"^{re.escape(message)}$"):
        kc.load_state(model, path)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


OTHER_MODEL = "Received: a state of another model, or of other specs"


def test_a_state_of_other_shapes_is_refused(keras, saved):
    model = load_child.build(keras, classes=3)
    refused(
        model,
        saved["pruning"].folder / load_child.STATE,
        "load_state: the state must belong to this model; masks differ: only in the state "
        "['3/Dense/kernel/16x4'], only in the model ['3/Dense/kernel/16x3']. " + OTHER_MODEL,
    )
    refused(
        model,
        saved["quantization"].folder / load_child.STATE,
        "load_state: the state must belong to this model; kernels differ: only in the state "
        "['7/Dense/kernel/16x4'], only in the model ['7/Dense/kernel/16x3']. " + OTHER_MODEL,
    )


@pytest.mark.parametrize("case", ["pruning", "on", "callables", "automatic names"])
def test_a_state_of_another_number_of_layers_is_refused(keras, saved, case):
    image = keras.layers.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, strides=2, use_bias=False)(image)
    model = keras.Model(image, keras.layers.Dense(4, activation="softmax")(x))
    wrong = pytest.raises(ValueError, match=r"^load_state: the state must belong to this model; ")
    with untouched(model), wrong:
        kc.load_state(model, saved[case].folder / load_child.STATE)


def test_a_quantized_state_is_refused_by_another_model_that_is_subclassed(keras, saved):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def call(self, x):
            return self.dense(x[:, 0, :, 0])

    model = Subclassed()
    x, _ = load_child.data()
    model(x)
    wrong = pytest.raises(ValueError, match=r"^load_state: the state must belong to this model; ")
    with untouched(model), wrong:
        kc.load_state(model, saved["on"].folder / load_child.STATE)


def test_a_compressed_model_is_refused(keras, saved):
    path = saved["on"].folder / load_child.STATE
    model = load_child.build(keras)
    kc.load_state(model, path)
    message = (
        "load_state: `model` must be plain, or freshly wrapped; `strip` it first. "
        f"Received: model={type(model).__name__} compressed for 12 updates"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.load_state(model, path)
    assert engine_of(model).step == 12


def test_a_model_without_weights_is_refused(keras, saved):
    model = keras.Sequential([keras.layers.Dense(4)])
    message = (
        "load_state: `model` must be built; call it on a batch of data first. "
        "Received: model=Sequential without weights"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.load_state(model, saved["on"].folder / load_child.STATE)
    assert kc.compression_of(model) is None


def test_a_file_that_is_no_state_leaves_the_model_plain(keras, tmp_path):
    path = tmp_path / "state.npz"
    path.touch()
    refused(load_child.build(keras), path, unreadable(path, "EOFError: No data left in file"))


def test_a_plain_model_has_no_state(keras, tmp_path):
    model = load_child.build(keras)
    message = (
        "save_state: `model` must be compressed, by a fit with Compress. "
        f"Received: model={type(model).__name__} without compression"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kc.save_state(model, tmp_path / "state.npz")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "call",
    [kc.save_state, kc.load_state],
    ids=["save_state", "load_state"],
)
@pytest.mark.parametrize("thing", [3, functools.partial(print)])
def test_what_is_no_model_is_refused(call, thing, tmp_path):
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    message = (
        f"{call.__name__}: the model must be a Keras 3 or tf_keras model. "
        f"Received: model of class {kind}"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        call(thing, tmp_path / "state.npz")
