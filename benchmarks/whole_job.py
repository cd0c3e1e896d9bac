"""The whole job, from a model to an integer file: by hand with tfmot, and here.

    python benchmarks/whole_job.py             # 5 seeds, 18 epochs
    python benchmarks/whole_job.py --quick     # does it run? 1 seed, 3 epochs

LeNet with batch norm on scikit-learn's digits, with tf_keras; 70 % of the weights go. By hand it
takes the five steps of tfmot's guide "Pruning preserving quantization aware training": a float fit,
a fit in pruning wrappers, stripping, a fit in quantize wrappers of the scheme that keeps the zeros,
and the converter. Here it is one fit, with the callback or after `wrap`; or, to tell what a new
optimizer at each step is worth, three fits that are compiled anew, as by hand. On all sides the
same data, first weights, order of the batches, epochs, batch size, schedule of sparsity, and update
from which on numbers are rounded; `--split` says how the epochs are divided.

Competitors take turns in an order that is drawn anew for each seed, so whatever else the machine
does falls on all alike. Each begins with a built model, `compile` included, and ends with the file;
the process that converts for us is ended before, so that starting it is in our time, as it is in a
user's. The files are then run by LiteRT on 450 test images; one image is 0.22 points.
"""

import argparse
import gc
import inspect
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from measuring import Interval, mean
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_compress as kc
from keras_compress.tflite.conversion.process import stop_worker

BATCH = 32
SPARSITY = 0.7
FREQUENCY = 10  # updates between two masks
LOSS = "sparse_categorical_crossentropy"


# --- the job; the lines of these functions are those that are counted


def by_hand(model, x, y, epochs, steps, path):
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
    model.compile("adam", LOSS, metrics=["accuracy"])
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
    "Compress": with_callback,
    "Compress, three fits": in_three_fits,
    "wrap (tfmot's wrappers)": with_wrap,
}


def lines_of(function):
    """How many lines a function has that are neither blank nor a comment."""
    lines = map(str.strip, inspect.getsource(function).splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)


# --- data and model


def load_data():
    """(x_train, x_test, y_train, y_test); images of 28 x 28 x 1 in [0, 1], as MNIST has them."""
    digits = load_digits()
    images = digits.images.repeat(3, axis=1).repeat(3, axis=2) / 16
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype("float32")[..., None]
    return train_test_split(images, digits.target, test_size=450, random_state=0)


def lenet(seed):
    """LeNet with batch norm, not compiled. One for one seed, and the order of the batches too."""
    keras.utils.set_random_seed(seed)
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


# --- measuring


def do(job, seed, data, epochs, folder):
    """(accuracy of the file in per cent, zipped bytes, seconds).

    Raises:
        RuntimeError: the file is not integer throughout.
    """
    x, x_test, y, y_test = data
    model, path = lenet(seed), folder / "lenet.tflite"
    steps = -(-len(x) // BATCH)
    stop_worker()
    gc.collect()
    started = time.perf_counter()
    job(model, x, y, epochs, steps, path)
    seconds = time.perf_counter() - started
    contents = kc.inspect_tflite(path)
    if not contents.all_integer:
        raise RuntimeError(f"{job.__name__} left float ops: {contents.float_ops}")
    answers = kc.load_tflite(path).predict(x_test)
    accuracy = 100 * float(np.mean(answers.argmax(axis=-1) == y_test))
    path.unlink()
    return accuracy, contents.zipped_bytes, seconds


def table(title, results):
    """One row for each job; differences and ratios are to the job by hand with the same seed."""
    made = rich.table.Table(title=title, title_justify="left")
    made.add_column("job")
    for name in (
        "int8 accuracy (%)",
        "to by hand",
        "zipped bytes",
        "ratio",
        "seconds",
        "ratio [95 %]",
        "lines",
    ):
        made.add_column(name, justify="right", no_wrap=True)
    base_accuracy, base_bytes, base_seconds = np.transpose(results[BY_HAND])
    for name, values in results.items():
        accuracy, zipped, seconds = np.transpose(values)
        made.add_row(
            name,
            mean(accuracy),
            "-" if name == BY_HAND else mean(accuracy - base_accuracy, "+.2f"),
            mean(zipped, ",.0f"),
            f"{np.mean(zipped / base_bytes):.3f}",
            f"{np.median(seconds):.1f}",
            str(Interval.of(seconds / base_seconds)),
            str(lines_of(JOBS[name])),
        )
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--split", type=int, nargs=3, default=(10, 4, 4), help="epochs: float, pruning, quantized"
    )
    parser.add_argument("--quick", action="store_true", help="1 seed, epochs 1 1 1")
    arguments = parser.parse_args()
    seeds, epochs = arguments.seeds, tuple(arguments.split)
    if arguments.quick:
        seeds, epochs = 1, (1, 1, 1)

    data = load_data()
    results = {name: [] for name in JOBS}
    generator = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress,
    ):
        task = progress.add_task("jobs", total=(seeds + 1) * len(JOBS))
        for seed in range(-1, seeds):
            for name in generator.permutation(list(JOBS)):
                # Once before anything counts: imports, and what TensorFlow makes only once.
                warming = seed < 0
                shown = do(
                    JOBS[name],
                    max(seed, 0),
                    data,
                    (1, 1, 1) if warming else epochs,
                    pathlib.Path(folder),
                )
                if not warming:
                    results[name].append(shown)
                progress.advance(task)
    title = (
        f"LeNet with batch norm on digits, {keras.__name__} {keras.__version__}, epochs "
        f"{' + '.join(map(str, epochs))}, {seeds} seed(s)"
    )
    rich.console.Console(width=140).print(table(title, results))


if __name__ == "__main__":
    main()
