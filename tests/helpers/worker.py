"""What the tests ask of the converter's worker."""

from keras_compress.tflite.conversion import process


def worker_pid():
    """Process id of the worker, None when none runs."""
    worker = process._keeper.child
    return worker.process.pid if worker is not None and worker.process.poll() is None else None
