"""The folder of a worker: made, and removed by the next process if everybody has been killed.

Its file `chatter` is what the worker prints to, and locked for as long as the worker has it open:
of a folder that nobody has locked the worker is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.platform != "win32":  # which has no such locks, nor anything removed
    import fcntl

PREFIX = "keras_compress_worker_"
CHATTER = "chatter"


@contextlib.contextmanager
def new_folder() -> Iterator[tuple[Path, IO[bytes]]]:
    """A folder in the temporary one, and its `chatter`, open and locked until whoever has inherited
    it closes it too. The folder is removed if the context is left by an error.
    """
    folder, chatter = _made()
    try:
        with chatter:
            yield folder, chatter
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _made() -> tuple[Path, IO[bytes]]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        chatter = (folder / CHATTER).open("wb")
        if _lock(chatter) is not False and _is_at(chatter, folder / CHATTER):
            return folder, chatter
        chatter.close()  # somebody has taken it for a dead one's, before it was locked


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def remove_of_the_dead() -> None:
    """Remove the folders in the temporary one whose worker was killed together with its parent."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{CHATTER}"):
        with contextlib.suppress(OSError), path.open("r+b") as chatter:
            if _lock(chatter):
                shutil.rmtree(path.parent, ignore_errors=True)


def _lock(file: IO[bytes]) -> bool | None:
    """Whether it is locked from now on; None where the disk has no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
