"""How many killed trainings end, once they are run again, as the one that nobody killed.

    python benchmarks/survival.py              # 30 kills of each engine: some 10 minutes
    python benchmarks/survival.py --kills 6    # fewer
    python benchmarks/survival.py --quick      # does it run? one kill of one engine

A small net on digits, pruned and quantized in one fit with `BackupAndRestore`, exported at its end,
is killed with SIGKILL: at a random update of every phase, between the backup's files and ours,
during the export. Then the same command runs again, in a process of its own. It has survived if
weights, optimizer, masks, ranges, counters and the bytes of the file are those of the run that was
left alone, all of them to the last bit.

A process is forked from one that has imported TensorFlow and computed nothing yet. Needs a system
that can fork.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
from measuring import keras_of
from nets_of_digits import smallest

EPOCHS, STEPS, BATCH = 6, 6, 32
# Update by update: pruned from 4 to 20, watched from 13, rounded from 17, frozen from 27.
BEGIN, END, WATCHED, DELAY, FREEZE = 4, 20, 4, 16, 26

ENGINES = {
    "in place, Keras 3": (3, "in_place"),
    "in place, tf_keras": (2, "in_place"),
    "tfmot's wrappers": (2, "tfmot"),
}
PLACES = {
    "before pruning": range(1, BEGIN),
    "in the ramp": range(BEGIN, DELAY - WATCHED),
    "while watching": range(DELAY - WATCHED + 1, DELAY),
    "just before the delay": [DELAY],
    "just after the delay": [DELAY + 1],
    "while rounding": range(DELAY + 2, FREEZE),
    "while frozen": range(FREEZE + 1, EPOCHS * STEPS),
    "between state and backup": range(1, EPOCHS + 1),
    "during the export": [0],
    "in mid-epoch": [k for k in range(5, EPOCHS * STEPS) if k % STEPS not in (0, STEPS - 1)],
}
"""Where -> at which update it can be; between the two files, at which epoch."""

MID_EPOCH, SAVE_FREQ = "in mid-epoch", 4
"""The place with a backup every few batches, of equal ones: a resumed fit begins the data anew. Not
for Keras 3, which itself trains the batches of that epoch again.
"""


# --- one training, in a process of its own


def data(equal_batches):
    from sklearn.datasets import load_digits

    digits = load_digits()
    count = STEPS * BATCH
    images = (digits.images[:count] / 16).astype("float32")[..., None]
    labels = digits.target[:count].astype("int32")
    if equal_batches:
        return np.tile(images[:BATCH], (STEPS, 1, 1, 1)), np.tile(labels[:BATCH], STEPS)
    return images, labels


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killer(keras, place, number):
    """What kills the process there: a callback, or None where something else does."""
    if place == "during the export":
        from keras_compress.export import writing

        writing.inspect_tflite = lambda *_: die()  # the file is made, and not yet written
        return None
    if place == "between state and backup":
        from keras_compress.fit import backup

        written, take = [], backup.StateFiles.write

        def write(self, state):
            take(self, state)
            written.append(state)
            if len(written) == number:
                die()

        backup.StateFiles.write = write
        return None

    class Killer(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(np.asarray(self.model.optimizer.iterations)) == number:
                die()

    return Killer()


def train(keras, engine, folder, place, number, mid_epoch):
    import keras_compress as kc

    specs = {
        "pruning": kc.Pruning(
            kc.PolynomialDecay(final_sparsity=0.5, begin_step=BEGIN, end_step=END, frequency=3)
        ),
        "quantization": kc.Quantization(delay=DELAY, calibration_steps=WATCHED, freeze_step=FREEZE),
    }
    export = kc.Export(str(folder / "net.tflite"), rehearse=False)
    model = smallest(keras)
    if engine == "tfmot":
        model = kc.wrap(model, **specs, engine="tfmot", verbose=0)
        callbacks = [kc.Compress(export=export, verbose=0)]
    else:
        callbacks = [kc.Compress(**specs, export=export, verbose=0)]
    model.compile(
        keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", jit_compile=False
    )
    often = {"save_freq": SAVE_FREQ} if mid_epoch else {}
    callbacks.append(keras.callbacks.BackupAndRestore(str(folder / "backup"), **often))
    if place is not None and (own := killer(keras, place, number)) is not None:
        callbacks.append(own)
    x, y = data(equal_batches=mid_epoch)
    model.fit(x, y, epochs=EPOCHS, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)
    variables = model.optimizer.variables
    slots = [np.asarray(each) for each in (variables() if callable(variables) else variables)]
    np.savez(folder / "weights.npz", *model.get_weights(), *slots)
    kc.save_state(model, folder / "state.npz")


def forked(*arguments):
    """The exit code of a training in a process of its own."""
    process = os.fork()
    if not process:
        try:
            train(*arguments)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


# --- what it came to


def left(folder):
    """Everything that must be equal, by a name for it."""
    found = {"file": (folder / "net.tflite").read_bytes()}
    with np.load(folder / "weights.npz") as arrays:
        found |= {f"weights {name}": arrays[name].tobytes() for name in arrays.files}
    with np.load(folder / "state.npz") as arrays:
        for name in arrays.files:
            if name != "meta":
                found[name] = arrays[name].tobytes()
        meta = json.loads(str(arrays["meta"]))
    meta.pop("paths")  # automatic names, which a wrapped model has of its own
    return {**found, **{f"state {name}": value for name, value in meta.items()}}


def survives(keras, engine, root, place, number, expected):
    folder = Path(tempfile.mkdtemp(dir=root))
    code = forked(keras, engine, folder, place, number, place == MID_EPOCH)
    if code != -signal.SIGKILL:
        return f"not killed, but {code}"
    code = forked(keras, engine, folder, None, None, place == MID_EPOCH)
    if code:
        return f"resumed with {code}"
    found = left(folder)
    return ", ".join(name for name in expected if found.get(name) != expected[name])


def kills(count, keras):
    """(place, number) of so many kills, the places by turns."""
    draw = random.Random(0)
    places = [place for place in PLACES if place != MID_EPOCH or keras != 3]
    chosen = [places[i % len(places)] for i in range(count)]
    return [(place, draw.choice(list(PLACES[place]))) for place in chosen]


def child(name, count, results):
    """All kills of one engine, in a process that has computed nothing; one line of JSON for each
    goes to the file `results`.
    """
    number, engine = ENGINES[name]
    keras = keras_of(number)
    with tempfile.TemporaryDirectory() as root:
        expected = {}
        for mid_epoch in (False, True):
            alone = Path(root) / f"alone {mid_epoch}"
            alone.mkdir()
            if code := forked(keras, engine, alone, None, None, mid_epoch):
                raise SystemExit(f"the training that nobody kills ended with {code}")
            expected[mid_epoch] = left(alone)
        for place, at in kills(count, number):
            wrong = survives(keras, engine, root, place, at, expected[place == MID_EPOCH])
            print(json.dumps([place, at, wrong]), file=results, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="of each engine")
    parser.add_argument("--only", action="append", choices=list(ENGINES))
    parser.add_argument("--quick", action="store_true", help="one kill of one engine")
    arguments = parser.parse_args()
    names = ["in place, tf_keras"] if arguments.quick else arguments.only or list(ENGINES)
    count = 1 if arguments.quick else arguments.kills

    found = {}
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task("kills", total=len(names) * count)
        for name in names:
            read, write = os.pipe()
            process = os.fork()  # each engine imports its own Keras, and only that
            if not process:
                os.close(read)
                os.dup2(2, 1)  # what libraries print is no result
                try:
                    child(name, count, os.fdopen(write, "w"))
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                os._exit(0)
            os.close(write)
            found[name] = []
            with os.fdopen(read) as lines:
                for line in lines:
                    found[name].append(json.loads(line))
                    progress.advance(task)
            if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
                raise SystemExit(f"{name}: failed")

    table = rich.table.Table(title=f"Killed and resumed, {count} times each", title_justify="left")
    table.add_column("killed")
    for name in names:
        table.add_column(name, justify="right")
    for place in PLACES:
        rows = [[wrong for where, _, wrong in found[name] if where == place] for name in names]
        table.add_row(place, *(f"{row.count('')} of {len(row)}" for row in rows))
    totals = [[wrong for _, _, wrong in found[name]] for name in names]
    table.add_row("in all", *(f"{row.count('')} of {len(row)}" for row in totals))
    console = rich.console.Console(width=150)
    console.print(table)
    for name in names:
        for place, at, wrong in found[name]:
            if wrong:
                console.print(f"{name}, {place} ({at}): differs in {wrong[:300]}")
    return 0 if all(not wrong for row in totals for wrong in row) else 1


if __name__ == "__main__":
    sys.exit(main())
