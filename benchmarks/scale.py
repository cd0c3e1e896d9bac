"""How what compression costs grows with the net, the batch and the number of layers.

    python benchmarks/scale.py                     # tf_keras
    python benchmarks/scale.py --keras 3           # Keras 3
    python benchmarks/scale.py --resnet            # ResNet50 at 224 px, two updates, to the file
    python benchmarks/scale.py --quick             # does it run? the smallest net, three steps

The first table: a net of the VGG kind for 32 x 32 colour images, once, four and sixteen times its
weights, on batches of 8, 32 and 128; a quantized step, and one whose masks change at every 100th
update, to the plain step of the same net and batch. It is measured as `step_time.py` says. The
overhead's share is to fall or to stay from one row to the next.

`--resnet`: a process of its own attaches, prunes, quantizes and exports a ResNet50 of 224 x 224
pixels in two updates, and says how long that took and what memory it had at most, which is to stay
below 6 GB. Needs Linux (`/proc`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
import step_time
from measuring import Interval, keras_of

import keras_compress as kc

WIDTHS = {1: 16, 4: 32, 16: 64}  # times the weights -> filters of the first convolution
BATCHES = (8, 32, 128)
MOST_GIGABYTES = 6.0


def vgg(width):
    """Twice the width is four times the weights."""

    def build(keras):
        layers = keras.layers
        made = [layers.Input((32, 32, 3))]
        for filters in (1, 2, 4):
            made += [
                layers.Conv2D(filters * width, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.MaxPooling2D(),
            ]
        made += [layers.Conv2D(4 * width, 3, activation="relu"), layers.GlobalAveragePooling2D()]
        return keras.Sequential([*made, layers.Dense(10, activation="softmax")])

    return build


def measured(keras, width, batch, steps, count, tick):
    """(weights, milliseconds of a plain step, quantized / plain, masks / plain)."""
    bench = step_time.Bench(keras, (vgg(width), batch), jit=False)
    competitors = {
        "plain": bench.plain,
        "quantized": bench.ours_on(),
        "masks": bench.ours_pruned(100),
    }
    seconds = step_time.rounds(competitors, steps, count, tick)
    plain = seconds["plain"]
    ratios = (Interval.of(seconds[name] / plain) for name in ("quantized", "masks"))
    return bench.model().count_params(), float(np.median(plain)) / steps * 1000, *ratios


def whole_resnet(keras):
    """Attach, prune, quantize and export in two updates; prints seconds and gigabytes."""
    model = keras.applications.ResNet50(weights=None, input_shape=(224, 224, 3), classes=10)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    x = np.random.default_rng(0).random((4, 224, 224, 3), "float32")
    half = kc.ConstantSparsity(target_sparsity=0.5, begin_step=1, frequency=1)
    with tempfile.TemporaryDirectory() as folder:
        compress = kc.Compress(
            pruning=kc.Pruning(half),
            quantization=kc.Quantization(delay=1),
            export=kc.Export(os.path.join(folder, "net.tflite")),
        )
        begin = time.perf_counter()
        model.fit(x, np.zeros(4), batch_size=2, verbose=0, callbacks=[compress])
        seconds = time.perf_counter() - begin
    if not compress.report.export.written:
        raise RuntimeError(str(compress.report.export))
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1e6
    print(
        f"ResNet50 at 224 px, {keras.__name__} {keras.__version__}: two updates and "
        f"{compress.report.export.bytes:,} bytes of a file in {seconds:.0f} s; at most "
        f"{peak:.2f} GB, the limit is {MOST_GIGABYTES:g}: "
        f"{'met' if peak <= MOST_GIGABYTES else 'NOT met'}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=2)
    parser.add_argument("--resnet", action="store_true", help="ResNet50 instead of the table")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine too")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a plain turn, about")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each competitor")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest net, 3 rounds of 3 steps"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        whole_resnet(keras_of(arguments.keras))
        return
    if arguments.resnet:  # whose peak must not be that of anything before
        command = [sys.executable, __file__, "--child", "--keras", str(arguments.keras)]
        raise SystemExit(subprocess.run(command, check=False).returncode)
    load = step_time.load_of_others(parser, arguments.busy or arguments.quick)

    keras = keras_of(arguments.keras)
    widths, batches = WIDTHS, BATCHES
    count = arguments.rounds
    if arguments.quick:
        widths, batches, count = {1: WIDTHS[1]}, BATCHES[:1], 3
    title = (
        f"{keras.__name__} {keras.__version__}, no XLA, {count} rounds, load {load:.2f}: "
        "median [95 % interval]"
    )
    table = rich.table.Table(title=title, title_justify="left")
    for column in ("weights", "batch", "plain ms", "quantized / plain", "masks / plain"):
        table.add_column(column, justify="right", no_wrap=True)
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(widths) * len(batches) * count)
        for width in widths.values():
            for batch in batches:
                # A step's time goes about with both; 16 and 8 take some 5 ms on two cores.
                expected = 0.005 * (width / 16) ** 1.5 * batch / 8
                steps = 3 if arguments.quick else max(3, round(arguments.seconds / expected))
                weights, milliseconds, *ratios = measured(
                    keras, width, batch, steps, count, lambda: progress.advance(task)
                )
                table.add_row(f"{weights:,}", str(batch), f"{milliseconds:.1f}", *map(str, ratios))
    rich.console.Console(width=120).print(table)


if __name__ == "__main__":
    main()
