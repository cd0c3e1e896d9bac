"""`step_time.py`'s rows on a CUDA machine: what compression costs per training step there.

    python benchmarks/gpu.py                       # both Keras, as they are: Keras 3 under XLA
    python benchmarks/gpu.py --keras 3 --jit 0     # Keras 3 without
    python benchmarks/gpu.py --table gpu.md        # where the table goes

It measures as `step_time.py` does, which says how, and writes a Markdown table, above it the card's
name, its driver and TensorFlow's version. Without a GPU that TensorFlow can use it refuses.
"""

import argparse
import pathlib
import subprocess

import rich.console
import rich.progress
import step_time
from measuring import jit_of, keras_of

COLUMNS = ("row", "ours", "tfmot", "plain / plain", "target", "met?")


def card():
    """What computes, in a line: the first GPU's name, its driver, and what TensorFlow is built for.

    Raises:
        RuntimeError: TensorFlow sees no GPU.
    """
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        built = "is built for CUDA" if tf.test.is_built_with_cuda() else "is built without CUDA"
        raise RuntimeError(
            f"TensorFlow {tf.__version__}, which {built}, sees no GPU here; on a CUDA machine "
            "`pip install 'tensorflow[and-cuda]'`. On a CPU benchmarks/step_time.py measures this"
        )
    name = tf.config.experimental.get_device_details(found[0]).get("device_name", "unknown")
    build = tf.sysconfig.get_build_info()
    return (
        f"{name}, driver {driver()}, TensorFlow {tf.__version__} "
        f"(CUDA {build.get('cuda_version')}, cuDNN {build.get('cudnn_version')})"
    )


def driver():
    """Its version, as the driver's own tool says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return f"unknown ({type(error).__name__})"


def lines(keras, jit, steps, count, only):
    """The rows of one Keras as lines of Markdown."""
    rows = []
    for net in step_time.NETS:
        with_tfmot = keras.__name__ == "tf_keras" and net != step_time.OWN
        rows += step_time.step_rows(
            step_time.Bench(keras, step_time.NETS[net], jit), net, with_tfmot
        )
    rows.append(step_time.mask_row(bool(jit) and jit != "auto"))
    about = f"{keras.__name__} {keras.__version__}, jit_compile={jit}"
    yield f"\n{about}, {count} rounds of {steps} steps, median [95 % interval]:\n"
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{'---|' * len(COLUMNS)}"
    with rich.progress.Progress(console=rich.console.Console(stderr=True)) as progress:
        for row in rows:
            if only in row.name:
                task = progress.add_task(row.name, total=count)
                results = row.measure(steps, count, lambda task=task: progress.advance(task))
                theirs = results.get("tfmot", "-")
                cells = (row.name, results["ours"], theirs, results["A/A"], *row.verdict(results))
                yield f"| {' | '.join(map(str, cells))} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keras", type=int, choices=(3, 2), help="default: both, 2 is tf_keras")
    parser.add_argument("--jit", type=int, choices=(0, 1), help="with XLA; default: as Keras does")
    parser.add_argument("--steps", type=int, default=200, help="in a turn")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each competitor")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument(
        "--table", type=pathlib.Path, default=pathlib.Path("gpu.md"), metavar="FILE"
    )
    arguments = parser.parse_args()
    try:
        written = [card()]
    except RuntimeError as error:
        parser.error(str(error))
    for number in (2, 3) if arguments.keras is None else (arguments.keras,):
        jit = jit_of(number, arguments.jit)
        asked = (arguments.steps, arguments.rounds, arguments.only)
        for line in lines(keras_of(number), jit, *asked):
            written.append(line)
            arguments.table.write_text("\n".join(written) + "\n")  # what is measured, is kept
    rich.console.Console(width=160).print("\n".join(written), markup=False, highlight=False)


if __name__ == "__main__":
    main()
