"""What a search costs: trials that share one float training, against trials that train in full.

    python benchmarks/search_cost.py               # 12 trials each, then 30 small ones; ~10 minutes
    python benchmarks/search_cost.py --keras 2     # tf_keras
    python benchmarks/search_cost.py --workers 1 2 # the one that shares, by processes of its own
    python benchmarks/search_cost.py --quick       # does it run? 2 trials each, few epochs

LeNet on scikit-learn's digits. On one side the network is trained once and every trial compresses a
copy; on the other every trial trains from the first weights on and compresses at the end of the
same fit. A trial has the same epochs, the same plan in them, and the same target (the searches draw
from one seed), and ends with its file, which is scored by LiteRT: exports are counted on both
sides. The searches run one after the other in this process, after a trial that warms it up. The
CPU time beside the clock says how much of a difference is this process' and not its neighbours'.

With `--workers` all that is measured is the search that shares, by so many of KerasTuner's worker
processes on this machine, from the start of the first to the end of the last: what each of them
imports counts. One of them trains the float network, and the others wait for it.

The second table is of two more processes, which run small trials one after the other: their
resident memory after each of them. In one of them KerasTuner alone trains the plain network, of
Keras 3, which is the Keras that it takes. Needs Linux (`/proc`).
"""

import argparse
import gc
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import keras_tuner
import numpy as np
import rich.console
import rich.table
from measuring import keras_of
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_compress.tuner import CompressionHyperModel

BATCH = 32
SPARSITY = (0.3, 0.9)
BEGIN, END, DELAY = 0.0, 0.5, 0.6  # of the compressing epochs
SEED = 1  # KerasTuner takes 0 for none
AT_MOST = 0.4  # of the time of full trainings
IMPORTED = 15  # seconds after which the chief of several processes listens
SETTLED, GROWTH = 5, 0.15  # trials after which memory may grow by so much at most

SHARED, FULL = "one float training", "each trains in full"


# --- data and models


def load_data(repeat):
    """(x_train, x_test, y_train, y_test); images of 8 x 8, each pixel `repeat` times."""
    digits = load_digits()
    images = digits.images.repeat(repeat, axis=1).repeat(repeat, axis=2) / 16
    images = images.astype("float32")[..., None]
    return train_test_split(images, digits.target, test_size=450, random_state=0)


def building(keras, network):
    """A `build` for KerasTuner: the same network for every trial, with the same first weights."""

    def build(hp):
        keras.utils.set_random_seed(SEED)
        head = keras.layers.Dense(10, activation="softmax", name="digit")
        model = keras.Sequential([*network(keras.layers), head])
        # Without XLA, which would spend most of a short trial compiling.
        loss = "sparse_categorical_crossentropy"
        model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
        return model

    return build


def lenet(layers):
    return [
        layers.Input((24, 24, 1), name="image"),
        layers.Conv2D(6, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(16, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(120, activation="relu"),
        layers.Dense(84, activation="relu"),
    ]


def small(layers):
    return [
        layers.Input((8, 8, 1), name="image"),
        layers.Conv2D(8, 3, strides=2, activation="relu"),
        layers.Flatten(),
        layers.Dense(32, activation="relu"),
    ]


# --- what it costs


def plan(name, epochs):
    """(arguments of the hypermodel, epochs of a trial's fit) for one side."""
    floating, compressing = epochs
    if name == SHARED:
        fractions, own = (BEGIN, END, DELAY), compressing
    else:  # the same updates, as fractions of the longer fit
        own = floating + compressing
        fractions = ((floating + part * compressing) / own for part in (BEGIN, END, DELAY))
    begin, end, delay = fractions
    arguments = {"begin_step": begin, "end_step": end, "delay": delay}
    return {**arguments, "float_epochs": floating if name == SHARED else 0}, own


def search(keras, name, trials, epochs, data, folder):
    """The tuner of a search that is through."""
    arguments, own = plan(name, epochs)
    x, x_test, y, y_test = data
    hypermodel = CompressionHyperModel(building(keras, lenet), final_sparsity=SPARSITY, **arguments)
    tuner = keras_tuner.RandomSearch(
        hypermodel,
        keras_tuner.Objective("tflite_accuracy", "max"),
        max_trials=trials,
        seed=SEED,
        directory=str(folder),
        project_name=name.replace(" ", "_"),
        overwrite="KERASTUNER_TUNER_ID" not in os.environ,  # else it is that of several processes
    )
    tuner.search(x, y, batch_size=BATCH, epochs=own, validation_data=(x_test, y_test), verbose=0)
    return tuner


def searched(keras, name, trials, epochs, data, folder):
    """(seconds, CPU seconds, trials in the order of their numbers) of one search.

    Raises:
        RuntimeError: a trial failed; then there is nothing to compare.
    """
    gc.collect()
    started, used = time.perf_counter(), time.process_time()
    tuner = search(keras, name, trials, epochs, data, folder)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    done = sorted(tuner.oracle.trials.values(), key=lambda trial: int(trial.trial_id))
    for trial in done:
        if trial.status != "COMPLETED":
            raise RuntimeError(f"{name}: trial {trial.trial_id} failed: {trial.message}")
    return seconds, used, done


def last(trial, metric):
    return float(trial.metrics.get_last_value(metric))


def drawn(trial):
    return trial.hyperparameters.values["final_sparsity"]


def cost(keras, trials, epochs, data, folder):
    """Side -> what `searched` says of it."""
    searched(keras, SHARED, 1, (1, 1), data, folder)  # imports, and the process that converts
    results = {name: searched(keras, name, trials, epochs, data, folder) for name in (SHARED, FULL)}
    pairs = zip(results[SHARED][2], results[FULL][2], strict=True)
    if any(drawn(one) != drawn(other) for one, other in pairs):
        raise RuntimeError("the searches were to try the same targets")
    return results


def cost_table(title, results):
    made = rich.table.Table(title=title, title_justify="left", caption_justify="left")
    made.add_column("search")
    for name in (
        "seconds",
        "CPU seconds",
        "a trial",
        "best int8 accuracy (%)",
        "its sparsity (%)",
        "mean of all (%)",
    ):
        made.add_column(name, justify="right")
    accuracies = {}
    for name, (seconds, used, done) in results.items():
        accuracies[name] = [100 * last(trial, "tflite_accuracy") for trial in done]
        best = int(np.argmax(accuracies[name]))
        made.add_row(
            name,
            f"{seconds:.1f}",
            f"{used:.1f}",
            f"{seconds / len(done):.2f}",
            f"{max(accuracies[name]):.2f}",
            f"{100 * last(done[best], 'sparsity'):.1f}",
            f"{np.mean(accuracies[name]):.2f}",
        )
    (seconds, used, _), (all_seconds, all_used, _) = results[SHARED], results[FULL]
    best = max(accuracies[SHARED]) - max(accuracies[FULL])
    pairs = np.subtract(accuracies[SHARED], accuracies[FULL])
    error = pairs.std(ddof=1) / len(pairs) ** 0.5
    made.caption = (
        f"ratio of seconds {seconds / all_seconds:.3f}, of CPU seconds {used / all_used:.3f} "
        f"(target: at most {AT_MOST}); best against best {best:+.2f} points, "
        f"trial against trial {pairs.mean():+.2f} ± {error:.2f}; one image is 0.22 points"
    )
    return made


# --- several processes


def by_workers(workers, keras_number, trials, epochs):
    """Seconds of the search that shares, by so many processes.

    Raises:
        RuntimeError: one of them failed, or a trial.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    oracle = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    with tempfile.TemporaryDirectory() as folder:
        asked = ("--keras", keras_number, "--trials", trials, "--split", *epochs)
        command = [sys.executable, __file__, "--shared", folder, *map(str, asked)]

        def start(name):
            return subprocess.Popen(
                command,
                env={**os.environ, **oracle, "KERASTUNER_TUNER_ID": name},
                stdout=subprocess.DEVNULL,
            )

        chief = start("chief")
        try:
            time.sleep(IMPORTED)  # it is there when they ask for it
            started = time.perf_counter()
            running = [start(f"worker{number}") for number in range(workers)]
            codes = [process.wait() for process in running]
            seconds = time.perf_counter() - started
        finally:
            chief.kill()  # it looks for its last worker every 20 seconds
            chief.wait()
        if any(codes):
            raise RuntimeError(f"the workers ended with {codes}")
        project = pathlib.Path(folder) / SHARED.replace(" ", "_")
        states = [json.loads(path.read_text()) for path in project.glob("trial_*/trial.json")]
        done = sum(state["status"] == "COMPLETED" for state in states)
        if done != trials:
            raise RuntimeError(f"{done} trials of {trials} were completed")
        return seconds


def workers_table(title, seconds):
    """`seconds`: of so many workers."""
    made = rich.table.Table(title=title, title_justify="left")
    for name in ("workers", "seconds", "of one"):
        made.add_column(name, justify="right")
    base = seconds.get(1)
    for workers, each in seconds.items():
        of_one = "-" if base is None else f"{each / base:.2f}"
        made.add_row(str(workers), f"{each:.1f}", of_one)
    return made


# --- memory


def resident():
    """What of this process is in memory now, in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


class Watched(keras_tuner.RandomSearch):
    """Notes the resident memory after each trial."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.resident = []

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        if trial.status != "COMPLETED":
            raise RuntimeError(f"trial {trial.trial_id} failed: {trial.message}")
        gc.collect()
        self.resident.append(resident())


def child(keras, alone, trials):
    """Search, with KerasTuner `alone` or with us; print the resident memory after each trial."""
    x, x_test, y, y_test = load_data(1)
    build = building(keras, small)

    def plain(hp):
        hp.Float("of_no_use", *SPARSITY)  # a space has to have something
        return build(hp)

    if alone:
        hypermodel, metric = plain, "val_accuracy"
    else:
        hypermodel = CompressionHyperModel(build, float_epochs=1, final_sparsity=SPARSITY)
        metric = "tflite_accuracy"
    objective = keras_tuner.Objective(metric, "max")
    with tempfile.TemporaryDirectory() as folder:
        tuner = Watched(hypermodel, objective, max_trials=trials, seed=SEED, directory=folder)
        tuner.search(
            x[:320],
            y[:320],
            batch_size=BATCH,
            epochs=1,
            validation_data=(x_test[:100], y_test[:100]),
            verbose=0,
        )
    print(json.dumps(tuner.resident))


def memory(keras_number, trials, *flags):
    """MB after each trial, in a process of its own."""
    command = [sys.executable, __file__, "--keras", str(keras_number), "--child", str(trials)]
    done = subprocess.run([*command, *flags], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_table(title, values, alone):
    settled = min(SETTLED, len(values))
    made = rich.table.Table(title=title, title_justify="left", caption_justify="left")
    made.add_column("after trial", justify="right")
    for side in ("", "KerasTuner alone: "):
        made.add_column(f"{side}resident MB", justify="right")
        made.add_column(f"to trial {settled} (%)", justify="right")
    for number, pair in enumerate(zip(values, alone, strict=True), start=1):
        if number in (1, len(values)) or number % 5 == 0:
            cells = []
            for value, base in zip(pair, (values[settled - 1], alone[settled - 1]), strict=True):
                cells += [f"{value:.0f}", f"{100 * (value / base - 1):+.1f}"]
            made.add_row(str(number), *cells)
    ours, theirs = (
        "by {:.1%}, {:.2f} MB a trial".format(*growth(side, settled)) for side in (values, alone)
    )
    made.caption = f"grown {ours} (target: below {GROWTH:.0%}); KerasTuner alone {theirs}"
    return made


def growth(values, settled):
    """(the most that was grown, as a part; MB for every trial) since the trial `settled`."""
    base, later = values[settled - 1], len(values) - settled
    return max(values[settled - 1 :]) / base - 1, (values[-1] - base) / max(later, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3, help="2 is tf_keras")
    parser.add_argument("--trials", type=int, default=12, help="of each search")
    parser.add_argument(
        "--split", type=int, nargs=2, default=(50, 8), help="epochs: float, compressed"
    )
    parser.add_argument("--small-trials", type=int, default=30, help="of which memory is measured")
    parser.add_argument("--quick", action="store_true", help="2 trials, epochs 2 1; 3 small trials")
    parser.add_argument("--workers", type=int, nargs="+", help="processes of a search that shares")
    parser.add_argument("--shared", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keras = keras_of(arguments.keras)
    if arguments.child:
        child(keras, arguments.alone, arguments.child)
        return
    trials, epochs = arguments.trials, tuple(arguments.split)
    if arguments.shared:
        search(keras, SHARED, trials, epochs, load_data(3), arguments.shared)
        return
    small_trials = arguments.small_trials
    if arguments.quick:
        trials, epochs, small_trials = 2, (2, 1), 3

    console = rich.console.Console(width=120)
    if arguments.workers:
        title = f"{trials} trials that share, {keras.__name__} {keras.__version__}"
        found = {n: by_workers(n, arguments.keras, trials, epochs) for n in arguments.workers}
        console.print(workers_table(title, found))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = cost(keras, trials, epochs, load_data(3), pathlib.Path(folder))
    about = f"{keras.__name__} {keras.__version__}"
    title = f"LeNet on digits, {about}, {trials} trials, epochs {epochs[0]} + {epochs[1]}"
    console.print(cost_table(title, results))
    values = memory(arguments.keras, small_trials)
    alone = memory(3, small_trials, "--alone")
    console.print(memory_table(f"Memory, {about}, {small_trials} small trials", values, alone))


if __name__ == "__main__":
    main()
