"""The child process that tries files: `python -m keras_compress.tflite.probe.child`; `probing.py`
asks it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

# Imported before the forks, so that none of them has to.
from ai_edge_litert import interpreter, schema_py_generated  # noqa: F401

from keras_compress.tflite.file.inspect import read_report
from keras_compress.tflite.litert.model import TFLiteModel

LENGTH = 300
"""Of an error, in characters: an answer has to fit into a pipe at one stroke."""
_TRUST = "pass `probe=False` if you trust the file"
_OTHERS = "pass `probe=False` if it is meant to take other numbers"


def _load(data: bytes) -> None:
    # What does not fit together is found here; LiteRT may write beside its memory unnoticed.
    read_report(data)
    model = TFLiteModel(data)
    try:
        model.run_on_zeros()
    except ValueError as error:
        if not model.counts:
            said = " ".join(str(error.__cause__ or error).split())[: LENGTH // 2]
            raise ValueError(f"it fails on zeros ({said}): {_OTHERS}") from None
        # A size or an index of 0 may be none, and then says nothing of the file.
        with contextlib.suppress(ValueError):
            model.run_on_zeros(counts=1)


JOBS = {"inspect": read_report, "load": _load}


def _work(request: dict[str, Any], data: bytes) -> str:
    """What is wrong with a file; runs in a copy of this process, which the file may end."""
    # The alarm's default action, which ends the copy in the middle of whatever it does.
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # where the system has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    try:
        JOBS[request["job"]](data)
    except MemoryError:
        return f"it takes more than {request['memory'] / 1e9:.1f} GB of memory: {_TRUST}"
    except Exception as error:
        cause = error.__cause__ or error  # the errors of this package say what the parent says
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:LENGTH]
    return ""


def _ending(status: int, request: dict[str, Any]) -> str:
    """How a copy ended that gave no answer."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        return f"it takes longer than {request['seconds']:.1f} seconds: {_TRUST}"
    return f"it crashes: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"


def _hung_up(*descriptors: int) -> list[int]:
    """Those of some pipes to be read from whose other end nobody holds, once there is one."""
    waiting = select.poll()
    for each in descriptors:
        waiting.register(each, select.POLLHUP)
    while not (found := [each for each, event in waiting.poll() if event & select.POLLHUP]):
        time.sleep(0.01)  # where the system tells of what is to be read, though not asked for
    return found


def main() -> None:
    """Serves until standard input ends."""
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)  # what LiteRT prints; the parent hears of every failure
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        data = sys.stdin.buffer.read(request["size"])
        ended, end_of_copy = os.pipe()  # nobody writes: it hangs up when the copy is gone
        copy = os.fork()
        if not copy:
            answer(answers, _work(request, data))
            os._exit(0)
        os.close(end_of_copy)
        if 0 in _hung_up(0, ended):
            os.kill(copy, signal.SIGKILL)
            return  # nobody waits for the answer
        os.close(ended)
        _, status = os.waitpid(copy, 0)
        if status:
            answer(answers, _ending(status, request))


def answer(answers: int, wrong: str) -> None:
    """One line, written whole."""
    os.write(answers, json.dumps({"wrong": wrong}).encode() + b"\n")


if __name__ == "__main__":
    main()
