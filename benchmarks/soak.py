"""Does a long life cost memory? Thousands of updates with checkpoints, resumes and exports between.

    python benchmarks/soak.py              # 20,000 updates with Keras 3: some minutes
    python benchmarks/soak.py --keras 2    # tf_keras
    python benchmarks/soak.py --quick      # does it run?

One process goes on training a small net in fits of 250 updates. After each it does one of these,
drawn at random: it saves weights and state and goes on in a new model that loads them, exports a
file, saves the whole model, strips it, evaluates, or nothing. The resident memory after each fit is
noted. What counts is how the last quarter stands to the second: the first is left out, in which
everything is loaded and compiled for the first time. Needs Linux (`/proc`).
"""

import argparse
import collections
import os
import pathlib
import random
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow, whose notices are long

import numpy as np
import rich.console
import rich.progress
from measuring import keras_of
from nets_of_digits import smallest

import keras_compress as kc

UPDATES, FIT, BATCH = 20_000, 250, 16
AT_MOST = 1.10  # of the memory of the second quarter


def network(keras):
    model = smallest(keras)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return model


def compress(updates):
    schedule = kc.PolynomialDecay(
        final_sparsity=0.5, begin_step=1, end_step=updates // 2, frequency=100
    )
    return kc.Compress(
        pruning=kc.Pruning(schedule),
        quantization=kc.Quantization(delay=updates // 4, freeze_step=updates * 3 // 4),
        partial=True,
        verbose=0,
    )


def resident():
    """MB of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def resumed(keras, model, folder):
    """Another model that goes on where this one is."""
    model.save_weights(folder / "net.weights.h5")
    kc.save_state(model, folder / "net.npz")
    other = network(keras)
    kc.load_state(other, folder / "net.npz")
    other.load_weights(folder / "net.weights.h5")
    return other


def live(keras, updates, on_fit):
    """`on_fit` is told after each fit what was done then."""
    draw, numbers = random.Random(0), np.random.default_rng(0)
    x = numbers.uniform(0, 1, (FIT * BATCH, 8, 8, 1)).astype("float32")
    y = numbers.integers(0, 10, FIT * BATCH).astype("int32")
    model = network(keras)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for _ in range(updates // FIT):
            model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[compress(updates)])
            act = draw.choice(["resume", "export", "save", "strip", "evaluate", "nothing"])
            if act == "resume":
                model = resumed(keras, model, folder)
            elif act == "export":
                rounds = kc.compression_of(model).phase in ("on", "frozen")
                kc.export_tflite(
                    model,
                    kc.Export(
                        folder / "net.tflite", representative_dataset=None if rounds else x[:32]
                    ),
                )
            elif act == "save":
                model.save(folder / "net.keras")
            elif act == "strip":
                kc.strip(model)
            elif act == "evaluate":
                model.evaluate(x[:64], y[:64], verbose=0)
            on_fit(act)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), default=3)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--quick", action="store_true", help="2,000 updates")
    arguments = parser.parse_args()
    updates = 2_000 if arguments.quick else arguments.updates
    memory, acts = [], collections.Counter()
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task("updates", total=updates)

        def on_fit(act):
            memory.append(resident())
            acts[act] += 1
            progress.advance(task, FIT)

        live(keras_of(arguments.keras), updates, on_fit)
    quarter = len(memory) // 4
    second, last = (
        float(np.mean(part)) for part in (memory[quarter : 2 * quarter], memory[-quarter:])
    )
    console = rich.console.Console(width=120)
    console.print(f"{updates:,} updates; after the fits: {dict(sorted(acts.items()))}")
    console.print(
        f"resident after the first fit {memory[0]:.0f} MB, second quarter {second:.0f} MB, "
    )
    console.print(f"last quarter {last:.0f} MB: {last / second:.3f} of it, at most {AT_MOST}")
    return 0 if arguments.quick or last <= AT_MOST * second else 1


if __name__ == "__main__":
    sys.exit(main())
