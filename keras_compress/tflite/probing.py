"""Files from elsewhere are tried in a process of their own before this one reads or runs them.

A damaged file can make the reader loop or take memory without end, and LiteRT crash. `probe.py` is
the child's side: it needs neither TensorFlow nor a GPU, starts in a quarter of a second, is kept
for the next file, and forks itself for each, so that no file can harm it.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from keras_compress.tflite.flatbuffer import described
from keras_compress.tflite.process import worker_environment

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


class Prober:
    """The child, started when first asked and again when it is gone; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

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
        with self._lock:
            try:
                answer = self._exchange(json.dumps(request).encode() + b"\n", data)
            except BaseException:  # Ctrl-C too: the child is in the middle of something
                self.stop()
                raise
        ended: dict[str, str] = json.loads(answer)
        return ended["wrong"]

    def _exchange(self, request: bytes, data: bytes) -> bytes:
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the prober was started without its pipes")
        with contextlib.suppress(BrokenPipeError):  # then the answer is missing too
            process.stdin.write(request)
            process.stdin.write(data)
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise RuntimeError(
                "The process that tries files before they are loaded ended with code "
                f"{process.wait()}. Pass probe=False for a file that you trust"
            )
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._process is None:
            # It forks, so it must have no threads.
            single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "keras_compress.tflite.probe"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=worker_environment() | single,
                start_new_session=True,  # Ctrl-C in the terminal is this process's to handle
            )
        return self._process

    def stop(self) -> None:
        """Ends the child, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._close(process)

    def forget(self) -> None:
        """In a forked copy of this process: lets go of the child, which is the original's."""
        process, self._process = self._process, None
        self._lock = threading.Lock()  # another thread may have held the old one
        if process is not None:
            process.returncode = 0  # not ours to wait for
            self._close(process)

    @staticmethod
    def _close(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


prober = Prober()
atexit.register(prober.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=prober.forget)

_harmless: set[tuple[str, str]] = set()  # (job, sha256)


def trust(data: bytes) -> None:
    """Says that these bytes are this package's own work: they are not tried."""
    _harmless.update((job, _digest(data)) for job in _RULES)


def check_harmless(source: Any, data: bytes, job: str, owner: str) -> None:
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


def _is_recorded(source: Any, digest: str) -> bool:
    if not isinstance(source, str | os.PathLike):
        return False
    try:
        record = json.loads(Path(f"{os.fspath(source)}{RECORD_SUFFIX}").read_bytes())
        return bool(record["report"]["export"]["sha256"] == digest)
    except (OSError, ValueError, TypeError, KeyError):  # none, or another program's
        return False
