"""The parent's side of the converter worker: one kept-alive child, replaced when it dies."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

CHILD = "keras_compress.tflite.worker"
DONE = "done\n"
"""The child's last line about a job."""

_INHERITED = (
    "PATH", "HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP",
    "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME",
    "VIRTUAL_ENV", "OMP_NUM_THREADS",
)  # fmt: skip


class WorkerError(Exception):
    """The child gave no answer. `chatter` is what it printed during the job."""

    def __init__(self, reason: str, chatter: str) -> None:
        super().__init__(reason)
        self.chatter = chatter


class WorkerCrash(WorkerError):
    """The child ended during the job."""


class WorkerTimeout(WorkerError):
    """The job took longer than allowed, so the child was killed."""


def worker_environment() -> dict[str, str]:
    """The child's environment: what a process needs, nothing that steers TensorFlow or Keras.

    The modules of the parent are found by the child, also those that only `sys.path` knows.
    """
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    root = str(Path(__file__).resolve().parents[2])
    path = [os.path.abspath(entry) for entry in sys.path]
    environment["PYTHONPATH"] = os.pathsep.join(path if root in path else [*path, root])
    environment["CUDA_VISIBLE_DEVICES"] = "-1"
    environment["TF_CPP_MIN_LOG_LEVEL"] = "1"
    return environment


class Worker:
    """A running child with a folder of its own for the jobs and for what it prints."""

    def __init__(self) -> None:
        self.environment = worker_environment()
        self.folder = Path(tempfile.mkdtemp(prefix="keras_compress_"))
        self._log = self.folder / "chatter"
        try:
            with self._log.open("wb") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", CHILD, str(self.folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self.environment,
                    start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
                )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def usable(self) -> bool:
        """Whether it runs, with the environment that a new one would get, and its folder stands:
        what cleans temporary folders may come by between two jobs.
        """
        runs = self.process.poll() is None and self._log.exists()
        return runs and self.environment == worker_environment()

    def run(self, job: Path, timeout: float, progress: Callable[[int], None] | None = None) -> None:
        """Has a job's folder worked on; returns when its answer lies there.

        `progress` is told how many batches the child has calibrated on.

        Raises:
            WorkerCrash, WorkerTimeout: there is no answer, and the child is gone.
        """
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the worker was started without its pipes")
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
                self.process.stdin.write(f"{job}\n")
                self.process.stdin.flush()
            while (answer := self.process.stdout.readline()).strip().isdecimal():
                if progress is not None:
                    progress(int(answer))
        finally:
            timer.cancel()
            timer.join()
        if answer == DONE and not late.is_set():
            return
        if answer != DONE:
            self.process.kill()
            self.process.wait()
        if late.is_set():
            raise WorkerTimeout(f"it took longer than {timeout:g} seconds", self._read(begin))
        raise WorkerCrash(describe_exit(self.process.returncode), self._read(begin))

    def _read(self, begin: int) -> str:
        return self._log.read_bytes()[begin:].decode(errors="replace")

    def close(self, patience: float = 0.0) -> None:
        """Ends the child, after `patience` seconds by force, and removes its folder."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self) -> None:
        """In a forked copy of the parent: lets go of the pipes; the child is the parent's."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.returncode = 0  # not ours to wait for


def describe_exit(code: int) -> str:
    """What a return code of a child says."""
    if code >= 0:
        return f"the converter process ended by itself with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"the converter process was killed by {name}"


class _Keeper:
    """The one worker of this process, and the lock around it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.worker: Worker | None = None

    def start(self) -> Worker:
        if self.worker is not None and not self.worker.usable():
            self.stop()
        if self.worker is None:
            self.worker = Worker()
        return self.worker

    def stop(self, patience: float = 0.0) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.close(patience)

    def after_fork(self) -> None:
        self.lock = threading.Lock()  # another thread of the parent may have held the old one
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.forget()


_keeper = _Keeper()
atexit.register(_keeper.stop, 2.0)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keeper.after_fork)


class Session:
    """The worker, held for one job: `with Session() as session`. On any failure it is given up."""

    def __enter__(self) -> Session:
        self._lock = _keeper.lock  # a fork gives the keeper of the child another one
        self._lock.acquire()
        try:
            self._worker = _keeper.start()
            self.folder = Path(tempfile.mkdtemp(prefix="job_", dir=self._worker.folder))
        except BaseException:
            _keeper.stop()
            self._lock.release()
            raise
        return self

    def run(self, timeout: float, progress: Callable[[int], None] | None = None) -> None:
        """Has the job in `folder` done; see `Worker.run` for what it raises."""
        try:
            self._worker.run(self.folder, timeout, progress)
        except BaseException:  # Ctrl-C too: the child is in the middle of something
            _keeper.stop()
            raise

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


def stop_worker() -> None:
    """Ends the worker, if there is one; the next conversion starts a new one."""
    with _keeper.lock:
        _keeper.stop(2.0)


def worker_pid() -> int | None:
    """Process id of the worker, None when none runs."""
    worker = _keeper.worker
    return worker.process.pid if worker is not None and worker.process.poll() is None else None
