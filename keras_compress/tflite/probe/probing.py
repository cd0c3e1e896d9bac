"""Files from elsewhere are tried in a process of their own before this one reads or runs them.

A damaged file can make the reader loop or take memory without end, and LiteRT crash. `child.py` is
the child's side: it needs neither TensorFlow nor a GPU, starts in a quarter of a second, is kept
for the next file, and forks itself for each, so that no file can harm it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from keras_compress.tflite.child_process import Child, Keeper
from keras_compress.tflite.file.flatbuffer import described

SECONDS = {"inspect": 2.0, "load": 3.5}
"""What a small file may take; this process then does the same again, but for running it."""
BYTES_PER_SECOND = 10e6
MEMORY = 10**9
"""Bytes of address space for a small file."""
MEMORY_PER_BYTE = 4
RECORD_SUFFIX = ".json"
"""Of the record that an export writes beside its file."""
_RULES = {
    "inspect": "a whole TFLite file, not cut off or damaged",
    "load": "a whole TFLite file that LiteRT can run",
}


def _start() -> Child:
    # It forks, so it must have no threads.
    single = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return Child("keras_compress.tflite.probe.child", environment=dict.fromkeys(single, "1"))


class Prober(Keeper[Child]):
    """Asks the child; for any thread."""

    def ask(self, job: str, data: bytes) -> str:
        """What is wrong with these bytes, empty if nothing.

        Raises:
            RuntimeError: the child itself ended, which no file can bring about.
        """
        request = {
            "job": job,
            "size": len(data),
            "seconds": SECONDS[job] + len(data) / BYTES_PER_SECOND,
            "memory": MEMORY + MEMORY_PER_BYTE * len(data),
        }
        with self.lock:
            try:
                answer = self._exchange(json.dumps(request).encode() + b"\n", data)
            except BaseException:  # Ctrl-C too: the child is in the middle of something
                self.stop()
                raise
        ended: dict[str, str] = json.loads(answer)
        return ended["wrong"]

    def _exchange(self, request: bytes, data: bytes) -> bytes:
        child = self.running()
        given, answers = child.pipes
        with contextlib.suppress(BrokenPipeError):  # then the answer is missing too
            given.write(request)
            given.write(data)
            given.flush()
        answer: bytes = answers.readline()
        if not answer.endswith(b"\n"):
            raise RuntimeError(
                "The process that tries files before they are loaded ended with code "
                f"{child.process.wait()}. Pass `probe=False` for a file that you trust"
            )
        return answer


prober = Prober(_start)

_harmless: set[tuple[str, str]] = set()  # (job, sha256)


def trust(data: bytes) -> None:
    """Says that these bytes are this package's own work: they are not tried."""
    _harmless.update((job, _digest(data)) for job in _RULES)


def check_harmless(
    source: str | os.PathLike[str] | bytes, data: bytes, job: str, owner: str
) -> None:
    """Returns if `data`, read from `source`, can be worked on in this process.

    It is tried once in a process; not at all if `trust` was told of it or its record stands beside
    it, as an export leaves it.

    Args:
        source: what the caller gave, a path or the bytes.
        job: "inspect" or "load".
        owner: whom to name in the error.

    Raises:
        ValueError: trying it failed, crashed, or took too long or too much memory.
    """
    key = (job, _digest(data))
    if key in _harmless:
        return
    if not _is_recorded(source, key[1]):
        wrong = prober.ask(job, data)
        if wrong:
            raise ValueError(
                f"{owner}: `source` must be {_RULES[job]}. "
                f"Received: source={described(source)} ({wrong})"
            )
    _harmless.add(key)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_recorded(source: str | os.PathLike[str] | bytes, digest: str) -> bool:
    if not isinstance(source, str | os.PathLike):
        return False
    try:
        record = json.loads(Path(f"{os.fspath(source)}{RECORD_SUFFIX}").read_bytes())
        return bool(record["report"]["export"]["sha256"] == digest)
    except (OSError, ValueError, TypeError, KeyError):  # none, or another program's
        return False
