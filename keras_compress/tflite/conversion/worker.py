"""The child process that converts: `python -m keras_compress.tflite.conversion.worker FOLDER`.

It reads the names of job folders from standard input, one per line, and answers each on what was
standard output with a last line when the job's folder holds either what was asked for
(`model.tflite`, or `sizes.json` of a file that nobody wants) or `error.json`; lines before it are
numbers, of the batches calibrated so far. What TensorFlow and the converter print goes to standard
error, which the parent made a file. When the parent closes its end, or dies, the child removes
FOLDER and leaves.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import shutil
import sys
import threading
from pathlib import Path

from keras_compress.reports.inspection import zipped_size
from keras_compress.tflite.conversion.job import convert_job
from keras_compress.tflite.conversion.process import DONE


def _read_jobs(jobs: queue.SimpleQueue[str], folder: str) -> None:
    for line in sys.stdin:
        jobs.put(line.rstrip("\n"))
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # even in the middle of a conversion: nobody waits for it


def main() -> None:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(line: str) -> None:
        answers.write(line)
        answers.flush()

    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs, sys.argv[1]), daemon=True).start()
    import tensorflow  # noqa: F401  (while the parent still writes)

    while True:
        folder = Path(jobs.get())
        # The converter may hold the interpreter's lock, so that an orphan would not notice; this
        # watchdog does not need the lock.
        job = json.loads((folder / "job.json").read_text())
        faulthandler.dump_traceback_later(job["timeout"] + 30, exit=True)
        try:
            data = convert_job(folder, job, lambda count: answer(f"{count}\n"))
            if job["sizes_only"]:
                sizes = json.dumps([len(data), zipped_size(data)])
                (folder / "sizes.json").write_text(sizes)
            else:
                (folder / "model.tflite").write_bytes(data)
            del data  # as large as the model
        except Exception as error:  # whatever it is, the parent reports it
            report = {"kind": type(error).__name__, "message": str(error)}
            (folder / "error.json").write_text(json.dumps(report))
        faulthandler.cancel_dump_traceback_later()
        answer(DONE)


if __name__ == "__main__":
    main()
