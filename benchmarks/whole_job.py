"""The whole job, from a model to an integer file: by hand with tfmot, and here.

    python benchmarks/whole_job.py --results whole_job.jsonl             # LeNet, tf_keras, 20 seeds
    python benchmarks/whole_job.py --results whole_job.jsonl --net ResNet --keras 3
    python benchmarks/whole_job.py --results whole_job.jsonl --table     # what there is by now
    python benchmarks/whole_job.py --quick                               # does it run?

Nets on scikit-learn's digits: LeNet with batch norm on 28 x 28 pixels, and `nets_of_digits.py`'s
ResNet and separable net on 8 x 8. 70 % of the weights go. By hand, always with tf_keras, it takes
the five steps of tfmot's guide "Pruning preserving quantization aware training": a float fit, a fit
in pruning wrappers, stripping, a fit in quantize wrappers of the scheme that keeps the zeros, and
the converter; each fit with a new Adam, the last at a tenth of the rate ("constant rate": at the
same). Here it is one fit: with the callback alone; with the recipe, which lets the optimizer begin
anew where by hand there is a new one, and the rate fall where it does by hand; distilled, the
recipe with a loss of the user's own, half of which is the answers of the float network of the
moment before the switch. Or after `wrap`; or in three fits that are compiled anew, as by hand. On
all sides the same data, first weights (Keras 3 takes those of the net by hand), epochs, batch size,
schedule of sparsity, and update from which on numbers are rounded, and within one Keras the same
order of the batches; `--split` says how the epochs are divided.

Each finished job is a line in the file of results, with all it depends on, and is not done again: a
run that was stopped goes on. Seed by seed all jobs take turns in an order that is drawn anew for
each seed, so whatever else the machine does falls on all alike. Each begins with a built model,
`compile` included, and ends with the file; the process that converts for us is ended before, so
that starting it is in our time, as it is in a user's. The files are then run by LiteRT on 450 test
images; one image is 0.22 points.
"""

import argparse
import functools
import gc
import inspect
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import keras as keras3
import nets_of_digits
import numpy as np
import rich.console
import rich.progress
import rich.table
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from measuring import Interval, keras_of, mean
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_compress as kc
from keras_compress.tflite.conversion.process import stop_worker

BATCH = 32
SPARSITY = 0.7
FREQUENCY = 10  # updates between two masks
LOSS = "sparse_categorical_crossentropy"
RATE = 1e-3  # Adam's default
FACTOR = 0.1  # of the rate, for the quantized part


# --- the job; the lines of these functions are those that are counted


def by_hand(model, x, y, epochs, steps, path, factor=FACTOR):
    floating, pruning, quantized = epochs
    model.compile("adam", LOSS, metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=floating, verbose=0)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, SPARSITY, begin_step=0, end_step=pruning * steps, frequency=FREQUENCY
    )
    model = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
    model.compile("adam", LOSS, metrics=["accuracy"])
    update = tfmot.sparsity.keras.UpdatePruningStep()
    model.fit(x, y, batch_size=BATCH, epochs=pruning, verbose=0, callbacks=[update])
    model = tfmot.sparsity.keras.strip_pruning(model)
    model = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    model = tfmot.quantization.keras.quantize_apply(model, scheme)
    model.compile(tf_keras.optimizers.Adam(RATE * factor), LOSS, metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=quantized, verbose=0)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def with_callback(model, x, y, epochs, steps, path):
    begin, end = epochs[0] * steps, (epochs[0] + epochs[1]) * steps
    schedule = kc.PolynomialDecay(
        final_sparsity=SPARSITY, begin_step=begin, end_step=end, frequency=FREQUENCY
    )
    compress = kc.Compress(
        pruning=kc.Pruning(schedule),
        quantization=kc.Quantization(delay=end),
        export=kc.Export(path),
    )
    model.compile("adam", LOSS, metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=sum(epochs), verbose=0, callbacks=[compress])


def with_recipe(model, x, y, epochs, steps, path, callbacks=()):
    begin, end = epochs[0] * steps, (epochs[0] + epochs[1]) * steps
    schedule = kc.PolynomialDecay(
        final_sparsity=SPARSITY, begin_step=begin, end_step=end, frequency=FREQUENCY
    )
    compress = kc.Compress(
        pruning=kc.Pruning(schedule, restart_optimizer=True),
        quantization=kc.Quantization(
            delay=end, restart_optimizer=True, learning_rate_factor=FACTOR
        ),
        export=kc.Export(path),
    )
    model.compile("adam", LOSS, metrics=["accuracy"])
    callbacks = [*callbacks, compress]
    model.fit(x, y, batch_size=BATCH, epochs=sum(epochs), verbose=0, callbacks=callbacks)


def distilled(model, x, y, epochs, steps, path):
    keras = keras_of_model(model)
    teachers = []

    class Student(keras.Model):
        def train_step(self, data):
            images, digits = data
            with tf.GradientTape() as tape:
                answers = self(images, training=True)
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(digits, answers))
                if teachers:
                    # Not at a temperature: the answers are rounded, many of them to 0. By the
                    # statistics of the batch: just pruned, the moving ones are far behind.
                    taught = teachers[0](images, training=True)
                    taught = keras.losses.categorical_crossentropy(taught, answers)
                    loss = (loss + tf.reduce_mean(taught)) / 2
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    class Teaches(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == epochs[0] + epochs[1]:  # the switch traces the step anew
                teachers.append(kc.strip(self.model))

    student = Student(model.inputs, model.outputs[0])
    with_recipe(student, x, y, epochs, steps, path, [Teaches()])


def in_three_fits(model, x, y, epochs, steps, path):
    begin, end = epochs[0] * steps, (epochs[0] + epochs[1]) * steps
    schedule = kc.PolynomialDecay(
        final_sparsity=SPARSITY, begin_step=begin, end_step=end, frequency=FREQUENCY
    )
    pruning, quantization = kc.Pruning(schedule), kc.Quantization(delay=end)
    for count, partial in zip(epochs, (True, True, False), strict=True):
        export = None if partial else kc.Export(path)
        compress = kc.Compress(
            pruning=pruning, quantization=quantization, export=export, partial=partial
        )
        model.compile("adam", LOSS, metrics=["accuracy"])
        model.fit(x, y, batch_size=BATCH, epochs=count, verbose=0, callbacks=[compress])


def with_wrap(model, x, y, epochs, steps, path):
    begin, end = epochs[0] * steps, (epochs[0] + epochs[1]) * steps
    schedule = kc.PolynomialDecay(
        final_sparsity=SPARSITY, begin_step=begin, end_step=end, frequency=FREQUENCY
    )
    model = kc.wrap(model, pruning=kc.Pruning(schedule), quantization=kc.Quantization(delay=end))
    model.compile("adam", LOSS, metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=sum(epochs), verbose=0)
    kc.export_tflite(model, kc.Export(path))


BY_HAND = "tfmot, by hand"
JOBS = {
    BY_HAND: by_hand,
    "tfmot, by hand, constant rate": functools.partial(by_hand, factor=1.0),
    "one fit": with_callback,
    "one fit, with the recipe": with_recipe,
    "one fit, distilled": distilled,
    "three fits": in_three_fits,
    "wrap (tfmot's wrappers)": with_wrap,
}
USUAL = (BY_HAND, "one fit", "one fit, with the recipe", "one fit, distilled")


def is_of_tfmot(job):
    """Whether a job is done with tf_keras, whatever ours is done with."""
    return job.startswith("tfmot")


def keras_of_model(model):
    return keras3 if isinstance(model, keras3.Model) else tf_keras


def lines_of(job):
    """How many lines a job's function has that are neither blank nor a comment."""
    function = getattr(job, "func", job)
    lines = map(str.strip, inspect.getsource(function).splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


# --- data and models


def load_data(size):
    """(x_train, x_test, y_train, y_test); images in [0, 1] of 28 x 28 x 1, as MNIST has them, or of
    8 x 8 x 1.
    """
    digits = load_digits()
    images = digits.images / 16
    if size == 28:
        images = images.repeat(3, axis=1).repeat(3, axis=2)
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    images = images.astype("float32")[..., None]
    return train_test_split(images, digits.target, test_size=450, random_state=0)


def lenet(keras):
    """LeNet with batch norm."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((28, 28, 1), name="image"),
            layers.Conv2D(6, 5, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


NETS = {
    "LeNet": (lenet, 28),
    "ResNet": (nets_of_digits.resnet, 8),
    "separable": (nets_of_digits.separable, 8),
}


def net(name, keras, seed):
    """A net, not compiled. One for one seed, whatever the Keras, and within one the order of the
    batches too.
    """
    build, size = NETS[name]
    tf_keras.utils.set_random_seed(seed)
    made = build(tf_keras)
    if keras is tf_keras:
        return made
    keras3.utils.set_random_seed(seed)
    same = build(keras3)
    theirs, ours = (
        [layer for layer in each.layers if layer.get_weights()] for each in (made, same)
    )
    for one, other in zip(ours, theirs, strict=True):
        one.set_weights(other.get_weights())
    image = np.random.default_rng(0).random((4, size, size, 1), "float32")
    np.testing.assert_allclose(same(image), made(image), atol=1e-5)
    return same


# --- measuring


def do(job, model, data, epochs, folder):
    """(accuracy of the file in per cent, zipped bytes, seconds).

    Raises:
        RuntimeError: the file is not integer throughout.
    """
    x, x_test, y, y_test = data
    path = folder / "net.tflite"
    steps = -(-len(x) // BATCH)
    stop_worker()
    gc.collect()
    started = time.perf_counter()
    job(model, x, y, epochs, steps, path)
    seconds = time.perf_counter() - started
    contents = kc.inspect_tflite(path)
    if not contents.all_integer:
        raise RuntimeError(f"a file with float ops: {contents.float_ops}")
    answers = kc.load_tflite(path).predict(x_test)
    accuracy = 100 * float(np.mean(answers.argmax(axis=-1) == y_test))
    path.unlink()
    return accuracy, contents.zipped_bytes, seconds


class Results:
    """Finished jobs, in memory and as lines of a file, if there is one."""

    def __init__(self, path):
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self._found = [json.loads(line) for line in lines]

    def values(self, **wanted):
        """(accuracy, bytes, seconds) of the jobs that have all this; seed -> values."""
        return {
            each["seed"]: (each["accuracy"], each["bytes"], each["seconds"])
            for each in self._found
            if all(each[name] == value for name, value in wanted.items())
        }

    def add(self, values, **of):
        accuracy, zipped, seconds = values
        line = {**of, "accuracy": accuracy, "bytes": zipped, "seconds": seconds}
        self._found.append(line)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def what_of(net_name, keras, job, epochs):
    """What the numbers of a job depend on, but for the seed."""
    used = tf_keras if is_of_tfmot(job) else keras
    return {"net": net_name, "keras": used.__name__, "job": job, "epochs": list(epochs)}


def table(results, net_name, keras, jobs, epochs):
    """One row for each job; differences and ratios are to the job by hand with the same seed."""
    hand = results.values(**what_of(net_name, keras, BY_HAND, epochs))
    title = (
        f"{net_name} on digits, ours with {keras.__name__} {keras.__version__}, epochs "
        f"{' + '.join(map(str, epochs))}"
    )
    made = rich.table.Table(title=title, title_justify="left")
    made.add_column("job")
    for name in (
        "seeds",
        "int8 accuracy (%)",
        "to by hand",
        "zipped bytes",
        "ratio",
        "seconds",
        "ratio [95 %]",
        "lines",
    ):
        made.add_column(name, justify="right", no_wrap=True)
    for name in jobs:
        values = results.values(**what_of(net_name, keras, name, epochs))
        seeds = sorted(set(values) & set(hand))
        if not seeds:
            continue
        accuracy, zipped, seconds = np.transpose([values[seed] for seed in seeds])
        theirs, their_bytes, their_seconds = np.transpose([hand[seed] for seed in seeds])
        made.add_row(
            name,
            str(len(seeds)),
            mean(accuracy),
            "-" if name == BY_HAND else mean(accuracy - theirs, "+.2f"),
            mean(zipped, ",.0f"),
            f"{np.mean(zipped / their_bytes):.3f}",
            f"{np.median(seconds):.1f}",
            str(Interval.of(seconds / their_seconds)),
            str(lines_of(JOBS[name])),
        )
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", choices=NETS, default="LeNet")
    parser.add_argument("--keras", type=int, choices=(2, 3), default=2, help="of our jobs")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=USUAL)
    parser.add_argument(
        "--split", type=int, nargs=3, default=(10, 4, 4), help="epochs: float, pruning, quantized"
    )
    parser.add_argument("--results", type=pathlib.Path, help="a file that a run goes on from")
    parser.add_argument("--table", action="store_true", help="of what is there already")
    parser.add_argument("--quick", action="store_true", help="1 seed, epochs 1 1 1")
    arguments = parser.parse_args()
    seeds, epochs = arguments.seeds, tuple(arguments.split)
    if arguments.quick:
        seeds, epochs = 1, (1, 1, 1)

    keras, name, jobs = keras_of(arguments.keras), arguments.net, list(arguments.jobs)
    jobs = jobs if BY_HAND in jobs else [BY_HAND, *jobs]
    results, data = Results(arguments.results), load_data(NETS[name][1])
    generator = np.random.default_rng(0)
    order = [(seed, job) for seed in range(seeds) for job in generator.permutation(jobs)]
    due = [
        (seed, job)
        for seed, job in order
        if seed not in results.values(**what_of(name, keras, job, epochs))
    ]
    due = [] if arguments.table else due
    with (
        tempfile.TemporaryDirectory() as folder,
        rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress,
    ):
        warming = [] if arguments.quick or not due else jobs
        task = progress.add_task("jobs", total=len(due) + len(warming))

        def run(job, seed, epochs):
            model = net(name, tf_keras if is_of_tfmot(job) else keras, seed)
            values = do(JOBS[job], model, data, epochs, pathlib.Path(folder))
            progress.advance(task)
            return values

        for job in warming:  # imports, and what TensorFlow makes only once
            run(job, 0, (1, 1, 1))
        for seed, job in due:
            job = str(job)
            results.add(run(job, seed, epochs), **what_of(name, keras, job, epochs), seed=seed)
    rich.console.Console(width=150).print(table(results, name, keras, jobs, epochs))


if __name__ == "__main__":
    main()
