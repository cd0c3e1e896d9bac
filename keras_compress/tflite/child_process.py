"""A child process of this package that is kept for the next job: started, replaced, left by a fork.

`subprocess` with `-m`, never `multiprocessing`, whose spawn would run the user's `__main__` again.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

_INHERITED = (
    "PATH", "HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP",
    "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME",
    "VIRTUAL_ENV", "OMP_NUM_THREADS",
)  # fmt: skip


def child_environment() -> dict[str, str]:
    """What a process needs, and nothing that steers TensorFlow or Keras.

    The modules of the parent are found by the child, also those that only `sys.path` knows.
    """
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    root = str(Path(__file__).resolve().parents[2])
    path = [os.path.abspath(entry) for entry in sys.path]
    environment["PYTHONPATH"] = os.pathsep.join(path if root in path else [*path, root])
    environment["CUDA_VISIBLE_DEVICES"] = "-1"
    environment["TF_CPP_MIN_LOG_LEVEL"] = "1"
    return environment


class Child:
    """A running `python -m module`, spoken to through its standard input and output.

    Args:
        module: what it runs.
        arguments: its command line.
        environment: what it gets beside `child_environment`.
        text: whether the pipes carry text or bytes.
        stderr: where its standard error goes; None is this process's own.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        text: bool = False,
        stderr: IO[bytes] | None = None,
    ) -> None:
        self.environment = child_environment()
        self.process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=text,
            env={**self.environment, **(environment or {})},
            start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
        )

    @property
    def pipes(self) -> tuple[IO[Any], IO[Any]]:
        """Its standard input and output."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("a child was started without its pipes")
        return self.process.stdin, self.process.stdout

    def usable(self) -> bool:
        """Whether it can take another job."""
        return self.process.poll() is None

    def close(self, patience: float = 0.0) -> None:
        """Ends it, after `patience` seconds by force."""
        given, answers = self.pipes
        with contextlib.suppress(OSError):
            given.close()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        answers.close()

    def forget(self) -> None:
        """In a forked copy of the parent: lets go of the pipes; the child is the parent's."""
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.returncode = 0  # not ours to wait for


AnyChild = TypeVar("AnyChild", bound=Child)


class Keeper(Generic[AnyChild]):
    """The one child of its kind in this process, and the lock that whoever uses it holds.

    Args:
        start: makes a new child.
        patience: seconds that it gets to end by itself when this process ends.
    """

    def __init__(self, start: Callable[[], AnyChild], patience: float = 0.0) -> None:
        self.lock = threading.Lock()
        self.child: AnyChild | None = None
        self._start = start
        atexit.register(self.stop, patience)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def running(self) -> AnyChild:
        """The child, started when first asked for and again when it is of no more use."""
        if self.child is not None and not self.child.usable():
            self.stop()
        if self.child is None:
            self.child = self._start()
        return self.child

    def stop(self, patience: float = 0.0) -> None:
        """Ends the child, if there is one."""
        child, self.child = self.child, None
        if child is not None:
            child.close(patience)

    def _after_fork(self) -> None:
        self.lock = threading.Lock()  # another thread of the parent may have held the old one
        child, self.child = self.child, None
        if child is not None:
            child.forget()
