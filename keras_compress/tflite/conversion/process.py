"""The parent's side of the converter worker: one kept-alive child, replaced when it dies."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from keras_compress.tflite.child_process import Child, Keeper, child_environment
from keras_compress.tflite.conversion.folder import CHATTER, new_folder, remove_of_the_dead

CHILD = "keras_compress.tflite.conversion.worker"
DONE = "done\n"
"""The child's last line about a job."""

_ENDING = 5.0
"""Seconds that a child gets which has closed its end without an answer."""


def nothing() -> None:
    """What is done while a child works, where that is nothing."""


class WorkerError(Exception):
    """The child gave no answer. `chatter` is what it printed during the job."""

    def __init__(self, reason: str, chatter: str) -> None:
        super().__init__(reason)
        self.chatter = chatter


class WorkerCrashError(WorkerError):
    """The child ended during the job."""


class WorkerTimeoutError(WorkerError):
    """The job took longer than allowed, so the child was killed."""


class Worker(Child):
    """A running child with a folder of its own for the jobs and for what it prints."""

    def __init__(self) -> None:
        remove_of_the_dead()
        with new_folder() as (self.folder, chatter):
            self._log = self.folder / CHATTER
            super().__init__(CHILD, str(self.folder), text=True, stderr=chatter)

    def usable(self) -> bool:
        """Whether it runs, with the environment that a new one would get, and its folder stands:
        what cleans temporary folders may come by between two jobs.
        """
        stands = super().usable() and self._log.exists()
        return stands and self.environment == child_environment()

    def run(
        self,
        job: Path,
        timeout: float,
        progress: Callable[[int], None] | None = None,
        meanwhile: Callable[[], None] = nothing,
    ) -> None:
        """Has a job's folder worked on; returns when its answer lies there.

        `progress` is told how many batches the child has calibrated on; `meanwhile` is done while
        the child works.

        Raises:
            WorkerCrashError, WorkerTimeoutError: there is no answer, and the child is gone.
        """
        given, answers = self.pipes
        begin = self._log.stat().st_size
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(timeout, stop)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # then the answer is missing too
                given.write(f"{job}\n")
                given.flush()
            meanwhile()
            while (answer := answers.readline()).strip().isdecimal():
                if progress is not None:
                    progress(int(answer))
        finally:
            timer.cancel()
            timer.join()
        if answer == DONE:  # in time: whoever is late is killed before it says so
            if late.is_set():  # because `meanwhile` has taken longer; the next job has a new one
                self.process.wait()
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            # It ends by itself, and what it ended of is no SIGKILL of ours.
            self.process.wait(0 if late.is_set() else _ENDING)
        self.process.kill()
        self.process.wait()
        if late.is_set():
            raise WorkerTimeoutError(f"it took longer than {timeout:g} seconds", self._read(begin))
        raise WorkerCrashError(describe_exit(self.process.returncode), self._read(begin))

    def _read(self, begin: int) -> str:
        return self._log.read_bytes()[begin:].decode(errors="replace")

    def close(self, patience: float = 0.0) -> None:
        """Ends it, and removes its folder."""
        super().close(patience)
        shutil.rmtree(self.folder, ignore_errors=True)


def describe_exit(code: int) -> str:
    """What a return code of a child says."""
    if code >= 0:
        return f"the converter process ended by itself with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"the converter process was killed by {name}"


_keeper = Keeper(Worker, patience=2.0)


class Session:
    """The worker, held for one job: `with Session() as session`. On any failure it is given up."""

    def __enter__(self) -> Session:
        self._lock = _keeper.lock  # a fork gives the keeper of the child another one
        self._lock.acquire()
        try:
            self._worker = _keeper.running()
            self.folder = Path(tempfile.mkdtemp(prefix="job_", dir=self._worker.folder))
        except BaseException:
            _keeper.stop()
            self._lock.release()
            raise
        return self

    def run(
        self,
        timeout: float,
        progress: Callable[[int], None] | None = None,
        meanwhile: Callable[[], None] = nothing,
    ) -> None:
        """Has the job in `folder` done; see `Worker.run` for what it raises."""
        try:
            self._worker.run(self.folder, timeout, progress, meanwhile)
        except BaseException:  # Ctrl-C too: the child is in the middle of something
            _keeper.stop()
            raise

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


def start_worker() -> None:
    """Starts the worker, if there is none: it loads TensorFlow while its parent does something
    else.
    """
    with _keeper.lock:
        _keeper.running()


def stop_worker() -> None:
    """Ends the worker, if there is one; the next conversion starts a new one."""
    with _keeper.lock:
        _keeper.stop(2.0)
