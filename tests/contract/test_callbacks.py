"""Keras' own callbacks before and after `Compress`: they do what they do, and so does it.

Callbacks that only look on stand on both sides of it in one fit; those that act, on each in turn.
"""

import csv
import gc
import logging
import os

import numpy as np
import pytest
from contract.runs import (
    EPOCHS,
    LOGS,
    PRUNING,
    STEPS,
    assert_same_arrays,
    assert_same_run,
    assert_same_weights,
    compress,
    fit,
    kernels,
    net,
    outcome,
    plain_copy,
    train,
    uncompiled_net,
    watcher,
)

import keras_compress as kc
from keras_compress.engines.state import Phase, State

pytestmark = [pytest.mark.by_turns, pytest.mark.slow_after(1)]

# Whether the other callbacks stand before `Compress` in the list.
in_turn = pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
SIDES = ("before", "after")


def train_between(keras, data, callback, others, **arguments):
    """One fit with `callback` between two others."""
    before, after = others
    model = net(keras)
    return outcome(model, fit(model, data, [before, callback, after], **arguments), callback)


def scripted(keras, values):
    """A log `watched` with these values, one per epoch, for callbacks that stand behind it."""

    def on_epoch_end(epoch, logs):
        logs["watched"] = values[epoch]

    return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)


def noting_states(keras, folder):
    """Everything that the run carries, as it is at the end of every epoch."""
    states = []

    def on_epoch_end(epoch, logs):
        kc.save_state(note.model, folder / "state.npz")
        states.append(State.load(folder / "state.npz"))

    note = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
    return note, states


# --- loggers


def test_csv_logger_writes_our_logs_as_history_has_them(keras, data, reference, tmp_path):
    paths = [tmp_path / f"{side}.csv" for side in SIDES]
    loggers = [keras.callbacks.CSVLogger(str(path)) for path in paths]
    assert_same_run(train_between(keras, data, compress(), loggers), reference)
    for path in paths:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert len(rows) == EPOCHS
        assert set(rows[0]) >= {"epoch", *reference.history}  # Keras 3 adds a "val_" for each
        for name in LOGS:
            assert [float(row[name]) for row in rows] == pytest.approx(reference.history[name])


def test_tensorboard_shows_our_logs_as_history_has_them(keras, data, reference, tmp_path):
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    boards = [keras.callbacks.TensorBoard(str(tmp_path / side), histogram_freq=1) for side in SIDES]
    assert_same_run(train_between(keras, data, compress(), boards), reference)
    for side in SIDES:
        events = EventAccumulator(str(tmp_path / side / "train"))
        events.Reload()
        for name in reference.history:
            shown = events.Tensors(f"epoch_{name}")
            assert [event.step for event in shown] == list(range(EPOCHS))
            values = [float(tf.make_ndarray(event.tensor_proto)) for event in shown]
            assert values == pytest.approx(reference.history[name])


# --- learning rates


def _changing_rates(keras):
    """Halved at the beginning of every epoch, and a tenth after epoch 1, which is no better."""
    return [
        scripted(keras, [1.0, 2.0, 3.0]),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.ReduceLROnPlateau(monitor="watched", mode="min", factor=0.1, patience=1),
    ]


@pytest.fixture(scope="module")
def plain_with_changing_rates(keras, data):
    return train(keras, data, None, _changing_rates(keras))


@in_turn
def test_learning_rate_callbacks_equal_the_plain_fit(
    keras, data, reference, plain_with_changing_rates, before
):
    plain = plain_with_changing_rates
    (name,) = set(plain.history) - {"loss", "accuracy", "watched"}  # "lr" or "learning_rate"
    assert plain.history[name] == pytest.approx([0.005, 0.0025, 0.000125])
    watched = train(keras, data, watcher(), _changing_rates(keras), before)
    assert_same_weights(watched.weights, plain.weights)
    assert watched.history[name] == plain.history[name]


@in_turn
def test_reduce_lr_on_plateau_begins_anew_with_another_network(keras, data, reference, before):
    """Of the float network's numbers none counts for the pruned and rounded one."""
    rates = _changing_rates(keras)
    got = train(keras, data, compress(), rates, before)
    (name,) = set(got.history) - {"loss", "accuracy", "watched", *LOGS}
    # Worse than the first epoch, and the first of a network that is both.
    assert got.history[name] == pytest.approx([0.005, 0.0025, 0.00125])
    assert rates[-1].best == 2.0
    assert rates[-1].wait == 0  # as it is after a reduction
    assert float(np.asarray(got.model.optimizer.learning_rate)) == pytest.approx(0.000125)
    assert got.state.step == reference.state.step
    assert got.state.switched_at == reference.state.switched_at


# --- TerminateOnNaN


def test_terminate_on_nan_without_a_nan_changes_nothing(keras, data, reference):
    callbacks = [keras.callbacks.TerminateOnNaN() for _ in SIDES]
    assert_same_run(train_between(keras, data, compress(), callbacks), reference)


@in_turn
def test_terminate_on_nan_ends_the_fit_at_the_same_step_and_spares_the_ranges(
    keras, data, tmp_path, before
):
    x, y = data
    x = x.copy()
    x[5 * 32] = np.nan  # the sixth batch
    export = kc.Export(tmp_path / "net.tflite")
    callback = kc.Compress(quantization=kc.Quantization(delay=8), export=export)
    plain, got = (
        train(keras, (x, y), each, [keras.callbacks.TerminateOnNaN()], before, epochs=1)
        for each in (None, callback)
    )
    steps = int(plain.model.optimizer.iterations.numpy())
    assert got.state.step == got.state.iterations == steps == 6
    assert set(got.history) == set(plain.history) | LOGS
    assert got.report.missed == ["the delay at update 8"]
    assert got.report.export.skipped == "the fit ended before the delay at update 8"
    assert not os.listdir(tmp_path)
    for limits in got.state.ranges.values():
        assert np.isfinite(limits).all()


# --- EarlyStopping

# Five epochs of eight. The number of the first one is out of reach, and must be forgotten.
SCRIPT = [0.1, 0.5, 0.3, 0.4, 0.45]
# Pruned by the end of epoch 0, rounded from the middle of epoch 1: the best left is epoch 2.
LATE_SWITCH = {
    "pruning": kc.Pruning(
        kc.PolynomialDecay(final_sparsity=0.5, begin_step=1, end_step=7, frequency=2)
    ),
    "quantization": kc.Quantization(delay=12, calibration_steps=4),
}
# Pruned in epoch 1, and nothing else.
LATE_SPARSITY = {"pruning": PRUNING}
RESETS = [
    pytest.param(LATE_SWITCH, "quantization is on from update 13", id="switch"),
    pytest.param(LATE_SPARSITY, "the final sparsity is reached", id="final-sparsity"),
]


def assert_masked(weights, state):
    """Zero exactly where the masks say so."""
    for kernel, mask in zip(kernels(weights), state.masks.values(), strict=True):
        np.testing.assert_array_equal(kernel != 0, mask)


@in_turn
@pytest.mark.parametrize(("specs", "reason"), RESETS)
def test_early_stopping_forgets_its_best_and_restores_all_that_belongs_to_the_new_one(
    keras, data, test_data, tmp_path, caplog, specs, reason, before
):
    caplog.set_level(logging.INFO, logger="keras_compress")
    stop = keras.callbacks.EarlyStopping(
        monitor="watched", mode="min", patience=2, restore_best_weights=True
    )
    note, states = noting_states(keras, tmp_path)
    others = [scripted(keras, SCRIPT), stop, note]
    got = train(
        keras, data, kc.Compress(**specs), others, before, validation_data=test_data, epochs=5
    )
    assert stop.best_epoch == 2
    assert stop.best == pytest.approx(0.3)
    assert f"EarlyStopping: its best so far is forgotten, {reason}." in caplog.messages
    assert len(states) == 5  # two epochs of patience after the best one
    assert got.state.step == 5 * STEPS  # time does not go back

    assert_same_arrays(got.state.masks, states[2].masks)
    assert_same_arrays(got.state.ranges, states[2].ranges)
    for key, limits in states[2].ranges.items():
        if key != "input/0":  # the images' own range is the same at all times
            assert (states[4].ranges[key] != limits).any()
    assert_masked(got.weights, got.state)
    loss, accuracy = got.model.evaluate(*test_data, verbose=0)
    assert loss == pytest.approx(got.history["val_loss"][2], rel=1e-6)
    assert loss != pytest.approx(got.history["val_loss"][4], rel=1e-4)
    assert accuracy == pytest.approx(got.history["val_accuracy"][2])
    # What `Compress` leaves at the end was made after the weights were restored.
    assert_same_weights(got.compress.stripped_model.get_weights(), got.weights)


def test_who_says_so_keeps_the_best_of_the_float_network(keras, data, reference, tmp_path):
    rates = _changing_rates(keras)
    stop = keras.callbacks.EarlyStopping(monitor="watched", mode="min", patience=5)
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.weights.h5"),
        monitor="watched",
        mode="min",
        save_best_only=True,
        save_weights_only=True,
    )
    got = train(keras, data, compress(reset_best=False), [*rates, stop, checkpoint])
    assert [each.best for each in (rates[-1], stop, checkpoint)] == [1.0, 1.0, 1.0]
    assert got.state.step == reference.state.step


def test_a_best_from_before_the_targets_is_no_file(keras, data, tmp_path, caplog):
    """Whoever keeps the float network's best may get an epoch back that is not done."""
    stop = keras.callbacks.EarlyStopping(
        monitor="watched", mode="min", patience=9, restore_best_weights=True
    )
    callback = compress(reset_best=False, export=kc.Export(tmp_path / "net.tflite"))
    got = train(keras, data, callback, [scripted(keras, [1.0, 2.0, 3.0]), stop])
    missed = ["the final sparsity at update 10", "the delay at update 12"]
    assert got.report.missed == missed
    assert not got.report.export.written
    assert (
        f"The weights put back are of update 8, before {' and '.join(missed)}; nothing is exported."
        in caplog.messages
    )


@in_turn
def test_early_stopping_that_sees_the_best_last_changes_nothing(keras, data, reference, before):
    stop = keras.callbacks.EarlyStopping(
        monitor="watched", mode="min", patience=1, restore_best_weights=True
    )
    others = [scripted(keras, [0.3, 0.2, 0.1]), stop]
    got = train(keras, data, compress(), others, before)
    assert got.history.pop("watched") == [0.3, 0.2, 0.1]
    assert_same_run(got, reference)


@in_turn
def test_early_stopping_before_the_delay_leaves_no_file_and_one_warning(
    keras, data, tmp_path, caplog, before
):
    stop = keras.callbacks.EarlyStopping(monitor="watched", mode="min", patience=1)
    export = kc.Export(tmp_path / "net.tflite")
    callback = kc.Compress(quantization=kc.Quantization(delay=20), export=export)
    got = train(keras, data, callback, [scripted(keras, [1.0, 2.0, 3.0]), stop], before)
    assert (got.state.step, got.state.phase) == (2 * STEPS, Phase.WATCHING)
    assert got.report.missed == ["the delay at update 20"]
    assert got.report.export.skipped == "the fit ended before the delay at update 20"
    assert not os.listdir(tmp_path)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "The fit ended at update 16, before the delay at update 20; nothing is exported."
    ]


@in_turn
def test_early_stopping_before_the_freeze_step_freezes_then_and_there(
    keras, data, tmp_path, caplog, before
):
    caplog.set_level(logging.INFO, logger="keras_compress")
    stop = keras.callbacks.EarlyStopping(monitor="watched", mode="min", patience=1)
    export = kc.Export(tmp_path / "net.tflite")
    quantization = kc.Quantization(delay=6, calibration_steps=4, freeze_step=20)
    callback = kc.Compress(quantization=quantization, export=export)
    got = train(keras, data, callback, [scripted(keras, [1.0, 2.0, 3.0]), stop], before)
    assert "The fit ended at update 16, before freeze_step: frozen here." in caplog.messages
    assert (got.state.step, got.state.phase) == (2 * STEPS, Phase.FROZEN)
    assert set(got.state.kernel_ranges) == set(got.state.kernels)
    assert (got.report.missed, got.report.export.written) == ([], True)
    assert got.state.steps == {"delay": 6, "freeze_step": 20}
    # Another fit goes on to where it is.
    got = train(keras, data, callback, model=got.model, epochs=3, initial_epoch=2)
    assert (got.state.step, got.state.phase) == (3 * STEPS, Phase.FROZEN)
    # Of a plan over several fits nobody has ended anything.
    model = net(keras)
    several = kc.Compress(quantization=quantization, export=export, partial=True)
    got = train(keras, data, several, model=model, epochs=2)
    assert got.report.missed == ["freeze_step at update 20"]
    assert got.state.phase is Phase.ON


# --- ModelCheckpoint


def test_checkpoints_of_weights_are_masked_at_the_end_of_every_epoch(
    keras, data, reference, tmp_path
):
    checkpoints = [
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / f"{side}{{epoch}}.weights.h5"), save_weights_only=True
        )
        for side in SIDES
    ]
    note, states = noting_states(keras, tmp_path)
    model, callback = net(keras), compress()
    callbacks = [checkpoints[0], callback, checkpoints[1], note]
    assert_same_run(outcome(model, fit(model, data, callbacks), callback), reference)
    for side in SIDES:
        for epoch, state in enumerate(states, start=1):
            plain = uncompiled_net(keras)
            plain.load_weights(tmp_path / f"{side}{epoch}.weights.h5")
            assert_masked(plain.get_weights(), state)
        assert_same_weights(plain.get_weights(), reference.weights)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
def test_checkpoints_of_whole_models_load_as_plain_models(keras, data, reference, tmp_path, suffix):
    if suffix == "" and keras.__name__ == "keras":
        pytest.skip("Keras 3 checkpoints no SavedModel")
    before, after = (
        keras.callbacks.ModelCheckpoint(str(tmp_path / f"{side}{{epoch}}{suffix}"))
        for side in SIDES
    )
    note, states = noting_states(keras, tmp_path)
    model, callback = net(keras), compress()
    callbacks = [before, callback, after, note]
    assert_same_run(outcome(model, fit(model, data, callbacks), callback), reference)

    plain = plain_copy(keras, reference.weights).evaluate(*data, verbose=0)
    assert plain != pytest.approx(reference.model.evaluate(*data, verbose=0), rel=1e-6)
    for side in SIDES:
        for epoch, state in enumerate(states, start=1):
            loaded = keras.models.load_model(tmp_path / f"{side}{epoch}{suffix}")
            assert kc.compression_of(loaded) is None
            assert_masked(loaded.get_weights(), state)
        assert_same_weights(loaded.get_weights(), reference.weights)
        assert loaded.evaluate(*data, verbose=0) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(("specs", "reason"), RESETS)
def test_model_checkpoint_forgets_its_best(keras, data, tmp_path, caplog, specs, reason):
    caplog.set_level(logging.INFO, logger="keras_compress")
    before, after = (
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / f"{side}.keras"), monitor="watched", mode="min", save_best_only=True
        )
        for side in SIDES
    )
    weights = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(note.model.get_weights())
    )
    callbacks = [scripted(keras, SCRIPT), before, kc.Compress(**specs), after, note]
    fit(net(keras), data, callbacks, epochs=5)
    forgotten = f"ModelCheckpoint: its best so far is forgotten, {reason}."
    assert caplog.messages.count(forgotten) == len(SIDES)
    for side, checkpoint in zip(SIDES, (before, after), strict=True):
        assert checkpoint.best == pytest.approx(0.3)
        loaded = keras.models.load_model(tmp_path / f"{side}.keras")
        assert_same_weights(loaded.get_weights(), weights[2])


@in_turn
@pytest.mark.parametrize("on_epoch", [False, True])
def test_an_average_that_is_swapped_in_is_validated_with_the_masks(keras, data, before, on_epoch):
    """And swapped out as it was: validation changes nothing."""
    if not hasattr(keras.callbacks, "SwapEMAWeights"):
        pytest.skip("tf_keras has no such callback")
    zeros = []

    class Look(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            weights = [np.asarray(own) for own in self.model.weights]  # as they are
            zeros.append([np.mean(kernel == 0) for kernel in kernels(weights)])

    def ended(**arguments):
        optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)
        model = net(keras, optimizer=optimizer)
        both = [compress(pruning=PRUNING), keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)]
        history = fit(model, data, [*(both[::-1] if before else both), Look()], **arguments)
        return model, history, [np.asarray(variable) for variable in optimizer.variables]

    x, y = data
    model, history, kept = ended(validation_data=(x, y))
    assert zeros[-1] == pytest.approx([0.5] * len(zeros[-1]), abs=0.05)
    loss, _ = model.evaluate(x, y, verbose=0)
    assert history.history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    other, _, expected = ended()
    # Keras swaps two numbers by their sum, which costs them a last bit.
    assert_same_weights(kept, expected, tolerance=1e-6)
    assert_same_weights(model.get_weights(), other.get_weights(), tolerance=1e-6)


def test_what_was_swapped_in_when_the_fit_was_interrupted_comes_back_in_no_later_one(keras, data):
    if not hasattr(keras.callbacks, "SwapEMAWeights"):
        pytest.skip("tf_keras has no such callback")

    class Interrupt(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = net(keras, optimizer=keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5))
    own, swap = compress(quantization=None), keras.callbacks.SwapEMAWeights()
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, [own, swap, Interrupt()], validation_data=data)
    fit(model, data, [own])
    before = [weight.numpy().copy() for weight in model.weights]  # as they are
    gc.collect()
    assert_same_weights([weight.numpy() for weight in model.weights], before)
    zeros = [np.mean(kernel == 0) for kernel in kernels(before)]
    assert zeros == pytest.approx([0.5] * len(zeros), abs=0.05)
