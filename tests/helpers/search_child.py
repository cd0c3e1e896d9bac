"""Searches in processes of their own, which may die in the middle of a trial.

`python -m helpers.search_child keras3|tf_keras` imports what they need, once, and reads lines from
its input. For `{"arguments": [FOLDER, TRIALS, HOW, NUMBER], "environment": {}}` it starts a process
and answers with its id; for an id it answers with the exit code, when there is one.

A process searches in the project in FOLDER, or goes on with it. HOW and NUMBER, which may be left
out, say what happens in the NUMBERth compressed fit of this process: `kill` and `interrupt` in the
middle of it; `kill_before_end` when KerasTuner has its metrics, and not yet that it has ended.
KerasTuner's environment variables make it a chief or a worker.
"""

import importlib
import json
import os
import pathlib
import signal
import sys
import time

import numpy as np
from helpers.nets import compile_net

MEETING = "ready"
FITS, LOG = "fits.log", "output.log"
FLOAT, COMPRESSED = "float", "compressed"
MAX_DROP = 0.5


def data():
    """200 digits to train with, and 100 others."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))[:300]
    x = (digits.images[order] / 16).astype("float32")[..., None]
    y = digits.target[order].astype("int32")
    return x[:200], y[:200], x[200:], y[200:]


def build_with(keras):
    def build(hp):
        keras.utils.set_random_seed(0)
        layers = keras.layers
        model = keras.Sequential(
            [
                layers.Input((8, 8, 1)),
                layers.Conv2D(8, 3, strides=2, activation="relu", name="conv"),
                layers.Flatten(name="flatten"),
                layers.Dense(10, activation="softmax", name="digit"),
            ]
        )
        return compile_net(keras, model)

    return build


class Fits:
    """Notes every fit in a file that all processes share, and lets one of them end badly."""

    def __init__(self, keras, log, number, act):
        self.log, self.number, self.act = log, number, act
        self.compressed = 0
        self.keras, self.fit = keras, keras.Model.fit

    def install(self):
        def fit(model, *args, **kwargs):
            # Only the float training is without callbacks: those of a search are not for it.
            kind = COMPRESSED if kwargs.get("callbacks") else FLOAT
            with self.log.open("a") as file:
                file.write(f"{kind} {os.getpid()}\n")
            if kind == COMPRESSED:
                self.compressed += 1
                if self.compressed == self.number:
                    kwargs["callbacks"] = [*kwargs["callbacks"], self._ends_badly()]
            return self.fit(model, *args, **kwargs)

        self.keras.Model.fit = fit

    def _ends_badly(self):
        act = self.act

        class EndsBadly(self.keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 3:
                    act()

        return EndsBadly()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt():
    # What is started in the background ignores Ctrl-C, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)


def meet(folder, name, others):
    """Wait until `others` processes are here, so that they ask for the float training at once."""
    folder.mkdir(exist_ok=True)
    (folder / name).touch()
    while len(list(folder.iterdir())) < others:
        time.sleep(0.05)


def main(keras, root, trials, how=None, number="0"):
    from keras_tuner.src.distribute import oracle_chief

    from keras_compress.tuner import SparsitySearch

    # Where the chief waits for its last worker it looks every 20 seconds; here, every second.
    sleep = time.sleep
    oracle_chief.time = type("Time", (), {"sleep": lambda seconds: sleep(min(seconds, 1))})

    act = interrupt if how == "interrupt" else die
    in_fit = 0 if how == "kill_before_end" else int(number)
    fits = Fits(keras, root / FITS, in_fit, act)
    fits.install()
    search = SparsitySearch(
        build_with(keras),
        max_accuracy_drop=MAX_DROP,
        tuner="random",
        max_trials=int(trials),
        float_epochs=4,
        directory=str(root),
        project_name="project",
        overwrite=False,
        seed=1,
    )
    if how == "kill_before_end":
        end = search.tuner.oracle.end_trial
        search.tuner.oracle.end_trial = lambda trial: (
            die() if fits.compressed == int(number) else end(trial)
        )
    worker = os.environ.get("KERASTUNER_TUNER_ID", "")
    if worker.startswith("worker"):
        meet(root / MEETING, worker, 2)
    x, y, x_val, y_val = data()
    search.search(x, y, epochs=1, batch_size=20, validation_data=(x_val, y_val), verbose=0)


def serve():
    """Start processes until the input ends; in each of them, what it is to do."""
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            _, status = os.waitpid(asked, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif process := os.fork():
            print(process, flush=True)
        else:
            return asked
    return None


def become(root, environment):
    """What tells this process from the one that has started it."""
    os.environ.update(environment)
    with (pathlib.Path(root) / LOG).open("ab") as log, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    keras = importlib.import_module({"keras3": "keras"}.get(sys.argv[1], sys.argv[1]))
    for name in ("sklearn.datasets", "keras_compress.tuner"):
        importlib.import_module(name)
    # What a process does it does here, so that it ends as any other, be it by Ctrl-C.
    if asked := serve():
        root, *others = asked["arguments"]
        become(root, asked["environment"])
        main(keras, pathlib.Path(root), *others)
