"""A training that is interrupted ends as the uninterrupted one, with `BackupAndRestore`."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from helpers import resume_child
from helpers.nets import small_net
from helpers.resumed import assert_equal_states, assert_equal_weights, ended, files_in
from helpers.untouched import untouched

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.engines.snapshot import take
from keras_compress.engines.state import Phase, State
from keras_compress.fit.backup import StateFiles, counts
from keras_compress.frameworks.choose import adapter_of

pytestmark = [
    pytest.mark.slow_after(1),
    pytest.mark.timeout(300),  # the first test with `killed` waits for its trainings
    pytest.mark.by_turns,
]


class StopError(Exception):
    """Interrupts a fit; the process lives on."""


def stop():
    raise StopError


# --- killed processes


# Every way to be killed with one of the two Keras; the sweep has it with the other.
IN_SUITE = {
    "keras3": {"uninterrupted", "off", "on", "twice between state and backup"},
    "tf_keras": {"uninterrupted", "watching", "frozen", "after the last backup"},
}


@pytest.fixture(scope="module")
def killed(keras, tmp_path_factory):
    """A function from a training to the folder in which it and the uninterrupted one have ended.

    The trainings of the suite go through together, and so do those that are left to the sweep.
    """
    kind = "keras3" if keras.__name__ == "keras" else "tf_keras"

    @functools.cache
    def root(in_suite):
        names = [name for name in LEFT if (name in IN_SUITE[kind]) == in_suite]
        root = tmp_path_factory.mktemp("killed")
        done = subprocess.run(
            [sys.executable, resume_child.__file__, kind, str(root), "uninterrupted", *names],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return root

    return lambda name: root(name in IN_SUITE[kind])


# Name -> the epochs that the last process trained.
LEFT = {
    "off": [1, 2, 3, 4],
    "watching": [2, 3, 4],
    "on": [3, 4],
    "frozen": [4],
    "twice between state and backup": [2, 3, 4],
    "after the last backup": [],
}


def test_every_kill_is_checked():
    assert set(LEFT) | {"uninterrupted"} == set(resume_child.PLAN)


def test_the_uninterrupted_run_goes_through_all_phases(killed):
    folder = killed("uninterrupted") / "uninterrupted"
    _, state = ended(folder)
    assert (state.step, state.phase, state.switched_at) == (20, Phase.FROZEN, 11)
    for mask in state.masks.values():
        assert mask.mean() == pytest.approx(0.5, abs=0.02)
    epochs = json.loads((folder / resume_child.EPOCHS_RUN).read_text())
    assert epochs == [0, 1, 2, 3, 4]


@pytest.mark.sweep_if(when=lambda keras, name: name not in IN_SUITE[keras])
@pytest.mark.parametrize("name", LEFT)
def test_a_killed_process_is_resumed_as_if_nothing_had_been(killed, name):
    root = killed(name)
    codes = json.loads((root / "exit_codes.json").read_text())[name]
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert json.loads((root / name / resume_child.EPOCHS_RUN).read_text()) == LEFT[name]
    expected_weights, expected = ended(root / "uninterrupted")
    weights, state = ended(root / name)
    assert_equal_states(state, expected, except_for={"paths"})
    assert_equal_weights(weights, expected_weights)


@pytest.mark.sweep_if(when=lambda keras, phase: phase not in IN_SUITE[keras])
@pytest.mark.parametrize("phase", ["off", "watching", "on", "frozen"])
def test_the_kill_and_the_backup_before_it_are_in_the_phase(killed, phase):
    phases = json.loads((killed(phase) / phase / resume_child.PHASES).read_text())
    assert phases == [phase, phase]


# --- in one process


@pytest.fixture(scope="module")
def uninterrupted(keras, tmp_path_factory):
    """(weights, state) of the training, and each state written beside a backup on its way."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "backup"
    written = []

    class Read(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            written.append(State.load(StateFiles(folder).current))

    model = resume_child.net(keras)
    callbacks = [resume_child.backup(keras, folder), Read(), resume_child.compress(verbose=0)]
    resume_child.fit(model, callbacks)
    return model.get_weights(), take(engine_of(model)), written


def test_every_backup_has_a_state_beside_it(uninterrupted):
    _, _, written = uninterrupted
    assert [state.step for state in written] == [4, 8, 12, 16, 20]
    assert [state.iterations for state in written] == [4, 8, 12, 16, 20]
    assert [str(state.phase) for state in written] == [
        "off",
        "watching",
        "on",
        "frozen",
        "frozen",
    ]


# 16: from frozen back to on, where ranges have to move again.
@pytest.mark.parametrize("number", [6, 16, 17])
def test_a_fit_that_failed_is_resumed_with_the_same_objects(keras, uninterrupted, number, tmp_path):
    weights, state, _ = uninterrupted
    model = resume_child.net(keras)
    backup, compress = resume_child.backup(keras, tmp_path / "backup"), resume_child.compress()
    failing = resume_child.at_update(keras, number, stop)
    with pytest.raises(StopError):
        resume_child.fit(model, [compress, backup, failing])
    assert engine_of(model).step == number
    history = resume_child.fit(model, [compress, backup])
    assert len(history.epoch) == 5 - (number - 1) // resume_child.STEPS
    assert_equal_states(take(engine_of(model)), state, except_for={"paths"})
    assert_equal_weights(model.get_weights(), weights)
    assert compress.report.step == 20


@pytest.mark.slow
def test_a_backup_within_an_epoch_is_resumed(keras, uninterrupted, tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=3)

    failing = resume_child.at_update(keras, 8, stop)
    with pytest.raises(StopError):
        resume_child.fit(resume_child.net(keras), [resume_child.compress(), backup(), failing])
    assert State.load(StateFiles(tmp_path / "backup").current).step == 6
    model = resume_child.net(keras)
    resume_child.fit(model, [resume_child.compress(), backup()])
    assert engine_of(model).step == model.optimizer.iterations.numpy()
    # tf_keras goes on after the sixth batch (with the rows of the first); Keras 3 begins the epoch
    # anew, so the two batches before the backup count twice.
    again = 0 if keras.__name__ == "tf_keras" else 2
    _, state, _ = uninterrupted
    resumed = take(engine_of(model))
    assert resumed.step == state.step + again
    assert (resumed.switched_at, resumed.phase) == (state.switched_at, state.phase)
    assert resumed.observed == state.observed
    for mask, expected in zip(resumed.masks.values(), state.masks.values(), strict=True):
        assert mask.sum() == expected.sum()


def test_a_backup_within_an_epoch_has_all_weights_not_the_masked_ones(tmp_path):
    """The next masks are made of them. (tf_keras writes its variables themselves.)"""
    import keras

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=3)
    model = resume_child.net(keras)
    with pytest.raises(StopError):
        resume_child.fit(
            model, [resume_child.compress(), backup, resume_child.at_update(keras, 6, stop)]
        )
    saved = resume_child.net(keras)
    saved.load_weights(backup._weights_path)
    assert_equal_weights(saved.get_weights(), [weights.numpy() for weights in model.weights])
    targets = engine_of(model).pruner.targets
    assert any((each.kernel.numpy()[~each.kept()] != 0).any() for each in targets)


def test_a_fit_that_failed_before_its_first_backup_counts_on(keras, tmp_path):
    # As Keras itself, whose optimizer counts on: there is nothing to go back to.
    model = resume_child.net(keras, run_eagerly=True)
    backup, compress = resume_child.backup(keras, tmp_path / "backup"), resume_child.compress()
    with pytest.raises(StopError):
        resume_child.fit(model, [compress, backup, resume_child.at_update(keras, 2, stop)])
    resume_child.fit(model, [compress, backup])
    assert engine_of(model).step == model.optimizer.iterations.numpy() == 22


def test_a_backup_used_again_writes_each_state_once(keras, tmp_path, monkeypatch):
    saves = []
    save = State.save
    monkeypatch.setattr(State, "save", lambda self, path: (saves.append(path), save(self, path)))
    model = resume_child.net(keras, run_eagerly=True)
    backup, compress = resume_child.backup(keras, tmp_path / "backup"), resume_child.compress()
    with pytest.raises(StopError):
        resume_child.fit(model, [compress, backup, resume_child.at_update(keras, 6, stop)])
    assert len(saves) == 1
    resume_child.fit(model, [compress, backup])
    assert len(saves) == 5
    methods = {"_backup", "_save_model"} & set(vars(backup))
    assert not methods, "fit leaves the callback as it was"


@pytest.mark.slow
def test_a_state_newer_than_the_backup_is_not_taken(keras, uninterrupted, tmp_path):
    weights, state, written = uninterrupted
    folder = tmp_path / "backup"
    callbacks = [resume_child.backup(keras, folder, 3, stop), resume_child.compress()]
    with pytest.raises(StopError):
        resume_child.fit(resume_child.net(keras), callbacks)
    files = StateFiles(folder)
    assert_equal_states(State.load(files.current), written[2], except_for={"paths"})
    assert_equal_states(State.load(files.previous), written[1], except_for={"paths"})
    model = resume_child.net(keras)
    resume_child.fit(model, [resume_child.backup(keras, folder), resume_child.compress()])
    assert_equal_states(take(engine_of(model)), state, except_for={"paths"})
    assert_equal_weights(model.get_weights(), weights)


def interrupted(keras, folder, number=6):
    """A folder with the backup of update 4 (and more), of a fit that ended after `number`."""
    callbacks = [resume_child.backup(keras, folder), resume_child.compress()]
    callbacks.append(resume_child.at_update(keras, number, stop))
    with pytest.raises(StopError):
        resume_child.fit(resume_child.net(keras, run_eagerly=True), callbacks)


def no_match(files, found, iteration):
    return (
        "Compress: the backup that was restored must have a state of ours beside it, or its masks "
        f"and ranges are lost. There are states of iterations {found} in {files.current!r} and "
        f"{files.previous!r}; remove the backup to begin anew. "
        f"Received: a backup of iteration {iteration}"
    )


def test_a_backup_without_a_state_is_refused(keras, tmp_path):
    folder = tmp_path / "backup"
    interrupted(keras, folder)
    files = StateFiles(folder)
    os.remove(files.current)
    model = resume_child.net(keras, run_eagerly=True)
    message = no_match(files, [], 4)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resume_child.fit(model, [resume_child.compress(), resume_child.backup(keras, folder)])
    with untouched(model):  # but for the weights of the backup, which it had already got
        pass
    assert model.optimizer.iterations.numpy() == 4


def test_states_that_do_not_match_are_refused(keras, tmp_path):
    folder = tmp_path / "backup"
    interrupted(keras, folder, number=10)
    files = StateFiles(folder)
    State(iterations=3).save(files.current)
    model = resume_child.net(keras, run_eagerly=True)
    message = no_match(files, [3, 4], 8)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resume_child.fit(model, [resume_child.compress(), resume_child.backup(keras, folder)])
    assert kc.compression_of(model) is None


def test_a_state_of_another_model_is_refused(keras, tmp_path):
    folder = tmp_path / "backup"
    interrupted(keras, folder)
    model = resume_child.net(keras, run_eagerly=True)
    compress = kc.Compress(quantization=kc.Quantization(delay=10))
    message = (
        "Compress: the state must belong to this model; masks differ: only in the state "
        "['0/Dense/kernel/12x16', '1/Dense/kernel/16x4'], only in the model []. "
        "Received: a state of another model, or of other specs"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resume_child.fit(model, [compress, resume_child.backup(keras, folder)])
    assert kc.compression_of(model) is None


def test_a_state_of_an_earlier_training_is_no_hindrance(keras, tmp_path):
    # The state outlives the fit and its backup; a new training in the same place begins anew.
    folder = tmp_path / "backup"
    for _ in range(2):
        model = resume_child.net(keras, run_eagerly=True)
        callbacks = [resume_child.backup(keras, folder), resume_child.compress(partial=True)]
        resume_child.fit(model, callbacks, epochs=1)
        assert engine_of(model).step == 4
        assert State.load(StateFiles(folder).current).step == 4


@pytest.mark.slow
def test_the_state_outlives_the_export(keras, tmp_path):
    folder, path = tmp_path / "backup", tmp_path / "model.tflite"
    model = resume_child.net(keras)
    compress = resume_child.compress(export=kc.Export(path, mode="float32"))
    resume_child.fit(model, [resume_child.backup(keras, folder), compress])
    assert compress.report.export.error is None
    assert path.exists()
    # Keras itself removes what it backed up (tf_keras leaves the folder).
    assert not files_in(folder)
    state = State.load(StateFiles(folder).current)
    assert_equal_states(state, take(engine_of(model)), except_for={"paths"})


def test_a_fit_without_compress_has_no_state(keras, tmp_path):
    model = resume_child.net(keras, run_eagerly=True)
    resume_child.fit(model, [resume_child.backup(keras, tmp_path / "backup")], epochs=1)
    assert not [name for name in os.listdir(tmp_path) if "compress" in name]


def test_a_plan_that_changed_since_the_backup_is_refused(keras, digits, tmp_path):
    """Resumed with other specs, masks and ranges of two plans would be mixed without a word."""
    x, y = digits[0][:64], digits[1][:64]

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("killed")

    def fit(target, *others):
        model = small_net(keras, jit_compile=False)
        schedule = kc.ConstantSparsity(target_sparsity=target, begin_step=1)
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        callbacks = [backup, kc.Compress(pruning=kc.Pruning(schedule)), *others]
        model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
        return model

    with pytest.raises(RuntimeError, match="killed"):
        fit(0.5, Stop())
    with pytest.raises(
        ValueError, match=r"`pruning` must equal that of the run that is resumed.*0.5.*0.75"
    ):
        fit(0.75)
    assert (fit(0.5).get_layer("dense1").get_weights()[0] == 0).mean() >= 0.49


# --- what a restart script does besides


def test_a_model_loaded_beside_the_backup_goes_on_by_the_state_of_its_count(
    keras, uninterrupted, tmp_path
):
    """`load_model` where there is a file, `BackupAndRestore` in any case: the common script."""
    weights, state, _ = uninterrupted
    folder, path = tmp_path / "backup", tmp_path / "model.keras"

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(path)

    failing = resume_child.at_update(keras, 14, stop)
    callbacks = [resume_child.compress(), Save(), resume_child.backup(keras, folder), failing]
    with pytest.raises(StopError):
        resume_child.fit(resume_child.net(keras), callbacks)
    model = keras.models.load_model(path)
    assert model.optimizer.iterations.numpy() == 12
    resume_child.fit(model, [resume_child.compress(), resume_child.backup(keras, folder)])
    assert_equal_states(take(engine_of(model)), state, except_for={"paths"})
    assert_equal_weights(model.get_weights(), weights)


@pytest.mark.slow
def test_a_model_loaded_without_a_backup_goes_on_by_the_state_of_its_count(keras, tmp_path):
    folder, path = tmp_path / "backup", tmp_path / "model.keras"
    first = resume_child.net(keras)
    resume_child.fit(first, [resume_child.compress(), resume_child.backup(keras, folder)])
    first.save(path)
    model = keras.models.load_model(path)
    resume_child.fit(model, [resume_child.compress(), resume_child.backup(keras, folder)], epochs=1)
    assert engine_of(model).step == 24
    assert engine_of(model).phase is Phase.FROZEN


@pytest.mark.slow
def test_a_state_of_an_equal_count_is_not_taken_for_that_of_another_model(keras, tmp_path, caplog):
    folder = tmp_path / "backup"
    resume_child.fit(
        resume_child.net(keras), [resume_child.compress(), resume_child.backup(keras, folder)]
    )
    plain = resume_child.net(keras)  # which was never compressed, and has made as many updates
    resume_child.fit(plain, [])
    callbacks = [resume_child.compress(partial=True), resume_child.backup(keras, folder)]
    resume_child.fit(plain, callbacks, epochs=1)
    assert engine_of(plain).step == 4
    assert "Compression begins anew: of the states beside the backup" in caplog.text


def test_accumulated_gradients_do_not_mix_two_states_up(tmp_path):
    import keras

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)

    def model():
        optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
        model = resume_child.net(keras)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        return model

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if engine_of(self.model).step == 10:
                stop()

    with pytest.raises(StopError):
        resume_child.fit(model(), [resume_child.compress(), backup(), Stop()])
    files = StateFiles(tmp_path / "backup")
    states = [State.load(path) for path in (files.previous, files.current)]
    assert [state.step for state in states] == [9, 10]
    assert states[0].iterations != states[1].iterations
    os.replace(files.current, tmp_path / "lost.npz")  # killed before this backup was written
    files.write(dataclasses.replace(states[1], iterations=11, step=11))
    resumed, seen = model(), []

    class See(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(engine_of(self.model).step)

    with pytest.raises(ValueError, match=r"states of iterations \[11, 9\].*iteration 10"):
        resume_child.fit(resumed, [resume_child.compress(), backup(), See()])
    assert not seen


def test_a_full_disk_costs_a_backup_and_a_warning(keras, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "backup"
    save, calls = State.save, []

    def full(self, path):
        calls.append(path)
        if len(calls) == 3:
            raise full_disk()
        save(self, path)

    monkeypatch.setattr(State, "save", full)
    written = []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            written.append(8 in counts(StateFiles(folder).states()))

    model = resume_child.net(keras, run_eagerly=True)
    failing = resume_child.at_update(keras, 14, stop)
    callbacks = [resume_child.compress(), resume_child.backup(keras, folder), Note(), failing]
    with pytest.raises(StopError):
        resume_child.fit(model, callbacks)
    assert "No backup at update 12, the one before stays" in caplog.text
    assert written == [False, True, True]
    resumed = resume_child.net(keras, run_eagerly=True)
    history = resume_child.fit(
        resumed, [resume_child.compress(), resume_child.backup(keras, folder)]
    )
    assert history.epoch == [2, 3, 4]  # from the backup of update 8
    assert engine_of(resumed).step == 20


# --- the export at the end


def exporting(path, **specs):
    export = kc.Export(path, mode="float32", rehearse=False)
    return resume_child.compress(export=export, **specs)


class KilledError(BaseException):
    """Nobody catches it, as nobody catches a kill."""


@contextlib.contextmanager
def failing_export(error):
    """While inside, the export of a fit raises this."""

    def fail(*_):
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_compress.export.writing.write_file", fail)
        yield


def full_disk():
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
def test_a_kill_during_the_export_is_resumed_at_the_export(keras, uninterrupted, tmp_path):
    weights, state, _ = uninterrupted
    folder, path = tmp_path / "backup", tmp_path / "net.tflite"
    with failing_export(KilledError()), pytest.raises(KilledError):
        resume_child.fit(
            resume_child.net(keras), [exporting(path), resume_child.backup(keras, folder)]
        )
    model, compress = resume_child.net(keras), exporting(path)
    history = resume_child.fit(model, [compress, resume_child.backup(keras, folder)])
    assert history.epoch == []
    assert compress.report.export.written
    assert_equal_states(take(engine_of(model)), state, except_for={"paths"})
    assert_equal_weights(model.get_weights(), weights)
    assert not files_in(folder)


def test_an_export_that_failed_keeps_the_backup_and_says_so(keras, tmp_path, caplog):
    folder, path = tmp_path / "backup", tmp_path / "net.tflite"
    with failing_export(full_disk()):
        resume_child.fit(
            resume_child.net(keras), [exporting(path), resume_child.backup(keras, folder)]
        )
    assert f"goes on at the export of {path}" in caplog.text
    compress = exporting(path)
    history = resume_child.fit(
        resume_child.net(keras), [compress, resume_child.backup(keras, folder)]
    )
    assert history.epoch == []
    assert compress.report.export.written


@pytest.mark.parametrize("freeze_step", [None, 26])
def test_after_early_stopping_a_kill_during_the_export_is_resumed_there_too(
    keras, tmp_path, freeze_step
):
    folder, path = tmp_path / "backup", tmp_path / "net.tflite"

    def callbacks():
        class Worse(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["watched"] = [5.0, 4.0, 1.0, 0.5, 2.0, 3.0, 3.0][epoch]

        stop_early = keras.callbacks.EarlyStopping(
            monitor="watched", mode="min", patience=1, restore_best_weights=True
        )
        quantization = kc.Quantization(
            delay=resume_child.DELAY,
            calibration_steps=resume_child.CALIBRATION,
            freeze_step=freeze_step,
        )
        compress = exporting(path, quantization=quantization)
        return [Worse(), stop_early, compress, resume_child.backup(keras, folder)]

    model = resume_child.net(keras)
    with failing_export(KilledError()), pytest.raises(KilledError):
        resume_child.fit(model, callbacks(), epochs=7)
    # Pruned by update 18, in epoch 4, which so is the best of the pruned network.
    assert engine_of(model).step == 24
    resumed, again = resume_child.net(keras), callbacks()
    history = resume_child.fit(resumed, again, epochs=7)
    assert history.epoch == []
    assert again[2].report.export.written
    assert again[2].report.phase == ("on" if freeze_step is None else "frozen")
    assert_equal_weights(resumed.get_weights(), model.get_weights())
    assert_equal_states(take(engine_of(resumed)), take(engine_of(model)), except_for={"paths"})


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "plain"])
def test_after_a_failed_export_the_model_trains_on_without_a_backup(keras, tmp_path, compressed):
    """tf_keras keeps on the model where it would go on."""
    folder, path = tmp_path / "backup", tmp_path / "net.tflite"

    def callback():
        own = exporting(path)
        return own if compressed else kc.Compress(export=own.export)

    model = resume_child.net(keras)
    with failing_export(full_disk()):
        resume_child.fit(model, [callback(), resume_child.backup(keras, folder)])
    history = resume_child.fit(model, [], epochs=2)
    assert history.epoch == [0, 1]
    # And the same fit again goes on at the export.
    again, fresh = callback(), resume_child.net(keras)
    history = resume_child.fit(fresh, [again, resume_child.backup(keras, folder)])
    assert history.epoch == []
    assert again.report.export.written
    assert not files_in(folder)


def test_a_backup_of_a_fit_that_failed_serves_a_plain_fit(keras, tmp_path):
    folder = tmp_path / "backup"
    backup = resume_child.backup(keras, folder)
    with pytest.raises(StopError):
        resume_child.fit(
            resume_child.net(keras),
            [resume_child.compress(), backup, resume_child.at_update(keras, 6, stop)],
        )
    before = State.load(StateFiles(folder).current).step
    plain = resume_child.net(keras)
    resume_child.fit(plain, [backup])
    assert State.load(StateFiles(folder).current).step == before
    assert not files_in(folder)


def test_a_backup_of_the_end_that_cannot_be_written_costs_neither_file_nor_training(
    keras, tmp_path, monkeypatch, caplog
):
    folder, path = tmp_path / "backup", tmp_path / "net.tflite"

    def full(*_):
        raise RuntimeError("no space left")

    kind = type(adapter_of(resume_child.net(keras), "test"))
    monkeypatch.setattr(kind, "back_up_end", full)
    model, compress = resume_child.net(keras), exporting(path)
    resume_child.fit(model, [compress, resume_child.backup(keras, folder)])
    assert "No backup of the end (RuntimeError: no space left)" in caplog.text
    assert compress.report.export.written
    assert resume_child.fit(model, [], epochs=1).epoch == [0]


def test_after_a_resumed_export_the_next_fit_begins_at_its_first_epoch(keras, tmp_path):
    folder, path = tmp_path / "backup", tmp_path / "net.tflite"
    with failing_export(full_disk()):
        resume_child.fit(
            resume_child.net(keras), [exporting(path), resume_child.backup(keras, folder)]
        )
    model = resume_child.net(keras)
    fit = resume_child.fit(model, [exporting(path), resume_child.backup(keras, folder)])
    assert fit.epoch == []
    assert resume_child.fit(model, [], epochs=2).epoch == [0, 1]
