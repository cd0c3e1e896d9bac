"""A state that somebody has changed is refused, with what stands there and what must."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.nets import small_net
from helpers.untouched import untouched

import keras_compress as kc
from keras_compress.engines.state import State

pytestmark = pytest.mark.by_turns

PRUNING = kc.Pruning(kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=18, frequency=3))
# Off in updates 1..6, watching in 7 and 8, on from 9, frozen from 15.
QUANTIZATION = kc.Quantization(delay=8, calibration_steps=2, freeze_step=14)


def entries(path):
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(str(arrays.pop("meta"))), arrays


def write_entries(path, meta, arrays):
    with path.open("wb") as file:
        np.savez(file, meta=np.array(json.dumps(meta)), **arrays)


def mutations():
    """Name -> a function that spoils one thing in (meta, arrays)."""

    def field(name, value):
        return lambda meta, arrays: meta.__setitem__(name, value)

    def without(name):
        return lambda meta, arrays: meta.pop(name)

    def every(group, change):
        def spoil(meta, arrays):
            key = next(key for key in arrays if key.startswith(f"{group}/"))
            arrays[key] = change(arrays[key])

        return spoil

    def lost(group):
        def spoil(meta, arrays):
            del arrays[next(key for key in arrays if key.startswith(f"{group}/"))]

        return spoil

    def renamed(group):
        def spoil(meta, arrays):
            key = next(key for key in arrays if key.startswith(f"{group}/"))
            arrays[f"{group}/7/Other/kernel/3x3"] = arrays.pop(key)

        return spoil

    spoils = {}
    names = [f.name for f in dataclasses.fields(State) if f.name not in State._ARRAYS]
    wrong = {"step": [-5, 2.5, None, "12", True], "phase": ["later", None, 3, ["on"]]}
    wrong["observed"] = wrong["step"]
    for name in ("switched_at", "restarted_at", "iterations"):
        wrong[name] = [-1, 1.5, "9", [9]]
    wrong["weights"] = [3, ["a"], True]
    wrong["pruning"] = wrong["quantization"] = [[], "off", 3, {}, {"delay": 3}]
    wrong["paths"] = wrong["started"] = wrong["kernels"] = [None, "conv1", [1, 2], {"a": 1}]
    wrong["schedules"] = [None, [], {"0/Conv2D/kernel/3x3x1x8": 3}, {}, {"a": {}}]
    wrong["steps"] = [None, {}, {"delay": 8}, {"delay": "8", "freeze_step": None}, {"a": 1}]
    for name in names:
        if name not in ("weights", "restarted_at"):  # which older states have not
            spoils[f"without {name}"] = without(name)
        for value in wrong[name]:
            spoils[f"{name}={value!r}"] = field(name, value)
    spoils["started=a stranger"] = field("started", ["7/Other/kernel/3x3"])
    spoils["an unknown field"] = field("mood", "good")
    spoils["a schedule of another kind"] = lambda meta, arrays: next(
        iter(meta["schedules"].values())
    ).__setitem__("kind", "Cubic")
    spoils["a schedule out of order"] = lambda meta, arrays: next(
        iter(meta["schedules"].values())
    ).__setitem__("end_step", 0)
    spoils["a schedule without its target"] = lambda meta, arrays: next(
        iter(meta["schedules"].values())
    ).pop("final_sparsity")
    spoils["pruning without its schedule"] = lambda meta, arrays: meta["pruning"].pop("schedule")
    spoils["quantization of 5 bits"] = lambda meta, arrays: meta["quantization"].__setitem__(
        "weight_bits", 5
    )
    spoils["quantization without layers"] = lambda meta, arrays: meta["quantization"].pop("layers")
    changes = {
        "masks": {
            "of another shape": lambda mask: mask[..., :-1],
            "flat": lambda mask: mask.reshape(-1),
            "of floats": lambda mask: mask.astype("float32"),
            "of 0 and 1": lambda mask: mask.astype("int8"),
            "empty": lambda mask: mask[:0],
            "of one more": lambda mask: np.concatenate([mask, mask[:1]]),
            "in another order": lambda mask: mask.T,
        },
        "ranges": {
            "NaN": lambda limits: limits * np.float32("nan"),
            "infinite": lambda limits: np.array([-np.inf, np.inf], "float32"),
            "out of order": lambda limits: np.array([1.0, -1.0], "float32"),
            "of one": lambda limits: limits[:1],
            "of doubles": lambda limits: limits.astype("float64"),
            "of three": lambda limits: np.arange(3, dtype="float32"),
            "nested": lambda limits: limits[None],
            "of ints": lambda limits: np.array([0, 1]),
        },
        "kernel_ranges": {
            "NaN": lambda magnitude: magnitude * np.float32("nan"),
            "negative": lambda magnitude: -magnitude,
            "zero": lambda magnitude: magnitude * 0,
            "of another length": lambda magnitude: np.ones(77, "float32"),
            "of rank 2": lambda magnitude: np.ones((2, 2), "float32"),
            "of doubles": lambda magnitude: magnitude.astype("float64"),
        },
    }
    for group, own in changes.items():
        for name, change in own.items():
            spoils[f"{group} {name}"] = every(group, change)
        spoils[f"{group} of a stranger"] = renamed(group)
        if group != "kernel_ranges":  # which an earlier phase has not got
            spoils[f"{group} lost"] = lost(group)
    return spoils


MUTATIONS = mutations()


def in_bytes(meta, arrays):
    return json.dumps(meta), {
        key: (value.dtype.str, value.shape, value.tobytes()) for key, value in arrays.items()
    }


def test_there_are_as_many_mutations_as_promised():
    assert len(MUTATIONS) >= 100


@pytest.fixture(scope="module")
def frozen_state(keras, digits, tmp_path_factory):
    """The file of a state with something in every field."""
    path = tmp_path_factory.mktemp("state") / "state.npz"
    model = small_net(keras, jit_compile=False)
    x, y = digits[0][:320], digits[1][:320]
    compress = kc.Compress(pruning=PRUNING, quantization=QUANTIZATION)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[compress])
    kc.save_state(model, path)
    return path


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_state_that_was_changed_is_refused_in_words(keras, frozen_state, tmp_path, name):
    meta, arrays = entries(frozen_state)
    before = in_bytes(meta, arrays)
    MUTATIONS[name](meta, arrays)
    assert before != in_bytes(meta, arrays)
    path = tmp_path / "changed.npz"
    write_entries(path, meta, arrays)
    model = small_net(keras, jit_compile=False)
    with untouched(model), pytest.raises((ValueError, TypeError), match="Received: "):
        kc.load_state(model, path)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("change", ["out of order", "of another shape"])
@pytest.mark.parametrize("group", ["ranges", "kernel_ranges"])
def test_a_changed_state_of_tfmots_wrappers_is_refused_too(digits, tmp_path, group, change):
    import tf_keras

    def wrapped():
        plain = tf_keras.Sequential.from_config(small_net(tf_keras).get_config())
        return kc.wrap(plain, quantization=kc.Quantization(delay=1), engine="tfmot")

    model = wrapped()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(digits[0][:64], digits[1][:64], batch_size=16, verbose=0)
    kc.save_state(model, tmp_path / "state.npz")
    kc.save_state(model, tmp_path / "whole.npz")
    meta, arrays = entries(tmp_path / "state.npz")
    key = next(key for key in arrays if key.startswith(f"{group}/"))
    arrays[key] = arrays[key][::-1] if change == "out of order" else arrays[key][:1]
    write_entries(tmp_path / "state.npz", meta, arrays)
    model = wrapped()
    with pytest.raises(ValueError, match="Received: "):
        kc.load_state(model, tmp_path / "state.npz")
    kc.load_state(model, tmp_path / "whole.npz")  # it is as it was, and takes the right one
