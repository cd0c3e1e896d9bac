"""What ends a worker when its parent is gone: `python watch.py WORKER FOLDER`.

The converter holds the interpreter's lock, minutes long where the model is large, so that no thread
of the worker would notice. This process has the worker's standard input: when nobody holds its
other end any more, it kills the worker, if that is still there, and removes the folder.

It is run as a file, without the package and what that imports.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time


def main() -> None:
    """Waits until standard input has no other end."""
    worker, folder = int(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # some send it to all: then this one cleans up
    hung_up = select.poll()
    hung_up.register(0, select.POLLHUP)
    while not any(event & select.POLLHUP for _, event in hung_up.poll()):
        time.sleep(0.1)  # where the system tells of what is to be read, though not asked for
    while os.getppid() == worker:  # no other process has that number while it is our parent
        os.kill(worker, signal.SIGKILL)
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
