"""One training, ended by SIGTERM wherever `PLAN` says so, and the same without.

`python terminated_child.py keras3|tf_keras FOLDER` runs each process of each entry, forked from
this one, and leaves what became of them in `ends.json`.
"""

import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from helpers import resume_child
from helpers.processes import wait_until_gone
from helpers.worker import worker_pid

FILE, WORKER, ENDS = "net.tflite", "worker.txt", "ends.json"
SECONDS = 2.0


def terminate(folder):
    (folder / WORKER).write_text(str(worker_pid()))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def in_the_fit(keras, folder):
    return resume_child.at_update(keras, 14, lambda: terminate(folder))


def when_converting(act):
    """Starts a thread that calls `act` when the worker has got a job."""

    def wait():
        # The file comes before the word that it is there.
        while not list(Path(tempfile.gettempdir()).glob("keras_compress_*/job_*/job.json")):
            time.sleep(0.001)
        time.sleep(0.02)
        act()

    threading.Thread(target=wait, daemon=True).start()


def in_the_export(keras, folder):
    return resume_child.at_train_end(keras, lambda: when_converting(lambda: terminate(folder)))


def nowhere(keras, folder):
    return keras.callbacks.Callback()


# Name -> where each of its processes ends.
PLAN = {
    "uninterrupted": [nowhere],
    "terminated": [in_the_fit, in_the_export, nowhere],
}


def train(keras, folder, where):
    import keras_compress as kc

    model = resume_child.net(keras)
    callbacks = [
        resume_child.backup(keras, folder / "backup"),
        where(keras, folder),
        resume_child.compress(verbose=0, export=kc.Export(folder / FILE)),
    ]
    history = resume_child.fit(model, callbacks)
    np.savez(folder / resume_child.ENDED, *model.get_weights())
    kc.save_state(model, folder / resume_child.STATE)
    (folder / resume_child.EPOCHS_RUN).write_text(json.dumps(history.epoch))


def end_of(process, folder, temporary):
    """What became of a process: how it ended, whether anything lives on, which files it left."""
    _, status = os.waitpid(process, 0)
    worker = folder / WORKER
    pids = [int(worker.read_text())] if worker.exists() else []
    worker.unlink(missing_ok=True)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "workers": len(pids),
        "gone": wait_until_gone(pids, temporary, SECONDS),
        "files": sorted(path.name for path in folder.iterdir() if path.is_file()),
        "backup": sum(path.is_file() for path in (folder / "backup").rglob("*")),
    }


def main(keras, root):
    temporary = root / "temporary"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ends = {}
    for name, places in PLAN.items():
        folder = root / name
        folder.mkdir()
        ends[name] = []
        for where in places:
            process = os.fork()
            if not process:
                try:
                    train(keras, folder, where)
                    from keras_compress.tflite import stop_worker

                    stop_worker()
                    os._exit(0)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
            ends[name].append(end_of(process, folder, temporary))
    (root / ENDS).write_text(json.dumps(ends))


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    package = {"keras3": "keras"}.get(sys.argv[1], sys.argv[1])
    main(importlib.import_module(package), Path(sys.argv[2]))
