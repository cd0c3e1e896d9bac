"""Trainings that are killed, and resumed by another process.

`python resume_child.py keras3|tf_keras FOLDER NAME...` goes through these entries of `PLAN`: each
run is a process of its own, forked from this one before TensorFlow has computed anything, so that
TensorFlow is imported once. The last run of each entry leaves in its folder what the training came
to.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

EPOCHS, STEPS, BATCH = 5, 4, 16  # 20 updates
# Updates 1..6 are off, 7..10 watching, 11..15 on, from 16 frozen; the masks change in all of them.
DELAY, CALIBRATION, FREEZE = 10, 4, 15
BEGIN, END, FREQUENCY = 1, 18, 3

ENDED, STATE, EPOCHS_RUN, PHASES = "ended.npz", "ended_state.npz", "epochs.json", "phases.json"


def data():
    """Four batches of 16 inputs in [-1, 1) of shape (12,), and their classes."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (STEPS * BATCH, 12)).astype("float32")
    return x, x[:, :4].argmax(axis=-1).astype("int32")


def net(keras, **compile_arguments):
    """A compiled net that traces quickly, with automatic names."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((12,)),
            layers.Dense(16, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        jit_compile=False,
        **compile_arguments,
    )
    return model


def compress(**arguments):
    import keras_compress as kc

    schedule = kc.PolynomialDecay(
        final_sparsity=0.5, begin_step=BEGIN, end_step=END, frequency=FREQUENCY
    )
    specs = {
        "pruning": kc.Pruning(schedule),
        "quantization": kc.Quantization(
            delay=DELAY, calibration_steps=CALIBRATION, freeze_step=FREEZE
        ),
    }
    return kc.Compress(**{**specs, **arguments})


def fit(model, callbacks, **arguments):
    x, y = data()
    arguments = {"epochs": EPOCHS, "batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, y, callbacks=callbacks, **arguments)


def at_update(keras, number, act):
    """A callback that calls `act` after that update of the optimizer."""

    class AtUpdate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations.numpy()) == number:
                act()

    return AtUpdate()


def at_train_end(keras, act):
    """A callback that calls `act` when the last epoch is through."""

    class AtTrainEnd(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            act()

    return AtTrainEnd()


def backup(keras, folder, number=None, act=None, **arguments):
    """A `BackupAndRestore` that calls `act` instead of writing its backup of that number."""
    method = "_backup" if keras.__name__ == "tf_keras" else "_save_model"

    class Backup(keras.callbacks.BackupAndRestore):
        calls = 0

    def write(self, *args, **kwargs):
        self.calls += 1
        if self.calls == number:
            act()
        return getattr(keras.callbacks.BackupAndRestore, method)(self, *args, **kwargs)

    setattr(Backup, method, write)
    return Backup(str(folder), **arguments)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(number):
    def callbacks(keras, folder):
        killer = at_update(keras, number, lambda: note_and_die(killer.model, folder))
        return [backup(keras, folder), killer]

    return callbacks


def note_and_die(model, folder):
    """Leave the phases of the last backup and of this moment."""
    from keras_compress.engines.engine import engine_of
    from keras_compress.engines.state import State
    from keras_compress.fit.backup import StateFiles

    phases = [State.load(StateFiles(folder).current).phase, engine_of(model).phase]
    (folder.parent / PHASES).write_text(json.dumps(phases))
    die()


def killed_before_backup(number):
    return lambda keras, folder: [backup(keras, folder, number, die)]


def killed_at_train_end(keras, folder):
    return [at_train_end(keras, die), backup(keras, folder)]


def undisturbed(keras, folder):
    return [backup(keras, folder)]


# Name -> the callbacks of each of its processes.
PLAN = {
    "uninterrupted": [undisturbed],
    "off": [killed_at(6), undisturbed],
    "watching": [killed_at(10), undisturbed],
    "on": [killed_at(14), undisturbed],
    "frozen": [killed_at(18), undisturbed],
    "twice between state and backup": [
        killed_before_backup(3),
        killed_before_backup(1),
        undisturbed,
    ],
    "after the last backup": [killed_at_train_end, undisturbed],
}


def train(keras, folder, make_callbacks, position):
    import keras_compress as kc

    for _ in range(position):  # other automatic names than in the process before
        net(keras)
    model = net(keras)
    # On either side of the backup, by turns: it must not matter.
    callbacks = make_callbacks(keras, folder / "backup")
    callbacks.insert(0 if position % 2 else len(callbacks), compress(verbose=0))
    history = fit(model, callbacks)
    np.savez(folder / ENDED, *model.get_weights())
    kc.save_state(model, folder / STATE)
    (folder / EPOCHS_RUN).write_text(json.dumps(history.epoch))


def main(keras, root, names):
    signals = {}
    for name in names:
        folder = root / name
        folder.mkdir()
        signals[name] = []
        for position, make_callbacks in enumerate(PLAN[name]):
            process = os.fork()
            if not process:
                try:
                    train(keras, folder, make_callbacks, position)
                    os._exit(0)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
            _, status = os.waitpid(process, 0)
            signals[name].append(os.waitstatus_to_exitcode(status))
    (root / "exit_codes.json").write_text(json.dumps(signals))


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    package = {"keras3": "keras"}.get(sys.argv[1], sys.argv[1])
    main(importlib.import_module(package), Path(sys.argv[2]), sys.argv[3:])
