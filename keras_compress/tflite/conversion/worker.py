"""The child process that converts: `python -m keras_compress.tflite.conversion.worker FOLDER`.

It reads the names of job folders from standard input, one per line, and answers each on what was
standard output with a last line when the job's folder holds either what was asked for
(`model.tflite`, or `sizes.json` of a file that nobody wants) or `error.json`; lines before it are
numbers, of the batches calibrated so far. What TensorFlow and the converter print goes to standard
error, which the parent made a file. When the parent closes its end, or dies, the child leaves, and
`watch.py` removes FOLDER; in the middle of a job it ends the child.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
from pathlib import Path

from keras_compress.reports.inspection import zipped_size
from keras_compress.tflite.conversion.job import convert_job
from keras_compress.tflite.conversion.process import DONE


def _be_watched(folder: str) -> subprocess.Popen[bytes]:
    """Starts what ends this process when its parent is gone. It lets go of the pipe for the answers
    and of the locked file of FOLDER.
    """
    watch = str(Path(__file__).with_name("watch.py"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", watch, str(os.getpid()), folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(line: str) -> None:
        answers.write(line)
        answers.flush()

    watched = _be_watched(sys.argv[1])
    import tensorflow  # noqa: F401  (while the parent still writes)

    while line := sys.stdin.readline():
        folder = Path(line.rstrip("\n"))
        # The converter may hold the interpreter's lock, so that nothing here would notice what goes
        # on too long; this watchdog does not need the lock.
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
    watched.wait()  # which kills this process: the folder's lock goes when all is through


if __name__ == "__main__":
    main()
