"""How much memory a fit takes with compression, against the plain fit and against tfmot.

    python benchmarks/memory.py                # tf_keras, with tfmot beside it
    python benchmarks/memory.py --keras 3      # Keras 3, ours alone
    python benchmarks/memory.py --quick        # does it run? a small net, one process each

Every measurement is a process of its own, because memory that was once used rarely goes back, and
the competitors take turns, round by round. What counts is the growth: the peak of the resident
memory less what was resident before anything of the competitor's happened, once the net was built
and compiled. So the libraries and the weights are not in it; gradients, the optimizer's moments,
activations, graphs, masks and ranges are, and what tfmot makes when it wraps.

The net has 11 million weights, convolutions and dense layers with batch norm. A fit is long enough
to go through everything: masks that change, ranges watched, rounding, the final masks, the stripped
copy, and, where an export is asked for, the file. Needs Linux (`/proc`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
import rich.table
from measuring import keras_of

import keras_compress as kc

BATCH = 32
STEPS = 30
PRUNED_FROM, QUANTIZED_FROM = 1, 15  # steps
PRUNED = "pruned"
QUANTIZED = "quantized"
BOTH = "pruned, quantized"
EXPORTED = "pruned, quantized, exported"
AT_MOST = {PRUNED: 1.15, QUANTIZED: 1.15, BOTH: 1.3, EXPORTED: 1.35}  # of the plain fit's growth


# --- what a child does


def network(keras, width):
    """A net of the VGG kind for 32 x 32 colour images; `width` 64 gives 11 million weights."""
    layers = keras.layers
    made = [layers.Input((32, 32, 3))]
    for filters, times in ((1, 1), (2, 1), (4, 2), (8, 3)):
        for _ in range(times):
            made.append(layers.Conv2D(filters * width, 3, padding="same", use_bias=False))
            made.append(layers.BatchNormalization())
            made.append(layers.ReLU())
        made.append(layers.MaxPooling2D())
    made.append(layers.Flatten())
    made.append(layers.Dense(32 * width, activation="relu"))
    made.append(layers.Dense(10, activation="softmax"))
    return keras.Sequential(made)


def data():
    import tensorflow as tf

    generator = np.random.default_rng(0)
    images = generator.random((BATCH, 32, 32, 3), "float32")
    labels = generator.integers(0, 10, BATCH)
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


def compiled(model, jit):
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=bool(jit))
    return model


def train(model, *callbacks):
    model.fit(data(), steps_per_epoch=STEPS, verbose=0, callbacks=list(callbacks))


def ours(model, what, folder):
    schedule = kc.PolynomialDecay(
        final_sparsity=0.5, begin_step=PRUNED_FROM, end_step=QUANTIZED_FROM, frequency=2
    )
    specs = {
        "pruning": kc.Pruning(schedule),
        "quantization": kc.Quantization(delay=QUANTIZED_FROM, calibration_steps=5),
        "export": kc.Export(os.path.join(folder, "net.tflite")),
    }
    names = {
        PRUNED: ["pruning"],
        QUANTIZED: ["quantization"],
        BOTH: ["pruning", "quantization"],
        EXPORTED: list(specs),
    }[what]
    compress = kc.Compress(**{name: specs[name] for name in names})
    train(model, compress)
    done = compress.report
    if "pruning" in names and round(done.sparsity, 2) != 0.5:
        raise RuntimeError(f"the fit was to prune half of the weights: {done}")
    if "quantization" in names and done.phase != "on":
        raise RuntimeError(f"the fit was to quantize: {done}")
    if what == EXPORTED and not done.export.written:
        raise RuntimeError(str(done.export))


def tfmot_pruned(model, jit):
    from tensorflow_model_optimization.sparsity import keras as sparsity

    schedule = sparsity.PolynomialDecay(0.0, 0.5, PRUNED_FROM, QUANTIZED_FROM, frequency=2)
    wrapped = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    train(compiled(wrapped, jit), sparsity.UpdatePruningStep())
    sparsity.strip_pruning(wrapped)


def tfmot_quantized(model, jit):
    from tensorflow_model_optimization.quantization.keras import quantize_model

    train(compiled(quantize_model(model), jit))


def resident(field):
    """A line of this process' status, in MB: VmRSS (now) or VmHWM (the peak)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024


def child(who, what, keras_number, jit, width):
    """Train once; print the growth in MB and the number of weights."""
    keras = keras_of(keras_number)
    if who == "tfmot":
        import tensorflow_model_optimization  # noqa: F401  its import is no part of the growth
    keras.utils.set_random_seed(0)
    model = compiled(network(keras, width), jit)
    before = resident("VmRSS")
    if resident("VmHWM") > before + 50:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak so far is forgotten
    with tempfile.TemporaryDirectory() as folder:
        if who == "ours":
            ours(model, what, folder)
        elif who == "tfmot":
            {PRUNED: tfmot_pruned, QUANTIZED: tfmot_quantized}[what](model, jit)
        else:
            train(model)
    grown = resident("VmHWM") - before
    print(json.dumps({"grown": grown, "weights": model.count_params()}))


# --- the parent


def measure(who, what, arguments):
    """(growth in MB, number of weights) of a new process."""
    command = [sys.executable, __file__, "--child", who, what]
    for name in ("keras", "jit", "width"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["grown"], answer["weights"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=2, help="2: with tfmot")
    parser.add_argument("--jit", type=int, choices=(0, 1), default=0, help="compile with XLA")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each competitor")
    parser.add_argument("--width", type=int, default=64, help="of the net; 64: 11 M weights")
    parser.add_argument("--quick", action="store_true", help="width 8, one round")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.keras, arguments.jit, arguments.width)
        return
    if arguments.quick:
        arguments.width, arguments.rounds = 8, 1

    competitors = [("plain", ""), *(("ours", what) for what in (PRUNED, QUANTIZED, BOTH, EXPORTED))]
    if arguments.keras == 2:
        competitors += [("tfmot", PRUNED), ("tfmot", QUANTIZED)]
    grown = {competitor: [] for competitor in competitors}
    generator = np.random.default_rng(0)
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task("processes", total=arguments.rounds * len(competitors))
        for _ in range(arguments.rounds):
            for i in generator.permutation(len(competitors)):
                megabytes, weights = measure(*competitors[i], arguments)
                grown[competitors[i]].append(megabytes)
                progress.advance(task)

    keras = keras_of(arguments.keras)
    title = (
        f"Memory of a fit, {keras.__name__} {keras.__version__}, jit_compile={bool(arguments.jit)},"
        f" {weights:,} weights, batch {BATCH}: median (least, most) of {arguments.rounds} processes"
    )
    table = rich.table.Table(title=title, title_justify="left")
    for column in ("fit", "growth (MB)", "of plain's", "target", "met?"):
        table.add_column(column, no_wrap=True)
    plain = np.median(grown["plain", ""])
    for (who, what), values in grown.items():
        ratio = np.median(values) / plain
        cells = [f"{np.median(values):.0f} ({min(values):.0f}, {max(values):.0f})", f"{ratio:.2f}"]
        target = ("-", "-")
        if who == "ours":
            target = (f"<= {AT_MOST[what]:g}", "yes" if ratio <= AT_MOST[what] else "NO")
        table.add_row(f"{who}: {what}" if what else who, *cells, *target)
    rich.console.Console(width=120).print(table)


if __name__ == "__main__":
    main()
