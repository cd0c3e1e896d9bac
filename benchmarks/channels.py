"""Half of the channels gone in the fit: bytes, latency and accuracy of the int8 file.

    python benchmarks/channels.py              # digits: 2 nets, 3 seeds; then two large nets
    python benchmarks/channels.py --quick      # does it run? LeNet, 1 seed, 3 epochs
    python benchmarks/channels.py --only speed --keras 2

On scikit-learn's digits three int8 files are made of each net, from the same first weights, data,
order of batches, epochs and delay: of the whole network; of one that loses half of its channels in
the fit; and, the honest control, of one that has lost them before its training (the lowest by the
same score, of the weights that nobody has trained), with the same number of epochs. They are run by
LiteRT on 450 test images; one image is 0.22 points.

For speed: MobileNetV2 at 96 pixels and ResNet50 at 64, of random weights and trained for a few
updates on noise, which is enough for a file; LiteRT runs both files in turns with one thread.

And of the same two what new masks cost, of channels and of single weights, in turns; and of 14
families of `keras.applications` how much of what they compute half of the channels is.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.table
import tensorflow as tf
from measuring import Interval, keras_of, mean
from nets_of_digits import NETS
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_compress as kc
from keras_compress.engines.engine import engine_of
from keras_compress.tflite.litert.latency import latency_ms

BATCH = 32
DELAY = 0.7
LOSS = "sparse_categorical_crossentropy"
WAYS = ("whole", "in the fit", "before it")


def channels(schedule=0.5):
    return kc.Pruning(schedule, structure="channels")


def compiled(keras, model):
    model.compile(keras.optimizers.Adam(1e-3), LOSS, metrics=["accuracy"], jit_compile=False)
    return model


def fit(keras, model, pruning, x, y, epochs, path):
    """The `Compress` after a fit that leaves an int8 file at `path`."""
    export = kc.Export(path, rehearse=False)
    quantization = kc.Quantization(delay=DELAY)
    compress = kc.Compress(pruning=pruning, quantization=quantization, export=export, verbose=0)
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[compress])
    if compress.report.export.error is not None:
        raise RuntimeError(compress.report.export.error)
    return compress


def without_training(keras, model, x, y):
    """The network without half of its channels, chosen by the weights that it has now."""
    model.compile(keras.optimizers.SGD(0.0), LOSS, jit_compile=False)
    before = kc.Compress(pruning=channels(kc.ConstantSparsity(0.5, 1)), verbose=0)
    model.fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0, callbacks=[before])
    return before.stripped_model


def on_digits(keras, make, seed, epochs, folder):
    """Per way (bytes, accuracy, latency, macs)."""
    data = load_digits()
    x = (data.images[..., None] / 16.0).astype("float32")
    x, x_test, y, y_test = train_test_split(x, data.target, test_size=450, random_state=0)
    found = {}
    for way in WAYS:
        keras.utils.set_random_seed(seed)
        model = make(keras)
        if way == "before it":
            model = without_training(keras, model, x, y)
        keras.utils.set_random_seed(seed)  # the same order of batches
        path = folder / "net.tflite"
        pruning = channels() if way == "in the fit" else None
        compress = fit(keras, compiled(keras, model), pruning, x, y, epochs, path)
        file = kc.load_tflite(path)
        accuracy = 100 * file.evaluate(x_test, y_test)["accuracy"]
        small = compress.stripped_model
        found[way] = path.stat().st_size, accuracy, latency_ms(file, 300), kc.macs(small)
    return found


def show_digits(keras, args, console, folder):
    table = rich.table.Table(
        "net", "channels", "bytes", "of whole", "macs, of whole", "latency, of whole",
        "accuracy (%)", "points to whole", title=f"digits, int8, {args.seeds} seeds, "
        f"{args.epochs} epochs",
    )  # fmt: skip
    for name in ("LeNet",) if args.quick else ("LeNet", "ResNet"):
        runs = [
            on_digits(keras, NETS[name], seed, args.epochs, folder) for seed in range(args.seeds)
        ]
        for way in WAYS:
            own, whole = ([run[each] for run in runs] for each in (way, "whole"))
            size, accuracy, latency, macs = (np.array(each) for each in zip(*own, strict=True))
            sizes, points, latencies, all_macs = (
                np.array(each) for each in zip(*whole, strict=True)
            )
            table.add_row(
                name, way, f"{size.mean():,.0f}", f"{(size / sizes).mean():.2f}",
                f"{(macs / all_macs).mean():.2f}", f"{np.median(latency / latencies):.2f}",
                mean(accuracy), mean(accuracy - points, "+.2f"),
            )  # fmt: skip
    console.print(table)


LARGE = {"MobileNetV2": 96, "ResNet50": 64}


def large(keras, name, pruning, folder):
    """The file of one of `keras.applications`, trained for some updates on noise."""
    keras.utils.set_random_seed(0)
    size = LARGE[name]
    network = getattr(keras.applications, name)
    model = network(weights=None, input_shape=(size, size, 3), classes=10)
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (4 * 8, size, size, 3)).astype("float32")
    y = draw.integers(0, 10, len(x))
    path = folder / f"{name}_{'small' if pruning else 'whole'}.tflite"
    compress = kc.Compress(
        pruning=pruning,
        quantization=kc.Quantization(delay=3),
        export=kc.Export(path, rehearse=False),
        verbose=0,
    )
    compiled(keras, model).fit(x, y, batch_size=8, verbose=0, callbacks=[compress])
    if compress.report.export.error is not None:
        raise RuntimeError(compress.report.export.error)
    return path, kc.macs(compress.stripped_model)


def show_speed(keras, args, console, folder):
    table = rich.table.Table(
        "net", "bytes", "of whole", "macs, of whole", "ms", "of whole", title="speed, int8"
    )
    for name in LARGE:
        half = channels(kc.ConstantSparsity(0.5, 1))
        (whole, all_macs), (small, macs) = (
            large(keras, name, pruning, folder) for pruning in (None, half)
        )
        files = [kc.load_tflite(path) for path in (whole, small)]
        pairs = np.array([[latency_ms(file, 20) for file in files] for _ in range(args.rounds)])
        sizes = [path.stat().st_size for path in (whole, small)]
        table.add_row(
            name, f"{sizes[0]:,} -> {sizes[1]:,}", f"{sizes[1] / sizes[0]:.2f}",
            f"{macs / all_macs:.2f}", " -> ".join(f"{ms:.2f}" for ms in np.median(pairs, 0)),
            str(Interval.of(pairs[:, 1] / pairs[:, 0])),
        )  # fmt: skip
    console.print(table)


def masks_of(keras, name, pruning):
    """What a step does before its forward pass: `run(step)`, with new masks from update 1 on."""
    size = LARGE[name]
    network = getattr(keras.applications, name)
    model = network(weights=None, input_shape=(size, size, 3), classes=10)
    model = kc.wrap(model, pruning=pruning, engine="in_place", verbose=0)
    run = tf.function(engine_of(model).pruner.before_step)
    run(tf.constant(1, tf.int64))
    return model, run


def show_masks(keras, args, console, folder):
    table = rich.table.Table("net", "", "weights (ms)", "channels (ms)", "ratio", title="masks")
    every = kc.ConstantSparsity(0.5, 1, frequency=1)
    for name in LARGE:
        both = [masks_of(keras, name, spec) for spec in (kc.Pruning(every), channels(every))]
        for what, step in (("new masks", 2), ("held", 0)):
            pairs = np.zeros((args.rounds, 2))
            for turn in pairs:
                for i, (_, run) in enumerate(both):
                    begin = time.perf_counter()
                    run(tf.constant(step, tf.int64))
                    turn[i] = 1000 * (time.perf_counter() - begin)
            medians = [f"{ms:.1f}" for ms in np.median(pairs, 0)]
            table.add_row(name, what, *medians, str(Interval.of(pairs[:, 1] / pairs[:, 0])))
    console.print(table)


FAMILIES = {
    **dict.fromkeys(("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0"), 64),
    **dict.fromkeys(("EfficientNetV2B0", "ResNet50", "ResNet50V2", "DenseNet121", "VGG16"), 64),
    **dict.fromkeys(("NASNetMobile", "ConvNeXtTiny"), 64),
    **dict.fromkeys(("Xception", "InceptionV3", "InceptionResNetV2"), 75),
}
"""Name -> pixels."""


def show_families(keras, args, console, folder):
    table = rich.table.Table("family", "macs", "left", "of all", "left out", title="half of them")
    for name, size in FAMILIES.items():
        network = getattr(keras.applications, name)
        model = network(weights=None, input_shape=(size, size, 3), classes=10)
        model = kc.wrap(model, pruning=channels(kc.ConstantSparsity(0.5, 1)), engine="in_place")
        engine = engine_of(model)
        engine.pruner.update_all(lambda schedule: 1)
        before, after = kc.macs(model), kc.macs(kc.strip(model))
        left_out = str(len(engine.left_out["pruning"]))
        table.add_row(name, f"{before:,}", f"{after:,}", f"{after / before:.2f}", left_out)
        keras.backend.clear_session()
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=30, help="pairs of latencies")
    parser.add_argument("--only", choices=("digits", "speed", "masks", "families"))
    parser.add_argument("--quick", action="store_true", help="does it run?")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs, args.only = 1, 3, "digits"
    keras, console = keras_of(args.keras), rich.console.Console()
    with tempfile.TemporaryDirectory() as folder:
        for name, show in (
            ("digits", show_digits),
            ("speed", show_speed),
            ("masks", show_masks),
            ("families", show_families),
        ):
            if args.only in (None, name):
                show(keras, args, console, pathlib.Path(folder))


if __name__ == "__main__":
    main()
