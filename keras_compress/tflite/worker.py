"""The child process that converts: `python -m keras_compress.tflite.worker FOLDER`.

It reads the names of job folders from standard input, one per line, and answers each on what was
standard output with one line when the job's folder holds either `model.tflite` or `error.json`.
What TensorFlow and the converter print goes to standard error, which the parent made a file. When
the parent closes its end, or dies, the child removes FOLDER and leaves.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DONE = "done\n"


def convert_job(folder: Path) -> bytes:
    """Converts what the parent wrote into a job's folder; see `convert.py` for the form."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.lite.python import lite

    from keras_compress.tflite.flatbuffer import name_ends, undefined_tensors, unpack

    job: dict[str, Any] = json.loads((folder / "job.json").read_text())
    graph_def = tf.compat.v1.GraphDef.FromString((folder / "graph.pb").read_bytes())

    def build() -> None:
        tf.graph_util.import_graph_def(graph_def, name="")
        graph = tf.compat.v1.get_default_graph()
        for position, end in enumerate(job["outputs"]):
            tf.identity(graph.get_tensor_by_name(end["tensor"]), f"output_of_file_{position}")

    wrapped = tf.compat.v1.wrap_function(build, [])
    function = wrapped.prune(
        [wrapped.graph.get_tensor_by_name(end["tensor"]) for end in job["inputs"]],
        [
            wrapped.graph.get_tensor_by_name(f"output_of_file_{position}:0")
            for position in range(len(job["outputs"]))
        ],
    )
    # Private: without it the converter's errors name lines of Python, not the layer's op. If it
    # is gone, they do so again and nothing else changes (a test would notice).
    lite._get_debug_info = lambda *_: None
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if job["mode"] == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = tf.dtypes.as_dtype(job["input_type"])
        converter.inference_output_type = tf.dtypes.as_dtype(job["output_type"])
    if job["samples"]:

        def representative() -> Iterator[list[Any]]:
            for position in range(job["samples"]):
                with np.load(folder / f"sample_{position}.npz") as sample:
                    yield [sample[f"input_{i}"] for i in range(len(job["inputs"]))]

        converter.representative_dataset = representative
    # This way in keeps a fake-quantized graph integer from end to end, inputs and outputs in the
    # given order; the names, which it does not know, are put in afterwards.
    data = converter.convert()
    missing = undefined_tensors(unpack(data, "worker"))
    if missing:
        raise RuntimeError(f"the file would read the tensor {missing[0]!r}, which nothing defines")
    return name_ends(
        data,
        [end["name"] for end in job["inputs"]],
        [end["name"] for end in job["outputs"]],
    )


def _read_jobs(jobs: queue.SimpleQueue[str], folder: str) -> None:
    for line in sys.stdin:
        jobs.put(line.rstrip("\n"))
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # even in the middle of a conversion: nobody waits for it


def main() -> None:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs, sys.argv[1]), daemon=True).start()
    import tensorflow  # noqa: F401  (while the parent still freezes and writes)

    while True:
        folder = Path(jobs.get())
        # The converter may hold the interpreter's lock, so that an orphan would not notice; this
        # watchdog does not need the lock.
        timeout = json.loads((folder / "job.json").read_text())["timeout"]
        faulthandler.dump_traceback_later(timeout + 30, exit=True)
        try:
            (folder / "model.tflite").write_bytes(convert_job(folder))
        except Exception as error:  # whatever it is, the parent reports it
            report = {"kind": type(error).__name__, "message": str(error)}
            (folder / "error.json").write_text(json.dumps(report))
        faulthandler.cancel_dump_traceback_later()
        answers.write(DONE)
        answers.flush()


if __name__ == "__main__":
    main()
